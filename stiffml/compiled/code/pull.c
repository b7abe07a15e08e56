/* Products of cotangents with the derivatives. */

/* At t (K,), y and w (K, samples, size): f, and w times df/dy like y, df/dt (K,), df/dp (parameters,) summed
   over all states. */
EXPORT int pull(int64_t K, int64_t samples, const double *t, const double *y, const double *p,
                const double *w, double *f, double *wrt_y, double *wrt_t, double *wrt_p) {
  TAKE_ROOM(own, 4 * SIZE + 1 + 2 * PARAMETERS + PULLED_ROOM);
  vec *along = own + SIZE, *found = along + SIZE;
  vec *by_y = found + SIZE, *by_t = by_y + SIZE, *by_p = by_t + 1, *sum = by_p + PARAMETERS;
  if (!own) return 1;
  memset(wrt_t, 0, K * sizeof *wrt_t);
  memset(sum, 0, PARAMETERS * sizeof *sum);
  memset(wrt_p, 0, PARAMETERS * sizeof *wrt_p);
  EACH_GROUP(K * samples) {
    vec time = times_of(samples, first, count, t);
    gather(SIZE, first, count, y, own);
    gather(SIZE, first, count, w, along);
    pulled(&time, own, p, along, found, by_y, by_t, by_p, sum + PARAMETERS);
    scatter(SIZE, first, count, found, f);
    scatter(SIZE, first, count, by_y, wrt_y);
    for (int64_t l = 0; l < count; l++) wrt_t[(first + l) / samples] += ((double *)by_t)[l];
    add_up(PARAMETERS, count, by_p, sum, wrt_p);
  }
  add_lanes(PARAMETERS, LANES, sum, wrt_p);
  GIVE_BACK(own);
  return 0;
}

/* df/dp (K, samples, size, parameters) at t (K,), y (K, samples, size). */
EXPORT int pull_rows(int64_t K, int64_t samples, const double *t, const double *y, const double *p, double *out) {
  TAKE_ROOM(own, 4 * SIZE + 1 + PARAMETERS + PULLED_ROOM);
  vec *along = own + SIZE, *found = along + SIZE;
  vec *by_y = found + SIZE, *by_t = by_y + SIZE, *by_p = by_t + 1;
  if (!own) return 1;
  EACH_GROUP(K * samples * SIZE) { /* each component of each state, by itself */
    vec time = times_of(samples * SIZE, first, count, t);
    for (int64_t i = 0; i < SIZE; i++) along[i] = all(0);
    for (int64_t l = 0; l < LANES; l++) {
      int64_t row = first + at_most(count - 1, l);
      for (int64_t i = 0; i < SIZE; i++) ((double *)(own + i))[l] = y[row / SIZE * SIZE + i];
      ((double *)(along + row % SIZE))[l] = 1;
    }
    pulled(&time, own, p, along, found, by_y, by_t, by_p, by_p + PARAMETERS);
    scatter(PARAMETERS, first, count, by_p, out);
  }
  GIVE_BACK(own);
  return 0;
}
