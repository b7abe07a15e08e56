/* The reverse sweep of a sample over the rows of its steps; as in gradients/sweep.py. */

struct sweep {
  struct worker *w;
  const struct backwards *b;
  double *x, *f;                             /* (columns, width) cotangents of columns, and of f there */
  double *half, *total, *through, *wrt_p, *one; /* of the half step; work */
  double *along, *stages, *multipliers;          /* (rows,), (rows, width) of the brackets of a step */
  int64_t brackets;
  double *to_p; /* where the gradient of the sample is summed */
};

static int is_zero(const double *v, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (v[i] != 0) return 0;
  return 1;
}

static void add(double *to, double factor, const double *v, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] += factor * v[i];
}

/* Through f at a column: J'f into ``through``, and what parameters get. */
static int pull(struct sweep *s, int64_t c) {
  struct worker *w = s->w;
  const struct task *k = w->task;
  int64_t n = k->width;
  double t = k->direction * w->s[c], wrt_t;
  for (int64_t i = 0; i < n; i++) s->one[i] = k->direction * s->f[c * n + i];
  w->run->values++;
  if (s->b->pull(1, 1, &t, w->x[c], k->p, s->one, w->slope, s->through, &wrt_t, s->wrt_p)) return 1;
  add(s->to_p, 1, s->wrt_p, s->b->parameters);
  return 0;
}

/* The cotangent of a column with that of f there, through the Jacobian that is at hand, or pulled through f. */
static int total_of(struct sweep *s, int64_t c, int by_jacobian) {
  int64_t n = s->w->task->width;
  const double *f = s->f + c * n, *J = s->w->jacobian;
  memcpy(s->total, s->x + c * n, n * sizeof(double));
  if (is_zero(f, n)) return 0;
  if (!by_jacobian) {
    if (pull(s, c)) return 1;
    add(s->total, 1, s->through, n);
  } else
    for (int64_t j = 0; j < n; j++) add(s->total, f[j], J + j * n, n);
  return 0;
}

/* From the multiplier w of a row, in ``total``, to the columns that enter it. */
static void spread(struct sweep *s, int64_t row, int64_t own) {
  struct worker *w = s->w;
  const struct task *k = w->task;
  int64_t n = k->width;
  const double *alpha = w->alpha + row * w->columns, *beta = w->beta + row * w->columns, *weighed = s->total;
  if (w->weighted[row] && k->mass) {
    memset(w->known, 0, n * sizeof(double));
    for (int64_t j = 0; j < n; j++) add(w->known, s->total[j], k->mass + j * n, n);
    weighed = w->known;
  }
  for (int64_t c = 0; c < own; c++) {
    if (alpha[c] != 0) add(s->x + c * n, -alpha[c], weighed, n);
    if (beta[c] != 0) add(s->f + c * n, beta[c], s->total, n);
  }
}

/* Note the bracket J y + tau df/ds of a row, whose J depends on the old state and the parameters. */
static void note_bracket(struct sweep *s, int64_t row, int64_t own) {
  struct worker *w = s->w;
  const struct task *k = w->task;
  int64_t n = k->width, at = s->brackets++;
  s->along[at] = k->direction * w->tau[row];
  memcpy(s->stages + at * n, w->x[own], n * sizeof(double));
  for (int64_t i = 0; i < n; i++) s->multipliers[at * n + i] = k->direction * s->total[i];
}

/* All brackets of a step at once, to the old state and the parameters. */
static int reverse_brackets(struct sweep *s) {
  struct worker *w = s->w;
  const struct task *k = w->task;
  int64_t n = k->width, base = w->history - 1;
  double t = k->direction * w->begin;
  if (!s->brackets) return 0;
  w->run->values += s->brackets;
  if (s->b->bend(s->brackets, &t, w->x[base], k->p, s->along, s->stages, s->multipliers, s->through, s->wrt_p))
    return 1;
  add(s->x + base * n, 1, s->through, n);
  add(s->to_p, 1, s->wrt_p, s->b->parameters);
  return 0;
}

static int reverse_row(struct sweep *s, int64_t row) {
  struct worker *w = s->w;
  int64_t n = w->task->width, own = w->history + row;
  double a = w->alpha[row * w->columns + own], b = w->beta[row * w->columns + own];
  if (b != 0) {
    if (is_zero(s->x + own * n, n) && is_zero(s->f + own * n, n)) return 0;
    if (slope_at(w, w->s[own], w->x[own], w->slope, w->jacobian) || total_of(s, own, 1)) return 1;
    if (factorise_at(w, a, b)) return 1;
    solve_transposed(w->matrix, w->pivots, n, s->total);
    add(s->f + own * n, b, s->total, n);
    if (s->b->parameters && pull(s, own)) return 1;
  } else {
    if (total_of(s, own, 0)) return 1;
    if (w->rosenbrock[row]) {
      solve_transposed(w->matrix, w->pivots, n, s->total);
      note_bracket(s, row, own);
    } else
      for (int64_t i = 0; i < n; i++) s->total[i] /= a;
  }
  spread(s, row, own);
  return 0;
}

/* Reverse the step from state ``m`` of a sample, of which ``run`` shows the states so far. */
static int reverse_step(struct sweep *s, int64_t first, int64_t m) {
  struct worker *w = s->w;
  const struct task *k = w->task;
  const struct backwards *b = s->b;
  int64_t n = k->width, at = first + m;
  double *cotangents = b->cotangents + at * n;
  w->run->steps = m;
  w->run->now = b->times[at];
  prepare(w, b->times[at + 1]);
  w->has_error = 0;
  if (k->table.kept) {
    for (int64_t i = 0; i < k->table.kept; i++) w->x[k->table.first_kept + i] = b->stages + (at * k->table.kept + i) * n;
    /* The rows of Rosenbrock's stages have the same factors. */
    for (int64_t row = 0; row < w->rows && !w->has_factors; row++)
      if (w->rosenbrock[row] && linearise(w, w->alpha[row * w->columns + w->history + row])) return 1;
  } else if (w->columns > w->history + 1 && !w->has_half_row && solve_rows(w))
    return 1;
  if (w->has_half_row) w->x[w->history] = w->run->half;
  w->x[w->new] = b->states + (at + 1) * n;
  memset(s->x, 0, w->columns * n * sizeof(double));
  memset(s->f, 0, w->columns * n * sizeof(double));
  memcpy(s->x + w->new * n, cotangents + n, n * sizeof(double));
  if (w->has_half_row) memcpy(s->x + w->history * n, s->half, n * sizeof(double));
  s->brackets = 0;
  for (int64_t row = w->rows - 1; row >= 0; row--)
    if (reverse_row(s, row)) return 1;
  if (reverse_brackets(s)) return 1;
  for (int64_t c = 0; c < w->history; c++) {
    if (total_of(s, c, 0)) return 1;
    int is_half = w->x[c] == w->run->half;
    add(is_half ? s->half : cotangents - (w->history - 1 - c) * n, 1, s->total, n);
  }
  return 0;
}

/* The reverse sweeps of all samples, and how far each has come. */
struct reversal {
  struct task task;
  struct backwards b;
  struct worker *workers;
  struct sweep *sweeps;
  int64_t threads, *left; /* (samples,) steps that are still to be reversed; -1 before the first */
  double *halves;         /* (samples, width) the cotangents of half steps */
  double deadline;
  atomic_llong next;
  atomic_int failed;
};

/* Reverse a sample up to the deadline; not zero if C cannot. */
static int reverse_sample(struct sweep *s, struct reversal *of, int64_t sample) {
  const struct task *k = &of->task;
  const struct backwards *b = &of->b;
  int64_t n = k->width, first = b->at[sample], *left = &of->left[sample];
  struct run *r = s->w->run;
  r->states = (double *)b->states + first * n;
  r->times = (double *)b->times + first;
  r->half = k->half + sample * n;
  r->half_time = k->half_time[sample];
  s->to_p = b->wrt_p + sample * b->parameters;
  s->half = of->halves + sample * n;
  if (*left < 0) {
    *left = b->at[sample + 1] - 1 - first;
    while (*left > 0 && is_zero(b->cotangents + (first + *left) * n, n)) --*left;
  }
  while (*left > 0) {
    if (reverse_step(s, first, *left - 1)) return 1;
    --*left;
    if (seconds() > of->deadline) return 0;
  }
  return 0;
}

struct reverse_start {
  struct reversal *of;
  int64_t thread;
};

static void *reverse_work(void *given) {
  struct reverse_start *start = given;
  struct reversal *of = start->of;
  struct run run = {0};
  struct sweep *s = &of->sweeps[start->thread];
  s->w->run = &run;
  while (!atomic_load(&of->failed)) {
    int64_t i = atomic_fetch_add(&of->next, 1);
    if (i >= of->task.samples) break;
    if (!of->left[i]) continue;
    if (reverse_sample(s, of, i)) atomic_store(&of->failed, 1);
    if (seconds() > of->deadline) break;
  }
  atomic_fetch_add((_Atomic int64_t *)&of->task.counts[2], run.values);
  atomic_fetch_add((_Atomic int64_t *)&of->task.counts[3], run.jacobians);
  return NULL;
}

static int make_sweep(struct sweep *s, struct worker *w, const struct backwards *b) {
  int64_t n = w->task->width, columns = w->task->bdf ? 10 : w->task->table.columns, rows = columns;
  s->w = w;
  s->b = b;
  s->x = enough(2 * columns * n + 3 * n + b->parameters + rows + 2 * rows * n, sizeof(double));
  if (!s->x) return 1;
  s->f = s->x + columns * n;
  s->total = s->f + columns * n;
  s->through = s->total + n;
  s->one = s->through + n;
  s->wrt_p = s->one + n;
  s->along = s->wrt_p + b->parameters;
  s->stages = s->along + rows;
  s->multipliers = s->stages + rows * n;
  return 0;
}

EXPORT void stiffml_reversal_end(struct reversal *of) {
  if (!of) return;
  for (int64_t i = 0; of->workers && of->sweeps && i < of->threads; i++) {
    free_worker(&of->workers[i]);
    free(of->sweeps[i].x);
  }
  free(of->workers);
  free(of->sweeps);
  free(of->left);
  free(of->halves);
  free(of);
}

/* The reversal of all samples on so many threads; arrays must outlive it; NULL without memory. */
EXPORT struct reversal *stiffml_reversal_begin(const struct task *task, const struct backwards *b,
                                               int64_t threads) {
  struct reversal *of = calloc(1, sizeof *of);
  if (!of) return NULL;
  of->task = *task;
  of->b = *b;
  of->threads = threads;
  of->workers = enough(threads, sizeof *of->workers);
  of->sweeps = enough(threads, sizeof *of->sweeps);
  of->left = enough(task->samples, sizeof *of->left);
  of->halves = enough(task->samples * task->width, sizeof *of->halves);
  int failed = !of->workers || !of->sweeps || !of->left || !of->halves;
  for (int64_t i = 0; i < threads && !failed; i++)
    failed = make_worker(&of->workers[i], &of->task) || make_sweep(&of->sweeps[i], &of->workers[i], &of->b);
  for (int64_t i = 0; i < task->samples && !failed; i++) of->left[i] = -1;
  if (!failed) return of;
  stiffml_reversal_end(of);
  return NULL;
}

/* Reverse for so many seconds, or to the end; returns whether there is more to do, or -1 if C cannot: a value
   is not finite. */
EXPORT int stiffml_reversal_go(struct reversal *of, double most) {
  pthread_t handles[of->threads];
  struct reverse_start starts[of->threads];
  int64_t begun = 1;
  of->deadline = seconds() + most;
  atomic_store(&of->next, 0);
  for (int64_t i = 0; i < of->threads; i++) starts[i] = (struct reverse_start){of, i};
  while (begun < of->threads && !pthread_create(&handles[begun], NULL, reverse_work, &starts[begun])) begun++;
  reverse_work(&starts[0]);
  for (int64_t i = 1; i < begun; i++) pthread_join(handles[i], NULL);
  if (atomic_load(&of->failed)) return -1;
  for (int64_t i = 0; i < of->task.samples; i++)
    if (of->left[i]) return 1;
  return 0;
}
