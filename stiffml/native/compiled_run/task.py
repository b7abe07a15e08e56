"""The function and the method of a task in C's form."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from stiffml.compiled.address import address
from stiffml.discretization.equations import Form
from stiffml.methods import BDF, Method
from stiffml.native.compiled_run.interface import TableStruct, TaskStruct
from stiffml.native.compiled_run.tables import table_of
from stiffml.system.system import System


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


def task_of(
    arrays: Arrays, system: System, method: Method, samples: int, adaptive: bool, keeps_stages: bool
) -> TaskStruct:
    """A task with its function and method; ``adaptive`` steps come with rows of errors."""
    from stiffml.system.derivatives.compiled_dynamics import CompiledDynamics  # imports casadi

    f = system.f
    assert isinstance(f, CompiledDynamics)
    code, growth = f.compiled.code, method.growth_limit()
    struct = TaskStruct(
        values=code.loop("values"),
        blocks=code.loop("blocks"),
        push=code.loop("push") if method.time_is_state else None,
        p=arrays.numbers(f.compiled.p),
        samples=samples,
        width=system.layout.width,
        direction=system.direction,
        explicit_first_stage=method.explicit_first_stage,
        growth=growth.ratio,
        most_growth=growth.largest,
        growing=growth.steps,
        eps=f.eps,
        adaptive=adaptive,
    )
    if system.mass is not None:
        struct.mass = arrays.numbers(system.mass.blocks)
    if isinstance(method, BDF):
        struct.bdf = method.order
        return struct
    struct.table, struct.error_order, _ = _table_struct(method, system.form, adaptive)
    if not (keeps_stages and method.kept_stages(system.form)):
        struct.table.kept = 0
    return struct


@lru_cache(maxsize=64)
def _table_struct(method: Method, form: Form, adaptive: bool) -> tuple[TableStruct, int, Arrays]:
    """The rows of a one-step method, the order of its errors, and the arrays that must be kept with these."""
    table, arrays = table_of(method, form, adaptive), Arrays()
    assert table is not None
    rows = len(table.tau)
    struct = TableStruct(
        rows=rows,
        columns=len(table.c),
        has_error=len(table.alpha) - rows,
        differences=table.differences,
        first_kept=table.stages.start,
        kept=len(table.stages),
        **{name: arrays.numbers(getattr(table, name)) for name in ("alpha", "alpha_per_h", "beta")},
        **{name: arrays.numbers(getattr(table, name)) for name in ("beta_by_h", "tau", "c")},
        **{name: arrays.kept(getattr(table, name)) for name in ("weighted", "rosenbrock")},
    )
    return struct, table.order, arrays
