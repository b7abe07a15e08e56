"""The function and the method of a task in C's form."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from stiffml.compiled.address import address
from stiffml.discretization.equations import Form
from stiffml.methods import BDF, Method
from stiffml.native.compiled_run.interface import TableStruct, TaskStruct
from stiffml.native.compiled_run.tables import table_of
from stiffml.system.system import System

if TYPE_CHECKING:  # imports casadi
    from stiffml.compiled.function import CompiledFunction
    from stiffml.system.derivatives.compilation import Compiled


class Arrays:
    """The arrays that C reads or writes, which must be kept as long as it does."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []

    def numbers(self, array: np.ndarray) -> int:
        """The address of an array as contiguous doubles, copied if it is not one."""
        return self.kept(np.ascontiguousarray(array, dtype=np.float64))

    def kept(self, array: np.ndarray) -> int:
        """The address of a contiguous array itself."""
        self._kept.append(array)
        return address(array)

    def rows(self, array: np.ndarray) -> range:
        """The addresses of the rows of such an array; asking for each of them takes long."""
        first, size = self.kept(array), array.strides[0]
        return range(first, first + len(array) * size, size)


def code_of(system: System) -> CompiledFunction:
    """The compiled code of f."""
    return _compiled(system).code


def parameters_of(system: System) -> np.ndarray:
    """(parameters,) the numbers that f reads, as they are now."""
    return _compiled(system).p


def _compiled(system: System) -> Compiled:
    from stiffml.system.derivatives.compiled_dynamics import CompiledDynamics  # imports casadi

    assert isinstance(system.f, CompiledDynamics)
    return system.f.compiled


def task_of(
    arrays: Arrays, system: System, method: Method, samples: int, adaptive: bool, kept: str
) -> TaskStruct:
    """A task with its function, without parameters, and its method; ``adaptive`` steps have rows of errors.

    ``kept``: of each step the ``"stages"`` that the method keeps everywhere, all ``"columns"`` but the states
    at its ends, or ``"none"``.
    """
    code = code_of(system)
    if kept == "stages" and not method.kept_stages(system.form):
        kept = "none"
    struct = TaskStruct.from_buffer_copy(_of_method(method, system.form, adaptive, kept)[0])
    struct.values, struct.blocks = code.loop("values"), code.loop("blocks")
    if method.time_is_state:
        struct.push = code.loop("push")
    struct.samples, struct.width = samples, system.layout.width
    struct.direction, struct.eps = system.direction, system.f.eps
    if system.mass is not None:
        struct.mass = arrays.numbers(system.mass.blocks)
    return struct


@lru_cache(maxsize=64)
def _of_method(method: Method, form: Form, adaptive: bool, kept: str) -> tuple[TaskStruct, Arrays]:
    """A task that has a method only, and the arrays that must be kept with it."""
    growth, arrays = method.growth_limit(), Arrays()
    struct = TaskStruct(
        explicit_first_stage=method.explicit_first_stage,
        growth=growth.ratio,
        most_growth=growth.largest,
        growing=growth.steps,
        adaptive=adaptive,
    )
    if isinstance(method, BDF):
        struct.bdf = method.order
        return struct, arrays
    table = table_of(method, form, adaptive)
    assert table is not None
    rows, columns = len(table.tau), len(table.c)
    first, count = {
        "none": (0, 0),
        "stages": (table.stages.start, len(table.stages)),
        "columns": (columns - rows, rows - 1),  # the last row is that of the new state
    }[kept]
    struct.error_order = table.order
    struct.table = TableStruct(
        rows=rows,
        columns=columns,
        has_error=len(table.alpha) - rows,
        differences=table.differences,
        first_kept=first,
        kept=count,
        **{name: arrays.numbers(getattr(table, name)) for name in ("alpha", "alpha_per_h", "beta")},
        **{name: arrays.numbers(getattr(table, name)) for name in ("beta_by_h", "tau", "c")},
        **{name: arrays.kept(getattr(table, name)) for name in ("weighted", "rosenbrock")},
    )
    return struct, arrays
