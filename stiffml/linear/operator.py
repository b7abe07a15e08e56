"""a·M − b·J as a PETSc matrix of which only products are known, and its preconditioner."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from scipy.linalg.blas import daxpy
from torch import Tensor

from stiffml.linear.inverse import ApproximateInverse, Upkeep
from stiffml.petsc.library import PETSc
from stiffml.petsc.sharing import shared, vector_type, written
from stiffml.system.derivatives.graph import Array
from stiffml.system.derivatives.linearization import JacobianAt, TensorJacobianAt
from stiffml.system.mass import Mass
from stiffml.system.state import Layout


class ShiftedOperator:
    """a·M − b·J at one state, and an approximate inverse of it.

    Parameters
    ----------
    layout : Layout
    mass : Mass or None
    inverse : ApproximateInverse or None
        Of (a/b)·M − J. None: no preconditioner.
    communicator : object or None
        The processes that hold the state; None: it is whole in this process.
    with_time : bool
        Whether every sample has time as one more component at its end, s' = 1. J is then that of the others;
        the column of time, ∂f/∂s, is given to :meth:`set`.
    always : bool
        Whether the inverse is made anew at every state, however good it still is.
    shares_vectors : bool
        Whether products take PETSc's vectors as tensors on their device. Without a mass matrix and time only.

    Attributes
    ----------
    mat : PETSc.Mat
    """

    def __init__(
        self,
        layout: Layout,
        mass: Mass | None,
        inverse: ApproximateInverse | None,
        communicator: object | None,
        with_time: bool = False,
        always: bool = False,
        shares_vectors: bool = False,
    ) -> None:
        self._samples, self._with_time = layout.samples, with_time
        self._mass = mass
        self._upkeep = None if inverse is None else Upkeep(inverse, always)
        self._jacobian: JacobianAt | None = None
        self._wrt_time: np.ndarray | None = None
        self._a = self._b = self._factor = 1.0
        size = layout.size + (layout.samples if with_time else 0)
        comm = PETSc.COMM_SELF if communicator is None else communicator
        # Proxies, because Python's collector would not see a cycle through PETSc.
        context = (_SharedMatContext if shares_vectors else _MatContext)(weakref.proxy(self))
        self.mat = PETSc.Mat().createPython(((size, None), (size, None)), context, comm=comm)
        if shares_vectors:
            self.mat.setVecType(vector_type(layout.device))
        self.mat.setUp()
        self._pc_context = _PCContext(weakref.proxy(self))

    def set(
        self,
        a: float,
        b: float,
        s: float,
        u: Array,
        jacobian: JacobianAt,
        wrt_time: np.ndarray | None = None,
    ) -> None:
        """Become a·M − b·J at a state."""
        self._a, self._b, self._factor = a, b, 1.0
        self._jacobian, self._wrt_time = jacobian, wrt_time
        if self._upkeep is not None:
            self._upkeep.at(s, u, a / b, jacobian)
        self.mat.assemble()

    def release_jacobian(self) -> None:
        """Free the Jacobian before the next one is evaluated."""
        self._jacobian = self._wrt_time = None

    def configure(self, ksp) -> None:
        """Let a KSP use the approximate inverse."""
        ksp.setOperators(self.mat)
        pc = ksp.getPC()
        if self._upkeep is None:
            pc.setType(PETSc.PC.Type.NONE)
            return
        pc.setType(PETSc.PC.Type.PYTHON)
        pc.setPythonContext(self._pc_context)

    def took(self, iterations: int) -> bool:
        """The last solve took so many iterations; whether there is a stronger approximate inverse now."""
        return self._upkeep is not None and self._upkeep.took(iterations)

    def close(self) -> None:
        """Free what PETSc holds."""
        self.release_jacobian()
        self.mat.destroy()
        if self._upkeep is not None:
            self._upkeep.inverse.close()

    def product(self, v: np.ndarray, transpose: bool, into: np.ndarray) -> None:
        """(a·M − b·J) v, or the transpose times v, written to ``into``."""
        assert self._jacobian is not None
        state, time = self._parts(v)
        along = self._jacobian.apply(state, transpose)
        weighed = state if self._mass is None else self._mass.apply(state, transpose)
        a, b = self._factor * self._a, self._factor * self._b
        if time is None:  # without another vector: states may be large
            np.multiply(weighed, a, out=into)
            daxpy(along, into, a=-b)
            return
        if transpose:
            into[:] = self._joined(a * weighed - b * along, a * time - b * self._to_time(state))
        else:
            into[:] = self._joined(a * weighed - b * (along + self._from_time(time)), a * time)

    def shared_product(self, v: Tensor, transpose: bool, into: Tensor) -> None:
        """The same for tensors, without a mass matrix and time."""
        assert isinstance(self._jacobian, TensorJacobianAt)
        torch.mul(v, self._factor * self._a, out=into)
        into.sub_(self._jacobian.product(v, transpose), alpha=self._factor * self._b)

    def solve(self, v, transpose: bool, into) -> None:
        """Apply the approximate inverse, or its transpose, to a PETSc vector."""
        assert self._upkeep is not None
        inverse = self._upkeep.inverse
        a, b = self._factor * self._a, self._factor * self._b
        if not self._with_time:
            inverse.solve_vector(v, into, transpose)
            if b != 1:
                into.scale(1 / b)
            return
        state, time = self._parts(v.array_r)
        assert time is not None
        if transpose:
            found = inverse.solve(state, True) / b
            into.setArray(self._joined(found, (time + b * self._to_time(found)) / a))
            return
        known = state + self._b / self._a * self._from_time(time)
        into.setArray(self._joined(inverse.solve(known, transpose) / b, time / a))

    def scale(self, factor: float) -> None:
        """Multiply the matrix by a number, as PETSc asks for."""
        self._factor *= factor

    def _parts(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The state, and time (samples,) if it is a component."""
        if not self._with_time:
            return v, None
        rows = v.reshape(self._samples, -1)
        return rows[:, :-1].reshape(-1), rows[:, -1].copy()

    def _joined(self, state: np.ndarray, time: np.ndarray) -> np.ndarray:
        return np.concatenate([state.reshape(self._samples, -1), time[:, None]], axis=1).reshape(-1)

    def _from_time(self, time: np.ndarray) -> np.ndarray:
        """∂f/∂s times the change of time."""
        assert self._wrt_time is not None
        return (self._wrt_time.reshape(self._samples, -1) * time[:, None]).reshape(-1)

    def _to_time(self, state: np.ndarray) -> np.ndarray:
        """The transpose of that."""
        assert self._wrt_time is not None
        return (self._wrt_time * state).reshape(self._samples, -1).sum(axis=1)


class _MatContext:
    """What PETSc calls of a matrix of type "python"."""

    def __init__(self, operator: ShiftedOperator) -> None:
        self._operator = operator

    def mult(self, mat, x, y) -> None:
        self._operator.product(x.array_r, False, y.array_w)

    def multTranspose(self, mat, x, y) -> None:
        self._operator.product(x.array_r, True, y.array_w)

    def scale(self, mat, factor: float) -> None:
        self._operator.scale(factor)


class _SharedMatContext(_MatContext):
    """The same for vectors shared with torch."""

    def mult(self, mat, x, y) -> None:
        with written(y) as into:
            self._operator.shared_product(shared(x), False, into)

    def multTranspose(self, mat, x, y) -> None:
        with written(y) as into:
            self._operator.shared_product(shared(x), True, into)


class _PCContext:
    """What PETSc calls of a preconditioner of type "python"."""

    def __init__(self, operator: ShiftedOperator) -> None:
        self._operator = operator

    def apply(self, pc, x, y) -> None:
        self._operator.solve(x, False, y)

    def applyTranspose(self, pc, x, y) -> None:
        self._operator.solve(x, True, y)
