"""The problem M y' = f(t, y) + g(t, y), from its parts."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.equations import Form
from stiffml.extras import to_install
from stiffml.parameters.names import Members, Reached, reached
from stiffml.parameters.watch import Watch
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.derivatives.joint import Graphed
from stiffml.system.mass import Mass
from stiffml.system.space import Space
from stiffml.system.state import Layout
from stiffml.system.trial_memory import Counted, Facts, PassedTrials


class System:
    """f, g and M on flat vectors.

    Attributes
    ----------
    f : Dynamics
        The right-hand side, or its implicit part.
    g : Dynamics or None
        The explicit part of an additive method.
    mass : Mass or None
        None for the identity.
    parameters : tuple of Tensor
        Tensors that gradients are wanted for: those of f and g, then the mass matrix if it requires one.
    constant_jacobian : bool
        Whether the Jacobian of f is the same at all times and states.
    used : tuple of frozenset of int, or None
        For each part the positions of the parameters that its value at the start depends on; None if that was
        not looked for.
    operations : list or None
        The kinds of operations of each part at the start, in its graph; None likewise.
    reads : list of Reached
        For each part what it reads; empty likewise.
    watches : list of Watch
        For each part what sees that; empty unless the solve is remembered.
    facts : Facts or None
        What the trials of func depend on, for a comparison.
    trials : PassedTrials or None
        The trials that a solve one by one relies on and has not made.
    first_graph : Graphed or None
        The graph of f at the start, for the first step of a run that keeps such.
    """

    def __init__(
        self,
        f: Dynamics,
        g: Dynamics | None = None,
        mass: Mass | None = None,
        constant_jacobian: bool = False,
    ) -> None:
        self.f, self.g, self.mass, self.constant_jacobian = f, g, mass, constant_jacobian
        self.used: tuple[frozenset[int], ...] | None = None
        self.operations: list[list[type | None]] | None = None
        self.reads: list[Reached] = []
        self.watches: list[Watch] = []
        self.facts: Facts | None = None
        self.trials: PassedTrials | None = None
        self.first_graph: Graphed | None = None
        self._members = Members([])
        self.mass_has_gradient = mass is not None and mass.tensor.requires_grad

    def keep_members(self) -> None:
        """Remember what func reads: the present parameters and buffers of its modules, and all else."""
        self.reads = [reached(part.func) for part in self.parts]
        self._members = Members([module for part in self.reads for module in part.modules])

    def counted(self) -> Counted:
        """For each part the names of whole numbers that it has raised since :meth:`keep_members`."""
        now = [reached(part.func).values for part in self.parts]
        return tuple(
            frozenset(name for name, value in values.items() if _is_raised(read.values.get(name), value))
            for read, values in zip(self.reads, now, strict=True)
        )

    def keeps_members(self, reads: list[Reached], members: Members) -> None:
        """The same, for a func that is known to read what it has read before."""
        self.reads, self._members = reads, members

    @property
    def members(self) -> Members:
        """The parameters and buffers of the modules of func that :meth:`keep_members` has found."""
        return self._members

    def as_it_was(self) -> AbstractContextManager[None]:
        """Within this, the modules have the parameters and buffers that they had in the forward pass."""
        return self._members.in_place()

    def is_seen_unchanged(self) -> bool:
        """Whether parts whose derivatives are of compiled code alone read what they have read in the run.

        Then gradients are those of the run. False where that is not known.
        """
        if not self.watches:
            return False
        seen = all(watch.sees(part.func) for watch, part in zip(self.watches, self.parts, strict=True))
        return seen and all(part.is_as_it_was() for part in self.parts)

    def compile(self, u: np.ndarray, required: bool = False, is_repeated: bool = False) -> None:
        """Take values and derivatives of f and g from compiled code.

        ``u`` (size,) is where the solve starts. What cannot be compiled stays as it is, after one warning;
        with ``required`` it is a ValueError. ``is_repeated``: a solve has compared values near the start with
        those of torch shortly before; then those beside its end are enough, see ``CompiledDynamics.confirm``,
        and a part of which nothing is kept is left as it is.
        """
        # casadi takes long to import, and is only installed for this.
        if importlib.util.find_spec("casadi") is None:
            raise ValueError(f"compile=True needs casadi; try: {to_install('compile')}")
        from stiffml.system.derivatives.compiled_dynamics import in_compiled_form

        reads: Sequence[Reached | None] = self.reads or [None] * len(self.parts)
        found = [
            in_compiled_form(part, u, required, read, is_repeated)
            for part, read in zip(self.parts, reads, strict=True)
        ]
        self.f, self.g = found[0], found[1] if len(found) > 1 else None

    @property
    def space(self) -> Space:
        return self.f.space

    @property
    def parts(self) -> tuple[Dynamics, ...]:
        return (self.f,) if self.g is None else (self.f, self.g)

    @property
    def layout(self) -> Layout:
        return self.f.layout

    @property
    def direction(self) -> int:
        return self.f.direction

    @property
    def form(self) -> Form:
        return Form(split=self.g is not None, mass=self.mass is not None)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        own = self.f.parameters
        return (*own, self.mass.tensor) if self.mass is not None and self.mass_has_gradient else own

    @property
    def rhs_evals(self) -> int:
        return sum(part.rhs_evals for part in self.parts)

    def weigh(self, v: np.ndarray, transpose: bool = False) -> np.ndarray:
        """M v, or Mᵀ v, for vectors (…, size)."""
        return v if self.mass is None else self.mass.apply(v, transpose)

    def require_constant_jacobian(self, s: float, later: float, u: np.ndarray) -> None:
        """Raise ValueError unless f is, as far as two tries show, linear in u with a constant Jacobian."""
        step = np.random.default_rng(0).standard_normal(u.size) * (1 + np.abs(u))
        changes = [self.f.evaluate(at, u + step) - self.f.evaluate(at, u) for at in (s, later)]
        changes.append(self.f.evaluate(s, u - 2 * step) - self.f.evaluate(s, u))
        size = self.space.max

        def largest(v: np.ndarray) -> float:
            return size(float(np.abs(v).max()))

        scale = largest(changes[0]) + largest(self.f.evaluate(s, u))
        tolerance = 1e4 * torch.finfo(self.layout.dtype).eps * scale
        differences = (changes[1] - changes[0], changes[2] + 2 * changes[0])
        if not all([largest(difference) <= tolerance for difference in differences]):
            raise ValueError(
                "Split: the implicit part is not linear in y with a constant Jacobian, as linear=True says "
                "and exponential methods need; leave linear out, and take arkimex-… where you have etd…"
            )

    def require_steady_part(self, later: float, u: np.ndarray, slope: np.ndarray) -> None:
        """Raise ValueError if f, whose value at the start ``u`` is ``slope``, is another at a later time."""
        off = np.abs(self.f.evaluate(later, u) - slope).max()
        if off > 1e4 * torch.finfo(self.layout.dtype).eps * np.abs(slope).max():
            raise ValueError(
                "Split: the implicit part depends on t, and exponential methods take it as J y, J constant. "
                "Move what depends on t to the explicit part, or use an arkimex-… method"
            )

    def derivative(self, s: float, u: np.ndarray) -> np.ndarray:
        """du/ds at one state; with a singular mass matrix that of least size."""
        slope = self.f.evaluate(s, u)
        if self.mass is not None:
            slope = self.mass.solve(slope)
        return slope if self.g is None else slope + self.g.evaluate(s, u)


def _is_raised(before: object, now: object) -> bool:
    return type(before) is int and type(now) is int and now > before
