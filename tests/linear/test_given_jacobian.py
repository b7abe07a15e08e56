"""Jacobians that the caller gives as a function: the solve and its gradients are those with torch's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from methods import as_taken
from rings import line, one_step, ring
from scipy.sparse import csr_array
from small_problems import times
from torch import Tensor, nn

from stiffml import GMRES, METHODS, Assembled, Grid, Newton, Split, odeint, solve
from stiffml.system.derivatives.jacobian import WithJacobian

IMPLICIT = [name for name, method in METHODS.items() if method.implicit and not method.exponential]
Y0, T = times(1.0, 0.3, 0.2), times(0, 0.1, 0.3)


class Reactions(nn.Module):
    """Robertson's, less far apart, with a feed that depends on time; of y (…, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(times(0.4, 20.0, 60.0))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        (a, b, c), (k, m, n) = y.unbind(-1), self.k
        slow, back, fast = k * a, m * b * c * torch.cos(t), n * b**2
        return torch.stack([back - slow, slow - back - fast, fast - 0.1 * c], dim=-1)

    def jacobian(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, 3, 3), by hand."""
        (a, b, c), (k, m, n) = y.unbind(-1), self.k * torch.stack([0 * t + 1, torch.cos(t), 0 * t + 1])
        zero = 0 * a
        rows = [
            [zero - k, m * c, m * b],
            [zero + k, -m * c - 2 * n * b, -m * b],
            [zero, 2 * n * b, zero - 0.1],
        ]
        return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


KINDS: dict[str, Callable[[Tensor], Any]] = {
    "dense": lambda found: found,
    "array": lambda found: found.detach().numpy(),
    "COO": lambda found: found.to_sparse(),
    "CSR": lambda found: found.to_sparse_csr(),
    "scipy": lambda found: csr_array(found.detach().numpy()),
}


def found_by(func: Any, y0: Tensor, **arguments: Any) -> list[Tensor]:
    """The solution, and gradients of a loss by y0, parameters and times."""
    start, t = y0.clone().requires_grad_(), arguments.pop("t", T).clone().requires_grad_()
    y = solve(func, start, t, **arguments).y
    loss = (y**2 * torch.linspace(1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)).sum()
    return [y.detach(), *torch.autograd.grad(loss, [start, t, *func.parameters()])]


def require_same(found: list[Tensor], expected: list[Tensor], off: float = 1e-9) -> None:
    """To rounding: known steps with Newton's iteration to its end."""
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=off, atol=off * float(other.abs().max()))


OF_TORCH = ("jacobian_blocks", "values_and_blocks", "jacobian_at", "constant_blocks", "graph")
"""What evaluates whole Jacobians by torch, or graphs to take products from."""


@pytest.mark.parametrize("name", IMPLICIT)
def test_the_same_for_every_method(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards and backwards, with no Jacobian of torch's."""
    part, given = Reactions(), {"method": name, "steps": Grid(2)}
    func = as_taken(name, part)
    if METHODS[name].newton:
        given["newton"] = Newton(rtol=1e-13, atol=1e-16)
    expected = found_by(func, Y0, **given)
    if func is part:  # else the explicit part has one
        for other in OF_TORCH:
            monkeypatch.setattr(WithJacobian, other, None)
    for kind in ("dense", "scipy"):
        found = found_by(func, Y0, jacobian=lambda t, y, k=kind: KINDS[k](part.jacobian(t, y)), **given)
        require_same(found, expected)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_matrices(kind: str) -> None:
    """Adaptive steps, backwards in time; each evaluation is counted, and forwards two for the comparisons."""
    func, calls = Reactions(), 0

    def jacobian(t: Tensor, y: Tensor) -> Any:
        nonlocal calls
        calls += 1
        return KINDS[kind](func.jacobian(t, y))

    t, tight = times(0.3, 0.1, 0), {"rtol": 1e-5, "atol": 1e-7}
    require_same(found_by(func, Y0, t=t, jacobian=jacobian, **tight), found_by(func, Y0, t=t, **tight), 1e-7)
    calls = 0
    with torch.no_grad():
        sol = solve(func, Y0, t, jacobian=jacobian, **tight)
    assert sol.stats.jacobians == calls - 2
    assert ("as given" in sol.stats.linear) == (kind not in ("dense", "array"))


@pytest.mark.parametrize("kind", ["dense", "COO"])
@pytest.mark.parametrize("batch", [(4,), (2, 2)])
def test_batches(kind: str, batch: tuple[int, ...]) -> None:
    func, y0 = Reactions(), Y0 * torch.linspace(0.8, 1.2, 4, dtype=Y0.dtype).reshape(*batch, 1)

    def jacobian(t: Tensor, y: Tensor) -> Tensor:
        blocks = func.jacobian(t, y)
        return blocks if kind == "dense" else torch.block_diag(*blocks.reshape(-1, 3, 3)).to_sparse()

    given = {"batch_dims": len(batch), "method": "cn", "steps": Grid(3)}
    require_same(found_by(func, y0, jacobian=jacobian, **given), found_by(func, y0, **given))


def test_other_forms_of_states() -> None:
    """A matrix as jacfwd has its Jacobian, a tuple with one over its flat components, float32."""
    func = Reactions()

    def shaped(t: Tensor, y: Tensor) -> Tensor:
        return func(t, y.reshape(3)).reshape(3, 1)

    given = {"method": "cn", "steps": Grid(3)}
    column = solve(shaped, Y0[:, None], T, jacobian=lambda t, y: torch.func.jacfwd(shaped, 1)(t, y), **given)
    expected = solve(func, Y0, T, **given)
    torch.testing.assert_close(column.y[..., 0], expected.y, rtol=1e-12, atol=1e-14)

    def parts(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        found = func(t, torch.cat([y[0][None], y[1]]))
        return found[0], found[1:]

    def of_parts(t: Tensor, y: tuple[Tensor, Tensor]) -> Tensor:
        return func.jacobian(t, torch.cat([y[0][None], y[1]]))

    two = solve(parts, (Y0[0], Y0[1:]), T, jacobian=of_parts, **given)
    torch.testing.assert_close(two.y[1], expected.y[:, 1:], rtol=1e-12, atol=1e-14)
    named = solve(
        lambda t, y: {"all": func(t, y["all"])},
        {"all": Y0},
        T,
        jacobian=lambda t, y: func.jacobian(t, y["all"]),
        **given,
    )
    torch.testing.assert_close(named.y["all"], expected.y, rtol=1e-12, atol=1e-14)
    single = solve(func, Y0.float(), T.float(), jacobian=lambda t, y: func.jacobian(t, y).float(), **given)
    torch.testing.assert_close(single.y.double(), expected.y, rtol=1e-5, atol=1e-6)


def test_a_split_has_that_of_its_implicit_part_where_it_is_split() -> None:
    part = Reactions()
    split = Split(part, lambda t, y: 0.1 * y**2)

    def of_sum(t: Tensor, y: Tensor) -> Tensor:
        return part.jacobian(t, y) + torch.diag(0.2 * y)

    for method, right, wrong in (("arkimex-3", part.jacobian, of_sum), ("cn", of_sum, part.jacobian)):
        given = {"method": method, "steps": Grid(2)}
        require_same(found_by(split, Y0, jacobian=right, **given), found_by(split, Y0, **given))
        with pytest.raises(ValueError, match=r"jacobian: .* row \[\d\] .*with Split that of the implicit"):
            solve(split, Y0, T, jacobian=wrong, **given)


def test_a_linear_part_and_an_algebraic_equation() -> None:
    matrix = torch.diag(times(-3, -2, -1, -0.5).repeat(5)) + 0.1  # wide: one LU for all samples
    split = Split(lambda t, y: y @ matrix.T, lambda t, y: torch.sin(y), linear=True)
    y0, given = (
        torch.ones(4, 20, dtype=torch.float64),
        {"method": "arkimex-3", "steps": Grid(3), "batch_dims": 1},
    )
    calls = []

    def jacobian(t: Tensor, y: Tensor) -> Tensor:
        calls.append(t)
        return matrix.expand(4, 20, 20)

    require_same(found_by(split, y0, jacobian=jacobian, **given), found_by(split, y0, **given))
    assert len(calls) == 3  # one, and the comparisons

    def dae(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([-y[0] * y[1], y[1] - 1 - y[0] ** 2])

    def of_dae(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([torch.stack([-y[1], -y[0]]), torch.stack([-2 * y[0], 0 * t + 1])])

    given = {"mass": times(1, 0), "make_consistent": True, "rtol": 1e-8, "atol": 1e-10}
    for convert in (KINDS["dense"], KINDS["scipy"]):
        found = solve(dae, times(1, 1), T, jacobian=lambda t, y, c=convert: c(of_dae(t, y)), **given)
        torch.testing.assert_close(found.y, solve(dae, times(1, 1), T, **given).y, rtol=1e-9, atol=1e-10)


def of_ring(t: Tensor, y: Tensor) -> csr_array:
    """Of ``ring``."""
    n = y.numel()
    i = torch.arange(n)
    rows, columns = i.repeat(3), torch.cat([i, i.roll(1), i.roll(-1)])
    values = torch.cat([-100 - 3 * y**2, torch.full((2 * n,), 50.0, dtype=y.dtype)])
    return csr_array((values.numpy(), (rows.numpy(), columns.numpy())), shape=(n, n))


@pytest.mark.parametrize(
    ("n", "linear", "chosen"),
    [
        (400, "auto", "LU of the Jacobian, sparse, 1200 entries as given"),
        (25_000, "auto", "gmres, a Jacobian of 75000 entries as given, ilu of the Jacobian"),
        (400, GMRES(Assembled(), adjoint_rtol=1e-12), "gmres, a Jacobian of 1200 entries as given, ilu"),
        (400, GMRES(adjoint_rtol=1e-12), "gmres, a Jacobian of 1200 entries as given, no preconditioner"),
    ],
)
def test_large_systems(n: int, linear: Any, chosen: str) -> None:
    y0 = line(n).requires_grad_()
    sol = one_step(ring, y0, jacobian=of_ring, linear=linear)
    assert sol.stats.linear.startswith(chosen)
    expected = one_step(ring, y0, jacobian="coloured", linear=linear)
    torch.testing.assert_close(sol.y, expected.y, rtol=1e-9, atol=1e-9)
    found, wanted = (torch.autograd.grad((one.y[-1] ** 2).sum(), y0)[0] for one in (sol, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7)


def test_entries_that_a_preconditioner_has_no_room_for() -> None:
    def growing(t: Tensor, y: Tensor) -> csr_array:
        found = of_ring(t, y).tolil()
        if t > 0:
            found[3, 7] = 1.0
        return found.tocsr()

    with pytest.raises(ValueError, match=r"jacobian: at t = 0\.1 row \[3\] has an entry where .* had none"):
        one_step(ring, line(50), method="beuler", jacobian=growing, linear=GMRES(Assembled()))


def spoiled(change: Callable[[Tensor, Tensor], None]) -> Callable[[Tensor, Tensor], Tensor]:
    """The Jacobian of ``Reactions``, changed."""
    func = Reactions()

    def jacobian(t: Tensor, y: Tensor) -> Tensor:
        found = func.jacobian(t, y).detach()
        change(t, found)
        return found

    return jacobian


@pytest.mark.parametrize("convert", [KINDS["dense"], KINDS["COO"]])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, J: J[1, 2].mul_(1.001), r"t = 0, .*row \[1\] .*component \[1\] by component \[2\] is -\d"),
        (lambda t, J: J.T.copy_(J.clone()), r"row \[\d\] differs most"),
        (lambda t, J: J[2, 0].add_(1e-3), r"row \[2\] .*component \[2\] by component \[0\] is 0\.001, .* 0"),
        (lambda t, J: J[0, 1].mul_(1 + t), r"t = 0\.3, .*row \[0\] .*by component \[1\]"),
        (lambda t, J: J[0, 0].fill_(torch.nan), r"row \[0\] .*by component \[0\] is nan"),
    ],
)
def test_a_wrong_one_is_named_by_row_and_entry(change: Any, said: str, convert: Any) -> None:
    wrong = spoiled(change)
    with pytest.raises(ValueError, match=rf"jacobian: .*{said}"):
        solve(Reactions(), Y0, T, jacobian=lambda t, y: convert(wrong(t, y)), method="cn", steps=Grid(3))


def test_a_wrong_one_of_a_function_without_second_derivatives() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, y: Tensor) -> Tensor:
            ctx.save_for_backward(y)
            return -(y**3)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, w: Tensor) -> Tensor:
            return -3 * ctx.saved_tensors[0] ** 2 * w

    def func(t: Tensor, y: Tensor) -> Tensor:
        return Once.apply(y)

    given = {"method": "cn", "steps": Grid(2)}
    right = solve(func, Y0, T, jacobian=lambda t, y: torch.diag(-3 * y**2), **given)
    torch.testing.assert_close(right.y, solve(func, Y0, T, **given).y, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=r"jacobian: .* its column for component \[2\]"):
        solve(func, Y0, T, jacobian=lambda t, y: torch.diag(-3 * y**2 + times(0, 0, 1)), **given)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(2, 3), r"ValueError: jacobian: returned shape \(2, 3\), but for y0 it must be \(3, 3\)"),
        (torch.ones(4, 4).to_sparse(), r"ValueError: jacobian: .*sparse .* \(4, 4\), .* must be \(3, 3\)"),
        (
            torch.ones(3, 3, dtype=torch.complex128),
            "TypeError: jacobian: must return a tensor of real numbers",
        ),
        (None, "TypeError: jacobian: must return a tensor of real numbers, or a sparse .*, not None"),
        ([[1.0]], "TypeError: jacobian: must return a tensor of real numbers"),
    ],
)
def test_what_it_cannot_return(value: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        solve(Reactions(), Y0, T, jacobian=lambda t, y: value)
    assert re.match(said, f"{error.type.__name__}: {error.value}")


def test_where_it_cannot_serve() -> None:
    func = Reactions()
    jacobian = func.jacobian
    for said, y0, t, arguments in (
        ("compile=True", Y0, T, {"compile": True}),
        ("no effect with the explicit method", Y0, T, {"method": "dopri5"}),
        ("dense matrix, which Krylov methods do not form", Y0, T, {"linear": GMRES()}),
        ("every sample has times of its own", Y0.expand(2, 3), T.expand(2, 3), {"batch_dims": 1}),
        ("for real components", Y0.to(torch.complex128), T, {}),
    ):
        with pytest.raises(ValueError, match=rf"jacobian.*{said}"):
            solve(func, y0, t, jacobian=jacobian, **arguments)
    with pytest.raises(ValueError, match=r"jacobian: .* not available within torch\.vmap"):
        torch.func.vmap(lambda y: odeint(func, y, T, jacobian=jacobian))(Y0.expand(2, 3))


def test_second_derivatives() -> None:
    """Products with the Hessian come from torch, with the factors of the given Jacobian."""
    func = Reactions()

    def products(**given: Any) -> Tensor:
        def loss(y0: Tensor) -> Tensor:
            return (odeint(func, y0, T, method="cn", steps=Grid(2), **given)[-1] ** 2).sum()

        return torch.autograd.functional.hvp(loss, Y0, times(1, -2, 0.5))[1]

    torch.testing.assert_close(products(jacobian=func.jacobian), products(), rtol=1e-9, atol=1e-12)
