"""Checks of a gradient against perturbed solves: Taylor remainders and central differences."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stiffml.checks import described, whole
from stiffml.checks import times as checked_times
from stiffml.display import Table, printed
from stiffml.interface.arguments import Arguments, named_arguments
from stiffml.interface.equations import space_of
from stiffml.interface.integrate import solved
from stiffml.interface.solution import Solution
from stiffml.methods import resolve
from stiffml.parameters.naming import each_once, given_names, named_parameters
from stiffml.parameters.passed import collected, module_of
from stiffml.settings import Newton
from stiffml.steps import Recorded
from stiffml.system.function.batching import Func
from stiffml.system.state import State

EXPONENTS = (7, 10, 13, 16, 19, 22)
"""Perturbations have the relative sizes 2⁻ᵏ, the largest first, until rounding shows."""


@dataclass(frozen=True)
class GradientCheck:
    """The check of one input's gradient.

    Attributes
    ----------
    name : str
        The input.
    rate : float
        The power of ε with which the remainder L(p + εd) − L(p) − ε g·d falls: 2 for a right gradient, 1 for
        a wrong one, inf if the remainder is only rounding.
    error : float
        Relative difference between g·d and central differences.

    Examples
    --------
    >>> check = stiffml.check_gradients(func, y0, t, method="cn", steps=stiffml.Grid(4))["y0"]
    >>> check.ok, check.error < 1e-6
    (True, True)
    """

    name: str
    rate: float
    error: float

    @property
    def ok(self) -> bool:
        """Whether the rate is at least 1.9 and the error at most 1e-6."""
        return self.rate >= 1.9 and self.error <= 1e-6


@printed
@dataclass(frozen=True)
class GradientReport:
    """The checks of all inputs; prints as a table.

    Examples
    --------
    >>> report = stiffml.check_gradients(func, y0, t, method="cn", steps=stiffml.Grid(4))
    >>> [check.name for check in report.checks]
    ['y0', 't']
    """

    checks: tuple[GradientCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every rate is at least 1.9 and every error at most 1e-6."""
        return all(check.ok for check in self.checks)

    def __getitem__(self, name: str) -> GradientCheck:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no input {name!r}; checked were {', '.join(c.name for c in self.checks)}")

    def _table(self) -> Table:
        rows = [(c.name, f"{c.rate:.3f}", f"{c.error:.1e}", "" if c.ok else "wrong") for c in self.checks]
        return ("input", "Taylor rate", "relative error", ""), rows

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [f"{'input':{width}}  Taylor rate  relative error"]
        for check in self.checks:
            verdict = "" if check.ok else "  <- wrong"
            lines.append(f"{check.name:{width}}  {check.rate:11.3f}  {check.error:14.1e}{verdict}")
        return "\n".join(lines)


@named_arguments()
def check_gradients(
    func: Func, y0: State, t: Tensor, *, params: Iterable[Tensor] = (), seed: int = 0, **arguments
) -> GradientReport:
    """Compare the adjoint gradient with perturbed solves, for y0, every parameter and t.

    The gradient is that of a quadratic loss of the outputs. Perturbed solves repeat the steps (as fractions
    of the output intervals), since the adjoint holds them fixed. The remainder of the first-order Taylor
    expansion must then fall as ε².

    Parameters
    ----------
    func, y0, t, params
        As for :func:`stiffml.solve`; float64, since float32 has no room for the test.
    seed : int
        For the loss and the directions. Default 0.
    **arguments
        As for :func:`stiffml.solve`. ``newton`` is tight by default: the adjoint is exact only if the steps
        are solved exactly.

    Returns
    -------
    GradientReport
        Has a check ``y0`` (``y0[i]`` for a tuple), a check ``t``, and one for each parameter by its name.
        Parameters that were not passed are named as in :func:`stiffml.sensitivities`.

    Examples
    --------
    >>> report = stiffml.check_gradients(func, y0, t, method="cn", steps=stiffml.Grid(4))
    >>> report.ok, round(report["y0"].rate, 2)
    (True, 2.0)
    """
    extra = collected(params)
    asked = Arguments(func, y0, t, params=extra, **arguments)
    if resolve(asked.method).newton and asked.newton is None:
        asked = dataclasses.replace(asked, newton=Newton(rtol=1e-13, atol=1e-17))
    newton = asked.newton
    if isinstance(newton, Newton):
        # A repeated step is known to have a solution and must not be cut, but has another first guess.
        newton = dataclasses.replace(newton, max_iterations=50)
    # Bounds and tolerances only choose steps, and perturbed solves repeat those of the first.
    repeated = dataclasses.replace(asked, rtol=None, atol=None, bounds=None, newton=newton)
    generator = torch.Generator().manual_seed(whole("seed", seed, least=0))
    parts = y0 if isinstance(y0, tuple) else (y0,)
    if not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"y0 must be a tensor or a tuple of tensors, not {described(y0)}")
    t = checked_times("t", t)
    if (t.detach()[1:] == t.detach()[:-1]).any():
        raise ValueError(
            "t: a repeated time cannot be moved alone to try a derivative; leave repetitions out"
        )
    if any(part.dtype != torch.float64 for part in parts):
        raise ValueError("check_gradients needs y0 in float64")
    if space_of(func).is_distributed:
        raise NotImplementedError("check_gradients of a field over several processes; use one process")

    def run(
        state: tuple[Tensor, ...], times: Tensor, steps: Recorded | tuple[Recorded, ...] | None
    ) -> list[Tensor]:
        chosen = asked if steps is None else dataclasses.replace(repeated, steps=steps)
        y = state if isinstance(y0, tuple) else state[0]
        solution = solved(dataclasses.replace(chosen, y0=y, t=times))
        assert not isinstance(steps, tuple)  # t is one-dimensional
        if steps is not None and sum(map(len, steps.ends)) != solution.stats.accepted:
            raise RuntimeError("check_gradients: a perturbed solve could not repeat the recorded steps")
        solutions.append(solution)
        return list(solution.y) if isinstance(solution.y, tuple) else [solution.y]

    solutions: list[Solution] = []
    leaves = tuple(part.detach().clone().requires_grad_() for part in parts)
    times = t.detach().double().clone().requires_grad_()
    outputs = run(leaves, times, None)
    first = solutions[0]
    steps = first.steps
    magnitudes = [out.detach().abs().amax(dim=0) for out in outputs]
    magnitudes = [torch.where(size > 0, size, torch.ones_like(size)) for size in magnitudes]
    weights = [torch.rand(out.shape, generator=generator, dtype=out.dtype) + 0.5 for out in outputs]

    def loss(values: list[Tensor]) -> Tensor:
        scaled = [v / m for v, m in zip(values, magnitudes, strict=True)]
        return sum(
            ((w * (s + s**2 / 2)).sum() for w, s in zip(weights, scaled, strict=True)), torch.zeros(())
        )

    used = [p for piece in first.pieces for p in piece.tape.replay.system.f.parameters]
    named = _named_inputs(func, extra, used)
    inputs = [*leaves, times, *named.values()]
    grads = torch.autograd.grad(loss(outputs), inputs, allow_unused=True)
    gradients = [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, grads, strict=True)]

    def value() -> float:
        with torch.no_grad():
            return loss(run(tuple(leaf.detach() for leaf in leaves), times.detach(), steps)).item()

    names = [f"y0[{i}]" for i in range(len(leaves))] if isinstance(y0, tuple) else ["y0"]
    gaps = times.detach().diff().abs()
    nearest = torch.minimum(torch.cat([gaps[:1], gaps]), torch.cat([gaps, gaps[-1:]]))
    sizes = [p.detach().abs().mean() for p in named.values()]
    sizes = [torch.ones_like(size) if size == 0 else size for size in sizes]
    scales = [*magnitudes, nearest, *(s.expand_as(p) for s, p in zip(sizes, named.values(), strict=True))]
    checks = [
        _check(name, tensor, gradient, scale, value, generator)
        for name, tensor, gradient, scale in zip(
            [*names, "t", *named], inputs, gradients, scales, strict=True
        )
    ]
    return GradientReport(tuple(checks))


def _named_inputs(func: Func, extra: tuple[Tensor, ...], used: Sequence[Tensor]) -> dict[str, Tensor]:
    """A module's parameters, ``params``, and others that func uses, if they need gradients; each once."""
    named = given_names(module_of(func), extra) | named_parameters(func, extra, used)
    return {name: p for name, p in each_once(named).items() if p.requires_grad}


def _check(
    name: str,
    tensor: Tensor,
    gradient: Tensor,
    scale: Tensor,
    value: Callable[[], float],
    generator: torch.Generator,
) -> GradientCheck:
    # Along the signs of the gradient, so that its components add up instead of cancelling.
    signs = torch.where(gradient < 0, -1.0, 1.0)
    direction = signs * scale * (torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.1)
    slope = float((gradient * direction).sum())
    original = tensor.detach().clone()

    def at(epsilon: float) -> float:
        # By .data, so that graphs of the caller's do not notice a change.
        tensor.data.copy_(original + epsilon * direction)
        try:
            return value()
        finally:
            tensor.data.copy_(original)

    base = at(0.0)
    # For these ε the remainder is only rounding, that of Newton's iteration included.
    tiny = (1e-10, -1e-10, 3e-10, -3e-10)
    noise = max(1e-15 * abs(base), 1e-300, *(abs(at(epsilon) - base - epsilon * slope) for epsilon in tiny))
    remainders: list[float] = []
    differences: list[float] = []
    for exponent in EXPONENTS:
        epsilon = 2.0**-exponent
        up, down = at(epsilon), at(-epsilon)
        differences.append((up - down) / (2 * epsilon))
        remainder = abs(up - base - epsilon * slope)
        if remainder < 100 * noise:
            break
        remainders.append(remainder)
    # The smallest perturbations above rounding are the sharpest test.
    rate = math.log(remainders[-2] / remainders[-1], 8) if len(remainders) > 1 else math.inf
    # Richardson extrapolation removes the ε² of central differences.
    better = [(64 * fine - coarse) / 63 for coarse, fine in itertools.pairwise(differences)]
    error = min(abs(d - slope) / max(abs(d), abs(slope), noise) for d in [*differences, *better])
    return GradientCheck(name, rate, error)
