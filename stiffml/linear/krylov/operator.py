"""a·M − b·J and an approximate inverse of it, as a PETSc matrix without entries and its preconditioner."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from scipy.linalg.blas import daxpy
from torch import Tensor

from stiffml.linear.krylov.inverses import Approximate, Upkeep
from stiffml.petsc.library import PETSc
from stiffml.petsc.sharing import shared, vector_type, written
from stiffml.system.derivatives.graph import Array
from stiffml.system.derivatives.linearization import JacobianAt, TensorJacobianAt
from stiffml.system.mass import Mass
from stiffml.system.state import Layout


class Shell:
    """The matrix, at one state and for two numbers at a time.

    Parameters
    ----------
    layout : Layout
    mass : Mass or None
    approximate : Approximate or None
        Of (a/b)·M − J; None: nothing is done to residuals.
    communicator : object or None
        None: the state is whole in this process.
    with_time : bool
        Whether every sample has time as one more component, s' = 1, at its end. J is then that of the others;
        its last column, ∂f/∂s, comes with :meth:`set`.
    always : bool
        Whether the approximate inverse is renewed at every state, however good it still is.
    shares_vectors : bool
        Whether products are made of PETSc's vectors as tensors where they are; without a mass matrix or time.

    Attributes
    ----------
    mat : PETSc.Mat
    """

    def __init__(
        self,
        layout: Layout,
        mass: Mass | None,
        approximate: Approximate | None,
        communicator: object | None,
        with_time: bool = False,
        always: bool = False,
        shares_vectors: bool = False,
    ) -> None:
        self._samples, self._with_time = layout.samples, with_time
        self._mass = mass
        self._upkeep = None if approximate is None else Upkeep(approximate, always)
        self._jacobian: JacobianAt | None = None
        self._wrt_time: np.ndarray | None = None
        self._a = self._b = self._factor = 1.0
        size = layout.size + (layout.samples if with_time else 0)
        comm = PETSc.COMM_SELF if communicator is None else communicator
        # Proxies, because Python's collector would not see a cycle through PETSc.
        products = _SharedProducts if shares_vectors else _Products
        self.mat = PETSc.Mat().createPython(
            ((size, None), (size, None)), products(weakref.proxy(self)), comm=comm
        )
        if shares_vectors:
            self.mat.setVecType(vector_type(layout.device))
        self.mat.setUp()
        self._inverse = _Inverse(weakref.proxy(self))

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

    def let_go(self) -> None:
        """Of the Jacobian, before the next one is evaluated."""
        self._jacobian = self._wrt_time = None

    def configure(self, ksp) -> None:
        """Let a KSP use the approximate inverse."""
        ksp.setOperators(self.mat)
        pc = ksp.getPC()
        if self._upkeep is None:
            pc.setType(PETSc.PC.Type.NONE)
            return
        pc.setType(PETSc.PC.Type.PYTHON)
        pc.setPythonContext(self._inverse)

    def took(self, iterations: int) -> None:
        """The solve just done took so many."""
        if self._upkeep is not None:
            self._upkeep.took(iterations)

    def destroy(self) -> None:
        self.let_go()
        self.mat.destroy()
        if self._upkeep is not None:
            self._upkeep.approximate.destroy()

    def product(self, v: np.ndarray, transpose: bool, into: np.ndarray) -> None:
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
        """The same for tensors; there is neither a mass matrix nor time."""
        assert isinstance(self._jacobian, TensorJacobianAt)
        torch.mul(v, self._factor * self._a, out=into)
        into.sub_(self._jacobian.product(v, transpose), alpha=self._factor * self._b)

    def solve(self, v, transpose: bool, into) -> None:
        """About the inverse, times a PETSc vector."""
        assert self._upkeep is not None
        approximate = self._upkeep.approximate
        a, b = self._factor * self._a, self._factor * self._b
        if not self._with_time:
            approximate.solve_vector(v, into, transpose)
            if b != 1:
                into.scale(1 / b)
            return
        state, time = self._parts(v.array_r)
        assert time is not None
        if transpose:
            found = approximate.solve(state, True) / b
            into.setArray(self._joined(found, (time + b * self._to_time(found)) / a))
            return
        known = state + self._b / self._a * self._from_time(time)
        into.setArray(self._joined(approximate.solve(known, transpose) / b, time / a))

    def scale(self, factor: float) -> None:
        self._factor *= factor

    def _parts(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The state, and time if it is carried: one a sample."""
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


class _Products:
    """What PETSc asks a matrix for."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def mult(self, mat, x, y) -> None:
        self._shell.product(x.array_r, False, y.array_w)

    def multTranspose(self, mat, x, y) -> None:
        self._shell.product(x.array_r, True, y.array_w)

    def scale(self, mat, factor: float) -> None:
        self._shell.scale(factor)


class _SharedProducts(_Products):
    """The same where vectors are shared with torch."""

    def mult(self, mat, x, y) -> None:
        with written(y) as into:
            self._shell.shared_product(shared(x), False, into)

    def multTranspose(self, mat, x, y) -> None:
        with written(y) as into:
            self._shell.shared_product(shared(x), True, into)


class _Inverse:
    """What PETSc asks a preconditioner for."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def apply(self, pc, x, y) -> None:
        self._shell.solve(x, False, y)

    def applyTranspose(self, pc, x, y) -> None:
        self._shell.solve(x, True, y)
