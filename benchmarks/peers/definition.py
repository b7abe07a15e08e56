"""The problem that both sides solve, as numbers in one file: a Brusselator with a neural closure. Only numpy.

    u_t = 1 + u² v − (B + 1) u + α Δu + c₁(u, v)
    v_t = B u − u² v + α Δv + c₂(u, v)                          on [0, 1)², periodic, five points
    c(u, v) = W₂ tanh(W₁ (u, v) + b₁) + b₂                      at each point: two convolutions of width 1
    u(x, y, 0) = 22 y (1 − y)^1.5,   v(x, y, 0) = 27 x (1 − x)^1.5

The loss is the mean of the squares of the final state. There is no source, so nothing jumps.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

WEIGHTS = ("W1", "b1", "W2", "b2")


@dataclass(frozen=True)
class Definition:
    """y0 is (2, size, size); the fields of ``WEIGHTS`` make the closure."""

    y0: np.ndarray
    t_end: float
    alpha: float
    B: float
    W1: np.ndarray
    b1: np.ndarray
    W2: np.ndarray
    b2: np.ndarray

    @property
    def size(self) -> int:
        return self.y0.shape[-1]

    @property
    def weights(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in WEIGHTS}

    def save(self, path: Path) -> None:
        np.savez(path, **asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Definition:
        with np.load(path) as file:
            return cls(**{name: value if value.ndim else float(value) for name, value in file.items()})

    def rhs(self, y: np.ndarray) -> np.ndarray:
        """For the reference solution, and against which both sides are checked."""
        neighbours = sum(np.roll(y, shift, axis) for axis in (1, 2) for shift in (1, -1))
        u, v = y
        made = u * u * v
        reaction = np.stack([1 + made - (self.B + 1) * u, self.B * u - made])
        hidden = np.tanh(self.W1 @ y.reshape(2, -1) + self.b1[:, None])
        closure = (self.W2 @ hidden + self.b2[:, None]).reshape(y.shape)
        return self.alpha * self.size**2 * (neighbours - 4 * y) + reaction + closure


def brusselator(
    size: int, t_end: float = 1.0, hidden: int = 16, small: float = 0.1, seed: int = 0
) -> Definition:
    """On a grid of size² points; weights are ``small`` times normal numbers."""
    x = np.arange(size) / size
    bump = x * (1 - x) ** 1.5
    shape = (size, size)
    normal = np.random.default_rng(0).standard_normal
    return Definition(
        y0=np.stack([np.broadcast_to(22 * bump, shape), np.broadcast_to(27 * bump[:, None], shape)]),
        t_end=t_end,
        alpha=0.1,
        B=3.4,
        W1=small * normal((hidden, 2)),
        b1=small * normal(hidden),
        W2=small * normal((2, hidden)),
        b2=small * normal(2),
    )
