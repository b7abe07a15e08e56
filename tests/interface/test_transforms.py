"""Solves within torch.vmap, torch.func and forward mode: the same as one by one, and as differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from small_problems import times
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp

import stiffml
from stiffml import METHODS, Crossing, Discrete, Grid, Newton, ODEBlock, Split, odeint, solve

T = times(0, 0.4, 1.0)
Y0 = times(1.0, -0.5)
K = times(0.7, 3.0)
SOME = ["bdf3", "cn", "rosw-ra34pw2", "dopri5", "dirk-es324sal", "rk4"]
REPEATED = {"steps": Grid(4)}


def field(k: Tensor) -> Any:
    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1] * k[0] + torch.sin(t), -k[1] * y[0] * y[1] ** 2 - y[1]])

    return func


def options(method: str) -> dict[str, Any]:
    tight = {"newton": Newton(rtol=1e-12, atol=1e-13)} if METHODS[method].newton else {}
    return {"method": method, **REPEATED, **tight}


def final(y0: Tensor, k: Tensor, method: str = "cn") -> Tensor:
    return odeint(field(k), y0, T, **options(method))[-1]


def jacobians(method: str) -> tuple[Tensor, Tensor]:
    found = torch.autograd.functional.jacobian(lambda y, k: final(y, k, method), (Y0, K))
    assert isinstance(found, tuple)
    return found


def close(found: Any, wanted: Any, rtol: float = 1e-8) -> None:
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=1e-10)


@pytest.mark.parametrize("method", SOME)
def test_first_derivatives(method: str) -> None:
    wanted = jacobians(method)
    one = lambda y, k: final(y, k, method)  # noqa: E731
    for transform in (jacrev, jacfwd):
        close(transform(one, argnums=(0, 1))(Y0, K), wanted)
    close(grad(lambda k: one(Y0, k).sum())(K), wanted[1].sum(dim=0))
    value, pull = vjp(lambda k: one(Y0, k), K)
    close(value, one(Y0, K))
    close(pull(Y0)[0], Y0 @ wanted[1])
    value, along = jvp(one, (Y0, K), (K, Y0))
    close(value, one(Y0, K))
    close(along, wanted[0] @ K + wanted[1] @ Y0)
    with forward_ad.dual_level():
        dual = one(forward_ad.make_dual(Y0, K), forward_ad.make_dual(K, Y0))
        close(forward_ad.unpack_dual(dual).tangent, along)
    y = K.clone().requires_grad_()
    batched = torch.autograd.grad(one(Y0, y), y, torch.eye(2, dtype=torch.float64), is_grads_batched=True)[0]
    close(batched, wanted[1])
    close(
        torch.vmap(lambda c: torch.autograd.grad(one(Y0, y), y, c)[0])(torch.eye(2, dtype=torch.float64)),
        wanted[1],
    )
    close(torch.autograd.functional.jacobian(one, (Y0, K), vectorize=True), wanted)


@pytest.mark.parametrize("method", SOME)
def test_vmap_is_a_loop(method: str) -> None:
    ks, starts = torch.stack([K, K / 2, 2 * K]), torch.stack([Y0, Y0 + 1, -Y0])
    one = lambda y, k: final(y, k, method)  # noqa: E731
    close(torch.vmap(one)(starts, ks), torch.stack([one(y, k) for y, k in zip(starts, ks, strict=True)]))
    close(torch.vmap(one, in_dims=(None, 1))(Y0, ks.T), torch.stack([one(Y0, k) for k in ks]))
    each = torch.vmap(grad(lambda y, k: one(y, k).sum(), argnums=1))(starts, ks)
    alone = [grad(lambda k, y=y: one(y, k).sum())(k) for y, k in zip(starts, ks, strict=True)]
    close(each, torch.stack(alone))
    adaptive = lambda k: odeint(field(k), Y0, T, method="bdf")[-1]  # noqa: E731
    assert torch.equal(torch.vmap(adaptive)(ks), torch.stack([adaptive(k) for k in ks]))


@pytest.mark.parametrize("method", ["cn", "bdf3", "rosw-ra34pw2", "dopri5"])
def test_second_derivatives(method: str) -> None:
    loss = lambda k: (final(Y0, k, method) ** 2).sum()  # noqa: E731
    wanted = torch.autograd.functional.hessian(loss, K)
    close(hessian(loss)(K), wanted, 1e-6)
    close(jacrev(jacrev(loss))(K), wanted, 1e-6)
    close(jacrev(jacfwd(loss))(K), wanted, 1e-6)
    close(jvp(grad(loss), (K,), (Y0,))[1], wanted @ Y0, 1e-6)


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(2, 2).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.net(y)) - y


def test_an_ensemble_of_blocks() -> None:
    """Weights of several models, stacked: what torch's documentation does with vmap and functional_call."""
    block = ODEBlock(Field(), T, method="cn", steps=Grid(3))
    weights = {name: torch.stack([p.detach(), p.detach() / 2]) for name, p in block.named_parameters()}

    def loss(given: dict[str, Tensor], y0: Tensor) -> Tensor:
        return functional_call(block, given, (y0,))[-1].sum()

    before = [p.clone() for p in block.parameters()]
    values = torch.vmap(loss, in_dims=(0, None))(weights, Y0)
    gradients = torch.vmap(grad(loss), in_dims=(0, None))(weights, Y0)
    for number in range(2):
        own = {name: values[number].clone().requires_grad_() for name, values in weights.items()}
        wanted = loss(own, Y0)
        close(values[number], wanted.detach())
        for name, g in zip(own, torch.autograd.grad(wanted, list(own.values())), strict=True):
            close(gradients[name][number], g)
    assert all(p is q or torch.equal(p, q) for p, q in zip(block.parameters(), before, strict=True))
    per_sample = torch.vmap(grad(loss), in_dims=(None, 0))(
        {name: p.detach() for name, p in block.named_parameters()}, torch.stack([Y0, -Y0])
    )
    close(
        per_sample["func.net.weight"][1],
        grad(loss)(dict(block.named_parameters()), -Y0)["func.net.weight"].detach(),
    )


def test_parameters_outside_of_a_transform_get_their_gradient() -> None:
    net, starts = Field(), torch.stack([Y0, -Y0, 2 * Y0])
    one = lambda y: odeint(net, y, T, **options("bdf3"))[-1]  # noqa: E731
    outside = times(0.3).requires_grad_()
    shifted = lambda y: odeint(lambda t, y: net(t, y) * torch.exp(outside), y, T, **options("cn"))[-1]  # noqa: E731
    for solved in (one, shifted):
        inputs = [outside, *net.parameters()] if solved is shifted else list(net.parameters())
        found = torch.autograd.grad(torch.vmap(solved)(starts).square().sum(), inputs)
        wanted = torch.autograd.grad(torch.stack([solved(y) for y in starts]).square().sum(), inputs)
        for g, other in zip(found, wanted, strict=True):
            close(g, other)


def test_times_events_splits_nested_states_and_breakpoints() -> None:
    moved = lambda end: odeint(field(K), Y0, torch.stack([T[0], end]), **options("cn"))[-1]  # noqa: E731
    end = times(0.9)[0]
    close(jacrev(moved)(end), torch.autograd.functional.jacobian(moved, end))
    close(jacfwd(moved)(end), torch.autograd.functional.jacobian(moved, end))

    def at(k: Tensor, threshold: Tensor) -> Tensor:
        sol = solve(lambda t, y: -k * y, times(1.0), T, event=lambda t, y: y[0] - threshold, rtol=1e-8)
        assert sol.event is not None
        return sol.event.t

    rate, level = times(2.0)[0], times(0.5)[0]
    close(grad(at, argnums=(0, 1))(rate, level), (-torch.log(1 / level) / rate**2, -1 / (rate * level)), 1e-5)
    close(jvp(lambda k: at(k, level), (rate,), (level,))[1], -torch.log(1 / level) / rate**2 * level, 1e-5)
    split = lambda k: odeint(  # noqa: E731
        Split(lambda t, y: -k[1] * y, lambda t, y: k[0] * y.flip(0)), Y0, T, method="arkimex-3", steps=Grid(4)
    )[-1]
    close(jacrev(split)(K), torch.autograd.functional.jacobian(split, K))

    def nested(k: Tensor) -> Tensor:
        y = odeint(
            lambda t, y: {"a": 1j * k[0] * y["a"], "b": -k[1] * y["b"]},
            {"a": Y0 + 0j, "b": Y0},
            T,
            **options("cn"),
        )
        return y["a"][-1].real + y["b"][-1]

    close(jacrev(nested)(K), torch.autograd.functional.jacobian(nested, K))
    close(jacfwd(nested)(K), torch.autograd.functional.jacobian(nested, K))
    jump = lambda at: odeint(  # noqa: E731
        lambda t, y: -y if t < 0.5 else y, Y0, T, breakpoints=at[None], method="cn", steps=Grid(4)
    )[-1]
    close(jacrev(jump)(times(0.5)[0]), torch.autograd.functional.jacobian(jump, times(0.5)[0]))


def test_branches_on_numbers_and_inputs_that_do_not_matter() -> None:
    def one(k: Tensor, unused: Tensor, number: Tensor) -> Tensor:
        func = lambda t, y: -k * y * (1 + number) if y[0] > 0 else k * y  # noqa: E731
        return odeint(func, times(1.0), T, params=[k, unused], **options("cn"))[-1]

    given = (times(1.0, 2.0), times(3.0, 4.0), torch.tensor([1, 2]))
    wanted = torch.stack([one(*(x[i] for x in given)) for i in range(2)])
    close(torch.vmap(one)(*given), wanted)
    assert torch.equal(
        grad(lambda u: one(times(1.0)[0], u, torch.tensor(1)).sum())(times(2.0)[0]), times(0.0)[0]
    )


def test_many_cotangents_take_one_sweep() -> None:
    """f is evaluated about as often for twelve of them as for one, and never less right."""
    net = Field()
    y0 = Y0.clone().requires_grad_()
    for method, checkpoints in (
        ("bdf3", "stages"),
        ("cn", 4),
        ("dopri5", "stages"),
        ("rosw-ra34pw2", "stages"),
    ):
        sol = solve(net, y0, T, adjoint=Discrete(checkpoints), **options(method))
        inputs = [y0, *net.parameters()]
        torch.autograd.grad(sol.y.sum(), inputs, retain_graph=True)
        alone = sol.stats.adjoint.rhs_evals
        units = torch.eye(6, dtype=torch.float64).view(6, 3, 2)
        found = torch.autograd.grad(sol.y, inputs, units, retain_graph=True, is_grads_batched=True)
        for number, unit in enumerate(units):
            wanted = torch.autograd.grad(sol.y, inputs, unit, retain_graph=True)
            for one, other in zip(found, wanted, strict=True):
                close(one[number], other)
        assert alone > 0
    wide = solve(net, y0, T, outputs="interpolate", method="dopri5")
    found = torch.autograd.grad(wide.y, [y0], units, is_grads_batched=True, create_graph=True)
    wanted = torch.stack([torch.autograd.grad(wide.y, y0, unit, retain_graph=True)[0] for unit in units])
    close(found[0], wanted)


def test_what_has_no_meaning_in_a_transform_is_said() -> None:
    for attempt, message in {
        "interpolate": "interpolate: not available within torch.vmap",
        "jacobian": "jacobian: not available within torch.vmap",
    }.items():

        def one(k: Tensor, attempt: str = attempt) -> Tensor:
            sol = solve(lambda t, y: -k * y, Y0, T)
            return sol.interpolate(T) if attempt == "interpolate" else sol.jacobian(k)

        with pytest.raises(ValueError, match=message):
            jacrev(one)(K)
    with pytest.raises(ValueError, match="sensitivities: not available within torch"):
        grad(lambda k: stiffml.sensitivities(lambda t, y: -k * y, Y0, T, params=[k]).solution.y.sum())(K[0])

    def until(k: Tensor) -> Tensor:
        return solve(lambda t, y: -k * y, times(1.0), T, event=lambda t, y: y[0] - 0.6).y

    with pytest.raises(ValueError, match=r"outputs of the samples differ in number"):
        torch.vmap(until)(times(0.9, 5.0))


def test_events_that_do_not_end_a_solve_and_jumps() -> None:
    def both(k: Tensor) -> Tensor:
        sol = solve(
            lambda t, y: torch.stack([y[1], -k[0] * y[0]]),
            times(1.0, 0.0),
            times(0, 4),
            event=[Crossing(lambda t, y: y[0] - 0.1 * k[1], terminal=False)],
            jumps=[(0.3, lambda t, y: y * k[1])],
            rtol=1e-8,
        )
        (passed,) = sol.events
        return torch.cat([passed.t, passed.y.flatten(), sol.y[-1]])

    k = times(1.7, 0.8)
    moves = 1e-5 * torch.eye(2, dtype=torch.float64)
    wanted = torch.stack([(both(k + move) - both(k - move)) / 2e-5 for move in moves], -1)
    for transform in (jacrev, jacfwd):
        torch.testing.assert_close(transform(both)(k), wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.vmap(both)(k[None])[0], both(k), rtol=1e-12, atol=0)
    with pytest.raises(RuntimeError, match=r"an event takes one cotangent.*Try: torch.func.jacrev"):
        torch.autograd.functional.jacobian(both, k, vectorize=True)
