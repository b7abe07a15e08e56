"""One solver on one system in a process of its own: CPU time of training steps, error, peak memory, as JSON.

python benchmarks/peers/explicit/worker.py SYSTEM METHOD SOLVER REPEATS
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchdiffeq
from systems import SYSTEMS, System
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from measuring import memory

import stiffml

Solve = Callable[[System, str], Tensor]


def ours(system: System, method: str) -> Tensor:
    if method == "rk4":
        steps = system.rk4 // (len(system.t) - 1)
        return stiffml.odeint(system.func, system.y0, system.t, method="rk4", steps=stiffml.Grid(steps))
    tolerance = {"rtol": system.rtol, "atol": system.rtol}
    return stiffml.odeint(system.func, system.y0, system.t, method=method, **tolerance)


def theirs(solve: Callable[..., Tensor], system: System, method: str) -> Tensor:
    options = None
    if method == "rk4":
        options = {"step_size": float(system.t[-1] - system.t[0]) / system.rk4}
    tolerance = {"rtol": system.rtol, "atol": system.rtol}
    return solve(system.func, system.y0, system.t, method=method, options=options, **tolerance)


SOLVERS: dict[str, Solve] = {
    "stiffml": ours,
    "odeint": lambda system, method: theirs(torchdiffeq.odeint, system, method),
    "odeint_adjoint": lambda system, method: theirs(torchdiffeq.odeint_adjoint, system, method),
}


def main() -> None:
    name, method, solver, repeats = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    system, solve = SYSTEMS[name](), SOLVERS[solver]
    times = []
    for number in range(int(repeats) + 1):
        if number == 1:
            before = memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        began = time.process_time()
        y = solve(system, method)
        y.square().mean().backward()
        times.append(time.process_time() - began)
        system.func.zero_grad()
    peak = memory("VmHWM") - before
    calls: list[object] = []
    hook = system.func.register_forward_pre_hook(lambda *_: calls.append(None))
    solve(system, method).square().mean().backward()
    hook.remove()
    with torch.no_grad():
        exact = torchdiffeq.odeint(system.func, system.y0, system.t, method="dopri5", rtol=1e-6, atol=1e-6)
        error = float((y - exact).abs().max())
    result = {
        "seconds": statistics.median(times[1:]),
        "peak_bytes": peak,
        "error": error,
        "calls": len(calls),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
