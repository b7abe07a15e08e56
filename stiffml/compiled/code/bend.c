/* Second derivatives of products. */

/* The gradients of the sum of w times (s df/dt + df/dy v), over R of s (R,), v and w (R, SIZE), by y (SIZE,) and
   by p (parameters,), at one t and y. */
EXPORT int bend(int64_t R, const double *t, const double *y, const double *p, const double *s, const double *v,
                const double *w, double *wrt_y, double *wrt_p) {
  TAKE_ROOM(own, 5 * SIZE + 2 * PARAMETERS + BENT_ROOM);
  vec *along = own + SIZE, *weights = along + SIZE, *by_y = weights + SIZE, *sum_y = by_y + SIZE;
  vec *by_p = sum_y + SIZE, *sum_p = by_p + PARAMETERS, *room = sum_p + PARAMETERS, time = all(*t);
  if (!own) return 1;
  memset(sum_y, 0, SIZE * sizeof *sum_y);
  memset(sum_p, 0, PARAMETERS * sizeof *sum_p);
  memset(wrt_y, 0, SIZE * sizeof *wrt_y);
  memset(wrt_p, 0, PARAMETERS * sizeof *wrt_p);
  for (int64_t i = 0; i < SIZE; i++) own[i] = all(y[i]);
  EACH_GROUP(R) {
    vec of_time = times_of(1, first, count, s);
    gather(SIZE, first, count, v, along);
    gather(SIZE, first, count, w, weights);
    if (!first) bent_first(&time, own, p, &of_time, along, weights, by_y, by_p, room);
    bent_rest(&time, own, p, &of_time, along, weights, by_y, by_p, room);
    add_up(SIZE, count, by_y, sum_y, wrt_y);
    add_up(PARAMETERS, count, by_p, sum_p, wrt_p);
  }
  add_lanes(SIZE, LANES, sum_y, wrt_y);
  add_lanes(PARAMETERS, LANES, sum_p, wrt_p);
  GIVE_BACK(own);
  return 0;
}
