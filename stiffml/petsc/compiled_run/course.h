/* What Python asks for, and what a run in C keeps. ``interface.py`` has the same structures. */
#include <math.h>
#include <petscts.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#define EXPORT __attribute__((visibility("default")))

/* Loops of compiled code, see stiffml/compiled/code.py. */
typedef int (*Values)(int64_t, int64_t, const double *, const double *, const double *, double *);
typedef int (*Blocks)(int64_t, int64_t, int64_t, const double *, const double *, const double *, double *,
                      double *);
typedef int (*Push)(int64_t, int64_t, const double *, const double *, const double *, const double *,
                    const double *, double *);

/* What Python is asked for. */
enum asking { VALUE = 0, VALUE_BEFORE_BLOCKS = 1, BLOCKS = 2, BY_TIME = 3 };

/* f, or the explicit part g: compiled, or a function of Python's. */
struct function {
  Values values;
  Blocks blocks;
  Push push;        /* for methods that need the derivative by time */
  const double *p;
  int64_t samples;  /* states of the compiled code in one state */
  /* Of a function that is not compiled: what is called, by these functions of Python's. It reads the next three,
     of which the first is the solver's time, and writes one of the last. */
  void *python;
  void *(*call)(void *, void *);
  void (*release)(void *);
  double *time;
  int64_t *what;
  double *asked, *slope, *jacobian, *by_time;
};

#define IS_THERE(function) ((function).values || (function).python)

struct task {
  struct function f, g; /* g is not there where it has neither code nor a function of Python's */
  /* The equations: M u' = f(s, u), with the functions' own time direction*s, within begin and end. */
  int64_t samples, width, time_is_state, direction;
  double begin, end, rounding;
  int64_t degree; /* of the extrapolation beyond them; 0 where there is none */
  const double *mass; /* (masses, width) or (masses, width, width); NULL for the identity */
  int64_t masses, mass_is_diagonal;
  /* The method. */
  int64_t implicit, newton, explicit_first_stage, half_step, both_at_once, looks_ahead, guards;
  int64_t first_kept, kept; /* stages */
  double growth, most_growth; /* see methods/growth.py */
  int64_t growing;            /* so many of the last steps count */
  /* Stiffness is looked for in as many stages; 0 where it is not. */
  int64_t watched;
  const double *combination, *atol; /* (watched,), and tolerances of the states (size,) */
  double stability, rtol;
  /* Newton's iteration. atol is (size,), or NULL: 1 % of rtol at the start of each step. */
  double newton_rtol, eps;
  const double *newton_atol, *signs; /* (4, size) of +1 and -1 */
  int64_t max_iterations, keeps;     /* whether iterations go on with earlier Jacobians */
  /* The course: times to end steps on, and either adaptive steps or steps known in advance. */
  double start, first, minimum;
  int64_t max_steps, max_cuts, outputs, adaptive;
  const double *output;  /* (outputs,) */
  const double *end_of;  /* ends of known steps, one interval after the other */
  const int64_t *ends;   /* (outputs - 1,) how many in each */
};

enum ended { ARRIVED = 0, ON_THE_WAY = 1, AT_STEP_LIMIT = 2, GIVEN_UP = 3 };

struct taken {
  int64_t steps, reached, has_half;
  int64_t rejected, newton_iterations, krylov_iterations, rhs_evals, g_evals, jacobians;
  double wanted, half_time;
  const double *ends, *sizes, *states, *stages, *half;
  const int64_t *output_steps;
  const char *why; /* the run was given up */
};

/* One function with its value at the last state. */
struct part {
  struct function of;
  double s;
  double *u, *slope, *blocks, *one;
  int64_t is_known, has_blocks, evaluations, jacobians;
};

struct growing {
  double *rows;
  int64_t count, room;
};

/* When an earlier Jacobian serves: the state of ``KeptJacobian`` in run/kept_jacobian.py. */
struct keeping {
  int64_t wants_new, is_exact, iterations, is_new, solves, has_failed, pause, is_under_way;
  double rate, share;
};

struct run {
  struct task task;
  struct taken taken;
  struct part f, g;
  TS ts;
  SNES snes;
  Vec u;
  int64_t size, rows, length; /* of a state; components of a sample, and of all, in PETSc's vectors */
  /* The matrix shift*M - J, and its factors. */
  Mat matrix;
  double *factors, *kept_blocks;
  struct keeping keeping;
  int32_t *pivots;
  double *wrt_time, *zeros, *work, *second;
  int64_t has_factors;
  /* Newton's test. */
  double *atol, *floor, previous, linearised_at, shift;
  int64_t has_floor, is_estimated, needed, expects_jacobian, solves, solves_at_start;
  /* The attempt at a step. */
  int64_t noted, bad_in_step, wants_half;
  double last_taken;
  double *half, *before;
  /* Stiffness: the last stages with their slopes, (watched, 2, size). */
  double *recent;
  int64_t stages_seen, hits, misses;
  /* The course. */
  double now, proposal, last_sizes[MOST_GROWING], targets[128], smallest;
  int64_t steps, waiting, next_end, interval_begins;
  struct growing ends, sizes, states, stages;
  int64_t *output_steps;
};

static PetscErrorCode enough(double **room, int64_t count) {
  *room = calloc(count > 0 ? count : 1, sizeof **room);
  return *room ? PETSC_SUCCESS : PETSC_ERR_MEM;
}

static int is_finite(const double *v, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += v[i] * 0; /* NaN if one is infinite or NaN */
  return sum == 0;
}

static void give_up(struct run *r, const char *why) {
  if (!r->taken.why) r->taken.why = why;
}
