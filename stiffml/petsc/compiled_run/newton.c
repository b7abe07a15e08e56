/* The convergence test of Newton's iteration, the same as in petsc/convergence.py and petsc/rounding.py. */
#define SLOW_CONTRACTION 0.3
#define ROUNDING_FACTOR 30
#define ROUNDING_LIMIT 1e-6
#define FLOOR_DECAY 0.5

#if PETSC_VERSION_LT(3, 25, 0) /* the same reason, by its earlier name */
#define SNES_DIVERGED_FUNCTION_NANORINF SNES_DIVERGED_FNORM_NAN
#endif

/* The estimated size of updates that are rounding errors of the equations, into ``floor``. */
static PetscErrorCode estimate_rounding(struct run *r, const double *x) {
  const struct task *k = &r->task;
  int64_t n = r->size;
  double *moved = r->work, *rows = r->second, *slope, *most;
  PetscErrorCode code = enough(&slope, 2 * n);
  if (code) return code;
  most = slope + n;
  code = slope_at(r, r->linearised_at, x, 0);
  memcpy(slope, r->f.slope, n * sizeof *slope);
  for (int64_t m = 0; m < 2 && !code; m++) {
    for (int64_t i = 0; i < n; i++) moved[i] = x[i] * (1 + k->eps * k->signs[m * n + i]);
    code = slope_at(r, r->linearised_at, moved, 0);
    for (int64_t i = 0; i < n; i++) {
      double off = fabs(r->f.slope[i] - slope[i]);
      if (!(most[i] >= off)) most[i] = off;
    }
  }
  for (int64_t i = 0; i < n; i++) moved[i] = fabs(x[i]);
  for (int64_t i = 0; i < n; i++) {
    double size = fabs(r->shift * weighed(k, i / k->width, i % k->width, moved + i - i % k->width));
    most[i] += PETSC_MACHINE_EPSILON * (size + fabs(slope[i]));
  }
  memset(r->floor, 0, n * sizeof *r->floor);
  for (int64_t m = 2; m < 4; m++) {
    for (int64_t i = 0; i < n; i++) rows[i] = most[i] * k->signs[m * n + i];
    solve_all(r, rows);
    for (int64_t i = 0; i < n; i++) r->floor[i] = fmax(r->floor[i], fabs(rows[i]));
  }
  for (int64_t i = 0; i < n; i++) r->floor[i] *= ROUNDING_FACTOR;
  r->has_floor = 1;
  free(slope);
  return code;
}

/* Whether every component of an update is at the level of rounding error. */
static PetscErrorCode is_rounding(struct run *r, const double *update, const double *x, int *found) {
  double largest = 0, change = 0;
  for (int64_t i = 0; i < r->size; i++) {
    largest = fmax(largest, fabs(x[i]));
    change = fmax(change, fabs(update[i]));
  }
  *found = 0;
  if (!(change <= ROUNDING_LIMIT * largest)) return PETSC_SUCCESS;
  if (!r->is_estimated) {
    r->is_estimated = 1;
    PetscErrorCode code = estimate_rounding(r, x);
    if (code) return code;
  }
  for (int64_t i = 0; i < r->size; i++)
    if (!(fabs(update[i]) <= 1e-10 * fabs(x[i]) + r->floor[i])) return PETSC_SUCCESS;
  *found = 1;
  return PETSC_SUCCESS;
}

/* The reason to stop according to the last update. */
static PetscErrorCode judge(struct run *r, SNES snes, PetscInt iteration, SNESConvergedReason *reason) {
  const PetscScalar *update, *x;
  Vec last, state;
  double square = 0;
  PetscFunctionBeginUser;
  *reason = SNES_CONVERGED_ITERATING;
  PetscCall(SNESGetSolutionUpdate(snes, &last));
  PetscCall(SNESGetSolution(snes, &state));
  PetscCall(VecGetArrayRead(last, &update));
  PetscCall(VecGetArrayRead(state, &x));
  for (int64_t i = 0; i < r->size; i++) {
    double weight = r->task.newton_rtol * fabs(x[i]) + r->atol[i];
    double scaled = update[i] / (r->has_floor ? weight + r->floor[i] : weight);
    square += scaled * scaled;
  }
  double size = sqrt(square / r->size), contraction = size / r->previous;
  enum judged kept = judge_kept(r, size, r->previous);
  r->previous = size;
  if (kept)
    *reason = kept == GOOD ? SNES_CONVERGED_SNORM_RELATIVE : SNES_CONVERGED_ITERATING;
  else if (size <= 1)
    *reason = SNES_CONVERGED_SNORM_RELATIVE;
  else if (iteration > 1) {
    if (contraction < 1 && size * contraction / (1 - contraction) <= 1)
      *reason = SNES_CONVERGED_SNORM_RELATIVE;
    else if (!(contraction <= SLOW_CONTRACTION)) {
      int found;
      PetscCall(is_rounding(r, update, x, &found));
      if (found) *reason = SNES_CONVERGED_SNORM_RELATIVE;
    }
  }
  PetscCall(VecRestoreArrayRead(state, &x));
  PetscCall(VecRestoreArrayRead(last, &update));
  PetscFunctionReturn(PETSC_SUCCESS);
}

static PetscErrorCode test(SNES snes, PetscInt iteration, PetscReal xnorm, PetscReal gnorm, PetscReal fnorm,
                           SNESConvergedReason *reason, void *context) {
  struct run *r = context;
  int64_t keeps = r->task.keeps;
  PetscFunctionBeginUser;
  if (!isfinite(fnorm))
    *reason = SNES_DIVERGED_FUNCTION_NANORINF;
  else if (iteration > 0)
    PetscCall(judge(r, snes, iteration, reason));
  else {
    r->previous = INFINITY;
    r->is_estimated = 0;
    begins(r);
    if (r->has_floor)
      for (int64_t i = 0; i < r->size; i++) r->floor[i] *= FLOOR_DECAY;
    *reason = fnorm == 0 ? SNES_CONVERGED_FNORM_ABS : SNES_CONVERGED_ITERATING;
  }
  if (*reason == SNES_CONVERGED_ITERATING) {
    r->expects_jacobian = iteration + 1 < r->needed;
    /* Iterations with a kept Jacobian do not count. */
    if (iteration - (keeps ? r->keeping.iterations : 0) >= r->task.max_iterations) {
      r->solves++;
      if (keeps) {
        *reason = SNES_DIVERGED_MAX_IT;
        PetscFunctionReturn(PETSC_SUCCESS);
      }
    }
    if (keeps) r->expects_jacobian = r->expects_jacobian && r->keeping.is_exact;
  } else {
    r->needed = iteration > 1 ? iteration : 1;
    r->expects_jacobian = 1;
    r->solves++;
    if (*reason > 0) has_converged(r);
    if (keeps) r->expects_jacobian = r->keeping.wants_new;
  }
  PetscFunctionReturn(PETSC_SUCCESS);
}
