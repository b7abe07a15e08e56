"""PETSc options: those that are taken leave gradients right, the others are refused before the solve."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from stiffml import GMRES, Adaptive, Grid, Solution, solve
from stiffml.linear.preconditioners import Assembled
from stiffml.petsc.known_options import INSTEAD, UNDERSTOOD

D = torch.float64
Y0 = torch.tensor([1.0, 0.5], dtype=D)
T = torch.linspace(0, 1, 4, dtype=D)
RATES = torch.tensor([2.0, 30.0], dtype=D)

NEWTON: list[Mapping[str, object]] = [
    {"snes_linesearch_type": "bt"},
    {"snes_linesearch_type": "l2"},
    {"snes_linesearch_type": "l2", "snes_linesearch_max_it": 3},
    {"snes_linesearch_type": "bt", "snes_linesearch_order": 2},
    {"snes_lag_jacobian": 2},
    {"snes_lag_jacobian": 5},
    {"snes_lag_preconditioner": 2},
    {"pc_factor_mat_ordering_type": "natural"},
]
CONTROL: list[Mapping[str, object]] = [
    {"ts_adapt_safety": 0.5},
    {"ts_adapt_reject_safety": 0.2},
    {"ts_adapt_clip": "0.2,3"},
    {"ts_adapt_wnormtype": "infinity"},
    {"ts_adapt_max_ignore": 1e-3},
    {"ts_adapt_time_step_increase_delay": 2},
]
KRYLOV: list[Mapping[str, object]] = [
    {"ksp_gmres_modifiedgramschmidt": True},
    {"pc_factor_levels": 1},
    {"ksp_pc_side": "left"},
    {"ksp_norm_type": "preconditioned"},
]
REFUSED: list[tuple[str, Mapping[str, object], str]] = [
    ("rosw-ra34pw2", {"ts_rosw_recompute_jacobian": True}, "it changes the equations of a step"),
    ("cn", {"snes_type": "ksponly"}, "it may leave the equations of a step unsolved"),
    ("cn", {"-snes_type": "nrichardson"}, "it may leave the equations of a step unsolved"),
    ("rosw-ra34pw2", {"snes_type": "newtonls"}, "it may leave the equations of a step unsolved"),
    ("arkimex-3", {"ts_arkimex_fastslowsplit": True}, "it changes the equations of a step"),
    ("arkimex-3", {"ts_arkimex_fully_implicit": True}, "it changes the equations of a step"),
    ("arkimex-3", {"ts_arkimex_type": "4"}, "it changes the equations of a step"),
    ("bdf", {"ts_bdf_order": 2}, "it changes the equations of a step"),
    ("theta", {"ts_theta_theta": 0.9}, "it changes the equations of a step"),
    ("cn", {"ts_theta_initial_guess_extrapolate": True}, "it changes the equations of a step"),
    ("dopri5", {"ts_rk_type": "3bs"}, "it changes the equations of a step"),
    ("dirk-s212", {"ts_dirk_type": "s659a"}, "it changes the equations of a step"),
    ("cn", {"ts_type": "bdf"}, "is set by the arguments of the solve"),
    ("bdf", {"ts_adapt_type": "none"}, "is set by the arguments of the solve"),
    ("cn", {"snes_max_it": 1}, "is set by the arguments of the solve"),
    ("arkimex-3", {"snes_linesearch_type": "cp"}, "must be one of basic, bt, l2"),
    ("cn", {"snes_mf": True}, "use jacobian='matrix-free'"),
    ("cn", {"snes_mf_operator": True}, "use jacobian='matrix-free'"),
    ("cn", {"snes_fd": True}, "use jacobian='matrix-free'"),
    ("cn", {"snes_lag_jacobian": -1}, "must be at least 1, not -1"),
    ("cn", {"snes_lag_jacobian_persists": True}, "a Jacobian of another step size"),
    ("rosw-ra34pw2", {"snes_lag_jacobian": 2}, "this solve has no Newton iterations"),
    ("cn", {"snes_rtol": 1e-2}, "use newton=Newton"),
    ("cn", {"snes_ksp_ew": True}, "use linear=GMRES"),
    ("cn", {"snes_linesearch_damping": 1e-3}, "short updates look converged"),
    ("cn", {"ts_monitor": True}, "see Solution.steps"),
    ("cn", {"ts_view": True}, "see Solution.stats"),
    ("bdf", {"ts_event_tol": 1e-3}, "use event="),
    ("bdf", {"ts_trajectory_type": "memory"}, "adjoint=Discrete"),
    ("bdf", {"ts_adapt_always_accept": True}, "use steps=Fixed"),
    ("bdf", {"ts_adapt_dt_min": 1e-3}, r"Adaptive\(minimum="),
    ("rosw-ra34pw2", {"ksp_type": "gmres", "ksp_rtol": 0.1}, "goes with linear=GMRES"),
    ("rosw-ra34pw2", {"pc_type": "none"}, "goes with linear=GMRES"),
    ("cn", {"log_view": True}, "the whole process's"),
    ("cn", {"ts_nonsense": 1}, "none that stiffml understands"),
    ("dopri5", {"snes_linesearch_type": "bt"}, "this solve has no Newton iterations"),
    ("rk4", {"ts_adapt_safety": 0.5}, "no steps with an error estimate"),
]


def func(t: Tensor, y: Tensor) -> Tensor:
    return -RATES * y + torch.tanh(y.flip(-1)) * torch.cos(t)


def run(y0: Tensor, method: str, options: Mapping[str, object] | None = None, **arguments) -> Solution:
    return solve(func, y0, T, method=method, options=options, **arguments)


def require_right(
    solution: Solution, y0: Tensor, method: str, options: Mapping[str, object] | None, **arguments
) -> None:
    """Compare with differences of the same steps."""
    (gradient,) = torch.autograd.grad(solution.y[-1].sum(), y0)
    for i, move in enumerate(1e-6 * torch.eye(2, dtype=D)):
        ends = [run(Y0 + sign * move, method, options, **arguments).y[-1].sum() for sign in (1, -1)]
        expected = float(ends[0] - ends[1]) / 2e-6
        assert gradient[i].item() == pytest.approx(expected, rel=1e-5, abs=1e-7), (
            f"{options} changes what a step is; take it out of UNDERSTOOD in petsc/known_options.py"
        )


@pytest.mark.parametrize("options", NEWTON, ids=str)
@pytest.mark.parametrize("method", ["cn", "bdf3", "arkimex-3", "dirk-s212"])
def test_options_of_newton(method: str, options: Mapping[str, object]) -> None:
    y0 = Y0.clone().requires_grad_()
    solution = run(y0, method, options, steps=Grid(3))
    plain = run(Y0, method, steps=Grid(3))
    torch.testing.assert_close(solution.y.detach(), plain.y, rtol=1e-8, atol=1e-10)
    require_right(solution, y0, method, options, steps=Grid(3))


@pytest.mark.parametrize("options", CONTROL, ids=str)
@pytest.mark.parametrize("method", ["bdf3", "rosw-rodas3", "arkimex-4", "dopri5"])
def test_options_of_the_controller(method: str, options: Mapping[str, object]) -> None:
    y0 = Y0.clone().requires_grad_()
    solution = run(y0, method, options, steps=Adaptive(), rtol=1e-3, atol=1e-5)
    require_right(solution, y0, method, None, steps=solution.steps)


@pytest.mark.parametrize("options", KRYLOV, ids=str)
@pytest.mark.parametrize("method", ["cn", "rosw-rodas3"])
def test_options_of_krylov_methods(method: str, options: Mapping[str, object]) -> None:
    y0, linear = Y0.clone().requires_grad_(), GMRES(Assembled(), rtol=1e-10)
    require_right(
        run(y0, method, options, steps=Grid(3), linear=linear),
        y0,
        method,
        options,
        steps=Grid(3),
        linear=linear,
    )


@pytest.mark.parametrize(
    "name",
    ["snes_monitor", "snes_converged_reason", "snes_view", "ksp_monitor", "ksp_view"],
)
def test_options_that_print(name: str, capfd: pytest.CaptureFixture) -> None:
    run(Y0, "cn", {name: True}, steps=Grid(1))
    assert capfd.readouterr().out.strip(), f"{name} printed nothing; refuse it in petsc/known_options.py"


def test_the_controller_prints(capfd: pytest.CaptureFixture) -> None:
    run(Y0, "bdf", {"ts_adapt_monitor": True}, rtol=1e-3)
    assert "accepted" in capfd.readouterr().out


@pytest.mark.parametrize(("method", "options", "why"), REFUSED, ids=str)
def test_refused(method: str, options: Mapping[str, object], why: str) -> None:
    """Before func is stepped with; the option is named."""
    adaptive = method in ("bdf",)
    (name, *_) = (key.lstrip("-") for key in options)
    with pytest.raises(ValueError, match=rf"options: .*{name}.*{why}"):
        run(Y0, method, options, **({} if adaptive else {"steps": Grid(1)}))


def test_every_refusal_is_of_what_is_not_taken() -> None:
    beginnings = [part for parts, _ in INSTEAD for part in (parts if isinstance(parts, tuple) else (parts,))]
    for group in UNDERSTOOD:
        for name in group.names:
            assert not name.startswith("ts_") or name.startswith("ts_adapt_")
    assert len(set(beginnings)) == len(beginnings)
