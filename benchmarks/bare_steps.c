/* Robertson's reaction by a TS of PETSc with residual and Jacobian in C and nothing else: the least that a solve
   takes. ``compiled_steps.py`` compiles and calls it. */
#include <petscts.h>

static PetscErrorCode residual(TS ts, PetscReal t, Vec u, Vec v, Vec r, void *context) {
  const PetscScalar *y, *d;
  PetscScalar *f;
  VecGetArrayRead(u, &y);
  VecGetArrayRead(v, &d);
  VecGetArrayWrite(r, &f);
  double a = 0.04 * y[0], b = 3e7 * y[1] * y[1], c = 1e4 * y[1] * y[2];
  f[0] = d[0] - (c - a);
  f[1] = d[1] - (a - c - b);
  f[2] = d[2] - b;
  VecRestoreArrayRead(u, &y);
  VecRestoreArrayRead(v, &d);
  VecRestoreArrayWrite(r, &f);
  return PETSC_SUCCESS;
}

static PetscErrorCode jacobian(TS ts, PetscReal t, Vec u, Vec v, PetscReal s, Mat a, Mat b, void *context) {
  const PetscScalar *y;
  PetscScalar *m;
  VecGetArrayRead(u, &y);
  MatDenseGetArrayWrite(b, &m);
  double p = 6e7 * y[1], q = 1e4 * y[2], w = 1e4 * y[1];
  m[0] = s + 0.04, m[1] = -0.04, m[2] = 0;
  m[3] = -q, m[4] = s + q + p, m[5] = -p;
  m[6] = -w, m[7] = w, m[8] = s;
  VecRestoreArrayRead(u, &y);
  MatDenseRestoreArrayWrite(b, &m);
  MatAssemblyBegin(b, MAT_FINAL_ASSEMBLY);
  MatAssemblyEnd(b, MAT_FINAL_ASSEMBLY);
  return PETSC_SUCCESS;
}

/* Solve through the output times; options under a prefix. Returns the number of steps; ``end`` (3,). */
__attribute__((visibility("default"))) int bare_solve(const char *prefix, int count, double *times, double rtol,
                                                      const double *atol, double *end) {
  TS ts;
  Vec u, r, tolerances;
  Mat matrix;
  SNES snes;
  KSP ksp;
  PC pc;
  PetscInt steps;
  const PetscInt places[] = {0, 1, 2};
  const PetscScalar start[] = {1, 0, 0}, *y;
  VecCreateSeq(PETSC_COMM_SELF, 3, &u);
  VecDuplicate(u, &r);
  VecDuplicate(u, &tolerances);
  VecSetValues(u, 3, places, start, INSERT_VALUES);
  VecSetValues(tolerances, 3, places, atol, INSERT_VALUES);
  MatCreateSeqDense(PETSC_COMM_SELF, 3, 3, NULL, &matrix);
  TSCreate(PETSC_COMM_SELF, &ts);
  TSSetOptionsPrefix(ts, prefix);
  TSSetIFunction(ts, r, residual, NULL);
  TSSetIJacobian(ts, matrix, matrix, jacobian, NULL);
  TSSetTolerances(ts, PETSC_DETERMINE, NULL, rtol, NULL);
  TSSetTolerances(ts, PETSC_DETERMINE, tolerances, rtol, NULL);
  TSSetEvaluationTimes(ts, count, times);
  TSSetTime(ts, times[0]);
  TSSetTimeStep(ts, 1e-6);
  TSSetMaxTime(ts, times[count - 1]);
  TSSetMaxSteps(ts, 100000);
  TSSetExactFinalTime(ts, TS_EXACTFINALTIME_MATCHSTEP);
  TSGetSNES(ts, &snes);
  SNESGetKSP(snes, &ksp);
  KSPSetType(ksp, KSPPREONLY);
  KSPGetPC(ksp, &pc);
  PCSetType(pc, PCLU);
  TSSetFromOptions(ts);
  TSSolve(ts, u);
  TSGetStepNumber(ts, &steps);
  VecGetArrayRead(u, &y);
  for (int i = 0; i < 3; i++) end[i] = y[i];
  VecRestoreArrayRead(u, &y);
  TSDestroy(&ts);
  VecDestroy(&u);
  VecDestroy(&r);
  VecDestroy(&tolerances);
  MatDestroy(&matrix);
  return (int)steps;
}
