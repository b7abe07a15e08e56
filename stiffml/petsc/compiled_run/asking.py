"""Functions that are not compiled, for runs in C: C asks Python for their values and derivatives."""

from __future__ import annotations

import ctypes

import numpy as np

from stiffml.petsc.compiled_run.interface import FunctionStruct, address
from stiffml.petsc.formulation import Formulation
from stiffml.system.derivatives.dynamics import Dynamics

_VALUE, _VALUE_BEFORE_BLOCKS, _BLOCKS, _BY_TIME = range(4)
"""What is asked for, in the order of ``course.h``."""

_ASK = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_double, ctypes.c_int64)


class Asked:
    """f or g of a system as C asks for it, by the same calls as the callbacks of PETSc from Python.

    An exception cannot pass through C. It is kept, and ends the run there.

    Attributes
    ----------
    struct : FunctionStruct
        For C; this object must be kept while C uses it.
    """

    def __init__(self, part: Dynamics, problem: Formulation) -> None:
        samples, width = part.layout.samples, part.layout.width
        self._part, self._problem = part, problem
        self._state, self._slope, self._by_time = (np.zeros(part.layout.size) for _ in range(3))
        self._blocks = np.zeros((samples, width, width))
        self._failure: BaseException | None = None
        self._is_asked = np.zeros(1, dtype=np.int64)  # set by C, and taken back by an answer
        self._ask = _ASK(self._answer)
        self.struct = FunctionStruct(
            ask=ctypes.cast(self._ask, ctypes.c_void_p),
            asked=address(self._state),
            slope=address(self._slope),
            jacobian=address(self._blocks),
            by_time=address(self._by_time),
            is_asked=address(self._is_asked),
        )

    def _answer(self, s: float, what: int) -> int:
        try:
            if what <= _VALUE_BEFORE_BLOCKS:
                self._slope[:] = self._part.evaluate(s, self._state, what == _VALUE_BEFORE_BLOCKS)
            elif what == _BLOCKS:
                self._blocks[:] = self._part.jacobian_at(s, self._state)
            else:
                self._by_time[:] = self._problem.wrt_time(s, self._state.copy())
        except BaseException as error:
            self._failure = error
            return 1
        self._is_asked[0] = 0
        return 0

    def require_no_failure(self) -> None:
        """Raise what a call has raised."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if self._is_asked[0]:  # an interrupt that came before the call could catch it; ctypes has dropped it
            raise KeyboardInterrupt
