"""The sections of a time span between breakpoints and jumps, and the outputs in each."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stiffml.interface.jumps import Jump


@dataclass(frozen=True)
class Boundary:
    """Where one section ends and the next begins: a breakpoint, jumps, or both, at one time.

    Attributes
    ----------
    times : list of Tensor
        (), in double precision, equal but for rounding; each with its own gradient.
    jumps : list of Jump or None
        For each of these times the jump there; None for a breakpoint.
    """

    times: list[Tensor]
    jumps: list[Jump | None]

    @property
    def has_jump(self) -> bool:
        return any(jump is not None for jump in self.jumps)


@dataclass(frozen=True)
class Section:
    """A part of the time span within which func and the state are smooth.

    Attributes
    ----------
    begin, end : Boundary
        At an end of the time span without a jump: with that time only.
    breaks : (float, float)
        The times of the breakpoints before and after, infinite if there is none. They may lie at an end of
        the section or outside of it.
    """

    begin: Boundary
    end: Boundary
    breaks: tuple[float, float]

    def reaches(self, t: Tensor) -> int:
        """How many of the next times t lie in the section, compared in the precision of t."""
        begin, end = (float(time.detach()) for time in (self.begin.times[-1], self.end.times[0]))
        values, last = t.detach().double(), float(torch.tensor(end, dtype=t.dtype))
        is_in = values <= last if end > begin else values >= last
        return int((is_in | _same(values, end)).sum())

    def outputs(self, t: Tensor, taken: int) -> tuple[Tensor, int, bool]:
        """The times of the section, how many of ``t[taken:]`` lie in it, and whether the last is its end."""
        reached, end = self.reaches(t[taken:]), self.end.times[0]
        outputs = t[taken : taken + reached].double()
        rounded = float(torch.tensor(float(end.detach()), dtype=t.dtype))
        on_output = reached > 0 and (
            float(outputs[-1].detach()) == rounded or bool(_same(outputs[-1].detach(), float(end.detach())))
        )
        last = end
        if on_output and not self.end.has_jump:
            # An output that equals the end up to rounding is moved there; its gradient still goes to t.
            last = outputs[-1] + (end - outputs[-1]).detach()
        times = torch.cat([self.begin.times[-1][None], outputs[: reached - on_output], last[None]])
        return times, reached, on_output


def _same(values: Tensor, at: float) -> Tensor:
    """Whether times equal another but for rounding."""
    return (values - at).abs() <= 4 * torch.finfo(torch.float64).eps * abs(at)


def sections_of(t: Tensor, breaks: Tensor, jumps: list[Jump]) -> list[Section]:
    """The sections from t[0] to t[-1], in that order.

    The first begins with the jumps at t[0], the last ends with those at t[-1]. Other times outside are
    ignored.
    """
    breaks = breaks.to(t.device, torch.float64)
    direction = 1 if t[-1] > t[0] else -1
    breaks = breaks[torch.argsort(direction * breaks.detach())]
    if (breaks.diff() == 0).any():
        raise ValueError("breakpoints must differ from one another")
    first, last = (direction * float(t[i].detach()) for i in (0, -1))

    def place(time: Tensor) -> int:
        """−1 before t[0], 0 there, 1 between, 2 at t[-1], 3 after it, up to the rounding of t."""
        rounded = direction * float(time.detach().to(t.dtype))
        exact = (direction * time.detach()).cpu()
        if rounded == first or bool(_same(exact, first)):
            return 0
        if rounded == last or bool(_same(exact, last)):
            return 2
        return -1 if rounded < first else 1 if rounded < last else 3

    at_begin = [jump for jump in jumps if place(jump.time) == 0]
    at_end = [jump for jump in jumps if place(jump.time) == 2]
    inner: list[tuple[Tensor, Jump | None]] = [(b, None) for b in breaks.unbind() if place(b) == 1]
    inner += [(jump.time.to(t.device), jump) for jump in jumps if place(jump.time) == 1]
    boundaries = [
        Boundary([t[0].double(), *(jump.time.to(t.device) for jump in at_begin)], [None, *at_begin]),
        *_grouped(inner, direction),
        Boundary([*(jump.time.to(t.device) for jump in at_end)] or [t[-1].double()], list(at_end) or [None]),
    ]
    # func jumps at breakpoints, also at those at an end of t, which make no new section.
    known = [-direction * math.inf, *breaks.tolist(), direction * math.inf]
    before = sum(place(b) <= 0 for b in breaks.unbind())
    sections = []
    for begin, end in itertools.pairwise(boundaries):
        if begin is not boundaries[0]:
            before += begin.jumps.count(None)
        sections.append(Section(begin, end, (known[before], known[before + 1])))
    return sections


def _grouped(inner: list[tuple[Tensor, Jump | None]], direction: int) -> list[Boundary]:
    """Times that are equal but for rounding make one boundary: breakpoints first, then jumps as given."""
    groups: list[list[tuple[Tensor, Jump | None]]] = []
    for item in sorted(inner, key=lambda pair: direction * float(pair[0].detach())):
        if groups and bool(_same(item[0].detach(), float(groups[-1][-1][0].detach()))):
            groups[-1].append(item)
        else:
            groups.append([item])
    for group in groups:
        group.sort(key=lambda pair: -1 if pair[1] is None else pair[1].number)
    return [Boundary([time for time, _ in group], [jump for _, jump in group]) for group in groups]
