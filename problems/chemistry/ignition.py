"""When a mixture ignites."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stiffml import Recorded, Solution, solve
from stiffml.checks import described, flag, number
from stiffml.system.state import State

_FIRST, _GROWTH = 1e-6, 3.0
"""s, and by what horizons grow."""

_LEAST_RISE = 1.0
"""K, by which what has ignited is hotter."""

_STILL = 0.02
"""A reactor is at its end where its temperature, at its present slope, would change by less than this
fraction of the rise so far if it had as much time again."""

_POINTS, _ROUNDS = 17, 3
"""Of the search within the steps around a peak: points, each time between the two around the peak."""


class NotIgnitedError(ValueError):
    """A mixture does not ignite within the time allowed, or the quantity has no peak in it."""


def ignition_delay(
    reactor: nn.Module,
    y0: Tensor,
    *,
    species: str | None = None,
    rtol: float = 1e-8,
    longest: float = 1e3,
    compile: bool = False,
) -> Tensor:
    """The time at which the temperature rises fastest, or a species has its peak; with a gradient.

    The time of integration need not be known. It grows threefold from 1e-6 s on, until all temperatures stand
    still. The time of the peak is that at which d²T/dt², or dY/dt, vanishes, found on the interpolated
    solution.

    Where a gradient is asked for (of ``y0`` or parameters of the reactor), the reactor is solved once more,
    with outputs at these times t*, and the time returned is t* − g/(dg/dt) with the g that vanishes there:
    one more step of Newton's method, whose derivative is that of the implicit function, by the adjoint of
    that solve. As the steps are held in it, the error of a gradient is larger than that of the delay: by
    default 2e-5 for hydrogen at 1000 K, and 4e-4 for the flat peak of OH; it falls with ``rtol``.

    Parameters
    ----------
    reactor : nn.Module
        Such as :class:`ConstantPressureReactor`: reactor(t, y) autonomous, with ``components`` of which one
        is "T", in K.
    y0 : Tensor
        (…, n), each row a mixture of its own. They are solved together.
    species : str, optional
        Whose largest mass fraction is the ignition. Default: the steepest rise of the temperature.
    rtol : float
        Of the solve; absolute tolerances are rtol · 1 K and rtol · 1e-6. Default 1e-8, which gives the delay
        to about 1e-6.
    longest : float
        s, after which a mixture counts as one that does not ignite. Default 1000.
    compile : bool
        As of :func:`stiffml.solve`, for many delays of a small mechanism. Parameters that require gradients
        are arguments of the code, and may change; other constants are part of it. Default False.

    Returns
    -------
    Tensor
        (…) in s.

    Raises
    ------
    NotIgnitedError
        If the temperature of a row has not risen, by 1 K or more, and come to a stand by ``longest``; or if
        the species has no peak before that.
    SolveError
        Where the solve fails.

    Examples
    --------
    >>> import torch
    >>> from problems.chemistry import ConstantPressureReactor, Mechanism, ignition_delay
    >>> mechanism = Mechanism.from_yaml("h2o2.yaml")
    >>> reactor = ConstantPressureReactor(mechanism, pressure=101325.0)
    >>> y0 = reactor.state(torch.tensor([1000.0, 1200.0]).double(), mechanism.premixed(1.0, "H2"))
    >>> [f"{delay:.3g}" for delay in ignition_delay(reactor, y0, rtol=1e-6)]  # s
    ['0.000312', '4.53e-05']
    """
    components = getattr(reactor, "components", ())
    if not isinstance(reactor, nn.Module) or "T" not in components:
        raise TypeError(
            f'reactor must be a module with components, one of them "T", not {described(reactor)}'
        )
    if not isinstance(y0, Tensor) or y0.dim() == 0 or y0.shape[-1] != len(components):
        raise ValueError(f"y0 must be states of {len(components)} components, not {described(y0)}")
    search = _Search(
        reactor,
        tuple(components),
        species,
        number("rtol", rtol, above=0),
        number("longest", longest, above=0),
        flag("compile", compile),
    )
    with torch.no_grad():
        found = search.peaks(y0.detach())
    if torch.is_grad_enabled() and (y0.requires_grad or any(p.requires_grad for p in reactor.parameters())):
        return search.differentiable(y0, found)
    return found


def peak_time(times: Tensor, values: Tensor) -> Tensor:
    """Where values (n, …) at increasing times (n,) have their maximum, by the parabola through three of them.

    Parameters
    ----------
    times : Tensor
        (n,), at least 3, increasing, in any unit.
    values : Tensor
        (n, …)

    Returns
    -------
    Tensor
        (…), in the unit of times, differentiable by values.

    Raises
    ------
    NotIgnitedError
        If the largest value is the first or the last.
    ValueError
        For fewer than three times, shapes that do not fit, or values that are not finite.

    Examples
    --------
    >>> from problems.chemistry import peak_time
    >>> at = torch.linspace(0, 2, 5).double()
    >>> peak_time(at, -((at - 0.8) ** 2))
    tensor(0.8000, dtype=torch.float64)
    """
    if times.ndim != 1 or len(times) < 3 or values.shape[:1] != times.shape:
        raise ValueError(
            "peak_time takes three times or more, (n,), and values (n,) or (n, …), "
            f"not {tuple(times.shape)} and {tuple(values.shape)}"
        )
    if not bool(values.isfinite().all()):
        raise ValueError("the values are not all finite")
    peak = values.argmax(dim=0)
    if bool(((peak == 0) | (peak == len(times) - 1)).any()):
        first, last = float(times[0]), float(times[-1])
        raise NotIgnitedError(f"the largest value is at an end of the times, {first:.6g} to {last:.6g}")
    around = torch.stack([peak - 1, peak, peak + 1])
    t0, t1, t2 = times[around]
    f0, f1, f2 = values.gather(0, around) if values.ndim > 1 else values[around]
    # Divided differences; the parabola's slope is zero at its vertex.
    first_slope = (f1 - f0) / (t1 - t0)
    second = ((f2 - f1) / (t2 - t1) - first_slope) / (t2 - t0)
    return (t0 + t1) / 2 - first_slope / (2 * second)


def plain(state: State) -> Tensor:
    """A state that is no tuple."""
    assert isinstance(state, Tensor)
    return state


@dataclass(frozen=True)
class _Search:
    reactor: nn.Module
    components: tuple[str, ...]
    species: str | None
    rtol: float
    longest: float
    compile: bool

    def __post_init__(self) -> None:
        if self.species is not None and self.species not in self.components:
            known = ", ".join(self.components)
            raise ValueError(f"species: there is none {self.species!r}; there are {known}")

    @property
    def temperature(self) -> int:
        return self.components.index("T")

    def peaks(self, y0: Tensor) -> Tensor:
        """(…) times of the peaks."""
        course = _Course([], [])
        state, begin, end = y0, 0.0, _FIRST
        start = y0[..., self.temperature]
        while True:
            sol = self._solved(state, torch.tensor([begin, end], dtype=torch.float64), outputs="interpolate")
            course.add(sol)
            state = plain(sol.y)[-1]
            slope = self._slope(state)[..., self.temperature].abs()
            rise = (state[..., self.temperature] - start).abs()
            going_on = (rise < _LEAST_RISE) | (slope * end > _STILL * rise)
            if not going_on.any():
                return self._refined(course, y0)
            if end >= self.longest:
                row = int(going_on.reshape(-1).nonzero()[0])
                hotter = float(rise.reshape(-1)[row])
                raise NotIgnitedError(
                    f"mixture {row} of {going_on.numel()}, counted from 0, has not ignited and come to a "
                    f"stand by {self.longest:g} s: its temperature has changed by {hotter:.3g} K. Try a "
                    "hotter start or other proportions, or a larger longest"
                )
            begin, end = end, min(end * _GROWTH, self.longest)

    def differentiable(self, y0: Tensor, found: Tensor) -> Tensor:
        """The same times, with gradients."""
        flat = found.reshape(-1)
        order = flat.unique()
        t = torch.cat([flat.new_zeros(1), order])
        y = plain(self._solved(y0, t).y)[1:].reshape(len(order), len(flat), -1)
        rows = torch.arange(len(flat))
        states = y[torch.searchsorted(order, flat), rows].reshape(y0.shape)
        value = self._vanishing(states)
        with torch.no_grad():
            change = torch.func.jvp(self._vanishing, (states,), (self._slope(states),))[1]
        return found - value / change

    def _solved(self, y0: Tensor, t: Tensor, outputs: str = "steps") -> Solution:
        atol = torch.full_like(y0, 1e-6 * self.rtol, requires_grad=False)
        atol[..., self.temperature] = self.rtol
        return solve(
            self.reactor,
            y0,
            t.to(y0),
            rtol=self.rtol,
            atol=atol,
            batch_dims=y0.dim() - 1,
            outputs=outputs,
            compile=self.compile,
        )

    def _slope(self, y: Tensor) -> Tensor:
        return self.reactor(y.new_zeros(()), y)

    def _quantity(self, y: Tensor) -> Tensor:
        """What has a peak."""
        if self.species is None:
            return self._slope(y)[..., self.temperature]
        return y[..., self.components.index(self.species)]

    def _vanishing(self, y: Tensor) -> Tensor:
        """Its derivative in time."""
        return torch.func.jvp(self._quantity, (y,), (self._slope(y),))[1]

    def _refined(self, course: _Course, y0: Tensor) -> Tensor:
        times = course.steps()
        values = torch.cat([self._quantity(state) for state in course.states()]).reshape(len(times), -1)
        peak = values.argmax(dim=0)
        beyond = ((peak == 0) | (peak == len(times) - 1)).nonzero()
        if len(beyond):
            what = "the temperature rises fastest" if self.species is None else f"{self.species} has its peak"
            at = "start" if peak[beyond[0]] == 0 else "end"
            raise NotIgnitedError(
                f"mixture {int(beyond[0])} of {values.shape[1]}, counted from 0: {what} at the {at} of "
                f"the run, {float(times[peak[beyond[0]]]):.3g} s: there is no peak inside"
            )
        low, high = times[peak - 1], times[peak + 1]
        fractions = torch.linspace(0, 1, _POINTS, dtype=times.dtype)[:, None]
        for _ in range(_ROUNDS):
            grid = low + (high - low) * fractions  # (points, rows)
            states = course.at(grid).reshape(_POINTS, *y0.shape)
            value = self._vanishing(states).reshape(_POINTS, -1)
            # Where it falls through zero; of several places, that of the largest value.
            falls = (value[:-1] > 0) & (value[1:] <= 0)
            quantity = self._quantity(states).reshape(_POINTS, -1)[:-1]
            first = torch.where(falls, quantity, -torch.inf).argmax(dim=0, keepdim=True)
            low, high = (grid.gather(0, first + k)[0] for k in (0, 1))
            left, right = (value.gather(0, first + k)[0] for k in (0, 1))
        return (low + (high - low) * left / (left - right)).reshape(y0.shape[:-1])


@dataclass(frozen=True)
class _Course:
    """A run in parts: solutions, one after the other, and their steps."""

    parts: list[Solution]
    ends: list[Tensor]

    def add(self, sol: Solution) -> None:
        begin, end = sol.t.tolist()
        assert isinstance(sol.steps, Recorded)  # one t for all
        steps = torch.as_tensor(sol.steps.ends[0], dtype=torch.float64)
        self.parts.append(sol)
        self.ends.append((begin + (end - begin) * steps).clamp(max=end))

    def steps(self) -> Tensor:
        return torch.cat(self.ends)

    def states(self) -> list[Tensor]:
        return [plain(part.interpolate(ends)) for part, ends in zip(self.parts, self.ends, strict=True)]

    def at(self, times: Tensor) -> Tensor:
        """(points, rows, n) of times (points, rows): of each row, at its own times."""
        found = []
        last = torch.stack([ends[-1] for ends in self.ends])
        for row in range(times.shape[1]):
            which = torch.searchsorted(last, times[:, row].contiguous()).clamp(max=len(last) - 1)
            pieces = [
                plain(self.parts[int(part)].interpolate(times[which == part, row])) for part in which.unique()
            ]
            found.append(torch.cat(pieces).reshape(len(times), times.shape[1], -1)[:, row])
        return torch.stack(found, dim=1)
