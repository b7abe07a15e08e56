/* LU factors of the blocks of shift*M - J, one a sample, stored by rows, with the reciprocals of the pivots. */

static int factorise(double *a, int32_t *pivots, int64_t n) {
  for (int64_t k = 0; k < n; k++) {
    int64_t best = k;
    for (int64_t i = k + 1; i < n; i++)
      if (fabs(a[i * n + k]) > fabs(a[best * n + k])) best = i;
    pivots[k] = (int32_t)best;
    if (best != k)
      for (int64_t j = 0; j < n; j++) {
        double other = a[k * n + j];
        a[k * n + j] = a[best * n + j];
        a[best * n + j] = other;
      }
    if (!(fabs(a[k * n + k]) > 0)) return 1;
    double *restrict row = a + k * n, one = row[k] = 1 / row[k];
    for (int64_t i = k + 1; i < n; i++) {
      double *restrict other = a + i * n, factor = other[k] *= one;
      if (factor != 0)
        for (int64_t j = k + 1; j < n; j++) other[j] -= factor * row[j];
    }
  }
  return 0;
}

static void solve(const double *a, const int32_t *pivots, int64_t n, double *x) {
  for (int64_t k = 0; k < n; k++) {
    double value = x[pivots[k]];
    x[pivots[k]] = x[k];
    x[k] = value;
  }
  for (int64_t i = 1; i < n; i++) {
    double sum = x[i];
    for (int64_t j = 0; j < i; j++) sum -= a[i * n + j] * x[j];
    x[i] = sum;
  }
  for (int64_t i = n - 1; i >= 0; i--) {
    double sum = x[i];
    for (int64_t j = i + 1; j < n; j++) sum -= a[i * n + j] * x[j];
    x[i] = sum * a[i * n + i];
  }
}

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
