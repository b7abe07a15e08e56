/* The loop over steps, the same as in run/drive.py and petsc/stepper.py. What these treat specially, such as
   values that are not finite, ends it: the run is then taken again in Python. */
#define MUCH_LONGER 100.0
#define LEAST_SPACINGS 16

static double spacing(double s) { return nextafter(fabs(s), INFINITY) - fabs(s); }

static PetscErrorCode append(struct growing *g, const double *row, int64_t width) {
  if ((g->count + 1) * width > g->room) {
    int64_t room = 2 * g->room > 64 * width ? 2 * g->room : 64 * width;
    double *rows = realloc(g->rows, room * sizeof *rows);
    if (!rows) return PETSC_ERR_MEM;
    g->rows = rows;
    g->room = room;
  }
  memcpy(g->rows + g->count++ * width, row, width * sizeof *row);
  return PETSC_SUCCESS;
}

/* Before an attempt at a step of some size. */
static PetscErrorCode prepare(struct run *r, double size) {
  const struct task *k = &r->task;
  PetscFunctionBeginUser;
  if (k->explicit_first_stage && !IS_THERE(r->g.of) && size > MUCH_LONGER * r->last_taken) {
    PetscCall(TSRestartStep(r->ts));
    r->solves_at_start = r->solves;
  }
  if (k->newton && !k->newton_atol) {
    const PetscScalar *x;
    PetscCall(VecGetArrayRead(r->u, &x));
    for (int64_t i = 0; i < r->size; i++) r->atol[i] = 0.01 * k->newton_rtol * fabs(x[i]) + 1e-250;
    PetscCall(VecRestoreArrayRead(r->u, &x));
  }
  r->noted = 0;
  PetscCall(TSSetTimeStep(r->ts, size));
  PetscFunctionReturn(PETSC_SUCCESS);
}

/* An explicit adaptive step: after a rejection each attempt starts from a copy of the state. */
static PetscErrorCode guarded(struct run *r, double size, TSConvergedReason *reason) {
  const PetscScalar *x;
  PetscScalar *into;
  PetscFunctionBeginUser;
  PetscCall(VecGetArrayRead(r->u, &x));
  memcpy(r->before, x, r->length * sizeof *x);
  PetscCall(VecRestoreArrayRead(r->u, &x));
  for (int64_t cut = 0; cut < r->task.max_cuts; cut++) {
    PetscCall(prepare(r, size));
    PetscCall(TSStep(r->ts));
    PetscCall(TSGetConvergedReason(r->ts, reason));
    if (*reason != TS_DIVERGED_STEP_REJECTED || r->taken.why) break;
    PetscCall(VecGetArrayWrite(r->u, &into));
    memcpy(into, r->before, r->length * sizeof *into);
    PetscCall(VecRestoreArrayWrite(r->u, &into));
    PetscCall(TSRestartStep(r->ts)); /* the slope that PETSc kept belongs to the rejected step */
    PetscCall(TSGetTimeStep(r->ts, &size));
  }
  PetscFunctionReturn(PETSC_SUCCESS);
}

static PetscErrorCode attempt(struct run *r, double size, TSConvergedReason *reason) {
  PetscFunctionBeginUser;
  PetscCall(prepare(r, size));
  PetscCall(TSStep(r->ts));
  PetscCall(TSGetConvergedReason(r->ts, reason));
  PetscFunctionReturn(PETSC_SUCCESS);
}

/* Whether f and g are finite at the end of a step that has not evaluated them there. */
static PetscErrorCode look_ahead(struct run *r, const double *x) {
  const struct task *k = &r->task;
  PetscFunctionBeginUser;
  PetscCall(slope_at(r, r->now, x, k->both_at_once && !k->newton));
  int finite = is_finite(r->f.slope, r->size);
  if (IS_THERE(r->g.of)) {
    PetscCall(evaluate(r, &r->g, r->now, x, 0));
    finite = finite && is_finite(r->g.slope, r->size);
  }
  if (!finite) give_up(r, "f is not finite at the end of a step");
  PetscFunctionReturn(PETSC_SUCCESS);
}

static PetscErrorCode record(struct run *r, double taken) {
  const struct task *k = &r->task;
  const PetscScalar *x;
  double s = r->now;
  PetscFunctionBeginUser;
  PetscCall(VecGetArrayRead(r->u, &x));
  if (!is_finite(x, r->length) || (r->noted && !k->newton && !k->adaptive)) give_up(r, "a step is not finite");
  /* The sum of the steps may round beyond the last output. */
  if (s > k->output[k->outputs - 1]) s = k->output[k->outputs - 1];
  PetscCall(append(&r->ends, &s, 1));
  PetscCall(append(&r->sizes, &taken, 1));
  PetscCall(append(&r->states, state_of(r, x, &s, r->second), r->size));
  if (k->watched && is_stiff(r, taken, x)) give_up(r, "the problem is stiff");
  double last = k->output[k->outputs - 1];
  if (k->looks_ahead && r->now < last * (1 - 1e-12)) PetscCall(look_ahead(r, x));
  PetscCall(VecRestoreArrayRead(r->u, &x));
  if (k->kept) {
    PetscInt count;
    Vec *stages;
    PetscCall(TSGetStages(r->ts, &count, &stages));
    for (int64_t i = 0; i < k->kept; i++) {
      PetscCall(VecGetArrayRead(stages[k->first_kept + i], &x));
      PetscCall(append(&r->stages, x, r->length));
      PetscCall(VecRestoreArrayRead(stages[k->first_kept + i], &x));
    }
  }
  PetscFunctionReturn(PETSC_SUCCESS);
}

/* Take one step of at most ``size`` and record it. ``was_bad``: it was cut because f was not finite. */
static PetscErrorCode step(struct run *r, double size, double *taken, int *was_bad) {
  TSConvergedReason reason = TS_CONVERGED_ITERATING;
  PetscInt before, after;
  double begin = r->now;
  PetscFunctionBeginUser;
  PetscCall(TSGetStepRejections(r->ts, &before));
  r->bad_in_step = 0;
  if (r->task.guards)
    PetscCall(guarded(r, size, &reason));
  else
    PetscCall(attempt(r, size, &reason));
  if (reason < 0) give_up(r, "a step failed");
  if (r->taken.why) PetscFunctionReturn(PETSC_SUCCESS);
  PetscCall(TSGetStepRejections(r->ts, &after));
  PetscCall(TSGetTime(r->ts, &r->now));
  *was_bad = after > before && r->bad_in_step;
  *taken = r->last_taken = r->now - begin;
  r->wants_half = 0; /* only the first step has one */
  if (!(*taken > 0)) give_up(r, "nothing is left of a step");
  r->steps++;
  PetscCall(record(r, *taken));
  PetscFunctionReturn(PETSC_SUCCESS);
}

/* One adaptive step towards the next output time. */
static PetscErrorCode adaptive_step(struct run *r) {
  const struct task *k = &r->task;
  double remaining = k->output[r->taken.reached + 1] - r->now, size, taken = 0, suggestion;
  int lands = r->proposal >= remaining * (1 - 1e-9), was_bad = 0;
  PetscFunctionBeginUser;
  /* Two even steps rather than a full step and a tiny one. */
  size = lands ? remaining : fmin(r->proposal, remaining / 2);
  PetscCall(step(r, size, &taken, &was_bad));
  if (r->taken.why) PetscFunctionReturn(PETSC_SUCCESS);
  int uncut = taken >= size * (1 - 1e-9), landed = lands && uncut;
  PetscCall(TSGetTimeStep(r->ts, &suggestion));
  if (was_bad) suggestion = fmin(suggestion, taken);
  /* A step shortened only to land on an output leaves the longer proposal as it was. */
  if (uncut && size < r->proposal) suggestion = fmax(suggestion, r->proposal);
  double wanted = uncut ? suggestion : taken;
  if (!landed && wanted < fmax(k->minimum, LEAST_SPACINGS * spacing(r->now))) give_up(r, "a step is too short");
  r->proposal = next_size(r->last_sizes, k->growing, k->growth, k->most_growth, taken, suggestion, !uncut);
  if (landed) r->output_steps[++r->taken.reached] = r->steps;
  PetscFunctionReturn(PETSC_SUCCESS);
}

/* One step towards the next known end; where it is cut, the rest of it is taken in halves too. */
static PetscErrorCode known_step(struct run *r) {
  const struct task *k = &r->task;
  int was_bad;
  double taken = 0, start = r->now;
  PetscFunctionBeginUser;
  if (!r->waiting) {
    r->targets[r->waiting++] = k->end_of[r->next_end++];
    r->smallest = (r->targets[0] - start) * 0x1p-16;
  }
  double size = r->targets[r->waiting - 1] - start;
  PetscCall(step(r, size, &taken, &was_bad));
  if (r->taken.why) PetscFunctionReturn(PETSC_SUCCESS);
  double cuts = rint(log2(size / taken));
  if (taken < r->smallest || r->waiting + cuts > 120) give_up(r, "a step is too short");
  else if (cuts == 0) r->waiting--;
  else
    for (int i = 1; i < cuts; i++) r->targets[r->waiting++] = start + size * exp2(-i);
  if (!r->waiting && r->next_end == r->interval_begins + k->ends[r->taken.reached]) {
    r->interval_begins = r->next_end;
    r->output_steps[++r->taken.reached] = r->steps;
  }
  PetscFunctionReturn(PETSC_SUCCESS);
}

/* Take steps for so many seconds, or to the end; see ``enum ended``. */
EXPORT int stiffml_go(struct run *r, double seconds) {
  const struct task *k = &r->task;
  struct timespec began, now;
  clock_gettime(CLOCK_MONOTONIC, &began);
  PetscErrorCode code = PetscPushErrorHandler(PetscReturnErrorHandler, NULL);
  int ended = ARRIVED;
  while (!code && r->taken.reached + 1 < k->outputs) {
    if (r->steps >= k->max_steps) {
      ended = AT_STEP_LIMIT;
      break;
    }
    code = k->adaptive ? adaptive_step(r) : known_step(r);
    if (r->taken.why) break;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec - began.tv_sec + 1e-9 * (now.tv_nsec - began.tv_nsec) > seconds) {
      ended = r->taken.reached + 1 < k->outputs ? ON_THE_WAY : ARRIVED;
      break;
    }
  }
  PetscPopErrorHandler();
  if (code) give_up(r, code == PETSC_ERR_FP ? "an error estimate is not finite" : "PETSc reports an error");
  return r->taken.why ? GIVEN_UP : ended;
}
