"""Training steps of IMEX methods with a linear implicit part, here and at another commit, in one run.

The Kuramoto-Sivashinsky equation with 64 unknowns in 256 samples: the linear dispersion is implicit, the rest
explicit. A step is a solve and its gradient by all that is trainable. The rest is the problem's own
convection (trainable: the length of the domain, which is in both parts, and y0), or a network of 64-200×4-64
in its place (trainable: its weights). For the network the table has the bare cost of its calls too: one
forward and one backward pass of each stage by torch alone, without which no exact gradient can be.

    python benchmarks/linear_part.py [--against de6af44] [--rounds 5]

Writes benchmarks/results/linear_part.json and linear_part.png. Times are CPU seconds of one thread, the mean
of 35 steps after the first five, so that trials of func that are made in every fifth solve count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
SAMPLES, WARM, STEPS = 256, 5, 35
CASES = {
    "convection, arkimex-3, 1 interval": ("convection", "arkimex-3", 1),
    "convection, arkimex-5, 1 interval": ("convection", "arkimex-5", 1),
    "convection, arkimex-3, 10 intervals": ("convection", "arkimex-3", 10),
    "network, arkimex-5, 1 interval": ("network", "arkimex-5", 1),
}
FASTER, SAME = 8.0, 1e-10
STAGES = 8
"""Of arkimex-5."""


def work(name: str) -> dict:
    """One side of a case, in a process of its own: seconds a step, and numbers to compare."""
    import torch

    import problems
    from stiffml import Grid, Split, odeint

    explicit, method, intervals = CASES[name]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    problem = problems.load("ks")
    split, trained = problem.split("length"), []
    y0 = problem.initial_state() + 0.1 * torch.randn(SAMPLES, 1, 64, dtype=torch.float64)
    if explicit == "network":
        split = Split(problem.split().implicit, _network(), linear=True)
    else:
        trained = [y0.requires_grad_()]
    trained += list(split.parameters())
    t, grid = 0.2 * torch.arange(intervals + 1, dtype=torch.float64), Grid(1)
    seconds = []
    for _ in range(WARM + STEPS):
        for tensor in trained:
            tensor.grad = None
        began = time.process_time()
        y = odeint(split, y0, t, method=method, steps=grid, batch_dims=1)
        y.square().mean().backward()
        seconds.append(time.process_time() - began)
    found = {"seconds": statistics.mean(seconds[WARM:])}
    numbers = [y.detach(), *(tensor.grad for tensor in trained)]
    found["numbers"] = [_digest(v) for v in numbers]
    if explicit == "network":
        found["bare"] = _bare(split.explicit, y0)
    return found


def _network():
    from torch import nn

    sizes = [64, 200, 200, 200, 200, 64]
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*layers[:-1]).double()

        def forward(self, t, y):
            return self.layers(y)

    return Network()


def _digest(v) -> list[float]:
    """Weighted sums of a tensor, and its size: what two commits are compared by."""
    import torch

    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(8, v.numel(), generator=generator, dtype=torch.float64) - 0.5
    return [*(weights @ v.reshape(-1)).tolist(), float(v.norm() * v.numel() ** 0.5)]


def _bare(network, y0) -> float:
    """Seconds of the calls of the network that a step needs."""
    import torch

    seconds = []
    for _ in range(WARM + STEPS):
        began = time.process_time()
        for _ in range(STAGES):
            with torch.no_grad():
                network(None, y0)
            u = y0.detach().requires_grad_()
            torch.autograd.grad(network(None, u).sum(), [u, *network.parameters()])
        seconds.append(time.process_time() - began)
    return statistics.mean(seconds[WARM:])


def _off(mine: list[list[float]], others: list[list[float]]) -> float:
    """The largest difference of two lists of digests, relative to sizes."""
    return max(
        abs(a - b) / max(there[-1], 1e-300)
        for here, there in zip(mine, others, strict=True)
        for a, b in zip(here[:-1], there[:-1], strict=True)
    )


def measure(against: str, rounds: int) -> dict:
    from measuring import ONE_THREAD, Bound, in_own_process, machine

    root = HERE.parents[1]
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        subprocess.run(["git", "worktree", "add", "--detach", other, against], cwd=root, check=True)
        try:
            found: dict[str, dict] = {}
            for name in CASES:
                rows: list[tuple[dict, dict]] = []
                for _ in range(rounds):
                    sides = [
                        in_own_process(str(HERE), ["--work", name], {**ONE_THREAD, "PYTHONPATH": str(at)})
                        for at in (root, other)
                    ]
                    rows.append((sides[0], sides[1]))
                found[name] = _summary(rows)
                print(name, json.dumps(found[name]), flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", other], cwd=root, check=True)
    bounds = []
    for name, row in found.items():
        bounds.append(Bound(f"{name}: times as fast", row["times as fast"], FASTER, at_least=True))
        bounds.append(Bound(f"{name}: difference", row["difference"], SAME))
    return {
        "command": f"python benchmarks/linear_part.py --against {against} --rounds {rounds}",
        "against": against,
        "machine": machine(),
        "cases": found,
        "bounds": [bound.row() for bound in bounds],
    }


def _summary(rows: list[tuple[dict, dict]]) -> dict:
    mine, others = zip(*rows, strict=True)
    found = {
        "ms": 1e3 * statistics.median(row["seconds"] for row in mine),
        "ms before": 1e3 * statistics.median(row["seconds"] for row in others),
        "times as fast": statistics.median(b["seconds"] / a["seconds"] for a, b in rows),
        "difference": _off(mine[0]["numbers"], others[0]["numbers"]),
    }
    if "bare" in mine[0]:
        found["ms of the network's own calls"] = 1e3 * statistics.median(row["bare"] for row in mine)
    return found


def draw(result: dict, path: Path) -> None:
    import matplotlib.pyplot as plt

    names, at = list(result["cases"]), range(len(result["cases"]))
    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    for shift, key, label in ((-0.2, "ms before", result["against"]), (0.2, "ms", "now")):
        values = [result["cases"][name][key] for name in names]
        bars = axes.barh([k + shift for k in at], values, 0.38, label=label)
        axes.bar_label(bars, fmt="%.3g", padding=3)
    for k, name in enumerate(names):
        bare = result["cases"][name].get("ms of the network's own calls")
        if bare is not None:
            axes.plot([bare, bare], [k - 0.45, k + 0.45], "k--", lw=1, label="calls of the network alone")
    axes.set_yticks(list(at), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("CPU time of a training step / ms")
    figure.legend(frameon=False, loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="de6af44")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", help="one side of a case, by its name; used by the script itself")
    given = parser.parse_args()
    if given.work:
        print(json.dumps(work(given.work)))
        return
    from measuring import RESULTS, store

    result = measure(given.against, given.rounds)
    store(result, draw, RESULTS, "linear_part")
    missed = [row for row in result["bounds"] if not row["met"]]
    for row in missed:
        print("missed:", row["what"], f"{row['value']:.3g}", file=sys.stderr)


if __name__ == "__main__":
    main()
