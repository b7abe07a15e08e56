/* The steps of a sample, one after the other; as in native/side_by_side/drive.py and goals.py. */
#define LEAST_SPACINGS 16
#define NOTHING 4
#define MOST_CUTS 40
#define MOST_HALVINGS 16
#define REPEATED 0.45

static void *grown(void *rows, int64_t count) { return realloc(rows, (count > 0 ? count : 1) * sizeof(double)); }

/* Room for one step more; not zero without memory. */
static int make_room(const struct task *k, struct run *r) {
  if (r->steps + 1 < r->room) return 0;
  int64_t room = r->room ? 2 * r->room : 128, kept = k->table.kept * k->width;
  double *times = grown(r->times, room), *states = times ? grown(r->states, room * k->width) : NULL;
  double *stages = states && kept ? grown(r->stages, room * kept) : NULL;
  if (times) r->times = times;
  if (states) r->states = states;
  if (stages) r->stages = stages;
  if (!states || (kept && !stages)) return 1;
  r->room = room;
  return 0;
}

static void end_run(const struct task *k, struct run *r, int64_t sample, enum reason reason, double size) {
  r->ended = 1;
  k->reason[sample] = reason;
  k->size[sample] = size;
  k->steps[sample] = r->steps;
  k->passed[sample] = r->passed;
  k->has_half[sample] = r->has_half;
  k->half_time[sample] = r->half_time;
  if (r->has_half) memcpy(k->half + sample * k->width, r->half, k->width * sizeof(double));
}

static int begin_run(const struct task *k, struct run *r, int64_t sample) {
  r->begun = 1;
  r->half = grown(NULL, k->width);
  r->slope = grown(NULL, k->width);
  if (!r->half || !r->slope || make_room(k, r)) return 1;
  r->times[0] = r->now = k->output[k->output_at[sample]];
  memcpy(r->states, k->start + sample * k->width, k->width * sizeof(double));
  r->passed = 1;
  r->next_end = k->end_at[sample];
  if (k->adaptive) r->proposal = fmin(k->first[sample], k->maximum);
  return 0;
}

/* Where the next step is to end. */
static double next_end(const struct task *k, struct run *r, double target) {
  if (!k->adaptive) {
    if (!r->waits) r->waiting[r->waits++] = k->end[r->next_end++];
    return r->waiting[r->waits - 1];
  }
  double left = target - r->now;
  r->tried = left;
  if (r->proposal >= left * (1 - 1e-9)) return target;
  /* Two even steps rather than a full step and a tiny one, unless that is the rest of a longer one. */
  r->tried = r->cuts ? r->proposal : fmin(r->proposal, left / 2);
  return r->now + r->tried;
}

/* The norm of the error of a step, in units of the tolerances; scaled errors stay in ``error``. */
static double error_norm(struct worker *w) {
  const struct task *k = w->task;
  int64_t n = k->width;
  const double *new = w->x[w->new], *atol = k->atol + w->sample * n;
  double square = 0;
  if (sum_known(w, w->rows, w->columns, 0)) return NAN;
  for (int64_t i = 0; i < n; i++) {
    double size = fmax(fabs(new[i]), fabs(new[i] - w->known[i])); /* as PETSc has it */
    w->error[i] = w->known[i] / (atol[i] + k->rtol * size);
    square += w->error[i] * w->error[i];
  }
  return sqrt(square / n);
}

/* As in run/controller.py. */
static double factor_of(const struct task *k, double norm, int64_t order, int again) {
  if (!isfinite(norm)) return 0.1;
  if (norm == 0) return k->largest_factor;
  double safety = again && norm > 1 ? fmin(k->safety, REPEATED) : k->safety;
  return fmin(k->largest_factor, fmax(0.1, safety * pow(norm, -1.0 / order)));
}

/* Not zero if the next step would be too short. */
static int keep(struct worker *w, double target, double factor) {
  const struct task *k = w->task;
  struct run *r = w->run;
  int64_t n = k->width;
  int stuck = 0;
  for (int64_t i = 0; i < k->table.kept; i++)
    memcpy(r->stages + (r->steps * k->table.kept + i) * n, w->x[k->table.first_kept + i], n * sizeof(double));
  if (w->has_half_row) {
    r->has_half = 1;
    r->half_time = (w->begin + w->end) / 2;
    memcpy(r->half, w->x[w->history], n * sizeof(double));
  }
  r->has_slope = k->explicit_first_stage;
  if (r->has_slope) memcpy(r->slope, w->values + w->new * n, n * sizeof(double));
  r->last_taken = w->h;
  r->steps++;
  r->times[r->steps] = r->now = w->end;
  memcpy(r->states + r->steps * n, w->x[w->new], n * sizeof(double));
  if (k->adaptive) {
    double last = k->output[k->output_at[w->sample + 1] - 1], first = k->output[k->output_at[w->sample]];
    double suggestion = fmin(fmin(last - first, k->maximum), w->h * fmin(r->was_bad ? 1 : INFINITY, factor));
    /* A step that was shortened only to land on an output: the longer proposal is still good. */
    if (r->tried < r->proposal) suggestion = fmax(suggestion, r->proposal);
    r->proposal = next_size(r->last_sizes, k->growing, k->growth, k->most_growth, w->h, suggestion,
                            r->cuts > 0);
    double wanted = r->cuts ? w->h : suggestion;
    stuck = w->end != target && wanted < fmax(k->minimum, LEAST_SPACINGS * spacing(w->end));
  } else
    r->waits--;
  r->cuts = r->was_bad = r->was_long = 0;
  if (w->end == target) k->output_step[k->output_at[w->sample] + r->passed++] = r->steps;
  return stuck;
}

/* The step is to be shorter; not zero if it cannot be. */
static int cut(struct worker *w, double factor, enum reason reason) {
  const struct task *k = w->task;
  struct run *r = w->run;
  r->rejected++;
  r->cuts++;
  r->was_bad |= reason == NON_FINITE;
  r->was_long |= reason == STEP_TOO_SMALL;
  if (k->adaptive) {
    r->proposal = w->h * factor;
    return r->proposal < NOTHING * spacing(w->begin) || r->cuts >= MOST_CUTS;
  }
  if (r->cuts > MOST_HALVINGS || r->waits == 64 || w->h < 8 * spacing(w->begin)) return 1;
  r->waiting[r->waits++] = w->begin + w->h / 2;
  return 0;
}

/* What is needed to name the component at which a sample has failed. */
static void note(struct worker *w, enum reason reason) {
  const double *from = reason == STEP_TOO_SMALL ? w->error : reason == NON_FINITE ? w->x[w->new] : w->update;
  memcpy(w->task->found + w->sample * w->task->width, from, w->task->width * sizeof(double));
}

/* Try one step of a sample. */
static void advance(struct worker *w) {
  const struct task *k = w->task;
  struct run *r = w->run;
  int64_t at = k->output_at[w->sample], outputs = k->output_at[w->sample + 1] - at, n = k->width;
  if (r->passed == outputs) {
    end_run(k, r, w->sample, GOOD, 0);
    return;
  }
  double target = k->output[at + r->passed], end = next_end(k, r, target), norm, factor = 1;
  if (k->adaptive && r->steps >= k->max_steps) {
    end_run(k, r, w->sample, AT_STEP_LIMIT, end - r->now);
    return;
  }
  if (make_room(k, r)) {
    end_run(k, r, w->sample, LEFT_TO_PYTHON, 0);
    return;
  }
  const double *last = r->states + r->steps * n;
  for (int64_t i = 0; i < n; i++)
    w->atol[i] = k->newton_atol ? k->newton_atol[w->sample * n + i] : 0.01 * k->newton_rtol * fabs(last[i]) + 1e-250;
  prepare(w, end);
  enum reason reason = solve_rows(w);
  if (!reason && w->has_error) {
    norm = error_norm(w);
    factor = factor_of(k, norm, w->order, r->was_long);
    reason = !isfinite(norm) ? NON_FINITE : norm > 1 ? STEP_TOO_SMALL : GOOD;
  }
  if (!reason) {
    if (keep(w, target, factor)) {
      note(w, STEP_TOO_SMALL);
      end_run(k, r, w->sample, STEP_TOO_SMALL, w->h);
    }
  } else if (reason == LEFT_TO_PYTHON)
    end_run(k, r, w->sample, reason, 0);
  else if (cut(w, reason == STEP_TOO_SMALL ? factor : k->adaptive ? 0.25 : 0.5, reason)) {
    note(w, reason);
    end_run(k, r, w->sample, reason, w->h);
  }
}
