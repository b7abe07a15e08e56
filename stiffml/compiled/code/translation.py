"""CasADi's functions as C, on the numbers of ``lanes.h``.

CasADi writes C too, but of one number at a time. Here every variable may be a vector, with one number of each
of several states.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import casadi as ca

from stiffml.compiled.refusal import NotCompilableError

_OF_ONE = [
    "EXP",
    "EXPM1",
    "LOG",
    "LOG1P",
    "ERF",
    "SQRT",
    "SIN",
    "COS",
    "TAN",
    "ASIN",
    "ACOS",
    "ATAN",
    "SINH",
    "COSH",
    "TANH",
    "ASINH",
    "ACOSH",
    "ATANH",
    "FLOOR",
    "CEIL",
    "FABS",
    "SIGN",
]
_OF_TWO = ["POW", "ATAN2", "HYPOT", "FMIN", "FMAX", "FMOD", "REMAINDER", "COPYSIGN"]
"""Operations that are functions of ``lanes.h``, there in small letters."""

_FORMS = {
    "ASSIGN": "{0}",
    "ADD": "{0} + {1}",
    "SUB": "{0} - {1}",
    "MUL": "{0} * {1}",
    "DIV": "{0} / {1}",
    "NEG": "-{0}",
    "INV": "1.0 / {0}",
    "SQ": "{0} * {0}",
    "TWICE": "{0} + {0}",
    "LT": "TRUTH({0} < {1})",
    "LE": "TRUTH({0} <= {1})",
    "EQ": "TRUTH({0} == {1})",
    "NE": "TRUTH({0} != {1})",
    "NOT": "TRUTH({0} == 0.0)",
    "AND": "TRUTH(({0} != 0.0) & ({1} != 0.0))",
    "OR": "TRUTH(({0} != 0.0) | ({1} != 0.0))",
    "IF_ELSE_ZERO": "PICK({0}, {1})",
}

_OPERATIONS = {
    getattr(ca, f"OP_{name}"): form
    for name, form in {
        **_FORMS,
        **{name: f"v_{name.lower()}({{0}})" for name in _OF_ONE},
        **{name: f"v_{name.lower()}({{0}}, {{1}})" for name in _OF_TWO},
        "CONSTPOW": "v_pow({0}, {1})",
    }.items()
}


def translated(function: ca.Function, shared: Collection[int]) -> str:
    """A C function of CasADi's name, ``void name(i0, i1, …, o0, o1, …)``, of pointers to inputs and outputs.

    Parameters
    ----------
    function : casadi.Function
        Of scalar expressions (SX).
    shared : collection of int
        The inputs that all states have in common, ``const double *``; others are ``const vec *``.

    Raises
    ------
    NotCompilableError
        For an operation that is not known here.
    """
    kinds = ["double" if i in shared else "vec" for i in range(function.n_in())]
    given = [f"const {kind} *restrict i{i}" for i, kind in enumerate(kinds)]
    found = [f"vec *restrict o{i}" for i in range(function.n_out())]
    variables = ", ".join(f"a{i}" for i in range(max(function.sz_w(), 1)))
    lines = [f"static void {function.name()}({', '.join(given + found)}) {{", f"  vec {variables};"]
    for k in range(function.n_instructions()):
        operation = function.instruction_id(k)
        to = function.instruction_output(k)
        if operation == ca.OP_CONST:
            lines.append(f"  a{to[0]} = all({_number(function.instruction_constant(k))});")
            continue
        read = function.instruction_input(k)
        if operation == ca.OP_OUTPUT:
            lines.append(f"  o{to[0]}[{to[1]}] = a{read[0]};")
        elif operation == ca.OP_INPUT:
            value = f"i{read[0]}[{read[1]}]"
            lines.append(f"  a{to[0]} = {f'all({value})' if read[0] in shared else value};")
        elif operation in _OPERATIONS:
            lines.append(f"  a{to[0]} = {_OPERATIONS[operation].format(*(f'a{i}' for i in read))};")
        else:
            raise NotCompilableError(f"CasADi's operation {operation} has no translation to C")
    return "\n".join((*lines, "}"))


def _number(value: float) -> str:
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return repr(float(value))
