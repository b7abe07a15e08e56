"""How much of a parameter gradient comes by which mode and step, and what the method makes of each mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import described
from stiffml.diagnostics.eigen import KINDS, kind_of, meanings
from stiffml.diagnostics.reversed_steps import steps_backwards
from stiffml.diagnostics.states import require_one_process, span_of
from stiffml.gradients.adjoint import reverse
from stiffml.gradients.directions import Along
from stiffml.gradients.tape import Tape
from stiffml.interface.solution import Solution
from stiffml.parameters.naming import named_parameters
from stiffml.system.state import State

if TYPE_CHECKING:
    import xarray

NUMBERS = 64
"""Up to this many numbers in all parameters, each has contributions of its own."""

WIDEST = 300
"""Unknowns of a sample."""

Loss = Tensor | tuple[Tensor, ...] | Callable[[State], Tensor]


def gradient_by_mode(sol: Solution, loss: Loss) -> xarray.Dataset:
    """The gradient of a loss by the parameters, taken apart by steps and modes.

    The gradient is a sum over steps and evaluations of f of wᵀ ∂f/∂θ, w the multipliers of the adjoint. With
    Σⱼ M vⱼ wⱼᵀ = 1 between the two factors, v and w the modes of ∂f/∂y at the end of a step, it is a sum over
    modes too. What a step makes of a mode with z = hλ is told by its stability function R: it passes R(z) of
    a sensitivity on where the exact flow passes eᶻ; it responds to the mode's rate by R'(z), where the exact
    flow does by eᶻ; and a constant forcing of the mode moves its end by (R(z) − 1)/λ, instead of (eᶻ − 1)/λ.

    A- and L-stable methods have R'(z) → 0 as z → −∞, at best like 1/z: fast rates cannot be learned from
    steps much longer than their modes (Fronk & Petzold, The vanishing gradient problem for stiff neural
    differential equations, arXiv:2508.01519). The response to a forcing is kept, so that
    what fast modes follow can be.

    Parameters
    ----------
    sol : Solution
        Without breakpoints, event, ``Split`` or repeated times; gradients may have been off. At most 300
        unknowns a sample.
    loss : callable or Tensor
        loss(y) -> 0-d tensor; or such a tensor, computed from ``sol.y``; or dL/dy in the shape of ``sol.y``.

    Returns
    -------
    xarray.Dataset
        Over (step, mode), or (step, sample, mode) for a batch, the fastest decay first: ``re``, ``im`` of λ;
        ``kind``; ``amplification`` |R(z)|; ``exact`` |eᶻ|; ``rate_sensitivity`` |R'(z)|; ``forced``
        |(1 − R)/(1 − eᶻ)|; NaN for infinite modes. ``contribution`` (…, parameter): what the mode adds in the
        step to the derivative by a number θ; with more than 64 numbers, to the length of the gradient of a
        tensor, along which parts are projected. Those of complex pairs are halves of their sum; what infinite
        modes add is in the first of them. ``gradient`` (parameter) is the sum of contributions. ``time`` and
        ``size`` of the steps.

        For a multistep method R is the largest root for steps of equal size, and ``forced`` is that of a step
        from rest, the less the shorter the step. ``parameter_size`` are the parameters' own sizes. Where
        modes are nearly parallel, contributions of opposite signs may exceed their sum; ``condition`` (step,
        [sample]) tells, the condition number of the matrix of modes.

    Raises
    ------
    TypeError, ValueError, NotImplementedError

    Examples
    --------
    >>> from stiffml import diagnostics
    >>> k = torch.tensor([1.0, 1000.0], dtype=torch.float64, requires_grad=True)
    >>> sol = stiffml.solve(lambda t, y: -k * y, y0, t, method="cn", steps=stiffml.Grid(4))
    >>> found = diagnostics.gradient_by_mode(sol, lambda y: (y[-1] ** 2).sum())
    >>> found.re.values[0]  # λ, the fastest first
    array([-1000.,    -1.])
    >>> found.amplification.values[0]  # |R(hλ)|: Crank-Nicolson hardly damps the fast one
    array([0.98412698, 0.77777778])
    >>> print(diagnostics.describe_gradient(found))  # doctest: +SKIP
    """
    import xarray

    layout = require_one_process("gradient_by_mode", sol)
    _require_possible(sol)
    tape = sol.pieces[0].tape.with_readings(sol.pieces[0].tape.run.readings)
    cotangents = _cotangents(sol, loss, tape)
    with torch.inference_mode(False), torch.no_grad(), tape.at_work():
        gradients = reverse(tape, cotangents).parameters
        names, directions, totals, numbers = _directions(tape, gradients)
        steps = list(steps_backwards(tape, cotangents, directions))[::-1]
    if not steps:
        raise ValueError("gradient_by_mode: the loss depends on no step")
    values = np.stack([step.values for step in steps])
    system = tape.replay.system
    h = system.direction * np.array([step.size for step in steps])
    batch = ["sample"] if layout.samples > 1 else []

    def squeezed(array: np.ndarray) -> np.ndarray:
        return array if batch else array[:, 0]

    finite = np.isfinite(values.real)
    z = np.abs(h)[:, None, None] * np.where(finite, values, 0.0)
    amplification = np.stack([step.amplification for step in steps])
    with np.errstate(all="ignore"):
        exact = np.where(finite, np.exp(z), np.nan)
        # 1 as z → 0, where both vanish.
        small = finite & (np.abs(z) < 1e-8)
        way = np.stack([step.forced for step in steps])
        forced = np.where(small, 1.0, way / np.where(small, 1.0, 1 - exact))
    modes = ["step", *batch, "mode"]
    kinds = kind_of(values, span_of(sol), np.stack([step.rounding for step in steps]))
    flags = {"flag_values": np.arange(len(KINDS), dtype=np.int8), "flag_meanings": meanings()}
    shown = {
        "re": (values.real, "Re λ"),
        "im": (values.imag, "Im λ"),
        "amplification": (np.abs(amplification), "|R(hλ)|"),
        "exact": (np.abs(exact), "|exp(hλ)|"),
        "rate_sensitivity": (np.abs(np.stack([step.derivative for step in steps])), "|R'(hλ)|"),
        "forced": (np.abs(forced), "response to a forcing over the exact one"),
    }
    variables = {
        **{
            name: (modes, squeezed(v), {"long_name": text, "units": "1"}) for name, (v, text) in shown.items()
        },
        "kind": (modes, squeezed(kinds), {"long_name": "kind of mode", **flags}),
        "contribution": (
            [*modes, "parameter"],
            squeezed(np.stack([step.contribution for step in steps])),
            {"long_name": "part of the gradient", "units": "1"},
        ),
        "gradient": ("parameter", totals, {"long_name": "gradient", "units": "1"}),
        "parameter_size": ("parameter", numbers, {"long_name": "size of the parameter", "units": "1"}),
        "condition": (["step", *batch], squeezed(np.stack([step.condition for step in steps]))),
        "time": ("step", system.direction * np.array([step.end for step in steps]), {"long_name": "its end"}),
        "size": ("step", h, {"long_name": "step size"}),
    }
    return xarray.Dataset(
        variables,
        {"parameter": names, "step": [step.number for step in steps]},
        {"method": str(tape.replay.method), "span": span_of(sol)},
    )


def _require_possible(sol: Solution) -> None:
    if len(sol.pieces) > 1 or sol.event is not None:
        raise NotImplementedError("gradient_by_mode: not with breakpoints or an event")
    system = sol.pieces[0].tape.replay.system
    if system.g is not None:
        raise NotImplementedError("gradient_by_mode: not with a Split, whose parts have modes of their own")
    if system.layout.width > WIDEST:
        raise ValueError(f"gradient_by_mode: {system.layout.width} unknowns a sample, more than {WIDEST}")
    if not system.f.parameters:
        raise ValueError("gradient_by_mode: func has no parameters that require gradients")


def _cotangents(sol: Solution, loss: Loss, tape: Tape) -> Tensor:
    """dL/dy (readings, size), in the order of the readings."""
    layout = tape.replay.system.layout
    parts = sol.y if isinstance(sol.y, tuple) else (sol.y,)
    given: tuple[Tensor | None, ...]
    if callable(loss) and not isinstance(loss, Tensor):
        with torch.enable_grad():
            leaves = tuple(part.detach().clone().requires_grad_() for part in parts)
            value = loss(leaves if isinstance(sol.y, tuple) else leaves[0])
            given = torch.autograd.grad(value, leaves, allow_unused=True)
    elif isinstance(loss, Tensor) and loss.dim() == 0:
        if not loss.requires_grad or not all(part.requires_grad for part in parts):
            raise ValueError(
                "gradient_by_mode: loss has no graph; pass a function of y, or solve with gradients"
            )
        given = torch.autograd.grad(loss, parts, retain_graph=True, allow_unused=True)
    else:
        given = loss if isinstance(loss, tuple) else (loss,)
        shapes = [tuple(part.shape) for part in parts]
        if [tuple(g.shape) if isinstance(g, Tensor) else None for g in given] != shapes:
            raise TypeError(
                "gradient_by_mode: loss must be a function of y, a 0-d tensor, or dL/dy in the shape of "
                f"sol.y, not {described(loss)}"
            )
    filled = tuple(
        torch.zeros_like(p) if g is None else g.detach() for g, p in zip(given, parts, strict=True)
    )
    flat = layout.flatten(filled if isinstance(sol.y, tuple) else filled[0]).double().cpu()
    if len(flat) != len(tape.run.in_time):
        raise NotImplementedError("gradient_by_mode: not with repeated times")
    ordered = torch.zeros_like(flat)
    ordered[tape.run.in_time] = flat
    return ordered


def _directions(
    tape: Tape, gradients: list[Tensor | None]
) -> tuple[list[str], Along, np.ndarray, np.ndarray]:
    """Names, directions, the derivative along each, and sizes: of all numbers, or along gradients of tensors.

    The size of a number is its own, 1 for zero; that of a tensor is the root mean square of its numbers.
    """
    system = tape.replay.system
    used = system.f.parameters
    by_id = {id(p): name for name, p in named_parameters(system.f.func, (), used).items()}
    names: list[str] = []
    directions: list[list[Tensor | None]] = []
    totals: list[float] = []
    sizes: list[float] = []
    each = sum(p.numel() for p in used) <= NUMBERS
    for position, p in enumerate(used):
        gradient = gradients[position]
        gradient = torch.zeros_like(p) if gradient is None else gradient.detach()
        name = by_id[id(p)]
        if each:
            pairs = [
                (
                    f"{name}[{', '.join(map(str, i))}]" if i else name,
                    _unit(p, i),
                    float(gradient[i]),
                    abs(float(p[i])),
                )
                for i in np.ndindex(*p.shape)
            ]
        else:
            length = float(gradient.norm())
            rms = float(p.detach().square().mean().sqrt())
            pairs = [(name, gradient / length if length else gradient, length, rms)]
        for label, direction, total, size in pairs:
            names.append(label)
            directions.append([direction if other == position else None for other in range(len(used))])
            totals.append(total)
            sizes.append(size or 1.0)
    return names, Along(directions), np.array(totals), np.array(sizes)


def _unit(p: Tensor, index: tuple[int, ...]) -> Tensor:
    unit = torch.zeros_like(p)
    unit[index] = 1.0
    return unit
