/* Stiffness detection for explicit methods, the same as in petsc/stiffness.py. */
#define HITS 15
#define MISSES 6
#define TEST_EVERY 10
#define MANY_STEPS 10000

/* Remember a stage and its slope. */
static void evaluated(struct run *r, const double *u, const double *slope) {
  int64_t n = r->size, at = r->stages_seen++ % r->task.watched * 2 * n;
  memcpy(r->recent + at, u, n * sizeof *u);
  memcpy(r->recent + at + n, slope, n * sizeof *slope);
}

/* The estimated rate of the fastest mode; 0 if nothing but rounding is left of it. */
static double rate(const struct run *r, const double *x) {
  const struct task *k = &r->task;
  int64_t n = r->size, count = k->watched;
  if (r->stages_seen < count) return 0;
  double change = 0, turn = 0, rounding = 0, largest = 0;
  for (int64_t m = 0; m < count; m++) largest = fmax(largest, fabs(k->combination[m]));
  for (int64_t i = 0; i < n; i++) {
    double u = 0, slope = 0, last = 0, weight = k->atol[i] + k->rtol * fabs(x[i]);
    for (int64_t m = 0; m < count; m++) { /* from the oldest on */
      const double *stage = r->recent + (r->stages_seen + m) % count * 2 * n;
      u += k->combination[m] * stage[i];
      slope += k->combination[m] * stage[n + i];
      last = stage[i];
    }
    change += u / weight * (u / weight);
    turn += slope / weight * (slope / weight);
    rounding += last / weight * (last / weight);
  }
  if (!(sqrt(change) > 64 * k->eps * largest * sqrt(rounding))) return 0;
  return sqrt(turn) / sqrt(change);
}

/* Whether the problem is stiff and many steps are left, after a step of some size to the state x. */
static int is_stiff(struct run *r, double size, const double *x) {
  const struct task *k = &r->task;
  if (!r->hits && r->steps % TEST_EVERY) return 0;
  if (size * rate(r, x) > k->stability) {
    r->misses = 0;
    r->hits++;
  } else if (++r->misses >= MISSES)
    r->hits = 0;
  return r->hits >= HITS && k->output[k->outputs - 1] - r->now > MANY_STEPS * size;
}
