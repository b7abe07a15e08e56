"""Gradients with every preconditioner and kind of method, against differences of the solve itself.

    python benchmarks/large_fields/gradients.py [--grid 24] [--t-end 0.5]

The problem is in problem.py: 2 · grid² unknowns. Every method takes adaptive steps once, and the same steps
ever after. Gradients by y0 and by all weights are compared, each along one direction in which components
add up rather than cancel, with central differences of fourth order in steps of 2e-4. These are exact to
about 1e-11, because Newton's iteration is set tight. What remains is the error of the transposed systems of
every step, whose tolerance is the default, ``adjoint_rtol=1e-9``.

Writes benchmarks/results/field_gradients.json and field_gradients.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from large_fields.problem import Brusselator, Fourier, Parts, diffusion_matrix, whole_start
from measuring import RESULTS, Bound, machine, store

from stiffml import GMRES, Assembled, Newton, PointBlock, solve

METHODS = {
    "theta": "cn",
    "BDF": "bdf3",
    "Rosenbrock-W": "rosw-ra34pw2",
    "ARKIMEX": "arkimex-3",
    "ARKIMEX, split": "arkimex-3",
}
SPLIT = "ARKIMEX, split"
TOLERANCES = {"rtol": 1e-3, "atol": 1e-6}
"""Of steps, which are long enough that the diffusion is stiff."""
TIGHT = Newton(rtol=1e-13, atol=1e-16, max_iterations=50)
STEP = 2e-4
"""Of differences, relative."""
ERROR = 1e-6
"""Relative error that a gradient may have."""

PRECONDITIONERS: dict[str, Callable[[Brusselator, int], dict[str, Any]]] = {
    "none": lambda model, points: {"linear": GMRES()},
    "diffusion, ILU": lambda model, points: {"linear": GMRES(Assembled(model.diffusion, "ilu"))},
    "diffusion, ICC": lambda model, points: {"linear": GMRES(Assembled(model.diffusion, "icc"))},
    "diffusion, GAMG": lambda model, points: {"linear": GMRES(Assembled(model.diffusion, "gamg"))},
    "diffusion, LU": lambda model, points: {"linear": GMRES(Assembled(model.diffusion, "lu"))},
    "diffusion's matrix, ILU": lambda model, points: {"linear": GMRES(Assembled(diffusion_matrix(points)))},
    "the Jacobian, ILU": lambda model, points: {"linear": GMRES(Assembled())},
    "the Jacobian, GAMG": lambda model, points: {"linear": GMRES(Assembled(solver="gamg"))},
    "point blocks": lambda model, points: {"linear": GMRES(PointBlock())},
    "of one's own, FFT": lambda model, points: {"linear": GMRES(Fourier(points))},
    "sparse factors, no Krylov": lambda model, points: {"jacobian": "coloured"},
}
"""How linear systems are solved, as arguments of ``solve``."""


@dataclass(frozen=True)
class Accuracy:
    """Relative errors of gradients along a direction, and iterations: of all steps, forward and backward."""

    preconditioner: str
    kind: str
    method: str
    steps: int
    y0_error: float
    weights_error: float
    krylov_iterations: int
    adjoint_krylov_iterations: int

    @property
    def error(self) -> float:
        return max(self.y0_error, self.weights_error)


class Case:
    """A method with the steps that it takes, and derivatives along one direction each by differences."""

    def __init__(self, kind: str, points: int, t_end: float) -> None:
        self.model = Brusselator()
        self._points = points
        self._func: nn.Module = Parts(self.model) if kind == SPLIT else self.model
        self._y0 = whole_start(points).requires_grad_()
        self._t = torch.tensor([0, t_end], dtype=torch.float64)
        newton = {} if kind == "Rosenbrock-W" else {"newton": TIGHT}
        self._arguments: dict[str, Any] = {"method": METHODS[kind], **TOLERANCES, **newton}
        self._groups = {"y0": [self._y0], "weights": list(self.model.parameters())}
        self._reference = PRECONDITIONERS["sparse factors, no Krylov"](self.model, points)
        solution = self._solve(**self._reference)
        self._arguments |= {"steps": solution.steps, "rtol": None, "atol": None}
        gradients = self._gradients(solution)
        self._directions = {
            name: [g.sign() * p.detach().abs().mean() for p, g in zip(self._groups[name], found, strict=True)]
            for name, found in gradients.items()
        }
        self._slopes = {name: self._differences(name) for name in self._groups}

    def _solve(self, **linear: Any) -> Any:
        return solve(self._func, self._y0, self._t, **self._arguments, **linear)

    @staticmethod
    def _loss(solution: Any) -> Tensor:
        return solution.y[-1].square().mean()

    def _gradients(self, solution: Any) -> dict[str, tuple[Tensor, ...]]:
        loss = self._loss(solution)
        return {
            name: torch.autograd.grad(loss, group, retain_graph=True) for name, group in self._groups.items()
        }

    @torch.no_grad()
    def _differences(self, name: str) -> float:
        group, directions = self._groups[name], self._directions[name]
        originals = [p.clone() for p in group]

        def at(size: float) -> float:
            for p, original, direction in zip(group, originals, directions, strict=True):
                p.copy_(original + size * direction)
            return self._loss(self._solve(**self._reference)).item()

        near, far = at(STEP) - at(-STEP), at(2 * STEP) - at(-2 * STEP)
        for p, original in zip(group, originals, strict=True):
            p.copy_(original)
        return (8 * near - far) / (12 * STEP)

    def error(self, name: str, gradient: Sequence[Tensor]) -> float:
        slope = sum(float((g * d).sum()) for g, d in zip(gradient, self._directions[name], strict=True))
        return abs(slope - self._slopes[name]) / abs(self._slopes[name])

    def measure(self, kind: str, preconditioner: str) -> Accuracy:
        solution = self._solve(**PRECONDITIONERS[preconditioner](self.model, self._points))
        gradients = self._gradients(solution)
        stats = solution.stats
        return Accuracy(
            preconditioner,
            kind,
            METHODS[kind],
            stats.accepted,
            self.error("y0", gradients["y0"]),
            self.error("weights", gradients["weights"]),
            stats.krylov_iterations,
            stats.adjoint.krylov_iterations,
        )


def bounds(found: Sequence[Accuracy]) -> list[Bound]:
    return [
        Bound(f"{kind}: largest relative error of a gradient", max(row.error for row in mine), ERROR)
        for kind in METHODS
        if (mine := [row for row in found if row.kind == kind])
    ]


def run(points: int, t_end: float) -> Iterator[dict]:
    """What is to be written to the JSON file, after every method."""
    found: list[Accuracy] = []
    for kind in METHODS:
        case = Case(kind, points, t_end)
        for preconditioner in PRECONDITIONERS:
            found.append(case.measure(kind, preconditioner))
            print(line(found[-1]), flush=True)
        yield {
            "command": f"python benchmarks/large_fields/gradients.py --grid {points} --t-end {t_end:g}",
            "machine": machine(),
            "unknowns": 2 * points**2,
            "t_end": t_end,
            "bounds": [bound.row() for bound in bounds(found)],
            "cases": [asdict(row) for row in found],
        }
    print(*bounds(found), sep="\n")


def line(row: Accuracy) -> str:
    iterations = f"{row.krylov_iterations} + {row.adjoint_krylov_iterations}"
    return (
        f"{row.kind:<15} {row.preconditioner:<26} {row.steps:4} steps, error y0 {row.y0_error:.1e}, "
        f"weights {row.weights_error:.1e}, iterations {iterations}"
    )


def draw(result: dict, path: Path) -> None:
    """A table: the exponents of errors."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.colors import LogNorm

    rows = {(row["preconditioner"], row["kind"]): row for row in result["cases"]}
    kinds = [kind for kind in METHODS if any(row["kind"] == kind for row in result["cases"])]
    errors = np.array(
        [
            [max(rows[name, kind][f"{group}_error"] for group in ("y0", "weights")) for kind in kinds]
            for name in PRECONDITIONERS
        ]
    )
    figure, axis = plt.subplots(figsize=(8, 5.2), layout="constrained")
    shown = axis.imshow(errors.clip(min=1e-14), norm=LogNorm(1e-14, ERROR), cmap="viridis_r", aspect="auto")
    for (row, column), error in np.ndenumerate(errors):
        dark = error > 1e-10
        axis.text(column, row, f"{error:.0e}", ha="center", va="center", color="white" if dark else "black")
    axis.set_xticks(range(len(kinds)), [f"{kind}\n{METHODS[kind]}" for kind in kinds])
    axis.set_yticks(range(len(PRECONDITIONERS)), list(PRECONDITIONERS))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    figure.colorbar(shown, label="relative error, at most 1e-6")
    figure.suptitle("Gradients of a Brusselator with a neural closure, against differences")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=int, default=24, help="points along an axis")
    parser.add_argument("--t-end", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    asked = parser.parse_args(arguments)
    for result in run(asked.grid, asked.t_end):
        store(result, draw, asked.out, "field_gradients")


if __name__ == "__main__":
    main()
