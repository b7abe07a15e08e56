"""C code of a function and its derivatives, of four kinds.

A library of kind "forward" for one state at a time exports, with y (size,), p (parameters,), and all matrices
of doubles, row by row:

    struct stiffml_function {
        int64_t size, parameters, nonzeros;
        const int64_t *row, *column;          // of the entries of ∂f/∂y that may differ from zero
        int (*f)(double t, const double *y, const double *p, double *f);
        int (*jacobian)(double t, const double *y, const double *p, double *entries);
    };
    const struct stiffml_function *stiffml_function(void);

for code in C that takes steps by itself: both functions return 0, keep nothing, and may run in several
threads. The entries come in the order of ``row`` and ``column``, column by column. All libraries have loops
over many states, K times with ``samples`` states each, whose C code is beside this file. They return 0, or 1
if there is no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import casadi as ca

from stiffml.compiled.code.translation import translated
from stiffml.compiled.expressions import Expressions

LANES = 4
"""States that are evaluated side by side where there are many: as wide as most processors compute."""


class Kind(NamedTuple):
    """What a library is for.

    Attributes
    ----------
    loops : tuple of str
        The names of its loops.
    functions : callable
        The functions of some expressions that its loops call.
    """

    loops: tuple[str, ...]
    functions: Callable[[Expressions], Sequence[ca.Function]]


KINDS = {
    "forward": Kind(
        ("values", "blocks"), lambda of: [of.slope, of.pushed if of.by_columns else of.linearised]
    ),
    "pull": Kind(("pull", "pull_rows"), lambda of: [of.pulled]),
    "push": Kind(("push", "move"), lambda of: [of.pushed, of.moved]),
    "bend": Kind(("bend",), lambda of: [of.bent]),
}
"""f and ∂f/∂y; products of cotangents with derivatives; derivatives along directions; second derivatives."""


ALONG = {"pushed": (3, 4), "bent": (3, 4, 5)}
"""The inputs that are directions, of functions that are evaluated for several of them at one state."""


def code_of(of: Expressions, kind: str, lanes: int = 1) -> str:
    """The code of a kind of library, for so many states at once."""
    functions = KINDS[kind].functions(of)
    # p, and a direction of p.
    parts = [
        translated(f, {2, 3} if f.name() == "moved" else {2}, ALONG.get(f.name(), ())) for f in functions
    ]
    numbers = [f"#define LANES {lanes}", f"#define SIZE {of.size}", f"#define PARAMETERS {of.parameters}"]
    if kind == "forward":
        pattern = of.pattern
        numbers += [f"#define NONZEROS {len(pattern.row)}", f"#define BY_COLUMNS {int(of.by_columns)}"]
        parts += [_array("ROW", pattern.row.tolist()), _array("COLUMN", pattern.column.tolist())]
    here = Path(__file__).parent
    return "\n".join((*numbers, (here / "lanes.h").read_text(), *parts, (here / f"{kind}.c").read_text()))


def _array(name: str, values: Sequence[int]) -> str:
    return f"static const int64_t {name}[] = {{{', '.join(map(str, values or [0]))}}};"
