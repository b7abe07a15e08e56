"""Stiffness and gradients by mode in words: conserved sums, who takes part in fast modes, what is damped."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from stiffml.diagnostics.eigen import KINDS
from stiffml.display import with_units

if TYPE_CHECKING:
    import xarray

WIDTH = 79

SHOWN = 5
"""Times of a spectrum, and components of a mode, that are written out."""

RANGES = ((0.0, 1.0, "resolved"), (1.0, 10.0, "coarse"), (10.0, np.inf, "skipped"))
"""Of |hλ|, and what a step is to such a mode."""


def describe_stiffness(found: xarray.Dataset) -> str:
    """The Dataset of :func:`stiffness` as a table of at most 79 columns, with conserved sums.

    A row for up to 5 times: how many modes of each kind, the fastest decay time, and the components that take
    part in the fastest mode by more than a tenth. Of a batch the sample that is stiffest.

    Parameters
    ----------
    found : xarray.Dataset
        Of :func:`stiffness`.

    Examples
    --------
    >>> from stiffml.diagnostics import describe_stiffness, stiffness
    >>> found = stiffness(stiffml.solve(func, y0, t), names=["slow", "fast"])
    >>> print(describe_stiffness(found).splitlines()[-1])
               1         0.001  1/1/0/0/0/0                  fast
    """
    sample = ""
    if "sample" in found.dims:
        number = int(found["stiffness"].max("time").values.argmax())
        found, sample = (
            found.isel(sample=number),
            f", sample {number}, the stiffest of {found.sizes['sample']}",
        )
    units = found["time"].attrs["units"]
    units = with_units("", units)
    chosen = np.unique(np.linspace(0, found.sizes["time"] - 1, SHOWN).round().astype(int))
    head = f"{'time' + units:>12} {'decay' + units:>13}  {'fast/slow/osc/grow/zero/inf':27}  fastest mode"
    lines = [f"eigenvalues along {found.attrs['method']}{sample}", head]
    order = ("fast decay", "slow", "oscillation", "growth", "zero", "infinite")
    for i in chosen.tolist():
        at = found.isel(time=i)
        counts = "/".join(str(int((at["kind"] == KINDS.index(kind)).sum())) for kind in order)
        fastest = float(at["stiffness"]) / found.attrs["span"]
        decay = f"{1 / fastest:.3g}" if fastest > 0 else "none"
        line = f"{float(at['time']):12.4g} {decay:>13}  {counts:27}  {_taking_part(at)}"
        lines.append(line if len(line) <= WIDTH else line[: WIDTH - 1] + "…")
    for row in found["invariant"].values:
        lines += _wrapped(f"constant: {_combination(row, found['component'].values)}")
    return "\n".join(lines)


def _taking_part(at: xarray.Dataset) -> str:
    """The components that take part in the mode of the fastest decay."""
    mode = int(np.nanargmin(np.where(np.isfinite(at["re"].values), at["re"].values, np.nan)))
    shares = np.nan_to_num(at["participation"].values[mode])
    order = np.argsort(-shares)[:SHOWN]
    names = at["component"].values
    many = [str(names[i]) for i in order if shares[i] > 0.1]
    return " ".join(many) if many else f"{int((shares > 0.5 * shares.max()).sum())} components"


def _combination(row: np.ndarray, names: np.ndarray) -> str:
    """A linear combination in words, its largest entries."""
    order = [int(i) for i in np.flatnonzero(row)]
    parts = []
    for i in order[:12]:
        size = abs(row[i])
        factor = "" if abs(size - 1) < 1e-6 else f"{size:.4g} "
        parts.append(f"{'-' if row[i] < 0 else '+'} {factor}{names[i]}")
    text = " ".join(parts).removeprefix("+ ")
    return text + (" + …" if len(order) > 12 else "")


def describe_gradient(found: xarray.Dataset) -> str:
    """The Dataset of :func:`gradient_by_mode` as a table of at most 79 columns.

    A row for each range of |hλ|: how much of the gradient came by such modes, and the medians over steps and
    modes of what steps pass on, of their response to the mode's rate, and of that to a forcing. Shares are
    parts of the gradient's size, with their sign; for up to 8 parameters those of each follow.

    Parameters
    ----------
    found : xarray.Dataset
        Of :func:`gradient_by_mode`.

    Examples
    --------
    >>> from stiffml.diagnostics import describe_gradient, gradient_by_mode
    >>> k = torch.tensor([1.0, 1000.0], dtype=torch.float64, requires_grad=True)
    >>> sol = stiffml.solve(lambda t, y: -k * y, y0, t, method="cn", steps=stiffml.Grid(4))
    >>> print(describe_gradient(gradient_by_mode(sol, lambda y: y[-1].sum())).splitlines()[0])
    gradient by mode, Theta(theta=0.5): 4 steps
    """
    z, share = sizes_of(found), shares_of(found)
    lines = [
        f"gradient by mode, {found.attrs['method']}: {found.sizes['step']} steps",
        f"{'|h lambda|':>12} {'':9} {'share':>8} {'|R|':>9} {'|exp|':>9} {'|dR/dz|':>9} {'forced':>8}",
    ]
    ranges = {}
    for low, high, word in RANGES:
        inside = (z >= low) & (z < high) & np.isfinite(z)
        if not inside.any():
            continue
        label = f"{low:g} to {high:g}" if np.isfinite(high) else f"over {low:g}"
        r, exact, rate, forced = (
            float(np.median(found[name].values[inside]))
            for name in ("amplification", "exact", "rate_sensitivity", "forced")
        )
        lines.append(
            f"{label:>12} {word:9} {float(share[inside].sum()):8.1%} {r:9.2g} {exact:9.2g} {rate:9.2g} "
            f"{forced:8.3g}"
        )
        ranges[word] = inside
    if not np.isfinite(z).all():
        ranges["algebraic"] = ~np.isfinite(z)
        lines.append(f"{'infinite':>12} {'algebraic':9} {float(share[~np.isfinite(z)].sum()):8.1%}")
    if len(ranges) > 1 and found.sizes["parameter"] <= 8:
        for p, name in enumerate(found["parameter"].values):
            total = float(found["gradient"][p])
            parts = found["contribution"].values[..., p] / (total if total else 1.0)
            words = ", ".join(f"{word} {float(parts[inside].sum()):.1%}" for word, inside in ranges.items())
            lines += _wrapped(f"by {name}: {total:.3g}, {words}")
    return "\n".join([*lines, *(line for text in _damping(found, z) for line in _wrapped(text))])


def sizes_of(found: xarray.Dataset) -> np.ndarray:
    """|hλ| of the Dataset of :func:`gradient_by_mode`, (steps, …, modes), infinite for algebraic modes."""
    re = found["re"].values
    return np.hypot(re, found["im"].values) * np.abs(found["size"].values).reshape(-1, *[1] * (re.ndim - 1))


def shares_of(found: xarray.Dataset) -> np.ndarray:
    """Signed shares in the gradient, (steps, …, modes), which sum to 1.

    Of the gradient by the logarithms of parameters, as those have units of their own: Σ θ² g c / Σ θ² g²,
    with g the derivative by a number θ and c the contribution to it.
    """
    gradient = found["gradient"].values * found["parameter_size"].values ** 2
    total = float(gradient @ found["gradient"].values)
    return found["contribution"].values @ gradient / (total if total > 0 else 1.0)


def _damping(found: xarray.Dataset, z: np.ndarray) -> list[str]:
    """What the method does to fast modes, in words."""
    fast = np.isfinite(z) & (z >= RANGES[-1][0]) & (found["re"].values < 0)
    if not fast.any():
        return ["No mode is faster than a tenth of a step: nothing is lost."]
    rate, forced = (float(np.median(found[name].values[fast])) for name in ("rate_sensitivity", "forced"))
    notes = [
        f"Modes that steps skip respond to their own rates by {rate:.1g} of what a slow mode does: their "
        "rates can hardly be learned from this solve."
    ]
    faster = fast & (z >= 100 * RANGES[-1][0])  # where R is near its limit
    passed = float(np.median(found["amplification"].values[faster])) if faster.any() else 0.0
    if passed > 0.5:
        notes.append(
            f"A step passes on {passed:.2g} of a sensitivity along them, the exact flow nothing: it is "
            "carried from step to step with alternating sign. An L-stable method, such as bdf, beuler, "
            "sdirk3 or rosw-ra34pw2, forgets it."
        )
    if abs(forced - 1) > 0.1:
        notes.append(f"Their response to a constant forcing is {forced:.2g} times the exact one in a step.")
    else:
        notes.append("Their response to a constant forcing is kept, so what drives them can be learned.")
    return notes


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ")
