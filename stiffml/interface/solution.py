"""What a solve returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils._pytree import tree_leaves

from stiffml.checks import described, texts
from stiffml.display import Table, printed, short, table, with_units
from stiffml.errors import Status
from stiffml.interface.forms.form import Form, real_parts
from stiffml.interface.interpolation import step_states, step_times
from stiffml.interface.jacobian import jacobian_of
from stiffml.interface.labels import Labels, plain_dataset
from stiffml.interface.piece import Piece
from stiffml.run.crossings import Event, Events
from stiffml.stats import Stats
from stiffml.steps import Recorded
from stiffml.system.state import State

if TYPE_CHECKING:  # slow to import
    import matplotlib.figure
    import xarray


@printed
@dataclass
class Solution:
    """The states at the output times and how they were obtained.

    Attributes
    ----------
    t : Tensor
        Output times reached, (n,). If every sample has times of its own, all of them, (\\*batch, n).
    y : Tensor, or tensors in the structure of y0
        States, (n, \\*y0.shape), differentiable. If every sample has times of its own, y[j, i] is sample i at
        t[i, j], and NaN where a sample that failed has not come.
    status : Status
    message : str
        The status in words.
    stats : Stats
    steps : Recorded, or tuple of Recorded
        The steps taken, to be passed as ``steps=`` of another solve. If every sample has times of its own,
        those of each sample.
    event : Event or None
        Time and state of the event that ended the solve.
    events : tuple of Events
        For each event function all times and states at which it was zero.
    interpolant : callable
        What :meth:`interpolate` calls; for stiffml's own use.
    pieces : tuple of Piece
        The runs that the solve consists of; for stiffml's own use.
    labels : Labels or None
        Names and units, of solutions of a problem of the library or one's own.
    form : Form or None
        The form of states that are neither a real tensor nor a tuple of them; for stiffml's own use.

    Examples
    --------
    >>> sol = stiffml.solve(func, y0, t)
    >>> sol.t, sol.y.shape, sol.success
    (tensor([0., 1.], dtype=torch.float64), torch.Size([2, 2]), True)
    >>> len(sol.step_times) == sol.stats.accepted + 1  # the start and the ends of all steps
    True
    """

    t: Tensor
    y: State
    status: Status
    message: str
    stats: Stats
    steps: Recorded | tuple[Recorded, ...]
    event: Event | None
    interpolant: Callable[[Tensor], State] = field(repr=False)
    pieces: tuple[Piece, ...] = field(repr=False)
    events: tuple[Events, ...] = ()
    labels: Labels | None = field(repr=False, default=None)
    form: Form | None = field(repr=False, default=None)

    def _rows(self) -> list[tuple[str, str]]:
        parts = tree_leaves(self.y)
        times = self.t.detach()
        span = f", {float(times.min()):g} to {float(times.max()):g}" if times.numel() else ""
        shape = "times" if times.dim() == 1 else f"{tuple(times.shape)} times"
        rows = [
            ("status", f"{self.status.value}: {self.message}"),
            ("t", f"{times.shape[-1] if times.dim() == 1 else ''} {shape}{span}"),
            ("y", ", ".join(short(part) for part in parts)),
        ]
        if self.event is not None:
            rows.append(("event", f"at t = {float(self.event.t.detach()):.10g}"))
        if self.events:
            rows.append(("events", ", ".join(str(len(one.t)) for one in self.events)))
        return [*rows, *self.stats.rows()]

    def __str__(self) -> str:
        return table("Solution", self._rows())

    def _table(self) -> Table:
        return (), self._rows()

    @property
    def success(self) -> bool:
        """Whether the solve reached the last output time, or its event, or was ended by its callback."""
        return self.status in (Status.SUCCESS, Status.EVENT, Status.STOPPED)

    def interpolate(self, t: Tensor) -> State:
        """The solution at any times of the span, (n, \\*y0.shape), differentiable, also with respect to t.

        Some methods have an interpolant of their own: ``dopri5`` (Hairer, Nørsett & Wanner, Solving ODEs I,
        section II.6), ``rosw-ra34pw2``, and ``arkimex-2c 2d 2e 3 4 5`` without a mass matrix. For BDF it is
        the polynomial that the formula of the step is made from. For other methods it is the polynomial
        through the ends of nearby steps; its degree is the method's order, at most 5. A warning tells where a
        run has fewer steps than that, as methods of high order may: the degree is their number then. The
        interpolant is continuous, but its derivative jumps at the ends of steps.

        Parameters
        ----------
        t : Tensor
            (n,) times, in any order. If every sample has times of its own, (\\*batch, n) times too.

        Raises
        ------
        ValueError
            For times outside the span that was integrated, or a solution without steps.

        Examples
        --------
        >>> sol = stiffml.solve(func, y0, t)
        >>> sol.interpolate(torch.tensor([0.25, 0.5], dtype=torch.float64))[:, 0]  # exp(-0.25), exp(-0.5)
        tensor([0.7788, 0.6065], dtype=torch.float64)
        """
        return self.interpolant(t)

    @property
    def step_times(self) -> Tensor:
        """The start and the ends of all steps, (steps + 1,), in double precision, without a gradient.

        The time of a jump is there twice: before it and after it.
        """
        self._require_one_time("step_times")
        return step_times(self.pieces)

    def step_states(self) -> State:
        """The states at :attr:`step_times`, (steps + 1, \\*y0.shape), differentiable.

        States that were not kept are computed again.

        Examples
        --------
        >>> sol = stiffml.solve(func, y0, t, method="cn", steps=stiffml.Grid(4))
        >>> sol.step_states()[:, 0]
        tensor([1.0000, 0.7778, 0.6049, 0.4705, 0.3660], dtype=torch.float64)
        """
        self._require_one_time("step_states")
        found = step_states(self.pieces)
        return found if self.form is None else self.form.own(found)

    def jacobian(self, inputs: Tensor | Sequence[Tensor]) -> State | tuple[State, ...]:
        """The derivatives of all outputs with respect to tensors that the solve depended on.

        What ``torch.autograd.grad(y[i].flatten()[j], inputs)`` gives, for all outputs i and components j at
        once: exact to rounding, with the steps held fixed. For least squares.

        The steps are differentiated forwards, once for each number in y0 and parameters, or backwards, once
        for each number in Y, whichever are fewer. Where Jacobians are small dense blocks, all steps of a
        segment are solved for at once with all right-hand sides, and the derivatives of func by parameters of
        modules are evaluated at all of them in one call. With respect to times and breakpoints, and after an
        event, it is one gradient for each number in Y.

        Parameters
        ----------
        inputs : Tensor or sequence of Tensor
            Tensors p that require gradients: y0, parameters of func, breakpoints, times, or what these were
            computed from.

        Returns
        -------
        Tensor or tuple of Tensor
            dY/dp, (n, \\*y0.shape, \\*p.shape), without a graph; zero where Y does not depend on p. For a
            sequence a tuple of these; for a tuple state each is a tuple.

        Raises
        ------
        ValueError
            For an input that requires no gradient, a solve with gradients off, or complex states.
        NonFiniteDerivativeError
            If derivatives are NaN because one of func is.
        NotImplementedError
            For a field that is spread over processes.

        Examples
        --------
        >>> k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        >>> sol = stiffml.solve(lambda t, y: -k * y, y0, t, rtol=1e-9)
        >>> sol.jacobian(k)[-1]  # d/dk exp(-k) is -exp(-2)
        tensor([-0.1353, -0.1353], dtype=torch.float64)
        >>> J = sol.jacobian([k])[0].reshape(-1, 1)  # rows: all outputs; columns: all numbers in parameters
        >>> step = torch.linalg.lstsq(J, (0.1 - sol.y).detach().reshape(-1, 1)).solution  # Gauss-Newton
        """
        form = self.form
        if form is None:
            return jacobian_of(self.pieces, self.t, self.y, inputs)
        if any(form.is_complex):
            raise ValueError(
                "jacobian: is of real states; for complex ones use torch.autograd.functional.jacobian, or "
                "y0=torch.view_as_real(z0)"
            )
        found = jacobian_of(self.pieces, self.t, form.real("y", self.y), inputs)
        return form.own(found) if isinstance(inputs, Tensor) else tuple(form.own(one) for one in found)

    def to_xarray(self, names: Sequence[str] | None = None, units: str | None = None) -> xarray.Dataset:
        """The outputs as an xarray Dataset by the CF conventions, with the statistics as attributes.

        ``state`` over ``time`` and ``component``; of a tuple ``state0``, ``state1``, …; further dimensions
        are ``state_dim1``, …, or the grid of a problem. Solutions of problems have names and units of theirs,
        and say in attributes how they were solved.

        Parameters
        ----------
        names : sequence of str, optional
            Names of the last dimension's components; they become the coordinate ``component``.
        units : str, optional
            Units of y.

        Examples
        --------
        >>> data = stiffml.solve(func, y0, t).to_xarray(names=["slow", "fast"], units="mol/L")
        >>> dict(data.state.sizes), round(float(data.state.sel(component="slow")[-1]), 4)
        ({'time': 2, 'component': 2}, 0.3679)
        """
        self._require_one_time("to_xarray")
        names = None if names is None else texts("names", names)
        if units is not None and not isinstance(units, str):
            raise TypeError(f"units must be a text, not {described(units)}")
        arrays = [part.detach().cpu().numpy() for part in tree_leaves(self.y)]
        costs = {key: value for key, value in vars(self.stats).items() if key != "adjoint"}
        about = {"status": self.status.value, "message": self.message, **costs}
        time = self.t.detach().cpu().numpy()
        if self.labels is not None and names is None and units is None:
            return self.labels.dataset(time, {"state": arrays[0]}, **about)
        return plain_dataset(time, arrays, names, units, about)

    def plot(self, names: Sequence[str] | None = None) -> matplotlib.figure.Figure:
        """Every component over time, one panel each, with the states at and between all steps.

        Axes are logarithmic where decades matter; a complex component has two panels, of its real and its
        imaginary part.

        Examples
        --------
        >>> figure = stiffml.solve(func, y0, t).plot(["slow", "fast"])
        >>> figure.savefig("decay.png")  # doctest: +SKIP
        """
        from stiffml.interface.dense import dense
        from stiffml.plotting import plot_states

        self._require_one_time("plot")
        times, states, joined = dense(
            self.t, real_parts(self.y), self.pieces, lambda t: real_parts(self.interpolant(t))
        )
        label = "time"
        if self.labels is not None:
            names = self.labels.components if names is None and not self.labels.grid else names
            label = with_units(label, self.labels.time_units)
        return plot_states(times, states, names, label, joined=joined)

    def _require_one_time(self, name: str) -> None:
        if self.t.dim() > 1:
            raise ValueError(
                f"{name}: every sample has times of its own; sample i is in sol.t[i] and sol.y[:, i]"
            )
