/* The coefficients of a step: from a table, or those of BDF, which follow from the times of its states. */
#define MUCH_LONGER 100.0

static void from_table(struct worker *w) {
  const struct table *t = &w->task->table;
  double h = w->h, inverse = 1 / h;
  w->history = 1;
  w->rows = t->rows;
  w->columns = t->columns;
  w->has_error = t->has_error;
  w->differences = t->differences;
  w->has_half_row = 0;
  w->order = t->has_error ? w->task->error_order : 0;
  for (int64_t i = 0; i < (t->rows + t->has_error) * t->columns; i++) {
    w->alpha[i] = t->alpha[i] + t->alpha_per_h[i] * inverse;
    w->beta[i] = t->beta[i] + t->beta_by_h[i] * h;
  }
  for (int64_t i = 0; i < t->rows; i++) {
    w->tau[i] = t->tau[i] * h;
    w->weighted[i] = t->weighted[i];
    w->rosenbrock[i] = t->rosenbrock[i];
  }
  for (int64_t c = 0; c < t->columns; c++) w->s[c] = t->c[c] == 1 ? w->end : w->begin + h * t->c[c];
  w->x[0] = w->run->states + w->run->steps * w->task->width;
}

/* The derivatives at T[0] of the Lagrange basis on T[0 .. k]; see stiffml/methods/bdf.py. */
static void lagrange_derivatives(const double *T, int64_t k, double *found) {
  found[0] = 0;
  for (int64_t j = 1; j <= k; j++) found[0] += 1 / (T[0] - T[j]);
  for (int64_t i = 1; i <= k; i++) {
    double above = 1, below = T[i] - T[0];
    for (int64_t j = 1; j <= k; j++)
      if (j != i) {
        above *= T[0] - T[j];
        below *= T[i] - T[j];
      }
    found[i] = above / below;
  }
}

/* The weights of the states at times T[0 .. k] in the error of the step to T[0]. */
static void difference(const double *T, int64_t k, double *found) {
  double shorter[8];
  lagrange_derivatives(T, k, found);
  lagrange_derivatives(T, k - 1, shorter);
  for (int64_t i = 0; i < k; i++) found[i] -= shorter[i];
  for (int64_t i = 0; i <= k; i++) found[i] /= shorter[0];
}

/* The first step of a run: u half by backward Euler, then u1 from u0 and u half; columns u0, u half, u1. */
static void begin_bdf(struct worker *w) {
  double middle = (w->begin + w->end) / 2, T[] = {w->end, middle, w->begin}, U[] = {w->end, w->begin, middle}, d[3];
  double *alpha = w->alpha, *beta = w->beta;
  w->history = 1;
  w->rows = 2;
  w->has_half_row = 1;
  lagrange_derivatives(T, 2, d);
  alpha[0] = -1;
  alpha[1] = 1;
  beta[1] = w->h / 2;
  for (int64_t c = 0; c < 3; c++) alpha[3 + c] = w->h * d[2 - c];
  beta[3 + 2] = w->h;
  w->s[1] = middle;
  w->s[2] = w->end;
  w->columns = 3;
  if (!w->has_error) return;
  difference(U, 2, d); /* PETSc takes u half for the oldest */
  alpha[6] = -d[1];
  alpha[7] = -d[2];
  alpha[8] = -d[0];
  w->order = 2;
}

static void from_past(struct worker *w) {
  const struct task *k = w->task;
  const struct run *r = w->run;
  /* One state more than the formula has, for the error and the first iterate. */
  int64_t most = k->bdf + 1, before = r->steps < most - 1 ? r->steps : most - 1;
  double T[9], d[9];
  w->has_error = k->adaptive;
  w->differences = 1;
  w->weighted[0] = w->weighted[1] = 1;
  w->rosenbrock[0] = w->rosenbrock[1] = 0;
  w->has_half_row = w->order = 0;
  memset(w->alpha, 0, 30 * sizeof *w->alpha);
  memset(w->beta, 0, 30 * sizeof *w->beta);
  w->x[0] = r->states + r->steps * k->width;
  if (k->bdf > 1 && before == 0) {
    begin_bdf(w);
    return;
  }
  int64_t c = 0, count;
  if (k->bdf > 1 && before < most - 1) {
    w->x[c] = r->half;
    w->s[c++] = r->half_time;
  }
  for (int64_t i = r->steps - before; i <= r->steps; i++) {
    w->x[c] = r->states + i * k->width;
    w->s[c++] = r->times[i];
  }
  w->history = count = c;
  w->rows = 1;
  w->columns = count + 1;
  w->s[count] = w->end;
  for (int64_t i = 0; i <= count; i++) T[i] = w->s[count - i];
  int64_t order = count < k->bdf ? count : k->bdf;
  lagrange_derivatives(T, order, d);
  for (int64_t i = 0; i <= order; i++) w->alpha[count - i] = w->h * d[i];
  w->beta[count] = w->h;
  if (count < 2) w->has_error = 0;
  if (!w->has_error) return;
  difference(T, count, d);
  for (int64_t i = 0; i <= count; i++) w->alpha[w->columns + count - i] = -d[i];
  w->order = count;
}

/* f at the old state, as the last step has solved for it. Its rounding errors grow with the ratio of the two
   sizes. */
static void take_slope(struct worker *w) {
  struct run *r = w->run;
  if (!r->cuts) r->renews_slope = w->h > MUCH_LONGER * r->last_taken;
  if (!r->has_slope || r->renews_slope) return;
  memcpy(w->values + (w->history - 1) * w->task->width, r->slope, w->task->width * sizeof(double));
  w->has_value[w->history - 1] = 1;
}

/* The rows of the step from the last state of a run to ``end``. */
static void prepare(struct worker *w, double end) {
  w->begin = w->run->now;
  w->end = end;
  w->h = end - w->begin;
  if (w->task->bdf)
    from_past(w);
  else
    from_table(w);
  w->new = w->columns - 1;
  for (int64_t c = w->history; c < w->columns; c++) w->x[c] = w->room + c * w->task->width;
  for (int64_t c = 0; c < w->columns; c++) w->has_value[c] = 0;
  take_slope(w);
  w->has_factors = 0;
  /* what a failure is told from, if it comes before these are known */
  memset(w->room + w->new * w->task->width, 0, w->task->width * sizeof(double));
  memset(w->update, 0, w->task->width * sizeof(double));
}
