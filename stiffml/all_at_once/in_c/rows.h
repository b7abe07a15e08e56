/* The equations R = 0 of many steps, R_r = L sum alpha x - sum beta f - sum epsilon g, and what is known of them.

   Vectors x (count, size) have positions: first those given, then the unknowns, that of row r at given + r. A
   row contains no later vectors. ``interface.py`` has the same structures. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#define EXPORT __attribute__((visibility("default")))

/* The loop ``blocks`` of compiled code, see stiffml/compiled/code/kinds.py. */
typedef int (*Blocks)(int64_t, int64_t, int64_t, const double *, const double *, const double *, double *,
                      double *);

/* f, or the explicit part g, at its nodes: the vectors at which it is evaluated. */
struct part {
  Blocks blocks;
  const double *p;
  int64_t samples;       /* states of the compiled code in one vector */
  double direction;      /* of its own time: +1 or -1 */
  int64_t nodes;         /* 0 where there is no such part */
  const int64_t *at;     /* (nodes,) positions */
  const int64_t *node;   /* (count,) the nodes of positions, -1 where it is not evaluated */
  const double *t;       /* (nodes,) its own times */
  double *values;        /* (nodes, size) */
  double *jacobians;     /* (nodes, samples, width, width) */
};

struct system {
  int64_t given, unknowns, samples, width;
  /* The entries of row r are starts[r] ... starts[r + 1] - 1, one for each vector in it. */
  const int64_t *starts, *column;
  const double *alpha, *beta, *epsilon;
  const uint8_t *weighted; /* (unknowns,) whether L is the mass matrix */
  const double *mass;      /* (masses, width, width); NULL for the identity */
  int64_t masses;
  struct part parts[2];    /* f and g */
  /* Factors of the diagonal blocks (unknowns, samples, width, width), pivots (unknowns, samples, width). */
  double *lu;
  int32_t *pivots;
};

/* Newton's iteration, as ``newton.py`` has it, and what it has found. */
struct newton {
  double rtol;
  const double *atol, *scale; /* (unknowns, size) */
  const uint8_t *tested;      /* (unknowns,) */
  int64_t trusted, max_iterations;
  double divergence, clean, near;
  int64_t few;
  double rounding;
  /* The rows that are solved for, and the vectors before their unknowns. */
  int64_t solved;
  const int64_t *row, *before;
  int64_t iterations, evaluated_beside;
  double change; /* the last update relative to the components */
};

enum ended { CONVERGED = 0, NOT_CONVERGED = 1, NO_MEMORY = 2 };
