"""What every time stepping method says of itself, and the equations of its step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stiffml.discretization.dense_output import Dense
from stiffml.discretization.equations import Block, Form, Scheme
from stiffml.discretization.interpolation import Stencil, centred
from stiffml.discretization.trajectory import Segment


class Method(ABC):
    """A one-step or multistep method: what it can do, PETSc's name for it, and the equations of its step."""

    @property
    @abstractmethod
    def order(self) -> int:
        """Convergence order."""

    @property
    @abstractmethod
    def implicit(self) -> bool:
        """Whether a step solves for its result."""

    @property
    @abstractmethod
    def adaptive(self) -> bool:
        """Whether PETSc has an error estimate for it, which is not zero on linear problems."""

    @property
    def newton(self) -> bool:
        """Whether that takes Newton's iteration."""
        return self.implicit

    @property
    def split(self) -> bool:
        """Whether it takes the parts of a ``Split`` each in its own way; any method takes their sum."""
        return False

    @property
    def whole(self) -> bool:
        """Whether it takes a right-hand side that is not split."""
        return True

    @property
    def mass(self) -> bool:
        """Whether it takes a mass matrix."""
        return self.implicit

    @property
    def dae(self) -> bool:
        """Whether the mass matrix may be singular."""
        return self.mass

    @property
    def adaptive_dae(self) -> bool:
        """Whether it may with adaptive steps: the error estimate is that of algebraic equations too."""
        return self.adaptive and self.dae

    @property
    def explicit_first_stage(self) -> bool:
        """Whether an implicit step begins with the slope at the old state."""
        return False

    def evaluates_end(self, form: Form) -> bool:
        """Whether a step evaluates all parts of the right-hand side where it ends."""
        return True

    @property
    def within_step(self) -> bool:
        """Whether the times of all its stages lie within the step; else f is extrapolated in time where one
        lies beyond an end of the solve or a breakpoint (:class:`stiffml.system.function.span.Span`)."""
        return True

    @property
    def time_is_state(self) -> bool:
        """Whether PETSc's form of it is right for autonomous problems only."""
        return False

    @property
    def estimates_first_step(self) -> bool:
        """Whether the first step of a run has an error estimate, if steps are adaptive."""
        return True

    @property
    def growth(self) -> float:
        """How many times longer than the step before an adaptive step may be."""
        return math.inf

    @property
    def jump(self) -> float:
        """How many times longer than the step before a step on a schedule may be without a ramp."""
        return math.inf

    @property
    def history(self) -> int:
        """How many vectors a step starts from at most."""
        return 1

    @property
    def starts_with_half_step(self) -> bool:
        """Whether PETSc begins with a hidden half step of backward Euler."""
        return False

    @property
    def starting_order(self) -> int:
        """The order above which scheduled steps need a starting ramp; 0 where none is needed."""
        return 0

    @property
    def abscissae(self) -> np.ndarray:
        """Of an explicit method with an error estimate, those of all stages."""
        raise NotImplementedError

    @property
    def real_stability(self) -> float:
        """How far along the negative real axis such a method is stable, or a little less."""
        raise NotImplementedError

    def kept_stages(self, form: Form) -> range:
        """Which of PETSc's stages the run keeps, because solving for them again takes Newton's iteration."""
        return range(0)

    def dense(self, form: Form) -> Dense | None:
        """The method's own interpolant, where it has one."""
        return None

    def embedded(self, form: Form) -> Dense | None:
        """The embedded solution at the end of a step (θ = 1), of one order less, for the error estimate.

        None where PETSc has the error estimate, or where there is none.
        """
        return None

    @property
    def stepper(self) -> str:
        """Who takes its steps: ``"petsc"``, or ``"native"`` for methods that PETSc does not have."""
        return "petsc"

    @property
    def own_interpolant(self) -> bool:
        """Whether outputs between steps come from an interpolant of its own."""
        return self.dense(Form()) is not None

    @property
    def interpolation(self) -> Stencil:
        """Between which states to interpolate where it has none: around a step, of its order up to 5."""
        return centred(min(self.order + 1, 6))

    def petsc_options(self) -> dict[str, object]:
        """PETSc's names for this method, without prefix; of those whose steps PETSc takes."""
        raise NotImplementedError(f"{self} is not a method of PETSc's")

    @abstractmethod
    def blocks(self, segment: Segment, form: Form) -> list[Block]:
        """The equations of the segment's steps, those of one pattern together."""


ABSCISSA_ROUNDING = 1e-12
"""Abscissae as close as this to 0 or 1 are meant to be 0 or 1."""


def stage_times(c: np.ndarray) -> Callable[[Tensor, Tensor], Tensor]:
    """(begin, end) (K, 1) -> begin + c·(end − begin), (K, C), for abscissae c (C,); exact for 0 and 1."""
    at_end = torch.from_numpy(np.abs(c - 1) <= ABSCISSA_ROUNDING)
    between = torch.from_numpy(np.where(np.abs(c) <= ABSCISSA_ROUNDING, 0.0, c))
    return lambda begin, end: torch.where(at_end, end, begin + (end - begin) * between)


def are_within_step(c: np.ndarray) -> bool:
    """Whether no abscissa lies before 0 or beyond 1."""
    return bool((c >= -ABSCISSA_ROUNDING).all() and (c <= 1 + ABSCISSA_ROUNDING).all())


class OneStep(Method):
    """A method whose steps start from one state and have all the same pattern."""

    @abstractmethod
    def scheme(self, form: Form) -> Scheme:
        """The equations of a step from ``times[:, 0]`` to ``times[:, 1]``."""

    def blocks(self, segment: Segment, form: Form) -> list[Block]:
        which, ends = segment.which, segment.trajectory.times
        times = np.stack([ends[which], ends[which + 1]], axis=1)
        return [Block(self.scheme(form), which, which[:, None], times)]
