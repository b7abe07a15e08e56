"""Settings of a solve: Newton's iteration, tolerances, and what is kept for the adjoint."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils._pytree import tree_leaves

from stiffml.checks import described, number, positive, whole


@dataclass(frozen=True)
class Newton:
    """When the Newton iteration of an implicit stage stops.

    An iterate x with update δ is accepted if its expected error is at most 1, in the root-mean-square norm
    weighted by ``atol + rtol |x|``. The expected error is ρ/(1−ρ)·‖δ‖, with the contraction ρ seen so far
    (Hairer & Wanner, Solving ODEs II, section IV.8, eq. 8.10).

    Adaptive steps with a factorised Jacobian, of a function that is not compiled, keep that Jacobian from
    iteration to iteration and from step to step while ρ ≤ 0.3. Convergence is linear then, so the expected
    error must be at most 1e-5. These iterations, at most 8 in a stage, do not count towards
    ``max_iterations``. Where ρ is larger, the rest of the stage takes a new Jacobian in each iteration; a
    stage in which func is not finite is solved again with a new one before its step is cut.

    An iterate is also accepted if its updates no longer shrink and are no larger than rounding makes them: an
    equation A + B + C = 1 determines a small C only to 1e-16.

    Parameters
    ----------
    rtol, atol : float, optional
        Weights of that norm; ``atol`` may be a tensor that broadcasts to y0, or one for each of its parts.
        Default for adaptive steps: 1 % of the
        step tolerance of each component. Default for ``Fixed``, ``Grid`` and ``Recorded`` steps, where
        nothing else bounds the error: 1e-10 of the component, and 1e-12 of its value at the start of the
        step, so that the unit of the state does not matter. For float32 states ``rtol`` is at least what
        float32 resolves.
    max_iterations : int
        Iterations after which the stage has failed and the step is cut. Default 15.

    Raises
    ------
    TypeError, ValueError
        For tolerances that are not positive, or another number of iterations than a positive whole one.

    Examples
    --------
    >>> newton = stiffml.Newton(rtol=1e-12, atol=1e-14)
    >>> y = stiffml.odeint(func, y0, t, method="beuler", steps=stiffml.Grid(), newton=newton)
    >>> y[-1, 0].item()  # 1/(1 + h), to rounding
    0.5
    """

    rtol: float | None = None
    atol: Any = None
    max_iterations: int = 15

    def __post_init__(self) -> None:
        if self.rtol is not None:
            object.__setattr__(self, "rtol", number("Newton: rtol", self.rtol, above=0))
        if isinstance(self.atol, tuple | dict):  # of a state of several tensors, which the solve knows
            for leaf in tree_leaves(self.atol):
                positive("Newton: atol", leaf)
        elif self.atol is not None:
            object.__setattr__(self, "atol", positive("Newton: atol", self.atol))
        limit = whole("Newton: max_iterations", self.max_iterations, most=2**31 - 1)
        object.__setattr__(self, "max_iterations", limit)


@dataclass(frozen=True)
class NewtonLimits:
    """:class:`Newton` with its defaults filled in.

    ``atol`` is one number, or an array (size,) with one for each flat component. None: 1 % of ``rtol`` times
    the value of each component at the start of the step.
    """

    rtol: float
    atol: float | np.ndarray | None
    max_iterations: int


@dataclass(frozen=True)
class Tolerances:
    """Error tolerances of adaptive steps.

    Each is one number, or an array (size,) with one for each flat component.
    """

    rtol: float | np.ndarray
    atol: float | np.ndarray


@dataclass(frozen=True)
class Disk:
    """Keep checkpoints in a file in ``folder``, which must exist.

    The file has no name. It is deleted with the last reference to the solution, or when the process ends.

    Parameters
    ----------
    folder : str or os.PathLike
        Room for all states is needed there: steps times the bytes of a state.

    Raises
    ------
    TypeError
        For what is no path.

    Examples
    --------
    >>> import tempfile
    >>> start = torch.ones(2, dtype=torch.float64, requires_grad=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     y = stiffml.odeint(func, start, t, adjoint=stiffml.Discrete(checkpoints=stiffml.Disk(folder)))
    ...     y[-1, 0].backward()
    >>> start.grad[0]
    tensor(0.3679, dtype=torch.float64)
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

        - ``"stages"`` (default): all states, and the stages that Newton's iteration found. The fastest.
        - ``"solutions"``: all states; stages are solved for again.
        - an int: Keep at most this many states and recompute the rest. BDF of order k needs k states a
          checkpoint. With fewer checkpoints each step is recomputed more often.
        - ``Disk(folder)``: all states, in a file.

        The gradients of these agree within Newton's tolerance.
    graphs : float
        With ``"stages"``, how many bytes an explicit method may use besides for the graphs of ``func``, which
        spare the backward pass an evaluation for each stage. Steps for which there is no room are evaluated
        again. Default 2 GB, where a tape of the whole solve has no bound; 0 for none, ``math.inf`` for all.

    Raises
    ------
    ValueError
        For anything else.

    Examples
    --------
    >>> start = torch.ones(2, dtype=torch.float64, requires_grad=True)
    >>> y = stiffml.odeint(func, start, t, rtol=1e-4, adjoint=stiffml.Discrete(checkpoints=20))
    >>> y[-1, 0].backward()
    >>> start.grad[0]  # dy/dy0 is exp(-1)
    tensor(0.3679, dtype=torch.float64)
    """

    checkpoints: str | int | Disk = "stages"
    graphs: float = 2.0**31

    def __post_init__(self) -> None:
        if isinstance(self.graphs, bool) or not isinstance(self.graphs, int | float) or not self.graphs >= 0:
            raise ValueError(f"Discrete: graphs must be a number of bytes, not {described(self.graphs)}")
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
