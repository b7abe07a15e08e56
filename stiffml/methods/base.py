"""The base class of time stepping methods: their properties, and the equations of their steps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.dense_output import Dense
from stiffml.discretization.equations import Block, Form, Scheme
from stiffml.discretization.estimates import Estimate, estimated, with_embedded
from stiffml.discretization.interpolation import Stencil, centred
from stiffml.discretization.trajectory import Segment
from stiffml.methods.growth import Growth


class Method(ABC):
    """A one-step or multistep method: its properties, its name in PETSc, and the equations of its steps."""

    @property
    @abstractmethod
    def order(self) -> int:
        """Convergence order."""

    @property
    @abstractmethod
    def implicit(self) -> bool:
        """Whether a step has to solve linear or nonlinear systems, or needs a Jacobian otherwise."""

    @property
    @abstractmethod
    def adaptive(self) -> bool:
        """Whether steps can be adaptive: it has an error estimate that is not zero on linear problems."""

    @property
    def newton(self) -> bool:
        """Whether steps use Newton's iteration."""
        return self.implicit

    @property
    def split(self) -> bool:
        """Whether it treats one part of a ``Split`` implicitly and the other explicitly.

        Other methods integrate the sum of both parts.
        """
        return False

    @property
    def whole(self) -> bool:
        """Whether it can integrate a right-hand side that is not split."""
        return True

    @property
    def exponential(self) -> bool:
        """Whether it takes φ-functions of the implicit part of a ``Split``, which must be linear."""
        return False

    @property
    def mass(self) -> bool:
        """Whether a mass matrix is possible."""
        return self.implicit

    @property
    def dae(self) -> bool:
        """Whether the mass matrix may be singular."""
        return self.mass

    @property
    def adaptive_dae(self) -> bool:
        """Whether a singular mass matrix is possible with adaptive steps.

        The error estimate must then be valid for algebraic variables too.
        """
        return self.adaptive and self.dae

    @property
    def explicit_first_stage(self) -> bool:
        """Whether the first stage of an implicit method is explicit, and needs the slope at the old state."""
        return False

    def evaluates_end(self, form: Form) -> bool:
        """Whether a step evaluates all parts of the right-hand side at its end."""
        return True

    @property
    def within_step(self) -> bool:
        """Whether the times of all stages lie within the step.

        Otherwise a stage may lie beyond an end of the solve or a breakpoint. f is then extrapolated in time,
        ``stiffml/system/function/span.py``.
        """
        return True

    @property
    def time_is_state(self) -> bool:
        """Whether PETSc's form of the method is correct for autonomous problems only."""
        return False

    @property
    def estimates_first_step(self) -> bool:
        """Whether the first step of a run with adaptive steps has an error estimate."""
        return True

    @property
    def growth(self) -> float:
        """The ratio by which adaptive steps may grow from one to the next for long."""
        return math.inf

    def safety(self, rtol: float | np.ndarray) -> float:
        """The factor by which adaptive steps stay below the size whose estimated error is the tolerance."""
        return 0.9

    largest_factor = 10.0
    """The largest factor by which the error control lets steps grow from one to the next; PETSc's default."""

    def aim(self, rtol: float | np.ndarray) -> float:
        """The estimated errors of adaptive steps, relative to those that a safety factor of 0.9 leaves."""
        return (self.safety(rtol) / 0.9) ** (self.order + 1)

    def growth_limit(self, runs: int = 1) -> Growth:
        """How much longer the steps of adaptive runs side by side may become."""
        return Growth(self.growth, runs=runs)

    @property
    def jump(self) -> float:
        """The largest ratio of a step known in advance to the previous step, without a starting ramp."""
        return math.inf

    @property
    def history(self) -> int:
        """The largest number of states that a step starts from."""
        return 1

    @property
    def starts_with_half_step(self) -> bool:
        """Whether a run starts with a half step of backward Euler inside its first step, as in PETSc."""
        return False

    @property
    def starting_order(self) -> int:
        """The order that a starting ramp preserves if steps are known in advance; 0 if no ramp is needed."""
        return 0

    @property
    def abscissae(self) -> np.ndarray:
        """(stages,) the abscissae of the stages; for explicit methods with an error estimate."""
        raise NotImplementedError

    @property
    def real_stability(self) -> float:
        """The length of the real stability interval, or slightly less; for the same methods."""
        raise NotImplementedError

    def kept_stages(self, form: Form) -> range:
        """The stages that a run keeps, because recomputing them takes Newton's iteration."""
        return range(0)

    def dense(self, form: Form) -> Dense | None:
        """The method's own interpolant; None if it has none."""
        return None

    def has_estimates(self, form: Form) -> bool:
        """Whether :meth:`estimates` gives the errors of steps.

        PETSc estimates errors in one more case: where they depend on the slope of an explicit first stage,
        which a mass matrix makes unavailable, it has that slope from the step before.
        """
        return False

    def estimates(self, segment: Segment, form: Form) -> list[Estimate]:
        """The equations of the steps of a segment with the local errors as output rows, grouped by pattern.

        Steps whose error cannot be estimated are left out, such as the first of ``beuler``. The segment must
        hold the :attr:`estimate_history` states up to each step, unless its trajectory starts later.
        """
        raise NotImplementedError(f"{self} has no error estimate")

    @property
    def estimate_history(self) -> int:
        """The largest number of states that a step and its error estimate start from."""
        return self.history

    @property
    def stepper(self) -> str:
        """The stepper for this method.

        ``"petsc"``; ``"native"`` for methods that PETSc does not have; ``"explicit"`` for explicit methods,
        which is PETSc with options of it.
        """
        return "petsc"

    @property
    def in_petsc(self) -> bool:
        """Whether PETSc has the method, for its options and for runs in C."""
        return self.stepper != "native"

    @property
    def own_interpolant(self) -> bool:
        """Whether outputs between step ends come from the method's own interpolant."""
        return self.dense(Form()) is not None

    @property
    def interpolates_outputs(self) -> bool:
        """Whether adaptive steps do not end on outputs by default.

        The order of the interpolant must be that of the method, or one less.
        """
        return False

    @property
    def interpolation(self) -> Stencil:
        """The states through which a polynomial gives outputs, for methods without an interpolant.

        By default the states around the step, as many as ``interpolated_steps`` have.
        """
        return centred(self.interpolated_steps + 1)

    @property
    def interpolated_steps(self) -> int:
        """Through the ends of how many steps that polynomial goes: the method's order, at most 5."""
        return min(self.order, 5)

    def petsc_options(self) -> dict[str, object]:
        """The PETSc options that select this method, without prefix; for PETSc's methods only."""
        raise NotImplementedError(f"{self} is not a method of PETSc's")

    @abstractmethod
    def blocks(self, segment: Segment, form: Form) -> list[Block]:
        """The equations of the steps of a segment, grouped by pattern."""


ABSCISSA_ROUNDING = 1e-12
"""Abscissae this close to 0 or 1 count as 0 or 1; the difference is rounding in the tableau."""


def stage_times(c: np.ndarray) -> Callable[[Tensor, Tensor], Tensor]:
    """The function from step ends (begin, end), each (K, 1), to begin + c·(end − begin), (K, C).

    ``c`` (C,) are abscissae. Results for 0 and 1 are exactly begin and end.
    """
    at_end = torch.from_numpy(np.abs(c - 1) <= ABSCISSA_ROUNDING)
    between = torch.from_numpy(np.where(np.abs(c) <= ABSCISSA_ROUNDING, 0.0, c))
    return lambda begin, end: torch.where(at_end, end, begin + (end - begin) * between)


def are_within_step(c: np.ndarray) -> bool:
    """Whether all abscissae lie in [0, 1]."""
    return bool((c >= -ABSCISSA_ROUNDING).all() and (c <= 1 + ABSCISSA_ROUNDING).all())


class OneStep(Method):
    """A method whose steps start from one state and all have the same pattern."""

    @abstractmethod
    def scheme(self, form: Form) -> Scheme:
        """The scheme of a step; its coefficients take the times (K, 2) of the old and the new state."""

    def blocks(self, segment: Segment, form: Form) -> list[Block]:
        return [Block(self.scheme(form), *_from_one_state(segment))]

    def embedded(self, form: Form) -> Dense | None:
        """The embedded solution at the end of a step (θ = 1), of one order less, for the error estimate.

        None if there is none, or if a mass matrix makes slopes unavailable that it needs. The same object
        at every call, since the rows made of it are kept.
        """
        return None

    @property
    def estimate_order(self) -> int:
        """The power of h that the error estimate is taken to be proportional to."""
        return self.order

    def has_estimates(self, form: Form) -> bool:
        return self.embedded(form) is not None

    def estimates(self, segment: Segment, form: Form) -> list[Estimate]:
        embedded = self.embedded(form)
        if embedded is None:
            return super().estimates(segment, form)
        scheme = with_embedded(self.scheme(form), embedded)
        return [estimated(scheme, *_from_one_state(segment), self.estimate_order)]


def _from_one_state(segment: Segment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The steps (K,) of a segment, the states (K, 1) that they start from, and their times (K, 2)."""
    which, ends = segment.which, segment.trajectory.times
    return which, which[:, None], np.stack([ends[which], ends[which + 1]], axis=1)
