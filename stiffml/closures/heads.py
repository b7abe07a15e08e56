"""Heads: how a network's numbers become rates.

A head is given to a :class:`Closure`, which tells it the names and scales of its components and the sums that
are conserved. What holds, at every state and exactly:

============== ============================= ==============================================
head           with ``conserve``             positivity
============== ============================= ==============================================
Linear, Sinh   sums conserved, by projection not assured
ProductionLoss only of components that no    no component at 0 falls: production − loss·y
               conserved sum contains
Reactions      sums conserved, by reactions  no component at 0 falls: what a reaction consumes
                                             it is proportional to
Relaxation     only of components that no    not assured
               conserved sum contains
============== ============================= ==============================================

Positivity is that of the missing part; that of the whole needs a known part which has it too, and a solve
accurate to the tolerance keeps it to the tolerance.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.checks import array, described, number, whole
from stiffml.closures.components import places
from stiffml.closures.conservation import Projection, elementary, require_conserving, written


@dataclass(frozen=True)
class Setting:
    """What a head is made for: names and scales of k components, rows (m, k) of conserved sums."""

    names: tuple[str, ...]
    scale: np.ndarray
    rows: np.ndarray


class Rates(nn.Module, abc.ABC):
    """rates(v, z) -> (…, k) from the network's numbers (…, outputs) and states z = y/typical (…, k)."""

    scale: Tensor

    def __init__(self, outputs: int, scale: np.ndarray) -> None:
        super().__init__()
        self.outputs = outputs
        self.register_buffer("scale", torch.from_numpy(scale.copy()))

    @abc.abstractmethod
    def forward(self, v: Tensor, z: Tensor) -> Tensor: ...


class Head(abc.ABC):
    """A way from numbers to rates.

    Examples
    --------
    >>> from stiffml.closures import Closure, Head, Linear, Sinh
    >>> isinstance(Sinh(), Head), isinstance(Linear(), Head)
    (True, True)
    >>> Closure(None, [4], typical=[1.0, 1.0], head=Sinh())(t[0], y0).shape
    torch.Size([2])
    """

    @abc.abstractmethod
    def rates(self, setting: Setting) -> Rates:
        """The module rates(v, z) -> (…, k) of numbers v and states z = y/typical, for a closure."""


def _exponential(v: Tensor, shift: float, limit: float) -> Tensor:
    return torch.exp(limit * torch.tanh(v / limit) - shift)


class _Projected(Rates):
    """scale · P(head(v, z))."""

    def __init__(self, head: Linear | Sinh | ProductionLoss, outputs: int, setting: Setting) -> None:
        super().__init__(outputs, setting.scale)
        self.head = head
        self.projection = Projection(setting.rows, setting.scale)

    def forward(self, v: Tensor, z: Tensor) -> Tensor:
        return self.scale * self.projection(self.head(v, z))


@dataclass(frozen=True)
class Linear(Head):
    """rate = scale · v. With scale = range/t_end it is the equation scaling of Kim et al. (2021).

    Examples
    --------
    >>> from stiffml.closures import Linear
    >>> Linear()(torch.tensor([-1.0, 2.0]), y0)  # the numbers themselves, in units of the scale
    tensor([-1.,  2.])
    """

    def __call__(self, v: Tensor, z: Tensor) -> Tensor:
        return v

    def rates(self, setting: Setting) -> Rates:
        return _Projected(self, len(setting.names), setting)


@dataclass(frozen=True)
class Sinh(Head):
    """rate = scale · c · sinh(v): linear near 0, and rates of either sign over decades.

    Parameters
    ----------
    c : float
        Default 1.

    Examples
    --------
    >>> from stiffml.closures import Sinh
    >>> Sinh()(torch.tensor([-7.0, 0.1, 7.0]), torch.ones(3))
    tensor([-5.4832e+02,  1.0017e-01,  5.4832e+02])
    """

    c: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "c", number("Sinh: c", self.c, above=0))

    def __call__(self, v: Tensor, z: Tensor) -> Tensor:
        return self.c * torch.sinh(v)

    def rates(self, setting: Setting) -> Rates:
        return _Projected(self, len(setting.names), setting)


@dataclass(frozen=True)
class ProductionLoss(Head):
    """rate = scale · (exp(v_p − shift) − exp(v_l − shift) · y/typical), from 2 k numbers, v_p first.

    It spans decades, cannot drive a component below 0, and ∂rate/∂y has a stable part; of the heads tried on
    Robertson's problem it was the one whose fits held when solved again.

    Parameters
    ----------
    shift : float
        Of the exponents, so that a network near 0 begins with slow rates. Default 3.
    limit : float
        The largest size of v, which is limit · tanh(v/limit) in these formulas: production is then bounded
        and losses are linear, so that no solution runs away in finite time, whatever the weights. Default 12,
        rates up to 8 000 times the scale; take 6 where the scale is known well.

    Examples
    --------
    >>> from stiffml.closures import ProductionLoss
    >>> v = torch.tensor([3.0, 3.0 + np.log(2)]).double()  # one component: production 1, loss 2 z
    >>> ProductionLoss(limit=1e6)(v, torch.tensor([0.25]).double())  # 1 − 2/4
    tensor([0.5000], dtype=torch.float64)
    """

    shift: float = 3.0
    limit: float = 12.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shift", number("ProductionLoss: shift", self.shift))
        object.__setattr__(self, "limit", number("ProductionLoss: limit", self.limit, above=0))

    def __call__(self, v: Tensor, z: Tensor) -> Tensor:
        production, loss = _exponential(v, self.shift, self.limit).chunk(2, dim=-1)
        return production - loss * z

    def rates(self, setting: Setting) -> Rates:
        _require_none_held(
            setting, "ProductionLoss", "positivity. Take Reactions(), which has both, or Sinh()"
        )
        return _Projected(self, 2 * len(setting.names), setting)


@dataclass(frozen=True)
class Relaxation(Head):
    """rate = scale · (v − y/typical) of fast components, scale · v of the others.

    A fast component settles at typical · v, at scale/typical per unit of time. Data whose first interval is
    longer do not show how fast that is, and need not: a solve with implicit steps takes any rate. Without
    this a network has to slow a fast change down by itself, within what no observation shows. Networks that
    see slow components only (``features`` with ``of=``) say at the start what they say after the first
    observation; shown the fast ones too, they say there what nothing determines.

    Parameters
    ----------
    fast : sequence of str or int, optional
        Names of fast components, or their numbers among those of ``where``. Default: all.

    Examples
    --------
    >>> import torch, stiffml
    >>> from stiffml.closures import Closure, LinearFeatures, Relaxation
    >>> slow_only = LinearFeatures([1.0, 1.0], of=[0])
    >>> model = Closure(None, [4], typical=[1.0, 1.0], scale=[0.1, 1e3], features=slow_only,
    ...                 components=["slow", "fast"], head=Relaxation(["fast"]))
    >>> t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    >>> y = stiffml.odeint(model, torch.ones(2).double(), t, method="bdf")
    >>> v = model.network(model.features(t[1], y[1]))  # where the fast one is, but for 1/1000 of v's change
    >>> bool((y[1, 1] - v[1]).abs() < 1e-3)
    True
    """

    fast: Any = None

    def rates(self, setting: Setting) -> Rates:
        _require_none_held(setting, "Relaxation", "relaxation. Take Linear() or Sinh()")
        chosen = places("Relaxation: fast", self.fast, setting.names)
        return _Relaxing(chosen, setting)


class _Relaxing(Rates):
    """What :class:`Relaxation` says."""

    settles: Tensor

    def __init__(self, fast: Sequence[int], setting: Setting) -> None:
        super().__init__(len(setting.names), setting.scale)
        settles = [1.0 if i in fast else 0.0 for i in range(len(setting.names))]
        self.register_buffer("settles", torch.tensor(settles, dtype=torch.float64))

    def forward(self, v: Tensor, z: Tensor) -> Tensor:
        return self.scale * (v - self.settles * z)


def _require_none_held(setting: Setting, head: str, loses: str) -> None:
    """Raise ValueError if a sum is to be conserved, which a projection would do at a loss."""
    held = np.flatnonzero(np.abs(setting.rows).sum(axis=0))
    if len(held):
        raise ValueError(
            f"head: {head} cannot conserve a sum that {setting.names[held[0]]} is part of: a projection "
            f"would take its {loses}"
        )


@dataclass(frozen=True)
class Reactions(Head):
    """rates = Σ_r ν_r e_r (exp(v_f − shift) Π_consumed z − exp(v_b − shift) Π_produced z), z = y/typical.

    Each reaction ν_r conserves the sums by itself, and goes forwards and backwards at rates proportional to
    each component that it consumes, so that none at 0 falls. The extent e_r is the smallest scale/|ν| of its
    components: no component gets more than its scale times the sum of the reactions' numbers.

    Parameters
    ----------
    stoichiometry : array_like, optional
        (r, k) over the components of ``where`` in the state's order, consumed ones negative. Default: all
        reactions with as few components as conserve the sums (:attr:`Closure.reactions` lists them): among A,
        B, C of a constant sum A <=> B, A <=> C, B <=> C. A component that no sum contains has a source and
        a sink, as of :class:`ProductionLoss`.
    shift : float
        Of the exponents. Default 3.
    limit : float
        As of :class:`ProductionLoss`; rates are then at most so many times the products of what is consumed.
        Default 12.
    most : int
        Reactions to be found at most, else ValueError. Default 100.

    Examples
    --------
    >>> from stiffml.closures import Closure, Reactions
    >>> model = Closure(None, [4], typical=np.ones(3), components=["A", "B", "C"],
    ...                 conserve=[[1.0, 1.0, 1.0]], head=Reactions())
    >>> model.reactions
    ('A <=> B', 'A <=> C', 'B <=> C')
    >>> bool(model(t[0], torch.tensor([1.0, 0.5, 0.0]).double()).sum().abs() < 1e-15)
    True
    """

    stoichiometry: Any = None
    shift: float = 3.0
    limit: float = 12.0
    most: int = 100

    def __post_init__(self) -> None:
        object.__setattr__(self, "shift", number("Reactions: shift", self.shift))
        object.__setattr__(self, "limit", number("Reactions: limit", self.limit, above=0))
        object.__setattr__(self, "most", whole("Reactions: most", self.most))
        if self.stoichiometry is not None:
            given = array("Reactions: stoichiometry", self.stoichiometry)
            if given.ndim != 2 or not len(given) or not np.abs(given).sum(axis=1).all():
                raise ValueError(
                    "Reactions: stoichiometry must have a row with numbers for each reaction, not "
                    f"{described(self.stoichiometry)}"
                )
            object.__setattr__(self, "stoichiometry", given)

    def rates(self, setting: Setting) -> Rates:
        given, count = self.stoichiometry, len(setting.names)
        if given is None:
            given = elementary(setting.rows, self.most)
            if not len(given):
                raise ValueError(
                    f"head: no reaction among {', '.join(setting.names)} alone keeps the conserved sums; "
                    "name more components in where"
                )
        if given.shape[1] != count:
            raise ValueError(
                f"Reactions: stoichiometry must have a column for each of {', '.join(setting.names)}, not "
                f"{given.shape[1]}"
            )
        require_conserving(given, setting.rows, setting.names)
        return _Reacting(given, self.shift, self.limit, setting)


class _Reacting(Rates):
    """What :class:`Reactions` says."""

    stoichiometry: Tensor
    factors: Tensor

    def __init__(self, reactions: np.ndarray, shift: float, limit: float, setting: Setting) -> None:
        super().__init__(2 * len(reactions), setting.scale)
        self.shift, self.limit = shift, limit
        self.written = tuple(written(reaction, setting.names) for reaction in reactions)
        extents = np.min(
            np.where(reactions != 0, setting.scale / np.where(reactions, np.abs(reactions), 1), np.inf),
            axis=1,
        )
        self.register_buffer("stoichiometry", torch.from_numpy(reactions * extents[:, None]))
        # Forwards consume where coefficients are negative, backwards where they are positive.
        both = np.concatenate([reactions < 0, reactions > 0])
        slots = int(both.sum(axis=1).max())
        one = len(setting.names)
        table = [[*np.flatnonzero(row), *[one] * (slots - row.sum())] for row in both]
        self.register_buffer("factors", torch.tensor(table).T.contiguous(), persistent=False)  # (slots, 2 r)

    def forward(self, v: Tensor, z: Tensor) -> Tensor:
        with_one = torch.cat([z, torch.ones_like(z[..., :1])], dim=-1)
        speed = _exponential(v, self.shift, self.limit)
        for which in self.factors:
            speed = speed * with_one.index_select(-1, which)
        forwards, backwards = speed.chunk(2, dim=-1)
        return (forwards - backwards) @ self.stoichiometry
