/* Samples on threads: each takes the next sample that is not under way. */

static void *enough(int64_t count, size_t size) { return calloc(count > 0 ? count : 1, size); }

static int make_worker(struct worker *w, const struct task *k) {
  int64_t n = k->width, rows = k->table.rows + 1, columns = k->table.columns;
  if (k->bdf) {
    rows = 3;
    columns = 10;
  }
  w->task = k;
  w->numbers = enough(2 * rows * columns + rows + columns + 2 * columns * n + 2 * n * n + 7 * n, sizeof(double));
  w->x = enough(columns, sizeof *w->x);
  w->has_value = enough(columns + 2 * rows, sizeof *w->has_value);
  w->pivots = enough(n, sizeof *w->pivots);
  if (!w->numbers || !w->x || !w->has_value || !w->pivots) return 1;
  double *at = w->numbers;
  w->alpha = at, at += rows * columns;
  w->beta = at, at += rows * columns;
  w->tau = at, at += rows;
  w->s = at, at += columns;
  w->room = at, at += columns * n;
  w->values = at, at += columns * n;
  w->matrix = at, at += n * n;
  w->jacobian = at, at += n * n;
  w->known = at, at += n;
  w->update = at, at += n;
  w->slope = at, at += n;
  w->wrt_time = at, at += n;
  w->atol = at, at += n;
  w->error = at, at += n;
  w->zeros = at;
  w->weighted = w->has_value + columns;
  w->rosenbrock = w->weighted + rows;
  return 0;
}

static void free_worker(struct worker *w) {
  free(w->numbers);
  free(w->x);
  free(w->has_value);
  free(w->pivots);
}

/* Free what runs hold. */
EXPORT void stiffml_samples_end(struct batch *b) {
  if (!b) return;
  for (int64_t i = 0; b->runs && i < b->task.samples; i++) {
    void *held[] = {b->runs[i].times, b->runs[i].states, b->runs[i].stages, b->runs[i].half,
                    b->runs[i].slope};
    for (size_t j = 0; j < 5; j++) free(held[j]);
  }
  for (int64_t i = 0; b->workers && i < b->threads; i++) free_worker(&b->workers[i]);
  free(b->runs);
  free(b->workers);
  free(b);
}

/* Runs for a task, whose arrays must outlive them; NULL without memory. */
EXPORT struct batch *stiffml_samples_begin(const struct task *task, int64_t threads) {
  struct batch *b = calloc(1, sizeof *b);
  if (!b) return NULL;
  b->task = *task;
  b->threads = threads;
  b->runs = enough(task->samples, sizeof *b->runs);
  b->workers = enough(threads, sizeof *b->workers);
  int failed = !b->runs || !b->workers;
  for (int64_t i = 0; i < threads && !failed; i++) failed = make_worker(&b->workers[i], &b->task);
  if (!failed) return b;
  stiffml_samples_end(b);
  return NULL;
}

struct start {
  struct batch *batch;
  struct worker *worker;
};

static void *work(void *given) {
  struct start *start = given;
  struct batch *b = start->batch;
  struct worker *w = start->worker;
  for (;;) {
    int64_t i = atomic_fetch_add(&b->next, 1);
    if (i >= b->task.samples) return NULL;
    struct run *r = &b->runs[i];
    w->run = r;
    w->sample = i;
    if (!r->begun && begin_run(&b->task, r, i)) end_run(&b->task, r, i, LEFT_TO_PYTHON, 0);
    while (!r->ended) {
      advance(w);
      if (seconds() > b->deadline) return NULL;
    }
  }
}

/* Take steps for so many seconds, or to the end; returns whether there is more to do. */
EXPORT int stiffml_samples_go(struct batch *b, double most) {
  pthread_t threads[b->threads];
  struct start starts[b->threads];
  int64_t begun = 1;
  b->deadline = seconds() + most;
  atomic_store(&b->next, 0);
  for (int64_t i = 0; i < b->threads; i++) starts[i] = (struct start){b, &b->workers[i]};
  while (begun < b->threads && !pthread_create(&threads[begun], NULL, work, &starts[begun])) begun++;
  work(&starts[0]);
  for (int64_t i = 1; i < begun; i++) pthread_join(threads[i], NULL);
  for (int64_t i = 0; i < b->task.samples; i++)
    if (!b->runs[i].ended) return 1;
  return 0;
}

/* The times (steps + 1,), states and stages of all samples, one after the other, and the counts of work. */
EXPORT void stiffml_samples_collect(struct batch *b, double *times, double *states, double *stages) {
  int64_t n = b->task.width, kept = b->task.table.kept, *counts = b->task.counts;
  for (int64_t i = 0; i < b->task.samples; i++) {
    struct run *r = &b->runs[i];
    /* without memory a run has not even begun */
    memcpy(times, r->times ? r->times : b->task.output + b->task.output_at[i], (r->steps + 1) * sizeof *times);
    memcpy(states, r->states ? r->states : b->task.start + i * n, (r->steps + 1) * n * sizeof *states);
    if (kept) {
      memcpy(stages, r->stages, r->steps * kept * n * sizeof *stages);
      memset(stages + r->steps * kept * n, 0, kept * n * sizeof *stages); /* none from the last state */
      stages += (r->steps + 1) * kept * n;
    }
    times += r->steps + 1;
    states += (r->steps + 1) * n;
    counts[0] += r->rejected;
    counts[1] += r->iterations;
    counts[2] += r->values;
    counts[3] += r->jacobians;
    counts[4] += r->mended;
  }
}
