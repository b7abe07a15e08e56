"""CasADi's functions as values that follow from others, and where they are kept.

A function of many thousand operations is cut into pieces. A C compiler takes time that grows faster than the
length of a function, minutes for some; and a value that is used much later would be spilled to memory anyway.
Values that a later piece reads are kept in an array, the room of the function.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import casadi as ca

from stiffml.compiled.refusal import NotCompilableError

PIECE = 1000
"""Operations in a piece."""


class Value(NamedTuple):
    """``form`` with the names of the ``operands`` in place of {0}, {1}.

    Values without operands are not kept but written again, in each piece that reads them.
    """

    form: str
    operands: tuple[int, ...]


class Output(NamedTuple):
    """The entry ``place`` of an output is a value."""

    output: int
    place: int
    value: int


@dataclass
class Piece:
    """Statements in a row: the numbers of values to be computed, and outputs.

    ``kept``: the places in the room of those of its values that later pieces read.
    """

    statements: list[int | Output]
    kept: dict[int, int] = field(default_factory=dict)


@dataclass
class Program:
    """A function in pieces.

    Attributes
    ----------
    values : list of Value
    parts : list of list of Piece
        What does not depend on some of the inputs, then the rest, if they are told apart; else one part.
    room : int
        The number of values that are kept.
    """

    values: list[Value]
    parts: list[list[Piece]]
    room: int


def program_of(
    function: ca.Function, forms: Mapping[int, str], shared: Collection[int], along: Collection[int]
) -> Program:
    """The program of a function of scalar expressions (SX).

    Parameters
    ----------
    forms : mapping
        How operations of CasADi are written, with {0} and {1} for their operands.
    shared : collection of int
        The inputs that all states have in common.
    along : collection of int
        The inputs of which the first part does not know, so that it serves for several of them; empty for
        one part.

    Raises
    ------
    NotCompilableError
        For an operation that is not among the forms.
    """
    values, statements, depends = _listed(function, forms, shared, along)
    if along:
        first = [one for one in statements if not depends[_value_of(one)]]
        rest = [one for one in statements if depends[_value_of(one)]]
        groups = [first, rest]
    else:
        groups = [statements]
    parts = [_in_pieces(group) for group in groups]
    return Program(values, parts, _kept(values, parts))


def _listed(
    function: ca.Function, forms: Mapping[int, str], shared: Collection[int], along: Collection[int]
) -> tuple[list[Value], list[int | Output], list[bool]]:
    """All values; what is to be done, in order; and which values depend on the inputs ``along``."""
    values, depends = list[Value](), list[bool]()
    statements: list[int | Output] = []
    now: dict[int, int] = {}  # by CasADi's place: the value that is there
    for k in range(function.n_instructions()):
        operation, to = function.instruction_id(k), function.instruction_output(k)
        if operation == ca.OP_OUTPUT:
            statements.append(Output(to[0], to[1], now[function.instruction_input(k)[0]]))
            continue
        value, depending = Value("", ()), False
        if operation == ca.OP_CONST:
            value = Value(f"all({_number(function.instruction_constant(k))})", ())
        elif operation == ca.OP_INPUT:
            number, place = function.instruction_input(k)
            read = f"i{number}[{place}]"
            value, depending = Value(f"all({read})" if number in shared else read, ()), number in along
        elif operation in forms:
            operands = tuple(now[place] for place in function.instruction_input(k))
            value, depending = Value(forms[operation], operands), any(depends[i] for i in operands)
        else:
            raise NotCompilableError(f"CasADi's operation {operation} has no translation to C")
        now[to[0]] = len(values)
        if value.operands:
            statements.append(len(values))
        values.append(value)
        depends.append(depending)
    return values, statements, depends


def _value_of(statement: int | Output) -> int:
    return statement.value if isinstance(statement, Output) else statement


def _in_pieces(statements: Sequence[int | Output]) -> list[Piece]:
    return [Piece(list(statements[k : k + PIECE])) for k in range(0, len(statements), PIECE)]


def _kept(values: Sequence[Value], parts: Sequence[Sequence[Piece]]) -> int:
    """Find places for the values that other pieces read than those that compute them; return how many places.

    A place serves again when its value is not read any more, within its part.
    """
    room, last = 0, dict[int, tuple[int, int]]()
    for number, part in enumerate(parts):
        for k, piece in enumerate(part):
            for statement in piece.statements:
                for operand in operands_of(values, statement):
                    last[operand] = number, k
    for number, part in enumerate(parts):
        free: list[int] = []
        ending: dict[int, list[int]] = {}
        for k, piece in enumerate(part):
            for statement in piece.statements:
                if isinstance(statement, Output) or last.get(statement, (number, k)) == (number, k):
                    continue
                if free:
                    place = heapq.heappop(free)
                else:
                    place, room = room, room + 1
                piece.kept[statement] = place
                if last[statement][0] == number:
                    ending.setdefault(last[statement][1], []).append(place)
            for place in ending.pop(k, ()):
                heapq.heappush(free, place)
    return room


def operands_of(values: Sequence[Value], statement: int | Output) -> tuple[int, ...]:
    """The values that a statement reads."""
    return (statement.value,) if isinstance(statement, Output) else values[statement].operands


def _number(value: float) -> str:
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return repr(float(value))
