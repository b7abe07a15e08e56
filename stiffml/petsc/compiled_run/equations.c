/* f and its Jacobian at the vectors of PETSc. For Rosenbrock methods time is the last component of a sample. */
#define SLOPE_SHIFT 1e15 /* above it PETSc solves for the slope at the start, and scales the matrix afterwards */

/* f at a time within the span and the state p->u, times ``weight``, added to what is there. */
static int add_value(const struct run *r, struct part *p, double s, double weight, int with_blocks) {
  const struct task *k = &r->task;
  double t = k->direction * s, *slope = p->one, *blocks = p->one + r->size;
  int failed = with_blocks ? p->of.blocks(1, p->of.samples, k->width, &t, p->u, p->of.p, slope, blocks)
                           : p->of.values(1, p->of.samples, &t, p->u, p->of.p, slope);
  weight *= k->direction;
  for (int64_t i = 0; i < r->size; i++) p->slope[i] += weight * slope[i];
  if (with_blocks)
    for (int64_t i = 0; i < r->size * k->width; i++) p->blocks[i] += weight * blocks[i];
  p->evaluations++;
  p->jacobians += with_blocks;
  return failed;
}

/* The same at a time beyond the span, extrapolated in time: see stiffml/system/function/span.py. */
static int add_beyond(const struct run *r, struct part *p, double s, int with_blocks) {
  const struct task *k = &r->task;
  double nearest = s > k->end ? k->end : k->begin, distance = s - nearest, weight = k->degree + 1;
  double inwards = distance * pow(1 + pow(k->degree * distance / (k->end - k->begin), 16), -1.0 / 16);
  for (int64_t j = 0; j <= k->degree; j++) {
    double at = fmin(fmax(nearest - j * inwards, k->begin), k->end);
    if (add_value(r, p, at, weight, with_blocks)) return 1;
    weight *= -(double)(k->degree - j) / (j + 2); /* binomial coefficients with alternating signs */
  }
  return 0;
}

/* What a function of Python's has at a state (size,); it remembers by itself what it was asked last. */
static PetscErrorCode ask(const struct run *r, struct part *p, double s, const double *u, enum asking what) {
  *p->of.time = s;
  *p->of.what = what;
  memcpy(p->of.asked, u, r->size * sizeof *u);
  void *none = p->of.call(p->of.python, NULL);
  if (!none) return PETSC_ERR_USER; /* an exception, which Python raises when it is back there */
  p->of.release(none);
  return PETSC_SUCCESS;
}

/* The value at a state (size,), remembered; with_blocks: its Jacobian will be wanted there too. */
static PetscErrorCode evaluate(struct run *r, struct part *p, double s, const double *u, int with_blocks) {
  const struct task *k = &r->task;
  if (p->of.python) {
    PetscErrorCode code = ask(r, p, s, u, with_blocks ? VALUE_BEFORE_BLOCKS : VALUE);
    if (!code) memcpy(p->slope, p->of.slope, r->size * sizeof *p->slope);
    return code;
  }
  double nearest = s < k->begin ? k->begin : s > k->end ? k->end : s;
  int beyond = k->degree && fabs(s - nearest) > k->rounding;
  if (!beyond) s = nearest;
  if (p->is_known && s == p->s && !memcmp(u, p->u, r->size * sizeof *u)) return PETSC_SUCCESS;
  p->is_known = p->has_blocks = 0;
  memcpy(p->u, u, r->size * sizeof *u);
  memset(p->slope, 0, r->size * sizeof *p->slope);
  if (with_blocks) memset(p->blocks, 0, r->size * k->width * sizeof *p->blocks);
  if (beyond ? add_beyond(r, p, s, with_blocks) : add_value(r, p, s, 1, with_blocks)) return PETSC_ERR_MEM;
  p->s = s;
  p->is_known = 1;
  p->has_blocks = with_blocks;
  return PETSC_SUCCESS;
}

/* The Jacobian at a state: blocks (samples, width, width) of f. */
static PetscErrorCode linearise(struct run *r, double s, const double *u) {
  if (r->f.of.python) {
    PetscErrorCode asked = ask(r, &r->f, s, u, BLOCKS);
    if (!asked) memcpy(r->f.blocks, r->f.of.jacobian, r->size * r->task.width * sizeof *r->f.blocks);
    return asked;
  }
  PetscErrorCode code = evaluate(r, &r->f, s, u, 1);
  if (code || r->f.has_blocks) return code;
  r->f.is_known = 0;
  return evaluate(r, &r->f, s, u, 1);
}

/* From PETSc's vector to the time and the state, in ``into`` if they are mixed. */
static const double *state_of(const struct run *r, const double *vector, double *s, double *into) {
  const struct task *k = &r->task;
  if (!k->time_is_state) return vector;
  for (int64_t i = 0; i < k->samples; i++)
    memcpy(into + i * k->width, vector + i * r->rows, k->width * sizeof *into);
  *s = vector[k->width];
  return into;
}

/* f at a vector, noted if it is not finite. */
static PetscErrorCode slope_at(struct run *r, double s, const double *vector, int with_blocks) {
  const double *u = state_of(r, vector, &s, r->work);
  PetscErrorCode code = evaluate(r, &r->f, s, u, with_blocks);
  if (!code && !is_finite(r->f.slope, r->size)) r->noted = r->bad_in_step = 1;
  return code;
}

/* Row i of sample q of M times v, a sample of a state. */
static double weighed(const struct task *k, int64_t q, int64_t i, const double *v) {
  if (!k->mass) return v[i];
  const double *m = k->mass;
  q = k->masses == 1 ? 0 : q;
  if (k->mass_is_diagonal) return m[q * k->width + i] * v[i];
  double sum = 0;
  m += (q * k->width + i) * k->width;
  for (int64_t j = 0; j < k->width; j++) sum += m[j] * v[j];
  return sum;
}

static double right_time(struct run *r, double s) {
  /* PETSc solves for the first slope of methods with an explicit first stage at a time it never set. */
  int at_start = r->task.explicit_first_stage && !IS_THERE(r->g.of) && r->solves == r->solves_at_start;
  return at_start ? r->now : s;
}

/* The residual M u' - f(s, u). */
static PetscErrorCode ifunction(TS ts, PetscReal s, Vec u, Vec change, Vec residual, void *context) {
  struct run *r = context;
  const struct task *k = &r->task;
  const PetscScalar *x, *v;
  PetscScalar *into;
  PetscFunctionBeginUser;
  s = right_time(r, s);
  PetscCall(VecGetArrayRead(u, &x));
  if (r->wants_half) {
    PetscReal size;
    PetscCall(TSGetTimeStep(ts, &size));
    if (s < r->now + 0.75 * size) { /* the last such evaluation is at the converged half step */
      r->taken.has_half = 1;
      r->taken.half_time = s;
      memcpy(r->half, x, r->size * sizeof *x);
    }
  }
  int wanted = k->both_at_once && (k->newton ? r->expects_jacobian : s == r->now);
  PetscCall(slope_at(r, s, x, wanted));
  PetscCall(VecGetArrayRead(change, &v));
  PetscCall(VecGetArrayWrite(residual, &into));
  for (int64_t q = 0; q < k->samples; q++) {
    for (int64_t i = 0; i < k->width; i++)
      into[q * r->rows + i] = weighed(k, q, i, v + q * r->rows) - r->f.slope[q * k->width + i];
    if (k->time_is_state) into[q * r->rows + k->width] = v[q * r->rows + k->width] - 1;
  }
  PetscCall(VecRestoreArrayWrite(residual, &into));
  PetscCall(VecRestoreArrayRead(change, &v));
  PetscCall(VecRestoreArrayRead(u, &x));
  PetscFunctionReturn(PETSC_SUCCESS);
}

/* The derivative of f by time, in the solver's time, into ``wrt_time``. */
static PetscErrorCode differentiate_by_time(struct run *r, double s, const double *state) {
  const struct task *k = &r->task;
  double t = k->direction * s, along = 1;
  if (r->f.of.python) {
    PetscErrorCode code = ask(r, &r->f, s, state, BY_TIME);
    if (!code) memcpy(r->wrt_time, r->f.of.by_time, r->size * sizeof *r->wrt_time);
    return code;
  }
  if (s < k->begin || s > k->end) give_up(r, "a derivative by time is wanted beyond the span");
  if (r->f.of.push(1, r->f.of.samples, &t, state, r->f.of.p, &along, r->zeros, r->wrt_time)) return PETSC_ERR_MEM;
  r->f.evaluations++;
  return PETSC_SUCCESS;
}

/* J, and the derivative by time, at a vector. */
static PetscErrorCode derivatives_at(struct run *r, double s, const double *vector) {
  const double *state = state_of(r, vector, &s, r->work);
  PetscErrorCode code = linearise(r, s, state);
  if (code) return code;
  r->f.has_blocks = 0; /* each Jacobian serves once, as in Python, or is kept elsewhere */
  if (!is_finite(r->f.blocks, r->size * r->task.width)) give_up(r, "a derivative of f is not finite");
  if (!r->task.time_is_state) return PETSC_SUCCESS;
  code = differentiate_by_time(r, s, state);
  if (!code && !is_finite(r->wrt_time, r->size)) give_up(r, "the derivative of f by time is not finite");
  return code;
}

/* The matrix shift*M - J, of J in ``blocks``. */
static void fill(struct run *r, double shift, const double *blocks) {
  const struct task *k = &r->task;
  int64_t w = k->width, n = r->rows;
  for (int64_t q = 0; q < k->samples; q++) {
    const double *block = blocks + q * w * w, *m = k->mass;
    double *into = r->factors + q * n * n;
    if (m) m += (k->masses == 1 ? 0 : q) * (k->mass_is_diagonal ? w : w * w);
    for (int64_t i = 0; i < w; i++) {
      for (int64_t j = 0; j < w; j++) {
        double weight = !m ? i == j : !k->mass_is_diagonal ? m[i * w + j] : i == j ? m[i] : 0;
        into[i * n + j] = shift * weight - block[i * w + j];
      }
      if (k->time_is_state) into[i * n + w] = -r->wrt_time[q * w + i];
    }
    if (k->time_is_state) {
      memset(into + w * n, 0, w * sizeof *into);
      into[w * n + w] = shift;
    }
  }
}

static PetscErrorCode ijacobian(TS ts, PetscReal s, Vec u, Vec change, PetscReal shift, Mat a, Mat b,
                                void *context) {
  struct run *r = context;
  const PetscScalar *x;
  const double *blocks = r->f.blocks;
  PetscFunctionBeginUser;
  s = right_time(r, s);
  int is_same = shift == r->shift && shift < SLOPE_SHIFT && r->has_factors;
  r->linearised_at = s;
  r->shift = shift;
  if (follows(r)) {
    if (is_same) PetscFunctionReturn(PETSC_SUCCESS);
    blocks = r->kept_blocks;
  } else {
    PetscCall(VecGetArrayRead(u, &x));
    PetscCall(derivatives_at(r, s, x));
    PetscCall(VecRestoreArrayRead(u, &x));
    is_renewed(r);
  }
  r->has_factors = 0;
  fill(r, shift, blocks);
  PetscCall(MatAssemblyBegin(b, MAT_FINAL_ASSEMBLY));
  PetscCall(MatAssemblyEnd(b, MAT_FINAL_ASSEMBLY));
  PetscFunctionReturn(PETSC_SUCCESS);
}

/* The explicit part: g of a split problem, f of an explicit method. */
static PetscErrorCode rhsfunction(TS ts, PetscReal s, Vec u, Vec slope, void *context) {
  struct run *r = context;
  struct part *p = IS_THERE(r->g.of) ? &r->g : &r->f;
  const PetscScalar *x;
  PetscScalar *into;
  PetscFunctionBeginUser;
  PetscCall(VecGetArrayRead(u, &x));
  PetscCall(evaluate(r, p, s, x, 0));
  if (r->task.watched) evaluated(r, x, p->slope);
  PetscCall(VecRestoreArrayRead(u, &x));
  if (!is_finite(p->slope, r->size)) r->noted = r->bad_in_step = 1;
  if (r->task.guards)
    for (int64_t i = 0; i < r->size; i++)
      if (!(fabs(p->slope[i]) <= 1e100)) give_up(r, "f is not finite, or enormous");
  PetscCall(VecGetArrayWrite(slope, &into));
  memcpy(into, p->slope, r->size * sizeof *into);
  PetscCall(VecRestoreArrayWrite(slope, &into));
  PetscFunctionReturn(PETSC_SUCCESS);
}
