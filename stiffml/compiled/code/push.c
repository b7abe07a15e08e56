/* Derivatives along directions. */

/* At t (K,), y (K, samples, size): df/dt s + df/dy v for s (K,) and v like y. */
EXPORT int push(int64_t K, int64_t samples, const double *t, const double *y, const double *p,
                const double *s, const double *v, double *out) {
  TAKE_ROOM(own, 3 * SIZE + PUSHED_ROOM);
  vec *along = own + SIZE, *found = along + SIZE;
  if (!own) return 1;
  EACH_GROUP(K * samples) {
    vec time = times_of(samples, first, count, t), of_time = times_of(samples, first, count, s);
    gather(SIZE, first, count, y, own);
    gather(SIZE, first, count, v, along);
    pushed(&time, own, p, &of_time, along, found, found + SIZE);
    scatter(SIZE, first, count, found, out);
  }
  GIVE_BACK(own);
  return 0;
}

/* The same for df/dp q with q (parameters,). */
EXPORT int move(int64_t K, int64_t samples, const double *t, const double *y, const double *p,
                const double *q, double *out) {
  TAKE_ROOM(own, 2 * SIZE + MOVED_ROOM);
  vec *found = own + SIZE;
  if (!own) return 1;
  EACH_GROUP(K * samples) {
    vec time = times_of(samples, first, count, t);
    gather(SIZE, first, count, y, own);
    moved(&time, own, p, q, found, found + SIZE);
    scatter(SIZE, first, count, found, out);
  }
  GIVE_BACK(own);
  return 0;
}
