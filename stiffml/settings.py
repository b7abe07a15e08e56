"""The small objects with which a caller chooses how a solve is done: Newton, linear solver, adjoint."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from stiffml.checks import described, number, positive, whole


@dataclass(frozen=True)
class Newton:
    """When the Newton iteration of an implicit stage stops.

    An iterate x with update δ is accepted once the expected remaining error, in the root-mean-square
    norm weighted by ``atol + rtol |x|``, is at most 1. The expectation uses the contraction seen so
    far, ρ/(1−ρ)·‖δ‖ (Hairer & Wanner, Solving ODEs II, section IV.8, eq. 8.10).

    Updates that no longer shrink are accepted too, where they are what rounding of the equations makes of
    them: an equation A + B + C = 1 determines a small C no better than to 1e-16.

    Parameters
    ----------
    rtol, atol : float, optional
        Weights of that norm; ``atol`` may be a tensor in y0's shape. By default 1 % of the step tolerance of
        each component for adaptive steps. For ``Fixed``, ``Grid`` and ``Recorded`` steps, where nothing else
        bounds the error, 1e-10 of what the component is and 1e-12 of what it was where the step began, so
        that states of any unit are solved for equally well. Float32 states raise ``rtol`` to what float32
        can resolve.
    max_iterations : int
        Iterations after which the stage has failed and the step is cut. Default 15.
    """

    rtol: float | None = None
    atol: float | Tensor | None = None
    max_iterations: int = 15

    def __post_init__(self) -> None:
        if self.rtol is not None:
            object.__setattr__(self, "rtol", number("Newton: rtol", self.rtol, above=0))
        if self.atol is not None:
            object.__setattr__(self, "atol", positive("Newton: atol", self.atol))
        limit = whole("Newton: max_iterations", self.max_iterations, most=2**31 - 1)
        object.__setattr__(self, "max_iterations", limit)


@dataclass(frozen=True)
class NewtonLimits:
    """What is left of :class:`Newton` to be decided: nothing.

    ``atol`` is one number or one a flat component, (size,); None: 1 % of ``rtol`` times what each component
    was where the step began.
    """

    rtol: float
    atol: float | np.ndarray | None
    max_iterations: int


@dataclass(frozen=True)
class Tolerances:
    """Error tolerances of adaptive steps; ``atol`` is one number or one a flat component, (size,)."""

    rtol: float
    atol: float | np.ndarray


@dataclass(frozen=True)
class Disk:
    """Keep checkpoints in a file in ``folder``, which must exist.

    The file has no name: it is gone with the last reference to the solution, or with the process.
    """

    folder: str | os.PathLike[str]

    def __post_init__(self) -> None:
        # A number would be taken for a file descriptor, and closed.
        if not isinstance(self.folder, str | os.PathLike) or not isinstance(os.fspath(self.folder), str):
            raise TypeError(
                f'Disk: folder must be the path of a folder, such as "/tmp", not {described(self.folder)}'
            )


@dataclass(frozen=True)
class Discrete:
    """The exact adjoint of the steps taken.

    Parameters
    ----------
    checkpoints : str, int or Disk
        What the forward run keeps.

        - ``"stages"`` (default): all states, and the stages that took Newton's iteration to find. The
          fastest.
        - ``"solutions"``: all states; stages are solved for again.
        - an int: at most so many states. The rest is recomputed, each step a few times (once more for
          every time that the number of steps grows about as the number of checkpoints does). A step of
          ``bdf`` starts from as many states as its order, which are kept together: it needs more of
          them.
        - ``Disk(folder)``: all states, in a file.

        Gradients differ by what Newton's iteration leaves, not more.

    Raises
    ------
    ValueError
        For anything else.
    """

    checkpoints: str | int | Disk = "stages"

    def __post_init__(self) -> None:
        wanted = self.checkpoints
        if isinstance(wanted, Disk) or (isinstance(wanted, str) and wanted in ("stages", "solutions")):
            return
        try:
            object.__setattr__(self, "checkpoints", whole("checkpoints", wanted))
        except (TypeError, ValueError) as error:
            raise type(error)(
                'Discrete: checkpoints must be "stages", "solutions", a positive number of states or '
                f"Disk(folder), not {described(wanted)}"
            ) from None
