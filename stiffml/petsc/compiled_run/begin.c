/* Making a run, attaching it to a TS, and freeing it. */

static PetscErrorCode make_part(struct run *r, struct part *p, const struct function *of) {
  p->of = *of;
  if (!IS_THERE(*of)) return PETSC_SUCCESS;
  PetscErrorCode code = enough(&p->u, r->size);
  if (!code) code = enough(&p->slope, r->size);
  if (!code) code = enough(&p->blocks, r->size * r->task.width);
  if (!code) code = enough(&p->one, r->size * (r->task.width + 1));
  return code;
}

static PetscErrorCode attach_implicit(struct run *r) {
  KSP ksp;
  PC pc;
  Vec residual;
  PetscFunctionBeginUser;
  PetscCall(enough(&r->factors, r->length * r->rows));
  PetscCall(enough(&r->wrt_time, r->size));
  PetscCall(enough(&r->zeros, r->size));
  PetscCall(enough(&r->kept_blocks, r->task.keeps ? r->size * r->task.width : 0));
  r->pivots = calloc(r->length, sizeof *r->pivots);
  if (!r->pivots) PetscFunctionReturn(PETSC_ERR_MEM);
  PetscCall(MatCreateShell(PetscObjectComm((PetscObject)r->ts), (PetscInt)r->length, (PetscInt)r->length,
                           (PetscInt)r->length, (PetscInt)r->length, r, &r->matrix));
  PetscCall(MatShellSetManageScalingShifts(r->matrix));
  PetscCall(MatShellSetOperation(r->matrix, MATOP_SCALE, (PetscErrorCodeFn *)scale));
  PetscCall(VecDuplicate(r->u, &residual));
  PetscCall(TSSetIFunction(r->ts, residual, ifunction, r));
  PetscCall(VecDestroy(&residual));
  PetscCall(TSSetIJacobian(r->ts, r->matrix, r->matrix, ijacobian, r));
  PetscCall(TSGetSNES(r->ts, &r->snes));
  PetscCall(SNESGetKSP(r->snes, &ksp));
  PetscCall(KSPSetType(ksp, KSPPREONLY));
  PetscCall(KSPGetPC(ksp, &pc));
  PetscCall(PCSetType(pc, PCSHELL));
  PetscCall(PCShellSetContext(pc, r));
  PetscCall(PCShellSetSetUp(pc, set_up));
  PetscCall(PCShellSetApply(pc, apply));
  if (r->task.newton) PetscCall(SNESSetConvergenceTest(r->snes, test, r, NULL));
  PetscFunctionReturn(PETSC_SUCCESS);
}

static PetscErrorCode attach(struct run *r) {
  const struct task *k = &r->task;
  PetscFunctionBeginUser;
  PetscCall(make_part(r, &r->f, &k->f));
  PetscCall(make_part(r, &r->g, &k->g));
  PetscCall(enough(&r->work, r->length));
  PetscCall(enough(&r->second, r->length));
  PetscCall(enough(&r->half, r->length));
  PetscCall(enough(&r->before, r->length));
  PetscCall(enough(&r->atol, r->length));
  PetscCall(enough(&r->floor, r->length));
  PetscCall(enough(&r->recent, 2 * k->watched * r->size));
  r->output_steps = calloc(k->outputs, sizeof *r->output_steps);
  if (!r->output_steps) PetscFunctionReturn(PETSC_ERR_MEM);
  if (k->newton_atol) memcpy(r->atol, k->newton_atol, r->size * sizeof *r->atol);
  if (k->implicit) PetscCall(attach_implicit(r));
  if (!k->implicit || IS_THERE(k->g)) {
    Vec slope;
    PetscCall(VecDuplicate(r->u, &slope));
    PetscCall(TSSetRHSFunction(r->ts, slope, rhsfunction, r));
    PetscCall(VecDestroy(&slope));
  }
  PetscFunctionReturn(PETSC_SUCCESS);
}

/* Free what a run holds; the TS must be gone. */
EXPORT void stiffml_end(struct run *r) {
  if (!r) return;
  MatDestroy(&r->matrix);
  void *held[] = {r->f.u, r->f.slope, r->f.blocks, r->f.one, r->g.u, r->g.slope, r->g.blocks, r->g.one, r->factors, r->pivots,
                  r->wrt_time, r->zeros, r->kept_blocks, r->work, r->second, r->atol, r->floor, r->half, r->before, r->recent,
                  r->ends.rows, r->sizes.rows, r->states.rows, r->stages.rows, r->output_steps};
  for (size_t i = 0; i < sizeof held / sizeof *held; i++) free(held[i]);
  free(r);
}

/* A run for a task, which must outlive it, on a TS with its solution; its options are set afterwards. */
EXPORT struct run *stiffml_begin(const struct task *task, TS ts) {
  struct run *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  r->task = *task;
  r->ts = ts;
  r->size = task->samples * task->width;
  r->rows = task->width + task->time_is_state;
  r->length = task->samples * r->rows;
  r->now = task->start;
  r->proposal = task->first;
  r->expects_jacobian = r->needed = 1;
  r->keeping.wants_new = r->keeping.is_new = 1;
  r->wants_half = task->half_step;
  r->last_taken = INFINITY;
  PetscErrorCode code = PetscPushErrorHandler(PetscReturnErrorHandler, NULL);
  if (!code) code = TSGetSolution(ts, &r->u);
  if (!code) code = attach(r);
  PetscPopErrorHandler();
  if (!code) return r;
  stiffml_end(r);
  return NULL;
}

/* What has been taken so far; arrays are valid until the next call of ``stiffml_go``. */
EXPORT const struct taken *stiffml_taken(struct run *r) {
  struct taken *found = &r->taken;
  PetscInt count = 0;
  TSGetStepRejections(r->ts, &count);
  found->rejected = count;
  if (r->task.implicit) {
    TSGetSNESIterations(r->ts, &count);
    found->newton_iterations = count;
    TSGetKSPIterations(r->ts, &count);
    found->krylov_iterations = count;
  }
  found->steps = r->steps;
  found->wanted = r->proposal;
  found->rhs_evals = r->f.evaluations;
  found->g_evals = r->g.evaluations;
  found->jacobians = r->f.jacobians;
  found->ends = r->ends.rows;
  found->sizes = r->sizes.rows;
  found->states = r->states.rows;
  found->stages = r->stages.rows;
  found->half = r->half;
  found->output_steps = r->output_steps;
  return found;
}
