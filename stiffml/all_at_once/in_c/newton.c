/* Newton's iteration on all rows; what is judged, and why, is said in ``newton.py``. */

/* Numbers of an iteration: residuals v (unknowns, size), the update d (count, size), room for one vector and for
   those of all nodes, and for f and g (nodes, size) J d. */
struct room {
  double *v, *d, *sum, *y, *along[2];
};

/* The largest so far; NaN if one is. */
static void take(double square, double *largest) {
  if (!(square <= *largest) && !isnan(*largest)) *largest = square;
}

static double distance(int64_t size, const double *v, const double *target, const double *weights) {
  double sum = 0;
  for (int64_t i = 0; i < size; i++) {
    double one = (v[i] - target[i]) / weights[i];
    sum += one * one;
  }
  return sqrt(sum / size);
}

/* Whether all updates are rounding. */
static int is_rounding(const struct system *s, const struct newton *n, const double *x, const double *d) {
  int64_t size = size_of(s);
  for (int64_t r = 0; r < s->unknowns; r++) {
    const double *own = x + (s->given + r) * size;
    double most = 0;
    if (!n->tested[r]) continue;
    for (int64_t i = 0; i < size; i++) most = fmax(most, fabs(own[i]));
    for (int64_t i = 0; i < size; i++)
      if (!(fabs(d[(s->given + r) * size + i]) <= 1e-10 * fabs(own[i]) + n->rounding * most)) return 0;
  }
  return 1;
}

/* Whether each step's own iteration leads to x. ``size_of_update``: of the last one, in Newton's weights. 2 if
   there is no memory. */
static int steps_lead_to(const struct system *s, struct newton *n, const double *x, double size_of_update) {
  const struct part *f = s->parts;
  int64_t size = size_of(s), w = s->width, N = n->solved, far = 0;
  if (!N) return 1;
  double *room = malloc((N * (4 * size + 2 + size * w) + size * (2 + w)) * sizeof *room);
  int32_t *pivots = malloc(size * sizeof *pivots);
  if (!room || !pivots) {
    free(room);
    free(pivots);
    return 2;
  }
  double *v = room, *weights = v + N * size, *values = weights + N * size, *near = values + N * size;
  double *t = near + N, *jacobians = t + N, *moved = jacobians + N * size * w, *sum = moved + size, *lu = sum + size;
  for (int64_t k = 0; k < N; k++) {
    int64_t own = s->given + n->row[k];
    for (int64_t i = 0; i < size; i++)
      weights[k * size + i] = n->rtol * fabs(x[own * size + i]) + n->atol[n->row[k] * size + i];
    memcpy(v + k * size, x + n->before[k] * size, size * sizeof *v);
    t[k] = f->t[f->node[own]];
    double begun = distance(size, v + k * size, x + own * size, weights + k * size);
    near[k] = fmax(n->near * begun, 10 * size_of_update + 1);
  }
  for (int64_t iterate = 0;; iterate++) {
    far = 0;
    for (int64_t k = 0; k < N; k++) {
      const double *target = x + (s->given + n->row[k]) * size;
      far += !(distance(size, v + k * size, target, weights + k * size) <= near[k]);
    }
    if (!far || iterate == n->few) break;
    if (f->blocks(N, f->samples, w, t, v, f->p, values, jacobians)) break;
    n->evaluated_beside += N;
    for (int64_t k = 0; k < N; k++) {
      int64_t r = n->row[k], own = s->given + r, e = s->starts[r + 1] - 1;
      const double *at = jacobians + k * size * w, *found = f->values + f->node[own] * size;
      while (s->column[e] != own) e--;
      double beta = f->direction * s->beta[e], factors[2] = {beta, 0};
      const double *both[2] = {at, 0};
      for (int64_t i = 0; i < size; i++) moved[i] = s->alpha[e] * (v[k * size + i] - x[own * size + i]);
      weigh(s, r, 0, moved, sum);
      for (int64_t i = 0; i < size; i++)
        sum[i] -= s->beta[e] * (f->direction * values[k * size + i] - found[i]);
      if (factorise_block(s, r, s->alpha[e], factors, both, lu, pivots)) sum[0] = NAN;
      else solve_block(s, lu, pivots, 0, sum);
      for (int64_t i = 0; i < size; i++) v[k * size + i] -= sum[i];
    }
  }
  free(room);
  free(pivots);
  return !far;
}

static int iterate(const struct system *s, struct newton *n, double *x, const struct room *room) {
  int64_t size = size_of(s), is_trusted = n->trusted;
  double before = INFINITY;
  n->evaluated_beside = 0;
  for (n->iterations = 1; n->iterations <= n->max_iterations; n->iterations++) {
    if (evaluate(s, x, room->y)) return NO_MEMORY;
    residual(s, x, room->v, room->sum);
    if (factorise_all(s)) return NOT_CONVERGED;
    substitute(s, room->v, room->d, room->along, room->sum);
    double most = 0;
    for (int64_t r = 0; r < s->unknowns; r++) {
      double *own = x + (s->given + r) * size, *d = room->d + (s->given + r) * size, sum = 0;
      for (int64_t i = 0; i < size; i++) {
        own[i] -= d[i];
        double one = d[i] / (n->rtol * fabs(own[i]) + n->atol[r * size + i]);
        sum += one * one;
      }
      if (n->tested[r]) take(sum / size, &most);
    }
    most = sqrt(most);
    if (!(most < n->divergence * before)) return NOT_CONVERGED; /* also NaN */
    double contraction = most / before;
    before = most;
    is_trusted = is_trusted && contraction < n->clean;
    if (!(most <= 1 || (0 < contraction && contraction < 1 && most * contraction / (1 - contraction) <= 1) ||
          (contraction > 0.3 && is_rounding(s, n, x, room->d))))
      continue;
    /* The values at the solution, by the Jacobians close to it. */
    for (int k = 0; k < 2; k++)
      for (int64_t c = 0; c < s->parts[k].nodes; c++)
        add(size, -1, room->along[k] + c * size, s->parts[k].values + c * size);
    int leads = is_trusted ? 1 : steps_lead_to(s, n, x, most);
    if (leads == 2) return NO_MEMORY;
    if (!leads) return NOT_CONVERGED;
    n->change = 0;
    for (int64_t r = 0; r < s->unknowns; r++) {
      double sum = 0, *own = x + (s->given + r) * size;
      for (int64_t i = 0; i < size; i++) {
        double one = room->d[(s->given + r) * size + i] / (fabs(own[i]) + 0.01 * n->scale[r * size + i] + 1e-250);
        sum += one * one;
      }
      if (n->tested[r]) take(sum / size, &n->change);
    }
    n->change = sqrt(n->change);
    return CONVERGED;
  }
  n->iterations = n->max_iterations;
  return NOT_CONVERGED;
}

/* Solve for the unknowns among the vectors x (count, size), which are the guess. Then the parts have f and g at
   the solution, and their Jacobians with the factors before the last update. */
EXPORT int stiffml_solve(const struct system *s, struct newton *n, double *x) {
  int64_t size = size_of(s), f = s->parts[0].nodes, g = s->parts[1].nodes, most = f > g ? f : g;
  double *all = calloc((2 * s->unknowns + s->given + 1 + most + f + g) * size, sizeof *all);
  if (!all) return NO_MEMORY;
  double *d = all + s->unknowns * size, *sum = d + (s->given + s->unknowns) * size, *y = sum + size;
  double *along = y + most * size;
  struct room room = {all, d, sum, y, {along, along + f * size}};
  int ended = iterate(s, n, x, &room);
  free(all);
  return ended;
}

/* Newton's update d (count, size), which is zero before, at x, where the parts have f and g, with the factors and
   Jacobians that there are. */
EXPORT int stiffml_correct(const struct system *s, const double *x, double *d) {
  int64_t size = size_of(s), f = s->parts[0].nodes, g = s->parts[1].nodes;
  double *v = malloc((s->unknowns + 1 + f + g) * size * sizeof *v);
  if (!v) return NO_MEMORY;
  double *sum = v + s->unknowns * size, *along[2] = {sum + size, sum + (1 + f) * size};
  residual(s, x, v, sum);
  substitute(s, v, d, along, sum);
  free(v);
  return CONVERGED;
}

/* The same, where the parts have their Jacobians, with the factors of these. */
EXPORT int stiffml_update(const struct system *s, const double *x, double *d) {
  return factorise_all(s) ? NOT_CONVERGED : stiffml_correct(s, x, d);
}

/* The factors for the Jacobians that the parts have; 1 if a block is singular. */
EXPORT int stiffml_factorise(const struct system *s) { return factorise_all(s); }

/* For ``columns`` right-hand sides side by side: v (unknowns, size, columns) and d (count, size, columns). */
EXPORT int stiffml_substitute(const struct system *s, int64_t columns, const double *v, double *d) {
  int64_t all = size_of(s) * columns, f = s->parts[0].nodes, g = s->parts[1].nodes;
  double *sum = malloc((1 + f + g) * all * sizeof *sum);
  if (!sum) return NO_MEMORY;
  double *along[2] = {sum + all, sum + (1 + f) * all};
  substitute_all(s, columns, v, d, along, sum);
  free(sum);
  return 0;
}

/* The transposed system for ``columns`` losses, one array after the other. */
EXPORT int stiffml_reverse(const struct system *s, int64_t columns, double *x, double *w, double *f, double *g) {
  int64_t size = size_of(s);
  double *sum = malloc(size * sizeof *sum);
  if (!sum) return NO_MEMORY;
  for (int64_t k = 0; k < columns; k++) {
    double *slopes[2] = {f + k * s->parts[0].nodes * size, g + k * s->parts[1].nodes * size};
    reverse(s, x + k * (s->given + s->unknowns) * size, w + k * s->unknowns * size, slopes, sum);
  }
  free(sum);
  return 0;
}
