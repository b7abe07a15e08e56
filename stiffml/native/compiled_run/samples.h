/* What Python asks for, and what the runs of samples keep. ``interface.py`` has the same structures. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
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
typedef int (*Pull)(int64_t, int64_t, const double *, const double *, const double *, const double *, double *,
                    double *, double *, double *);
typedef int (*Bend)(int64_t, const double *, const double *, const double *, const double *, const double *,
                    const double *, double *, double *);

/* The rows of a one-step method, whose last row is the error if there is one; see ``tables.py``. */
struct table {
  int64_t rows, columns, has_error, differences, first_kept, kept;
  const double *alpha, *alpha_per_h, *beta, *beta_by_h; /* (rows + has_error, columns) */
  const double *tau, *c;                                /* (rows,) by h; (columns,) abscissae */
  const int64_t *weighted, *rosenbrock;                 /* (rows,) */
};

struct task {
  /* The compiled function of one sample, in its own time direction*s; push is NULL if it is not needed. */
  Values values;
  Blocks blocks;
  Push push;
  const double *p;
  int64_t samples, width, direction;
  const double *mass; /* (width, width); NULL for the identity */
  /* The method: BDF of an order, or 0 and a table. */
  int64_t bdf, error_order;
  struct table table;
  int64_t explicit_first_stage; /* which takes the slope that the last step has solved for */
  double growth, most_growth;   /* see methods/growth.py */
  int64_t growing;            /* so many of the last steps count */
  /* Newton's iteration. newton_atol is (samples, width), or NULL: 1 % of rtol at the start of each step. */
  double safety, newton_rtol, left, eps; /* left: see native/side_by_side/work.py */
  const double *newton_atol;
  int64_t max_iterations, renews; /* renews: whether each iteration takes a new Jacobian */
  /* Steps: adaptive, with tolerances and the sizes of the first ones, or known by their ends. */
  int64_t adaptive, max_steps;
  double rtol, minimum, maximum, largest_factor;
  const double *atol, *first; /* (samples, width), (samples,) */
  const double *start;        /* (samples, width) */
  const double *output, *end; /* of all samples, one after the other */
  const int64_t *output_at, *end_at; /* (samples + 1,) where those of a sample begin */
  /* Results. output_step is like output; reason is of ``enum reason``; found names a component. */
  int64_t *steps, *passed, *reason, *output_step, *has_half; /* (samples,) */
  double *size, *half_time, *half, *found;                   /* (samples,) twice, (samples, width) twice */
  int64_t *counts; /* (5,) rejected steps, Newton's iterations or linear solves, values, Jacobians, those mended */
};

enum reason { GOOD, NON_FINITE, STEP_TOO_SMALL, NEWTON_FAILED, LINEAR_FAILED, AT_STEP_LIMIT, LEFT_TO_PYTHON };

/* The run of one sample. */
struct run {
  int64_t begun, ended, steps, passed, cuts, was_bad, was_long, room, rejected, iterations, values, jacobians;
  int64_t mended;
  double now, proposal, tried; /* tried: the size of a step before its ends were rounded */
  double *times, *states, *stages; /* (steps + 1,), (steps + 1, width), (steps, kept, width) */
  double waiting[64];              /* ends of known steps in parts, the next one last */
  int64_t waits, next_end;
  int64_t has_half;
  double half_time, *half, last_sizes[MOST_GROWING];
  int64_t has_slope, renews_slope; /* whether f at the last state is known, and is not to be used */
  double *slope, last_taken;
};

/* The rows of the step that is being tried, and room for its columns. */
struct worker {
  const struct task *task;
  struct run *run;
  int64_t sample, rows, columns, history, new, differences, has_half_row, has_error, order;
  double begin, end, h, *numbers;  /* all that follows is part of it */
  double *alpha, *beta, *tau, *s;  /* (rows, columns) twice, (rows,), (columns,) */
  double *room, *values;           /* (columns, width) twice: columns and their slopes */
  double *known, *update, *matrix, *jacobian, *slope, *wrt_time, *atol, *error, *zeros;
  const double **x;                /* (columns,) */
  int64_t *has_value, *weighted, *rosenbrock;
  int32_t *pivots;
  int64_t has_factors;
  double factors_alpha, factors_beta;
};

/* What the reverse sweep of samples reads and writes besides their task. */
struct backwards {
  Pull pull;
  Bend bend;             /* NULL if it is not needed */
  int64_t parameters;
  const int64_t *at;     /* (samples + 1,) where the states of a sample begin */
  const double *times, *states, *stages; /* of all states; stages are NULL if they are not kept */
  double *cotangents;    /* (states, width) dL/du of outputs; of the first states dL/du0 afterwards */
  double *wrt_p;         /* (samples, parameters) */
};

struct batch {
  struct task task;
  struct run *runs;
  struct worker *workers;
  int64_t threads;
  atomic_llong next;
  double deadline;
};

static int is_finite(const double *v, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += v[i] * 0; /* NaN if one is infinite or NaN */
  return sum == 0;
}

static double spacing(double x) { return nextafter(fabs(x), INFINITY) - fabs(x); }

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}
