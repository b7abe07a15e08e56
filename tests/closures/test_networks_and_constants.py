"""mlp, features, Arrhenius, CRNN, Positive, Hybrid, StableLinear: values against formulas; bad input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from small_problems import decay, times

import problems
import stiffml
from stiffml.closures import (
    CRNN,
    Arrhenius,
    Closure,
    Hybrid,
    Linear,
    LinearFeatures,
    LogFeatures,
    Positive,
    ProductionLoss,
    Reactions,
    Sinh,
    StableLinear,
    mlp,
)

NOW = times(0)[0]


def test_a_seed_determines_a_network() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = mlp([40, 50, 60], seed=7, gain=0.1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    two = mlp([40, 50, 60], seed=7, gain=0.1)
    x = torch.ones(40).double()
    assert torch.equal(one(x), two(x))
    assert not torch.equal(mlp([40, 50, 60], seed=8)(x), two(x))
    with torch.no_grad():
        two[0].weight.zero_()
    assert torch.equal(two.reset(7)(x), one(x))
    first, last = one[0].weight.detach(), one[2].weight.detach()
    assert float(first.std()) == pytest.approx((2 / 90) ** 0.5, rel=0.05)
    assert float(last.std()) == pytest.approx(0.1 * (2 / 110) ** 0.5, rel=0.05)
    assert not one[0].bias.any()


def test_features() -> None:
    y = torch.tensor([[2.0, 1e-3], [0.0, -1e-3]]).double()
    z = y.numpy() / [2.0, 1e-2]
    linear = LinearFeatures([2.0, 1e-2], time=4.0)
    assert linear.count == 3
    np.testing.assert_allclose(linear(times(1, 2), y), np.column_stack([z, [0.25, 0.5]]))
    logs = LogFeatures([2.0, 1e-2], floor=1e-3)
    np.testing.assert_allclose(logs(NOW, y)[:, 2:], np.log(np.sqrt(z**2 + 1e-6)) / 5)
    np.testing.assert_allclose(logs(NOW, y)[:, :2], z)


def test_heads_are_what_they_say() -> None:
    v, y = torch.tensor([0.3, -2.0, 1.0, 0.5]).double(), torch.tensor([0.4, 3.0]).double()

    class Constant(torch.nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.count = count

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return v[: self.count].expand(*x.shape[:-1], -1)

    scale, size = np.array([10.0, 0.1]), np.array([2.0, 5.0])
    first, z = v[:2].numpy(), y.numpy() / size
    bounded = 4 * np.tanh(v.numpy() / 4)
    expected = {
        Linear(): scale * first,
        Sinh(0.5): scale * 0.5 * np.sinh(first),
        ProductionLoss(2.0, limit=4.0): scale * (np.exp(bounded[:2] - 2) - np.exp(bounded[2:] - 2) * z),
    }
    for head, rates in expected.items():
        model = Closure(
            None, Constant(4 if isinstance(head, ProductionLoss) else 2), **_given(size, scale, head)
        )
        np.testing.assert_allclose(model(NOW, y), rates, rtol=1e-14)
    # A -> 2 B, then A + B -> nothing: extents are limited by B's scale, a half and a whole of it.
    model = Closure(
        None, Constant(4), **_given(size, scale, Reactions([[-1, 2], [-1, -1]], shift=2.0, limit=4.0))
    )
    e = np.exp(bounded - 2)
    one = 0.05 * (e[0] * z[0] - e[2] * z[1])
    two = 0.1 * (e[1] * z[0] * z[1] - e[3])
    np.testing.assert_allclose(model(NOW, y), [-one - two, 2 * one - two], rtol=1e-14)
    assert model.reactions == ("y1 <=> 2 y2", "y1 + y2 <=> ∅")


def _given(size: np.ndarray, scale: np.ndarray, head: object) -> dict:
    return {"typical": size, "scale": scale, "head": head}


def test_arrhenius() -> None:
    A, b, E = np.array([1e13, 5.0]), np.array([-0.5, 1.2]), np.array([1.5e5, 2e4])
    k = Arrhenius(A, b, E, reference=1200.0)
    T = torch.tensor([[900.0], [1500.0]]).double()
    expected = A * T.numpy()[..., None] ** b * np.exp(-E / (8.31446261815324 * T.numpy()[..., None]))
    np.testing.assert_allclose(k(T).detach(), expected, rtol=1e-12)
    np.testing.assert_allclose(k.A.detach(), A, rtol=1e-12)
    np.testing.assert_allclose(k.E.detach(), E, rtol=1e-12)


def test_a_crnn_holds_mass_action() -> None:
    """With Robertson's stoichiometry for weights, its first and second order rates come out."""
    model = CRNN([1.0, 1e-4, 1.0], 2)
    with torch.no_grad():
        model.weights.copy_(torch.tensor([[-1.0, 1.0, 0.0], [0.0, -2.0, 1.0]]))
        model.constants.log_k.copy_(torch.tensor([0.5, -1.0]).double())
        y = torch.tensor([[0.7, 3e-5, 0.2], [0.7, 0.0, 0.0]], dtype=torch.float64)
        first, second = np.exp(0.5) * 0.7, np.exp(-1.0) * 0.3**2
        expected = [-first, 1e-4 * (first - 2 * second), second]
        np.testing.assert_allclose(model(NOW, y[0]), expected, rtol=1e-12)
        np.testing.assert_allclose(model(NOW, y[1]), [-first, 1e-4 * first, 0.0], rtol=1e-12)


def test_a_crnn_learns_its_constants_at_a_reference() -> None:
    """ln k is that at ``reference``, whatever the energy."""
    model = CRNN([1.0, 300.0], 1, temperature=1, reference=333.0)
    with torch.no_grad():
        model.weights.copy_(torch.tensor([[-1.0, 0.0]]))
        model.constants.log_k.fill_(-2.0)
        model.constants.energy.fill_(20.0)  # E/(R · 333 K)
        at, warmer = model(NOW, torch.tensor([[0.5, 333.0], [0.5, 343.0]]).double())[:, 0]
    assert float(at) == pytest.approx(-0.5 * np.exp(-2.0), rel=1e-12)
    assert float(warmer / at) == pytest.approx(np.exp(20 * (1 - 333 / 343)), rel=1e-12)


def test_a_crnn_conserves_and_stays_positive() -> None:
    rows = np.array([[1.0, 1.0, 2.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    model = CRNN([1.0, 1e-3, 0.5, 800.0], 5, temperature="T", components=["A", "B", "C", "T"], conserve=rows)
    with torch.no_grad():
        model.constants.energy += 3.0
        y = torch.tensor([[0.5, 1e-4, 0.1, 700.0], [0.0, 1e-4, 0.2, 900.0], [0.4, 0.0, 0.0, 900.0]]).double()
        rates = model(NOW, y)
        sums = rates @ torch.tensor(rows).T
    assert (sums.abs() < 2e-16).all()  # of terms of up to 0.1
    assert not rates[:, 3].any()
    assert (rates[y == 0] >= 0).all()
    assert (rates[:2, 0].abs() > 1e-4).all()
    # The same composition at another temperature: k goes as exp(−E/RT), E/R = 3·1000 K.
    warm = torch.cat([y[0, :3], times(1400)])
    with torch.no_grad():
        ratio = model(NOW, warm)[0] / rates[0, 0]
    assert float(ratio) == pytest.approx(np.exp(3000 / 700 - 3000 / 1400), rel=1e-12)
    y0 = y[1].clone()
    with torch.no_grad():
        sol = stiffml.solve(model, y0, times(0, 1, 100))
    totals = sol.y @ torch.tensor(rows).T
    assert ((totals - totals[0]).abs() < 1e-12 * totals[0]).all()
    assert (sol.y[:, :3] > -1e-8).all()


def test_learned_constants_beside_known_ones() -> None:
    robertson = problems.load("robertson")
    values = {name: float(value) for name, value in robertson.values.items()}
    names = sorted(values)
    learned = Hybrid(
        robertson.rhs,
        {name: values[name] for name in names[:2]},
        bounds={names[0]: (values[names[0]] / 10, values[names[0]] * 5)},
        fixed={names[2]: values[names[2]]},
    )
    y = torch.tensor([0.6, 2e-5, 0.3]).double()
    torch.testing.assert_close(learned(NOW, y), robertson.func()(NOW, y), rtol=1e-12, atol=0)
    assert len(list(learned.parameters())) == 2
    with torch.no_grad():
        for parameter in learned.parameters():
            parameter += 50.0
    found = {name: value.item() for name, value in learned.constants().items()}
    assert found[names[0]] == pytest.approx(5 * values[names[0]])
    assert found[names[1]] == pytest.approx(values[names[1]] * np.exp(50), rel=1e-12)


def test_a_linear_part_is_stable_whatever_it_learns() -> None:
    model = StableLinear([1.0, 1e-3, 5.0], [1.0, 100.0, 3.0])
    start = torch.diag(torch.tensor([-1.0, -100.0, -3.0]).double())
    torch.testing.assert_close(model.matrix.detach(), start)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(10 * torch.randn(3, 3, generator=generator))
    assert (torch.linalg.eigvals(model.matrix.detach()).real <= 0).all()
    split = model.split(Closure(decay, [4], typical=np.ones(3)))
    assert isinstance(split, stiffml.Split)
    assert split.linear
    t, y0 = times(0, 0.01, 0.02), torch.tensor([1.0, 1e-3, 2.0]).double()
    with torch.no_grad():
        one = stiffml.solve(split, y0, t, method="arkimex-3", rtol=1e-7, atol=1e-9)
        other = stiffml.solve(lambda t, y: split(t, y), y0, t, method="bdf", rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(one.y, other.y, rtol=1e-4, atol=1e-6)


BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "one width": (lambda: mlp([3]), ValueError, "widths must hold what goes in and what comes out"),
    "width": (lambda: mlp([3, 0]), ValueError, "mlp: widths must be at least 1, not 0"),
    "no widths": (lambda: mlp(3), TypeError, r"mlp: widths must be whole numbers"),
    "activation": (lambda: mlp([1, 1], "relu"), ValueError, "activation must be one of elu, gelu"),
    "seed": (lambda: mlp([1, 1], seed=-1), ValueError, "seed must be at least 0"),
    "floor": (lambda: LogFeatures([1.0], floor=0.0), ValueError, "LogFeatures: floor must be positive"),
    "time": (lambda: LinearFeatures([1.0], time=-1), ValueError, "LinearFeatures: time must be positive"),
    "typical": (lambda: LinearFeatures(1.0), ValueError, "LinearFeatures: typical must be one number for"),
    "A": (lambda: Arrhenius([-1.0]), ValueError, "Arrhenius: A must be positive"),
    "b": (
        lambda: Arrhenius([1.0, 2.0], b=[1, 2, 3]),
        ValueError,
        "b and E must be numbers, or one for each A",
    ),
    "limit": (lambda: ProductionLoss(limit=0.0), ValueError, "ProductionLoss: limit must be positive"),
    "c": (lambda: Sinh(0.0), ValueError, "Sinh: c must be positive"),
    "size": (lambda: CRNN([1.0, -1.0], 2), ValueError, "CRNN: size must be positive, one number for each"),
    "reactions": (lambda: CRNN([1.0], 0), ValueError, "CRNN: reactions must be at least 1"),
    "temperature": (lambda: CRNN([1.0], 1, temperature="T"), ValueError, "there is no component 'T'"),
    "reference": (
        lambda: CRNN([1.0], 1, reference=300.0),
        ValueError,
        "CRNN: reference is for a temperature that is a component",
    ),
    "stoichiometry": (
        lambda: Reactions([[0, 0]]),
        ValueError,
        "must have a row with numbers for each reaction",
    ),
    "no constants": (lambda: Positive({}), TypeError, "constants must be a mapping"),
    "negative": (lambda: Positive({"k": -1.0}), ValueError, "constants: k must be positive"),
    "unknown bound": (lambda: Positive({"k": 1.0}, {"q": (1, 2)}), ValueError, "there is no constant 'q'"),
    "outside": (lambda: Positive({"k": 3.0}, {"k": (1, 2)}), ValueError, "k = 3 must lie between its bounds"),
    "one bound": (lambda: Positive({"k": 3.0}, {"k": 1}), ValueError, r"k must be \(low, high\), not 1"),
    "twice": (lambda: Hybrid(decay, {"k": 1.0}, fixed={"k": 2.0}), ValueError, "k is in two of constants"),
    "rhs": (lambda: Hybrid(None, {"k": 1.0}), TypeError, r"rhs must be callable as rhs\(t, y, p\)"),
    "network": (lambda: Hybrid(decay, {"k": 1.0}, networks={"n": abs}), TypeError, "networks: n must be"),
    "rates": (lambda: StableLinear([1.0, 1.0], -1.0), ValueError, "StableLinear: rates must be positive"),
    "func": (lambda: StableLinear([1.0], 1.0).split(3), TypeError, "func must be callable"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(case: str) -> None:
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        make()
