"""Each operation, its value and derivatives in CasADi's expressions, against torch's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import stiffml
from stiffml.compiled.expressions import Expressions
from stiffml.compiled.refusal import NotCompilableError
from stiffml.compiled.table import OPERATIONS
from stiffml.compiled.trace import trace

D = torch.float64
A = torch.tensor(
    [[1.0, -2.0, 0.5, 0.0], [0.3, 0.0, 2.0, 1.0], [0.0, 4.0, -1.0, 0.2], [1.5, 0.1, 0.7, -0.4]], dtype=D
)
EDGES = torch.tensor([-1.0, 0.0, 0.4, 1.0, 2.0], dtype=D)
TABLE = torch.tensor([3.0, -1.0, 2.0, 5.0, 7.0, 4.0], dtype=D)
PLACES = torch.tensor([2, 0, 0, 3])

PLAIN = """neg reciprocal square abs sign floor ceil trunc exp exp2 expm1 sin cos tan sinh cosh tanh asinh
atan erf sigmoid relu"""

ELEMENTS = {name: getattr(torch, name) for name in PLAIN.split()} | {
    "positive": lambda y: torch.sqrt(y.abs() + 1) + torch.rsqrt(y.abs() + 1),
    "logs": lambda y: (
        torch.log(y * y + 1) + torch.log2(y * y + 2) + torch.log10(y * y + 3) + torch.log1p(y * y)
    ),
    "inverse": lambda y: torch.asin(y / 9) + torch.acos(y / 9) + torch.acosh(y * y + 2) + torch.atanh(y / 9),
    "sgn": torch.sgn,
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "gelu tanh": lambda y: F.gelu(y, approximate="tanh"),
    "softplus": F.softplus,
    "softplus beta": lambda y: F.softplus(y * 30, beta=2.0, threshold=10.0),
    "logsigmoid": F.logsigmoid,
    "elu": lambda y: F.elu(y, 1.3),
    "selu": F.selu,
    "celu": lambda y: F.celu(y, 0.5),
    "leaky_relu": lambda y: F.leaky_relu(y, 0.2),
    "hardtanh": lambda y: F.hardtanh(y, -0.5, 0.8),
    "relu6": F.relu6,
    "threshold": lambda y: F.threshold(y, 0.5, 0.1),
    "softsign": F.softsign,
    "far sigmoid": lambda y: (
        torch.sigmoid(400 * y) + F.softplus(400 * y) + F.logsigmoid(400 * y) + F.silu(400 * y)
    ),
    "integer power": lambda y: y**2 + y**3 + y**-1 + y**0,
    "power": lambda y: (y * y + 0.1) ** 1.7 + 2.0**y,
    "power of tensors": lambda y: (y.abs() + 0.1) ** y,
    "remainder": lambda y: y % 0.7 + torch.remainder(y, y.flip(0) + 5),
    "floor division": lambda y: (
        torch.div(y, 0.3, rounding_mode="floor") + torch.div(y, 0.3, rounding_mode="trunc")
    ),
    "clamp": lambda y: (
        y.clamp(-0.5, 1.0) + y.clamp(min=0.2) + y.clamp(max=0.3) + torch.clamp(y, EDGES[:4], EDGES[1:])
    ),
    "maximum": lambda y: torch.maximum(y, y.flip(0)) * torch.minimum(y, TABLE[:4]),
    "where": lambda y: (
        torch.where(y > 0.3, y * y, -y) + torch.where(y <= 0, 2.0, y) + torch.where(y != 1, 1.0, 0.0)
    ),
    "logic": lambda y: torch.where((y > 0) & ~(y > 1) | (y < -1), y, 0.0) * (y == y[0]),
    "logical": lambda y: torch.where(torch.logical_and(y >= 0, torch.logical_not(y > 1)), y, y * y),
    "masked_fill": lambda y: y.masked_fill(y < 0, 0.5),
    "arithmetic": lambda y: (
        3 - y + 2 * y / 5 - torch.sub(y, TABLE[:4], alpha=2) + torch.add(y, y, alpha=3) + 1 / y
    ),
    "fused": lambda y: torch.addcmul(y, y, TABLE[:4], value=2) + torch.addcdiv(y, y, TABLE[:4], value=0.5),
    "lerp": lambda y: torch.lerp(y, TABLE[:4], 0.3) + torch.lerp(y, TABLE[:4], y),
    "atan2": lambda y: torch.atan2(y, y.flip(0) + 0.3) + torch.hypot(y, y.flip(0)),
    "logaddexp": lambda y: torch.logaddexp(y * 300, y.flip(0)),
    "converted": lambda y: (
        y.long() * y + (y > 0).double() + y.bool().double() * 2.0 + (y > 0).to(torch.int64)
    ),
    "detached constant": lambda y: y * TABLE[:4].detach() * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=D),
}

ARRAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "mv": lambda y: A @ y,
    "mm": lambda y: (A @ y.view(4, 1)).view(4) + (y.view(1, 4) @ A)[0],
    "addmm": lambda y: torch.addmm(y.view(4, 1), A, y.view(4, 1), beta=0.5, alpha=2.0).view(4),
    "addmv": lambda y: torch.addmv(y, A, y, beta=0.5, alpha=2.0),
    "linear": lambda y: F.linear(y, A, TABLE[:4]),
    "bmm": lambda y: torch.bmm(A[None].expand(2, 4, 4), y.view(1, 4, 1).repeat(2, 1, 1)).sum((0, 2)),
    "baddbmm": lambda y: torch.baddbmm(y.view(1, 4, 1), A[None], y.view(1, 4, 1), beta=2.0)[0, :, 0],
    "outer": lambda y: torch.outer(y, y).sum(0) + torch.einsum("ij,i,j->j", A, y, y),
    "dot": lambda y: y * torch.dot(y, TABLE[:4]),
    "sums": lambda y: y * y.sum() + torch.outer(y, y).sum(dim=1, keepdim=True)[:, 0] * y.mean(),
    "means": lambda y: torch.outer(y, y + 1).mean(0),
    "products": lambda y: y * y.prod() + torch.outer(y, y + 1).prod(1),
    "extremes": lambda y: y * y.amax() - y.amin(0, keepdim=True) + y.max() * y.min(),
    "logsumexp": lambda y: y * torch.logsumexp(y * 300, 0),
    "norm": lambda y: y * torch.linalg.vector_norm(y) + torch.linalg.norm(y),
    "softmax": lambda y: torch.softmax(y * 300, 0) + torch.log_softmax(y, 0),
    "running": lambda y: torch.cumsum(y, 0) + torch.cumprod(y, 0),
    "variance": lambda y: y * y.var(unbiased=False),
    "layer norm": lambda y: F.layer_norm(y, (4,), TABLE[:4]),
    "index": lambda y: y[PLACES] * y[[0, 0, 1, 1]] + A[PLACES, [0, 1, 2, 3]] * y,
    "slices": lambda y: torch.cat([y[1:], y[:1]]) + y[..., ::2].repeat(2) + y.flip(0),
    "select": lambda y: torch.stack([y[3], y[0], y.select(0, 1), y[-1]]),
    "unbind": lambda y: torch.stack([a * b for a, b in zip(y.unbind(), y.roll(1).unbind(), strict=True)]),
    "split": lambda y: torch.cat([y.split(3)[1], y.split([1, 2, 1])[1], y.chunk(2)[0][:1]]),
    "shapes": lambda y: y.view(2, 2).t().reshape(-1) + y.view(2, 2).transpose(0, 1).permute(1, 0).flatten(),
    "expand": lambda y: y[None].expand(3, 4).sum(0) + y.unsqueeze(1).expand(4, 4).sum(1) + y[None].squeeze(0),
    "pad": lambda y: F.pad(y[1:3], (1, 1), value=2.0),
    "roll": lambda y: torch.roll(y, 1) + torch.roll(y.view(2, 2), (1,), (1,)).view(4),
    "triangles": lambda y: (torch.outer(y, y).tril() @ y) + (torch.outer(y, y).triu(1) @ y),
    "diagonal": lambda y: torch.outer(y, y).diagonal() + torch.diag(y) @ y,
    "gather": lambda y: y.gather(0, PLACES) + y.index_select(0, PLACES) + y.take(PLACES),
    "writing": lambda y: _written(y),
    "index_add": lambda y: torch.zeros_like(y).index_add(0, PLACES, y * y) + y.scatter_add(0, PLACES, y),
    "index_put": lambda y: y.index_put((PLACES[:2],), y[:2] * 3) + y.index_put((PLACES,), y, accumulate=True),
    "new": lambda y: (
        y * (y.new_zeros(4) + torch.ones_like(y) + torch.full_like(y, 2.0) + y.new_full((4,), 3.0))
    ),
    "table": lambda y: _interpolated(y),
    "bucketize": lambda y: TABLE[torch.bucketize(y, EDGES, right=True)] * y,
    "gathered table": lambda y: TABLE.gather(0, torch.searchsorted(EDGES, y, side="right")) * y,
    "square matrix": lambda y: torch.linalg.multi_dot([A, A, y]),
}


def _written(y: Tensor) -> Tensor:
    z = y * 2
    z[1] = y[0] * y[3]
    z[2:] += y[:2]
    z[PLACES[:2]] = z[PLACES[:2]] * 3
    z.mul_(y)
    return z


def _interpolated(y: Tensor) -> Tensor:
    """Linear in a table."""
    place = torch.searchsorted(EDGES, y).clamp(1, 4)
    left, right = EDGES[place - 1], EDGES[place]
    return TABLE[place - 1] + (TABLE[place] - TABLE[place - 1]) * (y - left) / (right - left)


CASES = {**ELEMENTS, **ARRAYS}
STATES = {
    "generic": [0.37, -0.81, 1.43, 0.12],
    "at kinks": [0.0, 1.0, -0.5, 1.0],
    "large": [3.1, -7.7, 2.2, 5.9],
}
SINGULAR = {"at kinks": {"reciprocal", "integer power", "arithmetic", "inverse", "atan2", "running", "sqrt"}}
"""Cases without a derivative there, or where torch's is not one number."""


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives(name: str) -> None:
    function = CASES[name]
    weight = torch.tensor([0.9, 1.1, 1.3, 0.7], dtype=D, requires_grad=True)

    def flat(t: Tensor, u: Tensor) -> Tensor:
        return function(u * weight) * torch.cos(t)

    u0 = torch.tensor(STATES["generic"], dtype=D)
    of = Expressions(trace(flat, torch.tensor(0.3, dtype=D), u0), 4)
    assert of.parameters == 4
    rows = [place for place, _ in enumerate(of.pattern.row)]
    for where, state in STATES.items():
        if name in SINGULAR.get(where, ()):
            continue
        with torch.no_grad():
            leaf = (torch.tensor(state, dtype=D) / weight).requires_grad_()
        t = torch.tensor(0.3, dtype=D, requires_grad=True)
        value = flat(t, leaf)
        w = np.array([0.7, -0.6, 0.9, -1.0])
        wanted = torch.autograd.grad(value, (leaf, t, weight), torch.from_numpy(w), allow_unused=True)
        products = [
            np.zeros(s) if g is None else g.numpy(force=True)
            for g, s in zip(wanted, ((4,), (), (4,)), strict=True)
        ]
        at = [0.3, leaf.detach().numpy(), weight.detach().numpy()]
        f, entries = (np.array(v).ravel() for v in of.linearised(*at))
        close(f, value.detach().numpy(), (name, where, "value"))
        jacobian = np.zeros((4, 4))
        jacobian[of.pattern.row, of.pattern.column] = entries[rows]
        close(w @ jacobian, products[0], (name, where, "Jacobian"))
        for found, product in zip(of.pulled(*at, w)[1:], products, strict=True):
            close(np.array(found).ravel(), product.ravel(), (name, where, "product"))
        v = np.array([0.2, 0.5, -0.3, 0.9])
        along = np.array(of.pushed(*at, 0.4, v)).ravel() + np.array(of.moved(*at, v)).ravel()
        close(w @ along, products[0] @ v + 0.4 * products[1] + products[2] @ v, (name, where, "direction"))


def _of_state(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, u: function(u)


def close(found: np.ndarray, wanted: np.ndarray, about: object) -> None:
    scale = np.abs(wanted).max(initial=1e-300)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13 * scale + 1e-300, err_msg=str(about))


def test_the_cases_cover_the_operations() -> None:
    """Of the operations that are known, all but a few spellings of the same occur in a case."""
    seen = set()
    for function in CASES.values():
        traced = trace(
            _of_state(function),
            torch.zeros((), dtype=D),
            torch.rand(4, dtype=D) + 0.1,
        )
        seen |= {node.target for node in traced.graph.nodes if node.op == "call_function"}
    missing = {str(operation) for operation in OPERATIONS if operation not in seen}
    assert len(missing) <= 32, sorted(missing)
    assert not {"aten.mm.default", "aten.addmm.default", "aten._softmax.default"} & missing


def test_power_of_zero_with_a_symbol_as_exponent() -> None:
    n = torch.tensor([0.0, 1.0, 2.0, 1.5], dtype=D, requires_grad=True)
    of = Expressions(trace(lambda t, u: u**n, torch.zeros((), dtype=D), torch.ones(4, dtype=D)), 4)
    leaf = torch.zeros(4, dtype=D, requires_grad=True)
    value = leaf**n
    wanted = torch.autograd.grad(value.sum(), (leaf, n))
    found = of.pulled(0.0, np.zeros(4), n.detach().numpy(), np.ones(4))
    for a, b in zip((found[0], found[1], found[3]), (value, *wanted), strict=True):
        np.testing.assert_array_equal(np.array(a).ravel(), b.detach().numpy())


@pytest.mark.parametrize(
    ("function", "part"),
    [
        (lambda t, y: torch.sort(y).values, "aten.sort"),
        (lambda t, y: y if y[0] > 0 else -y, "branches on the value"),
        (lambda t, y: y * float(t), "reads it as a number"),
        (lambda t, y: y + torch.rand(4, dtype=D), "random numbers"),
        (lambda t, y: (y.float() * 2).double(), "float32"),
        (
            lambda t, y: torch.zeros(4, dtype=D).index_put(((y > 0).long(),), y),
            "places that depend on the state",
        ),
        (
            lambda t, y: (
                torch.ones(400, 4, dtype=D).mul(y).mm(torch.rand(4, 400, dtype=D).mul(y[0])).sum(0)[:4]
            ),
            "random",
        ),
        (lambda t, y: (y.repeat(400, 1).mm(y.view(4, 1).repeat(1, 400))).sum(0)[:4], "more than 100000"),
    ],
)
def test_what_is_not_known_is_named_with_its_line(function: Callable, part: str) -> None:
    u = torch.tensor(STATES["generic"], dtype=D)
    with pytest.raises(NotCompilableError, match=part) as caught:
        Expressions(trace(function, torch.tensor(0.3, dtype=D), u), 4)
    assert "test_operations.py:" in str(caught.value)


def test_lookup_beyond_the_table_is_nan() -> None:
    of = Expressions(trace(lambda t, u: TABLE[u.long()], torch.zeros((), dtype=D), torch.ones(2, dtype=D)), 2)
    found = np.array(of.slope(0.0, [-1.0, 17.0], [])).ravel()
    assert found[0] == TABLE[-1]
    assert math.isnan(found[1])


def test_a_sparse_tensor_is_left_to_torch() -> None:
    """It has no memory that the code could read."""
    matrix = (-torch.eye(3, dtype=D)).to_sparse()
    y0, t = torch.ones(3, dtype=D), torch.tensor([0.0, 1.0], dtype=D)

    def func(t: Tensor, y: Tensor) -> Tensor:
        return torch.sparse.mm(matrix, y[:, None])[:, 0]

    with pytest.warns(UserWarning, match="layout is torch.sparse_coo"):
        found = stiffml.solve(func, y0, t, method="sdirk3", steps=stiffml.Grid(), compile=True)
    wanted = stiffml.solve(func, y0, t, method="sdirk3", steps=stiffml.Grid())
    assert torch.equal(found.y, wanted.y)
