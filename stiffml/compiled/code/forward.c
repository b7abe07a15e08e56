/* f and df/dy. */

#if BY_COLUMNS
#define LINEAR_ROOM (2 * SIZE + (SLOPE_ROOM > PUSHED_ROOM ? SLOPE_ROOM : PUSHED_ROOM))
#else
#define LINEAR_ROOM (2 * SIZE + LINEARISED_ROOM)
#endif

#if LANES > 1 && BY_COLUMNS
/* f (SIZE,) and the blocks (SIZE/width, width, width) of df/dy at one state, several columns side by side;
   ``room`` is for 4 SIZE vectors and for those of the two functions. */
static void columns(int64_t width, double t, const double *y, const double *p, double *f, double *out,
                    vec *room) {
  vec time = all(t), none = all(0), *own = room, *found = own + SIZE, *v = found + SIZE, *product = v + SIZE;
  vec *more = product + SIZE;
  for (int64_t i = 0; i < SIZE; i++) own[i] = all(y[i]), v[i] = none;
  slope(&time, own, p, found, more);
  scatter(SIZE, 0, 1, found, f);
  pushed_first(&time, own, p, &none, v, product, more);
  for (int64_t first = 0, next; first < NONZEROS; first = next) {
    int64_t last = -1, lane = -1;
    for (next = first; next < NONZEROS; next++) {
      if (COLUMN[next] == last) continue;
      if (lane + 1 == LANES) break;
      ((double *)(v + (last = COLUMN[next])))[++lane] = 1;
    }
    pushed_rest(&time, own, p, &none, v, product, more);
    last = lane = -1;
    for (int64_t k = first; k < next; k++) {
      if (COLUMN[k] != last) v[last = COLUMN[k]] = none, lane++;
      if (ROW[k] / width == last / width) out[ROW[k] * width + last % width] = ((double *)(product + ROW[k]))[lane];
    }
  }
}
#else

/* f where it is wanted, and the entries; ``room`` is for 2 SIZE vectors and for those of the functions. */
static void linear(const vec *t, const vec *y, const double *p, vec *f, vec *entries, vec *room) {
#if BY_COLUMNS
  vec none = all(0), *v = room, *product = room + SIZE, *more = product + SIZE;
  int64_t k = 0;
  if (f) slope(t, y, p, f, more);
  for (int64_t i = 0; i < SIZE; i++) v[i] = none;
  pushed_first(t, y, p, &none, v, product, more);
  for (int64_t c = 0; c < SIZE; c++) {
    if (k == NONZEROS || COLUMN[k] != c) continue;
    v[c] = all(1);
    pushed_rest(t, y, p, &none, v, product, more);
    v[c] = none;
    for (; k < NONZEROS && COLUMN[k] == c; k++) entries[k] = product[ROW[k]];
  }
#else
  linearised(t, y, p, f ? f : room, entries, room + SIZE);
#endif
}
#endif

#if LANES == 1
static int value(double t, const double *y, const double *p, double *f) {
  TAKE_ROOM(room, SLOPE_ROOM);
  if (!room) return 1;
  slope(&t, y, p, f, room);
  GIVE_BACK(room);
  return 0;
}
static int jacobian(double t, const double *y, const double *p, double *entries) {
  TAKE_ROOM(room, LINEAR_ROOM);
  if (!room) return 1;
  linear(&t, y, p, 0, entries, room);
  GIVE_BACK(room);
  return 0;
}
struct stiffml_function {
  int64_t size, parameters, nonzeros;
  const int64_t *row, *column;
  int (*f)(double t, const double *y, const double *p, double *f);
  int (*jacobian)(double t, const double *y, const double *p, double *entries);
};
static const struct stiffml_function FUNCTION = {SIZE, PARAMETERS, NONZEROS, ROW, COLUMN, value, jacobian};
EXPORT const struct stiffml_function *stiffml_function(void) { return &FUNCTION; }
#endif

/* f (K, samples, size) at t (K,), y (K, samples, size). */
EXPORT int values(int64_t K, int64_t samples, const double *t, const double *y, const double *p, double *f) {
  TAKE_ROOM(own, 2 * SIZE + SLOPE_ROOM);
  vec *found = own + SIZE;
  if (!own) return 1;
  EACH_GROUP(K * samples) {
    vec time = times_of(samples, first, count, t);
    gather(SIZE, first, count, y, own);
    slope(&time, own, p, found, found + SIZE);
    scatter(SIZE, first, count, found, f);
  }
  GIVE_BACK(own);
  return 0;
}

/* The same, and the blocks (K, samples, size/width, width, width) on the diagonal of each Jacobian. */
EXPORT int blocks(int64_t K, int64_t samples, int64_t width, const double *t, const double *y,
                  const double *p, double *f, double *out) {
  TAKE_ROOM(own, 2 * SIZE + LINEAR_ROOM + NONZEROS);
  vec *found = own + SIZE, *room = found + SIZE, *entries = room + LINEAR_ROOM;
  if (!own) return 1;
  memset(out, 0, K * samples * SIZE * width * sizeof *out);
#if LANES > 1 && BY_COLUMNS
  for (int64_t q = 0; q < K * samples; q++)
    columns(width, t[q / samples], y + q * SIZE, p, f + q * SIZE, out + q * SIZE * width, own);
#else
  EACH_GROUP(K * samples) {
    vec time = times_of(samples, first, count, t);
    gather(SIZE, first, count, y, own);
    linear(&time, own, p, found, entries, room);
    scatter(SIZE, first, count, found, f);
    for (int64_t e = 0; e < NONZEROS; e++)
      if (ROW[e] / width == COLUMN[e] / width)
        for (int64_t l = 0; l < count; l++)
          out[((first + l) * SIZE + ROW[e]) * width + COLUMN[e] % width] = ((double *)(entries + e))[l];
  }
#endif
  GIVE_BACK(own);
  return 0;
}
