"""Whole runs in C against the same ones step by step from Python: steps, values, gradients."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Iterator

import pytest
import torch
from methods import ADAPTIVE, EVERY_KIND, WITH_INTERPOLATION
from runs_in_c import Robertson, both, compare, require_library, require_same
from stiff_parts import SPLIT, WHOLE
from torch import Tensor

import stiffml
from stiffml import METHODS, Adaptive, Fixed, Grid, Newton, solve
from stiffml.petsc.compiled_run import nonstop

D = torch.float64
T = torch.tensor([0.0, 0.1, 0.4, 0.7], dtype=D)
BY_PETSC = [name for name, method in METHODS.items() if method.stepper == "petsc"]
MASSES = {
    "none": None,
    "diagonal": torch.tensor([1.0, 2.0, 0.5], dtype=D),
    "dense": torch.tensor([[1.0, 0.2, 0.0], [0.0, 2.0, 0.1], [0.3, 0.0, 0.5]], dtype=D),
}


ROBERTSON = Robertson()


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "interpolation: .* polynomial of degree")  # draws take few steps
        yield


def start(*batch: int) -> Tensor:
    count = 3 * int(torch.tensor(batch).prod()) if batch else 3
    return torch.linspace(-0.6, 1.0, count, dtype=D).view(*batch, 3)


def functions(name: str) -> list[tuple]:
    method = METHODS[name]
    chosen = [WHOLE] * method.whole + [SPLIT] * method.split
    return [(func, list(WHOLE.parameters())) for func in chosen]


@pytest.mark.parametrize("name", BY_PETSC)
def test_known_steps_of_every_method(name: str) -> None:
    for func, parameters in functions(name):
        compare(func, start(), T, parameters, method=name, steps=Grid(4), stepping="sequential")


@pytest.mark.parametrize("name", [name for name in BY_PETSC if name in ADAPTIVE])
def test_adaptive_steps_of_every_method(name: str) -> None:
    rtol = 1e-3 if METHODS[name].order < 3 else 1e-5
    # Where coefficients are large, errors have few digits: an ulp of y0 moves ends as much.
    loose = {"within": 1e-9, "ends": 1e-4} if METHODS[name].order >= 6 else {}
    for func, parameters in functions(name):
        compare(func, start(), T, parameters, method=name, rtol=rtol, atol=rtol, **loose)


@pytest.mark.parametrize("name", EVERY_KIND)
@pytest.mark.parametrize("mass", MASSES)
def test_samples_masses_and_decreasing_times(name: str, mass: str) -> None:
    parameters = list(WHOLE.parameters())
    arguments = {} if mass == "none" else {"mass": MASSES[mass]}
    if mass != "none" and not METHODS[name].mass:
        pytest.skip("takes no mass matrix")
    for t in (T, 0.7 - T):
        y0, known = start(2, 3), arguments | {"stepping": "sequential"}
        compare(WHOLE, y0, t, parameters, method=name, batch_dims=2, rtol=1e-3, **arguments)
        compare(WHOLE, y0, t, parameters, method=name, batch_dims=2, steps=Fixed(0.05), **known)


@pytest.mark.parametrize("name", ["bdf5", "bdf2", "rosw-rodaspr2", "rosw-ra34pw2", "cn", "dirk-es324sal"])
def test_robertson(name: str) -> None:
    t = torch.cat([torch.zeros(1, dtype=D), torch.logspace(-5, 2, 15, dtype=D)])
    y0, atol = torch.tensor([1.0, 0, 0], dtype=D), torch.tensor([1e-8, 1e-12, 1e-8], dtype=D)
    # Rounding is amplified by 1e3 where reactions balance, and steps follow it. Gradients by times divide the
    # rounding of states by steps of 1e-6: those of C agree to 3e-11 with solves to Newton's rtol=1e-12, those
    # of PETSc, which does not sum differences of states, to 3e-6.
    arguments = {"method": name, "rtol": 1e-5, "atol": atol}
    compare(ROBERTSON, y0, t, [ROBERTSON.k], within=1e-10, at_times=1e-5, **arguments)


@pytest.mark.parametrize("name", WITH_INTERPOLATION)
def test_outputs_between_steps(name: str) -> None:
    parameters = list(WHOLE.parameters())
    compare(WHOLE, start(), T, parameters, method=name, rtol=1e-4, outputs="interpolate")


@pytest.mark.parametrize("name", ["cn", "bdf3", "arkimex-3", "dirk-es213sal"])
def test_newton_settings_and_cut_steps(name: str) -> None:
    """With few iterations, steps of stiff reactions are cut: by PETSc, and the rest in halves."""
    t = torch.tensor([0.0, 0.4, 40.0], dtype=D)
    y0, parameters = torch.tensor([1.0, 0, 0], dtype=D), [ROBERTSON.k]
    count = 60 if name == "bdf3" else 6
    for newton in (Newton(rtol=1e-9, max_iterations=4), Newton(rtol=1e-8, atol=1e-10, max_iterations=5)):
        arguments = {"method": name, "newton": newton, "stepping": "sequential"}
        compare(ROBERTSON, y0, t, parameters, steps=Grid(count), within=1e-9, **arguments)
    atol = torch.tensor([1e-5, 1e-9, 1e-5], dtype=D)
    newton = Newton(atol=atol, rtol=1e-6, max_iterations=3)
    compare(ROBERTSON, y0, t, parameters, method=name, newton=newton, rtol=1e-4, atol=atol, within=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_draws(seed: int) -> None:
    pick = random.Random(seed)
    name = pick.choice(BY_PETSC)
    method = METHODS[name]
    func, parameters = pick.choice(functions(name))
    batch = pick.choice([(), (), (1,), (4,)])
    mass = pick.choice(list(MASSES)) if method.mass and func is WHOLE else "none"
    known: list = [Grid(pick.randint(1, 7)), Fixed(pick.uniform(0.02, 0.2))]
    minimum = pick.choice([None, 1e-9])
    chosen = Adaptive(stop_if_stiff=pick.random() < 0.5, maximum=pick.choice([None, 0.05]), minimum=minimum)
    steps = pick.choice([*known, chosen, chosen]) if method.adaptive else pick.choice(known)
    arguments: dict = {"method": name, "steps": steps, "stepping": "sequential", "batch_dims": len(batch)}
    if isinstance(steps, Adaptive):
        arguments |= {"rtol": 10 ** pick.uniform(-4, -2.5), "atol": 10 ** pick.uniform(-5, -3)}
    if mass != "none":
        arguments["mass"] = MASSES[mass]
    arguments["adjoint"] = stiffml.Discrete(pick.choice(["stages", "solutions"]))
    arguments["outputs"] = pick.choice(["steps", "interpolate"])
    if pick.random() < 0.3:
        arguments["breakpoints"] = [0.23]
    t = T + pick.choice([0.0, -3.0, 20.0])
    t = t.flip(0) if pick.random() < 0.3 else t
    compare(func, start(*batch), t, parameters, within=1e-10, **arguments)


def test_parameters_that_change() -> None:
    func = Robertson()
    t, y0 = torch.tensor([0.0, 1.0, 10.0], dtype=D), torch.tensor([1.0, 0, 0], dtype=D)
    ends = []
    for factor in (1.0, 1.5, 0.5):
        with torch.no_grad():
            func.k[0] = 0.04 * factor
        found, wanted = both(lambda: solve(func, y0, t, compile=True, rtol=1e-5))
        require_same(found, wanted, 1e-10)
        ends.append(float(found.y[-1, 0].detach()))
    assert ends[1] < ends[0] < ends[2]


def test_two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of two threads take turns with each step."""
    require_library()
    monkeypatch.setattr(nonstop, "INTERRUPTIBLE", 0.0)
    t, results = torch.tensor([0.0, 0.2, 3.0], dtype=D), {}
    jobs = {"a": (WHOLE, start(), "bdf3"), "b": (ROBERTSON, start().abs(), "rosw-ra34pw2")}

    def solved(key: str) -> Tensor:
        func, y0, name = jobs[key]
        with torch.no_grad():
            found = solve(func, y0, t, method=name, rtol=1e-6, compile=True)
        assert found.stats.in_c == found.stats.accepted > 20
        return found.y

    alone = {key: solved(key) for key in jobs}
    threads = [threading.Thread(target=lambda k=key: results.update({k: solved(k)})) for key in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key, y in alone.items():
        assert torch.equal(results[key], y)


FROM_PYTHON: dict[str, dict] = {
    "event": {"event": lambda t, y: y[0] - 10},
    "bounds": {"bounds": (-10.0, 10.0)},
    "options": {"options": {"snes_linesearch_type": "bt"}},
    "few checkpoints": {"adjoint": stiffml.Discrete(checkpoints=3)},
    "krylov": {"linear": stiffml.GMRES()},
    "coloured": {"jacobian": "coloured"},
    "all at once": {"steps": Grid(6), "stepping": "all-at-once"},
}


@pytest.mark.parametrize("what", FROM_PYTHON)
def test_what_is_not_taken_in_c(what: str) -> None:
    arguments = {"method": "bdf3", "compile": True, **FROM_PYTHON[what]}
    found = solve(WHOLE, start(), T, **arguments)
    assert found.stats.in_c == 0
    assert found.stats.accepted > 0
    assert found.stats.given_up == ""


def test_a_large_state_is_not_taken_in_c() -> None:
    """Its values are not remembered, and memory counts for more than calls."""
    y0, t = torch.ones(600_000, 1, dtype=D), torch.tensor([0.0, 0.1], dtype=D)
    with torch.no_grad():
        found = solve(
            lambda t, y: -y, y0, t, method="beuler", steps=Grid(2), stepping="sequential", batch_dims=1
        )
    assert found.stats.in_c == 0


def test_a_compiled_module_is_taken_in_c_too() -> None:
    require_library()
    rate = stiffml.compile(WHOLE, start())
    found = solve(rate, start(), T, method="bdf3", rtol=1e-4)
    assert found.stats.in_c == found.stats.accepted > 0
