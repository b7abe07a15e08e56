"""What test_field.py runs on several processes: `mpiexec -n 2 python field_script.py RESULTS.npz`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse import eye_array
from torch import Tensor, nn

from stiffml import GMRES, Assembled, Grid, check_gradients, sensitivities, solve
from stiffml.distributed.field import Field

CASES: dict[str, dict[str, Any]] = {
    "line": {"shape": (17,), "species": 3, "periodic": False, "width": 2},
    "plane": {"shape": (9, 8), "species": 2, "periodic": True, "width": 1},
    "box": {"shape": (4, 5, 6), "species": 2, "periodic": (True, False, True), "width": 1},
    "wide": {"shape": (8, 4), "species": 1, "periodic": (False, True), "width": 2},
}


class Network(nn.Module):
    """Two convolutions, the first over the neighbourhood."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        torch.manual_seed(0)
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(field.shape) - 1]
        self.first = convolution(field.species, 5, 2 * field.width + 1, dtype=torch.float64)
        self.second = convolution(5, field.species, 1, dtype=torch.float64)

    def forward(self, t: Tensor, ghosted: Tensor) -> Tensor:
        return torch.cos(t) * self.second(torch.tanh(self.first(ghosted)))


class HeldAtEdges(nn.Module):
    """A network outside whose domain the field is 0.3, written into the ghosts."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field, self.network = field, Network(field)

    def forward(self, t: Tensor, ghosted: Tensor) -> Tensor:
        field, width = self.field, self.field.width
        for axis, points in enumerate(ghosted.shape[1:]):
            if field.at_low_edge(axis):
                ghosted.narrow(axis + 1, 0, width).fill_(0.3)
            if field.at_high_edge(axis):
                ghosted.narrow(axis + 1, points - width, width).fill_(0.3)
        return self.network(t, ghosted)


def waves(field: Field, phase: float) -> Tensor:
    """A field that is different everywhere."""

    def values(*coordinates: Tensor) -> list[Tensor]:
        turns = sum((k + 1) * x for k, x in enumerate(coordinates))
        return [
            torch.sin(2 * math.pi * turns + phase + s) + coordinates[0] ** 2 for s in range(field.species)
        ]

    return field.create(values)


def surroundings(whole: Tensor, field: Field) -> Tensor:
    """The ghosted part of this process, cut out of the padded whole (species, N0, …)."""
    for axis, ((start, stop), points) in enumerate(zip(field.ranges, field.shape, strict=True)):
        places = torch.arange(start - field.width, stop + field.width)
        places = places % points if field.periodic[axis] else places.clamp(0, points - 1)
        whole = whole.index_select(axis + 1, places)
    return whole


def from_first(field: Field, value: Any) -> Any:
    return field.space.communicator.bcast(value) if field.size > 1 else value


def products(field: Field, local: nn.Module) -> dict[str, Any]:
    """f and its derivatives of first and second order, whole."""
    f, t = field.rhs(local), torch.tensor(0.4, dtype=torch.float64)
    y = waves(field, 0.0).requires_grad_()
    v, w = waves(field, 1.0), waves(field, 2.0).requires_grad_()
    value = f(t, y)
    (g,) = torch.autograd.grad(value, y, w, create_graph=True)
    results: dict[str, Any] = {"f": field.gather(value)}
    for k in range(2):  # the graph can be used again
        (jv,) = torch.autograd.grad(g, w, (k + 1) * v, retain_graph=True)
        (jtw,) = torch.autograd.grad(value, y, (k + 1) * w, retain_graph=True)
        results |= {f"jv{k}": field.gather(jv), f"jtw{k}": field.gather(jtw)}

    parameters = list(f.parameters())
    loss = field.sum(f(t, y) * w.detach())
    gradients = torch.autograd.grad(loss, [y, *parameters])
    results |= {"loss": loss.detach(), "dy": field.gather(gradients[0])}
    for k, share in enumerate(gradients[1:]):
        results[f"dp{k}"] = field.space.sum_tensor(share)

    # Not linear in the sum, so that second derivatives pass through it too.
    squared = field.sum(f(t, y).square()) ** 2 + field.sum(y) ** 3
    (slope,) = torch.autograd.grad(squared, y, create_graph=True)
    along = field.sum(slope * v)
    second = torch.autograd.grad(along, [y, *parameters])
    results |= {"along": along.detach(), "hv": field.gather(second[0])}
    for k, share in enumerate(second[1:]):
        results[f"hp{k}"] = field.space.sum_tensor(share)
    return results


def exchanges(field: Field) -> dict[str, Any]:
    """The ghosts, and how far their transpose is from being it."""
    y = waves(field, 0.0)
    whole = field.gather(y)
    ghosted = field.ghosted(y)
    right = torch.equal(ghosted, surroundings(from_first(field, whole), field))

    x = waves(field, 3.0).requires_grad_()
    generator = torch.Generator().manual_seed(field.rank)
    g = torch.randn(ghosted.shape, dtype=torch.float64, generator=generator)
    (back,) = torch.autograd.grad(field.ghosted(x), x, g)
    gap = field.sum(field.ghosted(x) * g) - field.sum(x * back)

    history = torch.stack([y, 2 * y, 3 * y])[:, None]  # (3, 1, species, …)
    again = field.scatter(field.gather(history))
    return {
        "y": whole,
        "ghosts right": field.space.every(right),
        "gap": gap.detach(),
        "history": field.gather(history),
        "scattered": field.space.every(torch.equal(again, history)),
    }


def decisions(field: Field) -> dict[str, Any]:
    """Reductions of what is different on each process, and what the constructor refuses."""
    space, rank, last = field.space, field.rank, field.rank == field.size - 1
    assert space.is_distributed == (field.size > 1)
    alone = Field(shape=(5, 5), comm=_only_this_process())
    return {
        "sum": space.sum(rank + 0.5),
        "max": space.max(-1.0 - rank),
        "max nan": space.max(math.nan if last else 1.0),
        "max inf": space.max(-math.inf),
        "every": [space.every(True), space.every(not last), space.every(rank < 0)],
        "array": space.sum_array(np.array([[1.0, 2.0], [rank, 4.0]]).T),
        "zero": space.sum_tensor(torch.tensor(rank, dtype=torch.float64)),
        "alone": [alone.size, *alone.part_shape],
        "vector": _vector_size(space.communicator),
    }


def refusals(field: Field) -> dict[str, str]:
    """What is said to several processes of what only one can do, or wait for each other without end."""
    inner = (slice(None), *[slice(field.width, -field.width)] * len(field.shape))
    y0 = field.create(lambda *x: [1 + x[0]] * field.species)
    func = field.rhs(lambda t, ghosted: -ghosted[inner])
    t = torch.tensor([0.0, 0.1], dtype=torch.float64)
    arguments: dict[str, Any] = {"method": "beuler", "steps": Grid(1), "linear": GMRES()}
    given = GMRES(Assembled(-eye_array(y0.numel())))
    tried: dict[str, Callable[[], object]] = {
        "points": lambda: Field(shape=(2 * field.size - 1, 3), width=2 if field.size > 1 else 4),
        "singular mass": lambda: solve(func, y0, t, mass=torch.zeros_like(y0), **arguments),
        "function around it": lambda: solve(lambda t, y: func(t, y), y0, t, **arguments),
        "bound method": lambda: solve(func.forward, y0, t, method="rk4", steps=Grid(1)),
        "given matrix": lambda: solve(func, y0, t, **{**arguments, "linear": given}),
        "sensitivities": lambda: sensitivities(func, y0, t, ["y0"], **arguments),
        "check_gradients": lambda: check_gradients(func, y0, t, **arguments),
    }
    return {f"refused: {name}": _refusal(attempt) for name, attempt in tried.items()}


def _refusal(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (ValueError, NotImplementedError) as error:
        return str(error)
    return ""


def _only_this_process() -> Any:
    from petsc4py import PETSc

    return PETSc.COMM_SELF


def _vector_size(communicator: Any) -> int:
    """The size of a PETSc vector with one number on each process."""
    from petsc4py import PETSc

    vector = PETSc.Vec().createMPI((1, None), comm=communicator or PETSc.COMM_SELF)
    size = vector.getSize()
    vector.destroy()
    return size


def main(path: str) -> None:
    torch.set_num_threads(1)
    results = {}
    for name, arguments in CASES.items():
        field = Field(**arguments)
        found = exchanges(field) | products(field, Network(field))
        results |= {f"{name} {key}": value for key, value in found.items()}
    held = Field(**CASES["line"])
    results |= {f"held {key}": value for key, value in products(held, HeldAtEdges(held)).items()}
    results |= decisions(held) | refusals(held)
    if held.rank == 0:
        np.savez(path, **{key: np.asarray(value) for key, value in results.items()})


if __name__ == "__main__":
    main(sys.argv[1])
