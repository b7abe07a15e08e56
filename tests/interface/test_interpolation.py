"""Outputs between steps: their accuracy, and their gradients."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from forms import Case, forms
from gradients import compare
from methods import WITH_INTERPOLATION
from small_problems import SmallNetwork, times
from torch import Tensor

from stiffml import METHODS, Discrete, Fixed, Grid, Newton, check_gradients, sensitivities, solve
from stiffml.discretization.equations import Form

# isort: split
from petsc4py import PETSc

T = torch.linspace(0, 2, 12, dtype=torch.float64)


@pytest.mark.parametrize("method", WITH_INTERPOLATION)
def test_gradients(method: str, network: SmallNetwork, start: Tensor) -> None:
    # Nine steps end on none of the outputs: there the derivative with respect to t jumps.
    report = check_gradients(network, start, T, method=method, outputs="interpolate", steps=Grid(9))
    assert report.ok, f"{method}:\n{report}\nlook at interpolation.py, for t at Reading.time_gradient"


@pytest.mark.parametrize(("count", "output", "until"), [(2, 0.4, 0.51), (9, 0.85, 0.56)])
@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-ra34pw2", "dirk-es325sal"])
def test_times_of_a_run_that_fails(
    method: str, count: int, output: float, until: float, network: SmallNetwork, start: Tensor
) -> None:
    """Its steps still end where they would have on the way to the last output."""
    t = times(0, output, 1.6).requires_grad_()

    def run() -> Tensor:
        begin, _, end = t.tolist()

        def func(t: Tensor, y: Tensor) -> Tensor:
            # Where it fails moves with the steps, or else others would be cut.
            return network(t, y) + torch.where(t > begin + until * (end - begin), torch.nan, 0.0)

        solution = solve(func, start, t, method=method, steps=Grid(count), outputs="interpolate", throw=False)
        assert isinstance(solution.y, Tensor)
        assert len(solution.t) == 2
        return solution.y[1].sum()

    found = torch.autograd.grad(run(), t)
    error, _ = compare(run, [t], found, 1e-4)
    assert error <= 1e-6, f"{method}: off by {error:.1e}; look at Trajectory.output_gradient"


@pytest.mark.parametrize("method", WITH_INTERPOLATION)
def test_interpolated_outputs_are_as_accurate_as_the_steps(
    method: str, network: SmallNetwork, start: Tensor
) -> None:
    exact = solve(network, start, T, rtol=1e-10, atol=1e-12).y
    tolerances = {"rtol": 1e-5, "atol": 1e-6, "method": method}
    on_steps, between = (solve(network, start, T, outputs=o, **tolerances) for o in ("steps", "interpolate"))
    assert between.stats.accepted < on_steps.stats.accepted + 5
    error = (between.y - exact).abs().max()
    assert error <= 30 * ((between.y[-1] - exact[-1]).abs().max() + 1e-5), f"{method}: {error:.1e}"
    afterwards = between.interpolate(T)
    assert torch.allclose(afterwards, between.y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("checkpoints", ["stages", "solutions", 4])
@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-rodas3"])
def test_afterwards(method: str, checkpoints, network: SmallNetwork, start: Tensor) -> None:
    y0 = start.requires_grad_()
    solution = solve(network, y0, T[[0, -1]], method=method, steps=Grid(12), adjoint=Discrete(checkpoints))
    at = times(1.93, 0.01, 0.7).requires_grad_()
    y = solution.interpolate(at)
    assert isinstance(y, Tensor)
    wrt_t, wrt_y0 = torch.autograd.grad(y.sum(), [at, y0], retain_graph=True)
    with torch.no_grad():
        slopes = torch.stack([network(s, u) for s, u in zip(at, y, strict=True)]).sum(dim=1)
    assert torch.allclose(wrt_t, slopes, rtol=0.1, atol=0.1), "dy/dt is about f"
    expected = torch.autograd.grad(solution.interpolate(at.detach()).sum(), y0)[0]
    # The first reversal had states of the forward run, which the second one takes again: equal to rounding.
    assert torch.allclose(wrt_y0, expected, rtol=1e-13, atol=0)


# A method's own interpolant.

FORM = {"ode": Form(), "split": Form(split=True), "linear": Form(split=True), "dae": Form(mass=True)}


def own() -> list:
    cases = [(name, form) for name in METHODS for form in forms(name)]
    cases = [(name, form) for name, form in cases if METHODS[name].dense(FORM[form]) is not None]
    return [pytest.param(*case, id="-".join(case)) for case in cases]


def test_which_methods_have_one() -> None:
    names = {param.values[0] for param in own()}
    # The weights PETSc has for l2, 2p, 2m, ra3pw and sandu3 do not lead to the new state.
    assert names == {
        "bosh3",
        "dopri5",
        "dopri8",
        "tsit5",
        "rosw-ra34pw2",
        *(f"arkimex-{name}" for name in ("2c", "2d", "2e", "3", "4", "5")),
    }


@pytest.mark.parametrize(("method", "form"), own())
def test_gradients_of_own_interpolants(method: str, form: str) -> None:
    # Two steps that meet at 0.3, with one, two and three outputs in them.
    case = Case(form, times(0.1, 0.12, 0.25, 0.28, 0.45, 0.5))
    solution = case.solve(method, Grid(2), outputs="interpolate")
    gradients = case.gradients(solution)
    for name, inputs in case.inputs.items():
        if name == "mass":
            # A zero of a singular matrix is not to be moved.
            inputs, gradients[name] = [inputs[0].detach()[:2]], [gradients[name][0][:2]]

        def loss(case: Case = case, taken=solution.steps) -> Tensor:
            return case.loss(case.solve(method, taken, outputs="interpolate"))

        error, rate = compare(loss, inputs, gradients[name], 1e-3)
        assert error <= 1e-6, f"{method}, {form}: dL/d{name} is off by {error:.1e}; look at dense_output.py"
        assert rate >= 1.9, f"{method}, {form}: {name} has Taylor rate {rate:.2f}; look at dense_output.py"


@pytest.mark.parametrize(
    ("method", "order"),
    # One more than that of the conditions which the weights meet at all θ, as far as the steps have it.
    [
        ("bosh3", 3),
        ("dopri5", 5),
        ("rosw-ra34pw2", 3),
        ("arkimex-2c", 2),
        ("arkimex-3", 3),
        ("arkimex-4", 4),
        ("arkimex-5", 4),
    ],
)
def test_order_of_own_interpolants(method: str, order: int) -> None:
    def func(t: Tensor, y: Tensor) -> Tensor:
        return -(y**2) * torch.cos(t)

    y0, t = times(1.0), torch.linspace(0, 2, 41, dtype=torch.float64)
    exact = 1 / (1 + torch.sin(t))
    newton = {"newton": Newton(rtol=1e-13, atol=1e-15)} if METHODS[method].newton else {}

    def error(steps: int) -> float:
        y = solve(func, y0, t, method=method, steps=Grid(steps), outputs="interpolate", **newton).y
        assert isinstance(y, Tensor)
        return float((y[:, 0] - exact).abs().max())

    found = np.log2(error(18) / error(36))
    assert found >= order - 0.2, f"{method}: order {found:.2f} between the ends of steps, not {order}"


@pytest.mark.parametrize(
    ("method", "kind", "table"),
    [
        ("dopri5", "rk", "5dp"),
        ("rosw-ra34pw2", "rosw", "ra34pw2"),
        ("arkimex-3", "arkimex", "3"),
        ("arkimex-5", "arkimex", "5"),
    ],
)
def test_own_interpolants_are_those_of_petsc(method: str, kind: str, table: str, prefix: str) -> None:
    """One step of a linear problem, and TSInterpolate in it."""
    matrix = np.array([[-3.0, 1.0], [0.5, -0.8]])
    y0, h = np.array([1.0, 0.4]), 0.4
    at = torch.linspace(0, h, 9, dtype=torch.float64)

    ts, u = PETSc.TS().create(PETSc.COMM_SELF), PETSc.Vec().createWithArray(y0.copy(), comm=PETSc.COMM_SELF)
    jacobian = PETSc.Mat().createDense((2, 2), array=matrix.copy(), comm=PETSc.COMM_SELF)
    ts.setOptionsPrefix(prefix)
    PETSc.Options(prefix)[f"ts_{kind}_type"] = table
    PETSc.Options(prefix)["ts_adapt_type"] = "none"
    ts.setType(kind)
    ts.setFromOptions()
    if kind == "rk":
        ts.setRHSFunction(lambda ts, t, u, f: f.setArray(matrix @ u.array_r), u.duplicate())
    else:
        ts.setIFunction(lambda ts, t, u, v, f: f.setArray(v.array_r - matrix @ u.array_r), u.duplicate())

        def fill(ts, t, u, v, shift, mat, pmat) -> None:
            mat.getDenseArray()[:] = shift * np.eye(2) - matrix
            mat.assemble()

        ts.setIJacobian(fill, jacobian, jacobian)
    ts.getSNES().setTolerances(rtol=1e-14, atol=1e-15, stol=0)
    ts.setTimeStep(h)
    ts.setMaxSteps(1)
    ts.setMaxTime(h)
    ts.setExactFinalTime(PETSc.TS.ExactFinalTime.STEPOVER)
    ts.setSolution(u)
    ts.step()
    result, expected = u.duplicate(), []
    for time in at.tolist():
        ts.interpolate(time, result)
        expected.append(result.array_r.copy())
    ts.destroy()

    newton = {"newton": Newton(rtol=1e-14, atol=1e-16)} if METHODS[method].newton else {}
    system = torch.from_numpy(matrix)
    y = solve(
        lambda t, y: y @ system.T,
        torch.from_numpy(y0),
        at,
        method=method,
        steps=Grid(1),
        outputs="interpolate",
        **newton,
    ).y
    assert isinstance(y, Tensor)
    assert np.abs(y.numpy() - np.array(expected)).max() <= 1e-12, "look at Method.dense, and the tableau"


@pytest.mark.parametrize("method", ["dopri5", "rosw-ra34pw2", "arkimex-4"])
def test_second_derivatives_of_own_interpolants(method: str, network: SmallNetwork, start: Tensor) -> None:
    newton = {"newton": Newton(rtol=1e-13, atol=1e-15)} if METHODS[method].newton else {}
    arguments = {"method": method, "steps": Fixed(0.3), "outputs": "interpolate", **newton}
    weight = network.hidden.weight
    direction = torch.linspace(-1, 1, weight.numel(), dtype=weight.dtype).reshape(weight.shape)

    def gradient(create_graph: bool = False) -> Tensor:
        y = solve(network, start, T, **arguments).y
        assert isinstance(y, Tensor)
        return torch.autograd.grad((y**2).sum(), weight, create_graph=create_graph)[0]

    found = torch.autograd.grad((gradient(True) * direction).sum(), weight)[0]
    # Central differences of fourth order of the gradient.
    values = []
    with torch.no_grad():
        for factor in (-2, -1, 1, 2):
            weight += factor * 1e-3 * direction
            with torch.enable_grad():
                values.append(gradient())
            weight -= factor * 1e-3 * direction
    expected = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12e-3
    assert (found - expected).abs().max() <= 1e-8 * expected.abs().max(), "see second.py and dense_output.py"

    forward = sensitivities(network, start, T, ["out.bias"], **arguments)
    y = solve(network, start, T, **arguments).y
    assert isinstance(y, Tensor)
    for n in (3, 7, 11):
        reverse = torch.autograd.grad(y[n, 1], network.out.bias, retain_graph=True)[0]
        assert torch.allclose(forward.wrt["out.bias"][n, 1], reverse, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("checkpoints", ["solutions", 3])
@pytest.mark.parametrize("method", ["dopri5", "rosw-ra34pw2", "arkimex-3"])
def test_checkpoints_with_own_interpolants(method: str, checkpoints, network: SmallNetwork) -> None:
    newton = {"newton": Newton(rtol=1e-13, atol=1e-15)} if METHODS[method].newton else {}
    # In decreasing time.
    t, y0 = T.flip(0).requires_grad_(), times(0.5, -0.2, 0.1).requires_grad_()
    found = []
    for kept in ("stages", checkpoints):
        adjoint = Discrete(kept)
        solution = solve(
            network, y0, t, method=method, steps=Grid(12), outputs="interpolate", adjoint=adjoint, **newton
        )
        y = torch.cat([solution.y, solution.interpolate(times(0.3, 1.999, 1.4))])
        found.append(torch.autograd.grad((y**2).sum(), [y0, t, *network.parameters()]))
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max(), "look at dense_output.py and at Replay.outputs"


def test_outside_the_span(network: SmallNetwork, start: Tensor) -> None:
    solution = solve(network, start, T)
    with pytest.raises(ValueError, match=r"t\[1\] = 2.5 lies outside the span \[0, 2\]"):
        solution.interpolate(times(1.0, 2.5))
    with pytest.raises(ValueError, match="outputs must be one of"):
        solve(network, start, T, outputs="dense")


def test_every_method_interpolates(start: Tensor) -> None:
    def func(t: Tensor, y: Tensor) -> Tensor:
        return -y + 0 * t

    for name, method in METHODS.items():
        if method.whole:
            solution = solve(func, start, T[[0, -1]], method=name, steps=Grid(40))
            off = (solution.interpolate(times(0.31)) - start * torch.exp(-times(0.31))).abs().max()
            assert off < 0.02, f"{name}: {off:.1e}"


def test_many_outputs_in_one_step(start: Tensor) -> None:
    """Dense means dense: time and memory grow with the outputs, not with their square."""
    t = torch.linspace(0, 1, 20_000, dtype=torch.float64)
    y0 = start.requires_grad_()
    y = solve(lambda t, y: -y, y0, t, method="dopri5", steps=Grid(2), outputs="interpolate").y
    assert isinstance(y, Tensor)
    assert (y - start * torch.exp(-t)[:, None]).abs().max() <= 1e-4
    (gradient,) = torch.autograd.grad(y.mean(dim=0).sum(), y0)
    assert (gradient - (1 - math.exp(-1))).abs().max() <= 1e-4


def test_a_solution_without_steps_has_nothing_to_interpolate(start: Tensor) -> None:
    def failing(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t > 0.5, math.nan, -y)

    with pytest.raises(ValueError, match="took no steps"):
        solve(failing, start, times(0)).interpolate(times(0))
    # The second piece fails at once; where it begins the first one ends.
    partial = solve(failing, start, times(0, 1), breakpoints=[0.5], throw=False)
    assert not partial.success
    assert torch.allclose(partial.interpolate(times(0.5)), start * math.exp(-0.5), rtol=1e-4)


@pytest.mark.parametrize("outputs", ["interpolate", "steps"])
def test_few_steps_are_warned_of(outputs: str) -> None:
    """A polynomial through the ends of two steps is no match for a method of order 8."""
    y0, t = torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    arguments = {"method": "verner8", "outputs": outputs, "rtol": 1e-6}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sol = solve(lambda t, y: -y, y0, t, **arguments)
    assert sol.stats.accepted < 5
    told = [str(w.message) for w in caught if "polynomial of degree" in str(w.message)]
    assert bool(told) == (outputs == "interpolate"), told
    with pytest.warns(UserWarning, match="instead of 5"):
        sol.interpolate(torch.tensor([0.1], dtype=torch.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sol.interpolate(sol.step_times)  # states that were stepped to
        solve(lambda t, y: -y, y0, t, method="dopri5", outputs="interpolate")  # an interpolant of its own
        solve(lambda t, y: -y, y0, t, method="bdf2", rtol=0.1, outputs="interpolate")


def test_few_steps_of_samples_are_warned_of_once() -> None:
    y0 = torch.ones(3, 1, dtype=torch.float64)
    t = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]], dtype=torch.float64)
    sol = solve(lambda t, y: -y, y0, t, method="verner8", batch_dims=1, rtol=1e-6)
    with pytest.warns(UserWarning, match="polynomial of degree") as caught:
        sol.interpolate(torch.tensor([0.1, 0.2], dtype=torch.float64))
    assert len(caught) == 1
