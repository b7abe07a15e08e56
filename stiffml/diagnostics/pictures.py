"""Pictures of eigenvalues along a solution, and of a gradient by modes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stiffml.diagnostics.description import shares_of, sizes_of
from stiffml.diagnostics.eigen import KINDS
from stiffml.display import with_units

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

    from stiffml.plotting import Figure

STYLES: dict[str, dict[str, Any]] = {
    "slow": {"color": "#888888", "marker": ".", "ms": 4},
    "oscillation": {"color": "#1f77b4", "marker": "+", "ms": 5},
    "fast decay": {"color": "#c1440e", "marker": "v", "ms": 3.5},
    "growth": {"color": "#2c8c3c", "marker": "^", "ms": 3.5},
}
"""Of modes, by kind; markers tell them apart in grey."""

SLOWEST = 1e-4
"""Of |hλ| in pictures; slower modes are all alike to a step."""

NAMED = 12
"""Components up to which participation is drawn by name."""


def plot_stiffness(found: xarray.Dataset) -> Figure:
    """Rates along the solution by kind of mode, beside the steps, and who takes part in the fastest mode.

    Of a batch the sample that is stiffest.

    Parameters
    ----------
    found : xarray.Dataset
        Of :func:`stiffness`.

    Examples
    --------
    >>> from stiffml.diagnostics import plot_stiffness, stiffness
    >>> figure = plot_stiffness(stiffness(stiffml.solve(func, y0, t)))
    >>> figure.savefig("stiffness.png")  # doctest: +SKIP
    """
    from stiffml.plotting import Figure

    title = found.attrs["method"]
    if "sample" in found.dims:
        number = int(found["stiffness"].max("time").values.argmax())
        title = f"{title}, sample {number}, the stiffest of {found.sizes['sample']}"
        found = found.isel(sample=number)
    figure = Figure(figsize=(9.5, 6.4))
    rates, shares = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    x, label, scale = _axis(found)
    _draw_rates(rates, found, x)
    _draw_shares(shares, found, x)
    shares.set(xlabel=label, **scale)
    figure.suptitle(f"{title}: |λ| along the solution", fontsize=11)
    return figure


def _axis(found: xarray.Dataset) -> tuple[np.ndarray, str, dict[str, Any]]:
    """What time is drawn as: itself, or logarithmic from the second point on where it spans decades."""
    from stiffml.plotting.axes import spans_decades

    t, units = found["time"].values, found["time"].attrs["units"]
    label = with_units("time", units)
    if spans_decades(t):
        return np.where(t > 0, t, np.nan), label, {"xscale": "log"}
    return t, label, {}


def _draw_rates(panel: Axes, found: xarray.Dataset, x: np.ndarray) -> None:
    size = np.hypot(found["re"].values, found["im"].values)
    times = np.broadcast_to(x[:, None], size.shape)
    for kind, style in STYLES.items():
        here = found["kind"].values == KINDS.index(kind)
        if here.any():
            panel.plot(times[here], size[here], ls="", label=kind, **style)
    panel.axhline(1 / found.attrs["span"], color="#444444", lw=0.8, ls=":", label="1 / span")
    panel.plot(x, 1 / np.abs(found["step"].values), color="#444444", lw=1.2, label="1 / step taken")
    limit = found["explicit_step"].values
    with np.errstate(divide="ignore"):
        panel.plot(
            x,
            np.where(limit > 0, 1 / limit, np.nan),
            color="#c1440e",
            lw=0.9,
            ls="--",
            label="1 / explicit step",
        )
    units = found["re"].attrs["units"]
    panel.set(yscale="log", ylabel=with_units("rate", units))
    panel.legend(frameon=False, fontsize=8, ncols=2)
    hidden = int((found["kind"].values == KINDS.index("zero")).sum(axis=1).max())
    infinite = int(found.attrs["algebraic"])
    notes = [f"{hidden} zero"] * bool(hidden) + [f"{infinite} infinite"] * bool(infinite)
    if notes:
        panel.set_title(f"not shown: {' and '.join(notes)}", fontsize=9, loc="right")


def _draw_shares(panel: Axes, found: xarray.Dataset, x: np.ndarray) -> None:
    re = found["re"].values
    fastest = np.nanargmin(np.where(np.isfinite(re), re, np.inf), axis=1)
    shares = np.take_along_axis(found["participation"].values, fastest[:, None, None], axis=1)[:, 0]
    shares, names = np.nan_to_num(shares), found["component"].values
    largest = np.argsort(-shares.max(axis=0))[:NAMED]
    largest = np.sort(largest[shares[:, largest].max(axis=0) > 0.02])
    if len(names) > 100 or not len(largest):
        count = 1 / np.maximum((shares**2).sum(axis=1), 1e-300)
        panel.plot(x, count, color="#c1440e", lw=1.2)
        panel.set(ylabel="components in\nthe fastest mode", ylim=(0, None))
    else:
        from stiffml.plotting import series

        every = max(1, len(x) // 12)
        for number, i in enumerate(largest.tolist()):
            panel.plot(x, shares[:, i], label=str(names[i]), markevery=every, **series(number))
        panel.set(ylabel="share in the\nfastest mode", ylim=(-0.03, 1.03))
        panel.legend(frameon=False, fontsize=8, ncols=4)


def plot_gradient_by_mode(found: xarray.Dataset) -> Figure:
    """What steps make of modes by |hλ|, beside the exact flow; and which |hλ| and steps the gradient came by.

    Parameters
    ----------
    found : xarray.Dataset
        Of :func:`gradient_by_mode`.

    Examples
    --------
    >>> from stiffml.diagnostics import gradient_by_mode, plot_gradient_by_mode
    >>> k = torch.tensor([1.0, 1000.0], dtype=torch.float64, requires_grad=True)
    >>> sol = stiffml.solve(lambda t, y: -k * y, y0, t, method="cn", steps=stiffml.Grid(4))
    >>> figure = plot_gradient_by_mode(gradient_by_mode(sol, lambda y: y[-1].sum()))
    >>> figure.savefig("modes.png")  # doctest: +SKIP
    """
    from stiffml.plotting import Figure

    z, share, re = sizes_of(found), shares_of(found), found["re"].values
    finite = np.isfinite(z)
    z = np.maximum(z, SLOWEST)
    figure = Figure(figsize=(10.5, 4.2))
    left, right = figure.subplots(1, 2)
    decaying = finite & (re < 0)
    order = np.argsort(z[decaying])
    for name, style, label in (
        ("exact", {"color": "#444444", "lw": 1.2}, "exact flow, |exp z|"),
        ("amplification", {"color": "#1f77b4", "marker": "o", "ls": "", "ms": 3}, "passed on, |R(z)|"),
        ("rate_sensitivity", {"color": "#c1440e", "marker": "v", "ls": "", "ms": 3}, "rate, |R'(z)|"),
        ("forced", {"color": "#2c8c3c", "marker": "^", "ls": "", "ms": 3}, "forced response"),
    ):
        values = found[name].values[decaying][order]
        left.plot(z[decaying][order], np.maximum(values, 1e-12), label=label, **style)
    left.set(xscale="log", yscale="log", xlabel="|z| = |hλ| of decaying modes", ylim=(1e-10, 20))
    left.set_xlim(left=SLOWEST)
    left.legend(frameon=False, fontsize=8)
    steps = np.broadcast_to(found["step"].values.reshape(-1, *[1] * (z.ndim - 1)), z.shape)
    size = np.sqrt(np.abs(share[finite]) / max(np.abs(share).max(), 1e-300))
    for sign, colour, marker in ((1, "#c1440e", "^"), (-1, "#1f77b4", "v")):
        here = np.where(share[finite] < 0, -1, 1) == sign
        x, y, area = steps[finite][here], z[finite][here], 1 + 90 * size[here]
        right.scatter(x, y, s=area, c=colour, marker=marker, alpha=0.6, lw=0)
    right.axhline(1, color="#444444", lw=0.8, ls=":")
    right.set(yscale="log", xlabel="step", ylabel=f"|hλ|, at least {SLOWEST:g}")
    right.set_title("parts of the gradient; pointing down: against it", fontsize=9)
    figure.suptitle(f"{found.attrs['method']}: gradient by mode", fontsize=11)
    return figure
