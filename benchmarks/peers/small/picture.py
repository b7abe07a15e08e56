"""The picture of compare.py: time by achieved error, a column for each system."""

from __future__ import annotations

from pathlib import Path

MARKERS = "osv^D<>pX"


def draw(result: dict, path: Path) -> None:
    """Forward above, gradient below; solid lines are stiffml's."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = result["systems"].values()
    solvers = list(dict.fromkeys((row["side"], row["solver"]) for system in found for row in system["cases"]))
    figure, axes = plt.subplots(
        2, len(found), figsize=(3.1 * len(found) + 1, 6.6), layout="constrained", squeeze=False, sharex=True
    )
    for column, system in enumerate(found):
        for axis, kind in zip(axes[:, column], ("forward", "gradient"), strict=True):
            for number, (side, solver) in enumerate(solvers):
                points = sorted(
                    (row[kind]["error"], row[kind]["ms"])
                    for row in system["cases"]
                    if row["solver"] == solver and kind in row
                )
                if points:
                    line = "-" if side == "stiffml" else "--"
                    label = f"stiffml {solver}" if side == "stiffml" else solver
                    axis.plot(
                        *zip(*points, strict=True),
                        line,
                        color=f"C{number}",
                        marker=MARKERS[number],
                        ms=4,
                        lw=1,
                        label=label,
                    )
            if not axis.lines:
                axis.text(
                    0.5, 0.5, "no run is within 1e-3\nof the reference", ha="center", transform=axis.transAxes
                )
            axis.axvline(result["target"], color="black", linestyle=":", linewidth=1)
            axis.set(xscale="log", yscale="log")
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0, column].set_title(system["title"])
        axes[1, column].set_xlabel("achieved error")
    axes[0, 0].invert_xaxis()
    axes[0, 0].set_ylabel("forward, ms")
    axes[1, 0].set_ylabel("loss and gradient, ms")
    entries: dict = {}
    for axis in axes.flat:
        entries |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=5, fontsize=8)
    figure.suptitle(f"Small stiff systems, {result['functions']} functions: time by achieved error, one core")
    figure.savefig(path, dpi=120)
    plt.close(figure)
