"""What test_other_devices.py runs: solves and gradients there and on the host, compared; JSON to stdout.

``elsewhere_script.py alone``, or ``mpiexec -n 2 python elsewhere_script.py together`` for what several
processes do.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import elsewhere
import torch
from fields import Brusselator, Local, waves, weighted
from methods import EVERY_KIND
from small_problems import SmallNetwork, times
from solvers import PRECONDITIONERS
from torch import Tensor, nn

from stiffml import GMRES, LU, Discrete, Disk, Grid, ODEBlock, solve
from stiffml.distributed import Ensemble, Field
from stiffml.distributed.processes import processes

torch.set_num_threads(1)

T = times(0.1, 0.15, 0.3)
CHECKPOINTS: dict[str, Any] = {"solutions": "solutions", "5": 5, "disk": Disk(tempfile.gettempdir())}

Found = dict[str, Tensor]
Run = Callable[[str], Found]


def derived(y: Tensor, inputs: dict[str, Tensor], device: str, loss: Callable[[Tensor], Tensor]) -> Found:
    """Outputs and gradients, on the host; the devices that they come on are asserted."""
    assert y.device.type == device, f"y is on {y.device}"
    gradients = torch.autograd.grad(loss(y), list(inputs.values()))
    for (name, tensor), gradient in zip(inputs.items(), gradients, strict=True):
        assert gradient.device == tensor.device, f"the gradient of {name} is on {gradient.device}"
    return {"y": y.detach().cpu(), **{n: g.cpu() for n, g in zip(inputs, gradients, strict=True)}}


def solved(func: nn.Module, y0: Tensor, device: str, **arguments: Any) -> Found:
    func.to(device)
    y0, t = y0.to(device).requires_grad_(), T.clone().requires_grad_()
    y = solve(func, y0, t, **arguments).y
    assert isinstance(y, Tensor)
    inputs = {"y0": y0, "t": t, **dict(func.named_parameters())}
    return derived(y, inputs, device, lambda y: weighted(y.cpu()))


def by_method(method: str, solver: str = "", **arguments: Any) -> Run:
    def run(device: str) -> Found:
        model = Brusselator()
        func = model.split() if method == "arkimex-3" else model
        more: dict[str, Any] = {"linear": LU()} if solver == "dense" else {}
        if solver == "coloured":
            more = {"jacobian": "coloured"}
        elif solver in PRECONDITIONERS:
            implicit = func.implicit if method == "arkimex-3" else func
            more = {"linear": GMRES(PRECONDITIONERS[solver](implicit, model.diffusion))}
        return solved(func, waves(), device, method=method, steps=Grid(2), **more, **arguments)

    return run


def single(device: str) -> Found:
    network = SmallNetwork().float()
    y0 = torch.linspace(0, 1, 6).view(2, 3)
    return solved(network, y0, device, method="bdf2", steps=Grid(4), batch_dims=1)


def with_mass(device: str) -> Found:
    mass = torch.linspace(1, 2, 50, dtype=torch.float64).view(2, 5, 5).to(device)
    return solved(Brusselator(), waves(), device, method="cn", steps=Grid(2), mass=mass)


def at_an_event(device: str) -> Found:
    model = Brusselator().to(device)
    y0 = waves().to(device).requires_grad_()
    first = float(y0[0, 0, 0])

    def event(t: Tensor, y: Tensor) -> Tensor:
        return (y[0, 0, 0] - first) ** 2 - 1e-4

    solution = solve(model, y0, times(0, 5), method="bdf2", rtol=1e-6, atol=1e-8, event=event)
    assert solution.event is not None
    found = derived(solution.event.y, {"y0": y0}, device, lambda y: y.cpu().sum())
    return {**found, "t": solution.event.t.detach().cpu()}


def alone() -> Iterator[tuple[str, Run]]:
    for solver in ("dense", *PRECONDITIONERS):
        yield f"cn {solver}", by_method("cn", solver)
    for method in EVERY_KIND:
        for solver in ("coloured", "none", "the jacobian") if method != "dopri5" else ("",):
            yield f"{method} {solver}", by_method(method, solver)
    for name, checkpoints in CHECKPOINTS.items():
        for method in EVERY_KIND:
            yield f"{method} checkpoints {name}", by_method(method, adjoint=Discrete(checkpoints))
    yield "single precision", single
    yield "mass", with_mass
    yield "event", at_an_event


def of_ensemble(count: int) -> Run:
    """Of fewer samples than processes too."""

    def run(device: str) -> Found:
        network = SmallNetwork().to(device)
        block = ODEBlock(network, T, batch_dims=1, method="cn", steps=Grid(4))
        layer = Ensemble(block) if device != "cpu" else block
        y0 = torch.linspace(0, 1, 3 * count, dtype=torch.float64).view(count, 3).to(device).requires_grad_()
        inputs = {"y0": y0, **dict(network.named_parameters())}
        return derived(layer(y0), inputs, device, lambda y: weighted(y.cpu()))

    return run


def of_field(solver: str) -> Run:
    def run(device: str) -> Found:
        field, model = Field((8, 8), species=2), Brusselator(8)
        if field.size > 1:
            # That of one point each: the whole does not know which part it is of.
            del model.reaction.bump
            model.reaction.register_buffer("bump", torch.zeros(()))
        rhs = field.rhs(Local(model)).to(device)
        linear = GMRES(PRECONDITIONERS[solver](rhs, None))
        y0 = (
            field.create(lambda x, y: [1 + torch.sin(6 * x), 2 + torch.cos(6 * y)])
            .to(device)
            .requires_grad_()
        )
        y = solve(rhs, y0, T, method="cn", steps=Grid(2), linear=linear).y
        inputs = {"y0": y0, **dict(rhs.named_parameters())}
        found = derived(y, inputs, device, lambda y: field.sum(y**2).cpu())
        whole = field.gather(y)
        if whole is not None:
            assert whole.device.type == device
            part = field.scatter(whole)
        else:
            part = field.scatter(None)
        assert torch.equal(part.cpu(), found["y"])
        return found

    return run


def together() -> Iterator[tuple[str, Run]]:
    yield "ensemble of 5", of_ensemble(5)
    yield "ensemble of 1", of_ensemble(1)
    for solver in ("none", "the jacobian", "blocks"):
        yield f"field {solver}", of_field(solver)


def off(there: Found, here: Found) -> float:
    """By how much results differ, relative to their sizes."""
    assert there.keys() == here.keys()
    sizes = {name: max(float(value.abs().max()), 1e-30) for name, value in here.items()}
    return max(float((there[name] - value).abs().max()) / sizes[name] for name, value in here.items())


def main(which: str) -> None:
    torch.set_num_threads(1)
    registered = elsewhere.register()
    results: dict[str, Any] = {}
    for name, run in {"alone": alone, "together": together}[which]():
        try:
            results[name] = off(run(elsewhere.NAME), run("cpu"))
        except Exception:
            results[name] = traceback.format_exc()
    del registered
    if processes().rank == 0:
        print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
