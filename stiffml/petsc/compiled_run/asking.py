"""Functions that are not compiled, for runs in C: C asks Python for their values and derivatives."""

from __future__ import annotations

import ctypes

import numpy as np

from stiffml.compiled.address import address
from stiffml.petsc.compiled_run.interface import FunctionStruct
from stiffml.petsc.formulation import Formulation
from stiffml.system.derivatives.dynamics import Dynamics

_VALUE, _VALUE_BEFORE_BLOCKS, _BLOCKS, _BY_TIME = range(4)
"""What is asked for, in the order of ``course.h``."""

_CALL, _RELEASE = (
    ctypes.cast(function, ctypes.c_void_p).value
    for function in (ctypes.pythonapi.PyObject_CallObject, ctypes.pythonapi.Py_DecRef)
)


class Asked:
    """f or g of a system as C asks for it, by the same calls as the callbacks of PETSc from Python.

    C calls it as Python would. An exception, also an interrupt, ends the run in C, and is raised by the call
    from which Python has gone to C.
    """

    def __init__(self, part: Dynamics, problem: Formulation) -> None:
        samples, width = part.layout.samples, part.layout.width
        self._part, self._problem = part, problem
        self._time, self._what = np.zeros(1), np.zeros(1, dtype=np.int64)
        self._state, self._slope, self._by_time = (np.zeros(part.layout.size) for _ in range(3))
        self._blocks = np.zeros((samples, width, width))

    def struct(self) -> FunctionStruct:
        """For C. It keeps this object alive, which does not refer to it."""
        return FunctionStruct(
            python=self._answer,
            call=_CALL,
            release=_RELEASE,
            time=address(self._time),
            what=address(self._what),
            asked=address(self._state),
            slope=address(self._slope),
            jacobian=address(self._blocks),
            by_time=address(self._by_time),
        )

    def _answer(self) -> None:
        s, what = float(self._time[0]), self._what[0]
        if what <= _VALUE_BEFORE_BLOCKS:
            self._slope[:] = self._part.evaluate(s, self._state, bool(what == _VALUE_BEFORE_BLOCKS))
        elif what == _BLOCKS:
            self._blocks[:] = self._part.jacobian_at(s, self._state)
        else:
            self._by_time[:] = self._problem.wrt_time(s, self._state.copy())
