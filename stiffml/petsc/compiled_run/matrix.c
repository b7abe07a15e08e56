/* LU factors of the blocks of shift*M - J, one a sample, by ``compiled/lu.c``. */

static void solve_all(struct run *r, double *x) {
  for (int64_t q = 0; q < r->task.samples; q++)
    solve(r->factors + q * r->rows * r->rows, r->pivots + q * r->rows, r->rows, x + q * r->rows);
}

static PetscErrorCode scale(Mat matrix, PetscScalar factor) {
  struct run *r;
  PetscFunctionBeginUser;
  PetscCall(MatShellGetContext(matrix, &r));
  if (r->has_factors) PetscFunctionReturn(PETSC_ERR_ARG_WRONGSTATE);
  for (int64_t i = 0; i < r->length * r->rows; i++) r->factors[i] *= factor;
  PetscFunctionReturn(PETSC_SUCCESS);
}

static PetscErrorCode set_up(PC pc) {
  struct run *r;
  PetscFunctionBeginUser;
  PetscCall(PCShellGetContext(pc, &r));
  if (r->has_factors) PetscFunctionReturn(PETSC_SUCCESS);
  for (int64_t q = 0; q < r->task.samples; q++)
    if (factorise(r->factors + q * r->rows * r->rows, r->pivots + q * r->rows, r->rows))
      give_up(r, "the matrix of a linear system is singular");
  r->has_factors = 1;
  PetscFunctionReturn(PETSC_SUCCESS);
}

static PetscErrorCode apply(PC pc, Vec x, Vec y) {
  struct run *r;
  const PetscScalar *from;
  PetscScalar *into;
  PetscFunctionBeginUser;
  PetscCall(PCShellGetContext(pc, &r));
  PetscCall(VecGetArrayRead(x, &from));
  PetscCall(VecGetArrayWrite(y, &into));
  memcpy(into, from, r->length * sizeof *into);
  solve_all(r, into);
  PetscCall(VecRestoreArrayWrite(y, &into));
  PetscCall(VecRestoreArrayRead(x, &from));
  PetscFunctionReturn(PETSC_SUCCESS);
}
