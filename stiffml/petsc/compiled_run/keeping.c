/* When Newton's iteration goes on with an earlier Jacobian, the same as in run/kept_jacobian.py,
   which has the numbers KEPT_…: library.py defines them. */

enum judged { BY_OTHER_RULES = 0, GOOD = 1, GOES_ON = 2 };

/* A solve begins. After one that has failed it takes a new Jacobian. */
static void begins(struct run *r) {
  struct keeping *k = &r->keeping;
  if (!r->task.keeps) return;
  k->wants_new = k->wants_new || k->is_under_way;
  k->has_failed = k->has_failed || k->is_under_way;
  k->is_under_way = 1;
  if (k->pause > 0) k->pause--;
  if (!k->pause) {
    k->share = 0.9 * k->share + 0.1 * (k->has_failed ? 1 : 0);
    if (k->share > KEPT_USELESS) {
      k->share = 0;
      k->pause = KEPT_PAUSE;
    }
  }
  k->has_failed = 0;
  k->is_exact = k->pause > 0;
  k->wants_new = k->wants_new || k->is_exact;
  k->iterations = 0;
  k->is_new = 1;
  k->rate = 0;
}

/* Whether the next update is made with the Jacobian of another iterate. */
static int follows(struct run *r) {
  if (!r->task.keeps || r->keeping.wants_new) return 0;
  r->keeping.is_new = 0;
  return 1;
}

/* There is a new Jacobian, of the iterate that the next update starts from. */
static void is_renewed(struct run *r) {
  struct keeping *k = &r->keeping;
  if (!r->task.keeps) return;
  memcpy(r->kept_blocks, r->f.blocks, r->size * r->task.width * sizeof *r->kept_blocks);
  k->wants_new = k->is_exact;
  k->is_new = 1;
  k->rate = 0;
  k->solves = 0;
}

/* Whether an update of a size, after one of the size ``previous``, was good enough. */
static enum judged judge_kept(struct run *r, double size, double previous) {
  struct keeping *k = &r->keeping;
  if (!r->task.keeps || k->is_exact) return BY_OTHER_RULES;
  k->iterations++;
  if (k->is_new) return BY_OTHER_RULES;
  if (previous == INFINITY) return size <= KEPT_EXACT ? GOOD : GOES_ON;
  double contraction = size / previous;
  if (!(contraction <= KEPT_FAST) || k->iterations >= KEPT_MOST) {
    k->wants_new = k->is_exact = k->has_failed = 1;
    return GOES_ON;
  }
  k->rate = fmax(0.3 * k->rate, contraction);
  return k->rate < 1 && size * k->rate <= KEPT_EXACT * (1 - k->rate) ? GOOD : GOES_ON;
}

/* A solve has ended well. */
static void has_converged(struct run *r) {
  struct keeping *k = &r->keeping;
  if (!r->task.keeps) return;
  k->solves++;
  k->wants_new = k->wants_new || k->iterations >= KEPT_SLOW || k->solves >= KEPT_OLDEST;
  k->is_under_way = 0;
}
