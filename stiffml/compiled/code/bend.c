/* Second derivatives of products. */

/* The gradients of w times (s df/dt + df/dy v) by y, like y, and by p (parameters,), summed over all states,
   at t (K,), y, v and w (K, samples, size), s (K,). */
EXPORT int bend(int64_t K, int64_t samples, const double *t, const double *y, const double *p,
                const double *s, const double *v, const double *w, double *wrt_y, double *wrt_p) {
  TAKE_ROOM(own, 4 * SIZE + 2 * PARAMETERS);
  vec *along = own + SIZE, *weights = along + SIZE;
  vec *by_y = weights + SIZE, *by_p = by_y + SIZE, *sum = by_p + PARAMETERS;
  if (!own) return 1;
  memset(sum, 0, PARAMETERS * sizeof *sum);
  memset(wrt_p, 0, PARAMETERS * sizeof *wrt_p);
  EACH_GROUP(K * samples) {
    vec time = times_of(samples, first, count, t), of_time = times_of(samples, first, count, s);
    gather(SIZE, first, count, y, own);
    gather(SIZE, first, count, v, along);
    gather(SIZE, first, count, w, weights);
    bent(&time, own, p, &of_time, along, weights, by_y, by_p);
    scatter(SIZE, first, count, by_y, wrt_y);
    add_up(PARAMETERS, count, by_p, sum, wrt_p);
  }
  add_lanes(PARAMETERS, LANES, sum, wrt_p);
  GIVE_BACK(own);
  return 0;
}
