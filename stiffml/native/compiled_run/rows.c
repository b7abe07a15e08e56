/* The rows of a step, solved one after the other; as in native/rows.py and native/side_by_side/newton.py. */
#define SLOW 0.1
#define ROUNDING_UNITS 30
#define LEAST_MOVED 1e-3 /* of the largest component: smaller ones are moved as if they had that size */

/* f at a time and a state, and its Jacobian if there is room for it; not zero without memory. */
static int slope_at(struct worker *w, double s, const double *u, double *f, double *jacobian) {
  const struct task *k = w->task;
  double t = k->direction * s;
  w->run->values++;
  w->run->jacobians += jacobian != NULL;
  int failed = jacobian ? k->blocks(1, 1, k->width, &t, u, k->p, f, jacobian) : k->values(1, 1, &t, u, k->p, f);
  if (k->direction < 0) {
    for (int64_t i = 0; i < k->width; i++) f[i] = -f[i];
    for (int64_t i = 0; jacobian && i < k->width * k->width; i++) jacobian[i] = -jacobian[i];
  }
  return failed;
}

/* f at a column, evaluated once. */
static const double *value(struct worker *w, int64_t c, int *failed) {
  double *f = w->values + c * w->task->width;
  if (!w->has_value[c]) *failed |= slope_at(w, w->s[c], w->x[c], f, NULL);
  w->has_value[c] = 1;
  return f;
}

/* Component i of M v. */
static double weighed(const struct task *k, int64_t i, const double *v) {
  if (!k->mass) return v[i];
  double sum = 0;
  for (int64_t j = 0; j < k->width; j++) sum += k->mass[i * k->width + j] * v[j];
  return sum;
}

/* Factors of a M - b J. */
static enum reason factorise_at(struct worker *w, double a, double b) {
  const struct task *k = w->task;
  int64_t n = k->width;
  for (int64_t i = 0; i < n * n; i++) w->matrix[i] = -b * w->jacobian[i];
  if (k->mass)
    for (int64_t i = 0; i < n * n; i++) w->matrix[i] += a * k->mass[i];
  else
    for (int64_t i = 0; i < n; i++) w->matrix[i * n + i] += a;
  return factorise(w->matrix, w->pivots, n) ? LINEAR_FAILED : GOOD;
}

/* The first iterate: several states continued as a polynomial, or the column before. */
static void guess(struct worker *w, int64_t column, double *x) {
  int64_t n = w->task->width, base = w->history - 1;
  if (column != w->new || w->history < 2) {
    memmove(x, w->x[column - 1], n * sizeof *x);
    return;
  }
  memcpy(x, w->x[base], n * sizeof *x);
  for (int64_t c = 0; c < base; c++) {
    double weight = 1;
    for (int64_t j = 0; j < w->history; j++)
      if (j != c) weight *= (w->end - w->s[j]) / (w->s[c] - w->s[j]);
    for (int64_t i = 0; i < n; i++) x[i] += weight * (w->x[c][i] - w->x[base][i]);
  }
}

/* f at the unknown of a row as it is if the row holds exactly: (a M (x - origin) - known) / b. An evaluation has
   the rounding errors of x times J, which on stiff systems the stages that use it amplify. It only shows whether
   f is finite there; the last iterate has not been asked for it. */
static enum reason solved_for(struct worker *w, int64_t own, double a, double b, const double *origin,
                              const double *x) {
  int64_t n = w->task->width;
  double *moved = w->error, *f = w->values + own * n;
  if (slope_at(w, w->s[own], x, f, NULL)) return LEFT_TO_PYTHON;
  if (!is_finite(f, n)) return NON_FINITE;
  for (int64_t i = 0; i < n; i++) moved[i] = origin ? x[i] - origin[i] : x[i];
  for (int64_t i = 0; i < n; i++) f[i] = (a * weighed(w->task, i, moved) - w->known[i]) / b;
  w->has_value[own] = 1;
  return GOOD;
}

static double largest(const double *v, int64_t n) {
  double found = 0;
  for (int64_t i = 0; i < n; i++) found = fmax(found, fabs(v[i]));
  return found;
}

/* Put differences of f in place of the entries of a Jacobian that are not finite, as linear/non_finite.py does; not
   zero without memory. */
static int mend(struct worker *w, double s, const double *x, const double *f, double *jacobian) {
  int64_t n = w->task->width;
  double *moved = w->error, *there = w->wrt_time, most = largest(x, n);
  w->run->mended++;
  for (int64_t c = 0; c < n; c++) {
    int64_t lacking = 0;
    for (int64_t i = 0; i < n; i++)
      if (!isfinite(jacobian[i * n + c])) jacobian[i * n + c] = NAN, lacking++;
    double step = sqrt(w->task->eps) * fmax(fabs(x[c]), most > 0 ? LEAST_MOVED * most : 1);
    for (int side = 1; side >= -1 && lacking; side -= 2) {
      memcpy(moved, x, n * sizeof *moved);
      moved[c] += side * step;
      if (slope_at(w, s, moved, there, NULL)) return 1;
      for (int64_t i = 0; i < n; i++) {
        double found = (there[i] - f[i]) / (moved[c] - x[c]);
        if (isnan(jacobian[i * n + c]) && isfinite(found)) jacobian[i * n + c] = found, lacking--;
      }
    }
  }
  return 0;
}

/* Solve a M (x - origin) - b f(s, x) = known. */
static enum reason newton(struct worker *w, int64_t column, double a, double b, const double *origin, double *x) {
  const struct task *k = w->task;
  int64_t n = k->width;
  double before = INFINITY, *f = w->slope, *moved = w->error, *update = w->update;
  guess(w, column, x);
  double start = largest(x, n);
  int fresh = k->renews || !(w->has_factors && w->factors_alpha == a && w->factors_beta == b);
  for (int64_t iteration = 0; iteration < k->max_iterations; iteration++) {
    if (slope_at(w, w->s[column], x, f, fresh ? w->jacobian : NULL)) return LEFT_TO_PYTHON;
    if (fresh) {
      if (is_finite(f, n) && !is_finite(w->jacobian, n * n) && mend(w, w->s[column], x, f, w->jacobian))
        return LEFT_TO_PYTHON;
      w->has_factors = 1;
      w->factors_alpha = a;
      w->factors_beta = b;
      if (factorise_at(w, a, b)) return is_finite(f, n) ? LINEAR_FAILED : NON_FINITE;
    }
    w->run->iterations++;
    for (int64_t i = 0; i < n; i++) moved[i] = origin ? x[i] - origin[i] : x[i];
    for (int64_t i = 0; i < n; i++) update[i] = a * weighed(k, i, moved) - b * f[i] - w->known[i];
    solve(w->matrix, w->pivots, n, update);
    double square = 0;
    for (int64_t i = 0; i < n; i++) {
      x[i] -= update[i];
      double scaled = update[i] / (k->newton_rtol * fabs(x[i]) + w->atol[i]);
      square += scaled * scaled;
    }
    double size = sqrt(square / n);
    if (!isfinite(size)) return is_finite(f, n) ? LINEAR_FAILED : NON_FINITE;
    double contraction = isinf(before) ? INFINITY : size / before; /* of the first update nothing is known */
    double lost = ROUNDING_UNITS * k->eps * fmax(largest(x, n), start);
    double left = fresh ? 1 : k->left;
    if (size <= left || (contraction > 0.3 && largest(update, n) <= lost) ||
        (contraction < 1 && size * contraction <= left * (1 - contraction)))
      return GOOD;
    before = size;
    fresh = k->renews || (isfinite(contraction) && contraction > SLOW);
  }
  return NEWTON_FAILED;
}

/* f and J at the old state, and the factors of a M - J, which serve all stages. */
static enum reason linearise(struct worker *w, double a) {
  int64_t n = w->task->width, base = w->history - 1;
  if (slope_at(w, w->begin, w->x[base], w->values + base * n, w->jacobian)) return LEFT_TO_PYTHON;
  w->has_value[base] = w->has_factors = 1;
  if (factorise_at(w, a, 1)) return is_finite(w->jacobian, n * n) ? LINEAR_FAILED : NON_FINITE;
  return GOOD;
}

/* The same, and df/ds. */
static enum reason begin_rosenbrock(struct worker *w, double a) {
  const struct task *k = w->task;
  double t = k->direction * w->begin, along = 1; /* direction twice: of time, and of f */
  w->run->values++;
  if (k->push(1, 1, &t, w->x[w->history - 1], k->p, &along, w->zeros, w->wrt_time)) return LEFT_TO_PYTHON;
  return linearise(w, a);
}

/* Solve (a M - J) x = known + tau df/ds for x. */
static void rosenbrock(struct worker *w, int64_t row, double *x) {
  int64_t n = w->task->width;
  w->run->iterations++;
  for (int64_t i = 0; i < n; i++) x[i] = w->known[i] + w->tau[row] * w->wrt_time[i];
  solve(w->matrix, w->pivots, n, x);
}

/* What a row has from columns other than its own, into ``known``. */
static int sum_known(struct worker *w, int64_t row, int64_t own, int weighted) {
  const struct task *k = w->task;
  int64_t n = k->width;
  int failed = 0;
  const double *alpha = w->alpha + row * w->columns, *beta = w->beta + row * w->columns;
  /* If only differences of columns enter, sums of differences lose less to rounding. */
  const double *origin = w->differences ? w->x[w->history - 1] : NULL;
  double *known = w->known;
  memset(known, 0, n * sizeof *known);
  for (int64_t c = 0; c < own; c++) {
    if (alpha[c] == 0) continue;
    const double *x = w->x[c];
    if (origin)
      for (int64_t i = 0; i < n; i++) known[i] -= alpha[c] * (x[i] - origin[i]);
    else
      for (int64_t i = 0; i < n; i++) known[i] -= alpha[c] * x[i];
  }
  if (weighted && k->mass) {
    memcpy(w->error, known, n * sizeof *known);
    for (int64_t i = 0; i < n; i++) known[i] = weighed(k, i, w->error);
  }
  for (int64_t c = 0; c < own; c++) {
    if (beta[c] == 0) continue;
    const double *f = value(w, c, &failed);
    for (int64_t i = 0; i < n; i++) known[i] += beta[c] * f[i];
  }
  return failed;
}

/* Solve for all columns of the step. */
static enum reason solve_rows(struct worker *w) {
  const struct task *k = w->task;
  int64_t n = k->width;
  const double *origin = w->differences ? w->x[w->history - 1] : NULL;
  for (int64_t row = 0; row < w->rows; row++) {
    int64_t own = w->history + row;
    double *x = w->room + own * n, a = w->alpha[row * w->columns + own], b = w->beta[row * w->columns + own];
    enum reason reason = GOOD;
    if (w->rosenbrock[row] && !w->has_factors) reason = begin_rosenbrock(w, a);
    if (reason) return reason;
    if (sum_known(w, row, own, w->weighted[row])) return LEFT_TO_PYTHON;
    if (b != 0)
      reason = newton(w, own, a, b, origin, x);
    else if (w->rosenbrock[row])
      rosenbrock(w, row, x);
    else
      for (int64_t i = 0; i < n; i++) x[i] = w->known[i] / a;
    if (!reason && b != 0) reason = solved_for(w, own, a, b, origin, x);
    if (reason) return reason;
  }
  return is_finite(w->x[w->new], n) ? GOOD : NON_FINITE;
}
