"""C code of a function and its derivatives.

What a library exports, with y (size,), p (parameters,), and all matrices of doubles, row by row:

    struct stiffml_function {
        int64_t size, parameters, nonzeros;
        const int64_t *row, *column;          // of the entries of ∂f/∂y that may differ from zero
        int (*f)(double t, const double *y, const double *p, double *f);
        int (*jacobian)(double t, const double *y, const double *p, double *entries);
    };
    const struct stiffml_function *stiffml_function(void);

for code in C that takes steps by itself: both functions return 0, keep nothing, and may run in several
threads. The entries come in the order of ``row`` and ``column``, column by column. For evaluation from Python
there are loops over many states: K times, with ``samples`` states each.
"""

from __future__ import annotations

from collections.abc import Sequence

import casadi as ca

from stiffml.compiled.expressions import Expressions


def forward_code(of: Expressions) -> str:
    """f and ∂f/∂y: ``stiffml_function``, ``values`` and ``blocks``."""
    pattern = of.pattern
    parts = [of.slope, of.pushed if of.by_columns else of.linearised]
    return "\n".join(
        (
            _head(of),
            f"#define NONZEROS {len(pattern.row)}",
            _generated(parts),
            _numbers("ROW", pattern.row.tolist()),
            _numbers("COLUMN", pattern.column.tolist()),
            _BY_COLUMNS if of.by_columns else _AT_ONCE,
            _FORWARD,
        )
    )


def pull_code(of: Expressions) -> str:
    """Products of cotangents with the derivatives: ``pull``."""
    return "\n".join((_head(of), _generated([of.pulled]), _PULL))


def push_code(of: Expressions) -> str:
    """Derivatives along directions: ``push`` and ``move``."""
    return "\n".join((_head(of), _generated([of.pushed, of.moved]), _PUSH))


def bend_code(of: Expressions) -> str:
    """Second derivatives of products: ``bend``."""
    return "\n".join((_head(of), _generated([of.bent]), _BEND))


def _head(of: Expressions) -> str:
    return (
        "#include <math.h>\n#include <stdint.h>\n#include <stdlib.h>\n#include <string.h>\n"
        "#define CASADI_SYMBOL_EXPORT static\n"
        '#define EXPORT __attribute__((visibility("default")))\n'
        f"#define SIZE {of.size}\n#define PARAMETERS {of.parameters}"
    )


def _generated(functions: Sequence[ca.Function]) -> str:
    generator = ca.CodeGenerator("stiffml", {"with_header": False})
    for function in functions:
        generator.add(function)
    return generator.dump()


def _numbers(name: str, values: Sequence[int]) -> str:
    return f"static const int64_t {name}[] = {{{', '.join(map(str, values or [0]))}}};"


_AT_ONCE = """
static int linear(double t, const double *y, const double *p, double *f, double *entries) {
  const double *arg[] = {&t, y, p};
  double *res[] = {f, entries};
  return linearised(arg, res, 0, 0, 0);
}
"""

_BY_COLUMNS = """
static int linear(double t, const double *y, const double *p, double *f, double *entries) {
  double none = 0, v[SIZE] = {0}, product[SIZE];
  const double *arg[] = {&t, y, p, &none, v};
  double *res[] = {product};
  int64_t k = 0;
  if (f) { double *value[] = {f}; if (slope(arg, value, 0, 0, 0)) return 1; }
  for (int64_t c = 0; c < SIZE; c++) {
    if (k == NONZEROS || COLUMN[k] != c) continue;
    v[c] = 1;
    if (pushed(arg, res, 0, 0, 0)) return 1;
    v[c] = 0;
    for (; k < NONZEROS && COLUMN[k] == c; k++) entries[k] = product[ROW[k]];
  }
  return 0;
}
"""

_FORWARD = """
static int value(double t, const double *y, const double *p, double *f) {
  const double *arg[] = {&t, y, p};
  double *res[] = {f};
  return slope(arg, res, 0, 0, 0);
}
static int jacobian(double t, const double *y, const double *p, double *entries) {
  return linear(t, y, p, 0, entries);
}
struct stiffml_function {
  int64_t size, parameters, nonzeros;
  const int64_t *row, *column;
  int (*f)(double t, const double *y, const double *p, double *f);
  int (*jacobian)(double t, const double *y, const double *p, double *entries);
};
static const struct stiffml_function FUNCTION = {SIZE, PARAMETERS, NONZEROS, ROW, COLUMN, value, jacobian};
EXPORT const struct stiffml_function *stiffml_function(void) { return &FUNCTION; }

/* f (K, samples, size) at t (K,), y (K, samples, size). */
EXPORT int values(int64_t K, int64_t samples, const double *t, const double *y, const double *p, double *f) {
  for (int64_t k = 0; k < K; k++)
    for (int64_t i = 0; i < samples; i++, y += SIZE, f += SIZE)
      if (value(t[k], y, p, f)) return 1;
  return 0;
}
/* The same, and the blocks (K, samples, size/width, width, width) on the diagonal of each Jacobian. */
EXPORT int blocks(int64_t K, int64_t samples, int64_t width, const double *t, const double *y,
                  const double *p, double *f, double *out) {
  double *entries = malloc((NONZEROS + 1) * sizeof *entries);
  int failed = !entries;
  memset(out, 0, K * samples * SIZE * width * sizeof *out);
  for (int64_t k = 0; k < K && !failed; k++)
    for (int64_t i = 0; i < samples && !failed; i++, y += SIZE, f += SIZE, out += SIZE * width) {
      failed = linear(t[k], y, p, f, entries);
      for (int64_t e = 0; e < NONZEROS; e++)
        if (ROW[e] / width == COLUMN[e] / width) out[ROW[e] * width + COLUMN[e] % width] = entries[e];
    }
  free(entries);
  return failed;
}
"""

_PULL = """
/* At t (K,), y and w (K, samples, size): f, and w times ∂f/∂y like y, ∂f/∂t (K,), ∂f/∂p (parameters,) summed
   over all states. */
EXPORT int pull(int64_t K, int64_t samples, const double *t, const double *y, const double *p,
                const double *w, double *f, double *wrt_y, double *wrt_t, double *wrt_p) {
  double *own = malloc((PARAMETERS + 1) * sizeof *own), time;
  int failed = !own;
  memset(wrt_t, 0, K * sizeof *wrt_t);
  memset(wrt_p, 0, PARAMETERS * sizeof *wrt_p);
  for (int64_t k = 0; k < K && !failed; k++)
    for (int64_t i = 0; i < samples && !failed; i++, y += SIZE, w += SIZE, f += SIZE, wrt_y += SIZE) {
      const double *arg[] = {t + k, y, p, w};
      double *res[] = {f, wrt_y, &time, own};
      failed = pulled(arg, res, 0, 0, 0);
      wrt_t[k] += time;
      for (int64_t j = 0; j < PARAMETERS; j++) wrt_p[j] += own[j];
    }
  free(own);
  return failed;
}
"""

_PUSH = """
/* At t (K,), y (K, samples, size): ∂f/∂t s + ∂f/∂y v for s (K,) and v like y. */
EXPORT int push(int64_t K, int64_t samples, const double *t, const double *y, const double *p,
                const double *s, const double *v, double *out) {
  for (int64_t k = 0; k < K; k++)
    for (int64_t i = 0; i < samples; i++, y += SIZE, v += SIZE, out += SIZE) {
      const double *arg[] = {t + k, y, p, s + k, v};
      double *res[] = {out};
      if (pushed(arg, res, 0, 0, 0)) return 1;
    }
  return 0;
}
/* The same for ∂f/∂p q with q (parameters,). */
EXPORT int move(int64_t K, int64_t samples, const double *t, const double *y, const double *p,
                const double *q, double *out) {
  for (int64_t k = 0; k < K; k++)
    for (int64_t i = 0; i < samples; i++, y += SIZE, out += SIZE) {
      const double *arg[] = {t + k, y, p, q};
      double *res[] = {out};
      if (moved(arg, res, 0, 0, 0)) return 1;
    }
  return 0;
}
"""

_BEND = """
/* The gradients of w times (s df/dt + df/dy v) by y, like y, and by p (parameters,), summed over all states,
   at t (K,), y, v and w (K, samples, size), s (K,). */
EXPORT int bend(int64_t K, int64_t samples, const double *t, const double *y, const double *p,
                const double *s, const double *v, const double *w, double *wrt_y, double *wrt_p) {
  double *own = malloc((PARAMETERS + 1) * sizeof *own);
  int failed = !own;
  memset(wrt_p, 0, PARAMETERS * sizeof *wrt_p);
  for (int64_t k = 0; k < K && !failed; k++)
    for (int64_t i = 0; i < samples && !failed; i++, y += SIZE, v += SIZE, w += SIZE, wrt_y += SIZE) {
      const double *arg[] = {t + k, y, p, s + k, v, w};
      double *res[] = {wrt_y, own};
      failed = bent(arg, res, 0, 0, 0);
      for (int64_t j = 0; j < PARAMETERS; j++) wrt_p[j] += own[j];
    }
  free(own);
  return failed;
}
"""
