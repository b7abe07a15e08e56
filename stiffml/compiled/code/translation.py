"""CasADi's functions as C, on the numbers of ``lanes.h``.

CasADi writes C too, but of one number at a time. Here every variable may be a vector, with one number of each
of several states.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import casadi as ca

from stiffml.compiled.code.program import Output, Piece, Program, operands_of, program_of

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


def translated(function: ca.Function, shared: Collection[int], along: Collection[int] = ()) -> str:
    """A C function of CasADi's name, ``void name(i0, i1, …, o0, o1, …, room)``, of pointers.

    ``room`` is for as many vectors as the macro of the name in capitals with ``_ROOM`` says.

    Parameters
    ----------
    function : casadi.Function
        Of scalar expressions (SX).
    shared : collection of int
        The inputs that all states have in common, ``const double *``; others are ``const vec *``.
    along : collection of int
        If there are any, two more functions of the same arguments, ``name_first``, to which these inputs do
        not matter, and ``name_rest``, which may be called again for others of them with the same room.

    Raises
    ------
    NotCompilableError
        For an operation that is not known here.
    """
    name, program = function.name(), program_of(function, _OPERATIONS, shared, along)
    kinds = ["double" if i in shared else "vec" for i in range(function.n_in())]
    given = [f"const {kind} *restrict i{i}" for i, kind in enumerate(kinds)]
    found = [f"vec *restrict o{i}" for i in range(function.n_out())]
    parameters = ", ".join([*given, *found, "vec *restrict w"])
    passed = ", ".join([f"i{i}" for i in range(len(given))] + [f"o{i}" for i in range(len(found))] + ["w"])
    lines, places = [f"#define {name.upper()}_ROOM {program.room}"], dict[int, int]()
    parts = ["first", "rest"] if along else [""]
    for part, pieces in zip(parts, program.parts, strict=True):
        whole, calls = f"{name}_{part}" if part else name, []
        for k, piece in enumerate(pieces):
            calls.append(f"  {whole}_{k}({passed});")
            lines.append(f"static NOT_INLINED void {whole}_{k}({parameters}) {{")
            lines += [*_statements(program, piece, places), "}"]
            places |= piece.kept
        lines += [f"static inline void {whole}({parameters}) {{", *calls, "}"]
    if along:
        calls = [f"  {name}_{part}({passed});" for part in parts]
        lines += [f"static inline void {name}({parameters}) {{", *calls, "}"]
    return "\n".join(lines)


def _statements(program: Program, piece: Piece, places: Mapping[int, int]) -> list[str]:
    """The lines of a piece; ``places`` are those in the room of values of earlier pieces."""
    lines, there = list[str](), set[int]()

    def compute(number: int) -> None:
        value = program.values[number]
        text = value.form.format(*(f"a{i}" for i in value.operands))
        lines.append(f"  const vec a{number} = {text};")
        there.add(number)

    for statement in piece.statements:
        for operand in operands_of(program.values, statement):
            if operand in there:
                continue
            if program.values[operand].operands:
                lines.append(f"  const vec a{operand} = w[{places[operand]}];")
                there.add(operand)
            else:
                compute(operand)
        if isinstance(statement, Output):
            lines.append(f"  o{statement.output}[{statement.place}] = a{statement.value};")
            continue
        compute(statement)
        if statement in piece.kept:
            lines.append(f"  w[{piece.kept[statement]}] = a{statement};")
    return lines
