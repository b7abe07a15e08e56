"""The problem that all of these benchmarks solve: a two-dimensional Brusselator with a neural closure.

    u_t = 1 + u² v − (B + 1) u + α Δu + 0.1 c₁(u, v)
    v_t = B u − u² v + α Δv + 0.1 c₂(u, v)                      on [0, 1)², periodic, five points
    c(u, v) = W₂ tanh(W₁ (u, v) + b₁) + b₂                      at each point: two 1 × 1 convolutions
    u(x, y, 0) = 22 y (1 − y)^1.5,   v(x, y, 0) = 27 x (1 − x)^1.5,   t from 0 to 1

The loss is the mean of the squares of the final state; gradients are those by all weights and by y0. There
is no source, so nothing jumps. The convolutions are written as products with matrices, because torch's own
are several times slower in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import block_diag, csr_array, eye_array, kron
from torch import Tensor, nn

from problems.stencils import laplacian
from stiffml import Assembled, Krylov, Split

ALPHA, B = 0.1, 3.4
HIDDEN = 16
T_END = 1.0
SOLVE = {"method": "bdf3", "rtol": 1e-5, "atol": 1e-8}


class Kinetics(nn.Module):
    """What happens at each point by itself: the reaction and the closure, whose weights are trainable."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.W1, self.b1 = normal(HIDDEN, 2, scale=2**-0.5), normal(HIDDEN, 1)
        self.W2, self.b2 = normal(2, HIDDEN, scale=HIDDEN**-0.5), normal(2, 1)

    def forward(self, y: Tensor) -> Tensor:
        u, v = y[..., :1, :, :], y[..., 1:, :, :]
        made = u * u * v
        closure = self.W2 @ torch.tanh(self.W1 @ y.flatten(-2) + self.b1) + self.b2
        return torch.cat([1 + made - (B + 1) * u, B * u - made], dim=-3) + 0.1 * closure.view(y.shape)


class Brusselator(nn.Module):
    """The right-hand side on a whole field, (…, 2, points, points)."""

    def __init__(self) -> None:
        super().__init__()
        self.kinetics = Kinetics()

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return ALPHA * y.shape[-1] ** 2 * laplacian(y)

    def reaction(self, t: Tensor, y: Tensor) -> Tensor:
        return self.kinetics(y)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.diffusion(t, y) + self.kinetics(y)


class Parts(Split):
    """The same: the diffusion implicit, the kinetics explicit."""

    def __init__(self, model: Brusselator) -> None:
        super().__init__(model.diffusion, model.reaction)
        self.model = model  # whose parameters become those of this module


class LocalBrusselator(nn.Module):
    """The same on a part of a field of so many points along an axis, with one ghost at each end."""

    def __init__(self, points: int) -> None:
        super().__init__()
        self.points = points
        self.kinetics = Kinetics()

    def diffusion(self, t: Tensor, ghosted: Tensor) -> Tensor:
        inner = ghosted[..., 1:-1, 1:-1]
        north, south = ghosted[..., :-2, 1:-1], ghosted[..., 2:, 1:-1]
        west, east = ghosted[..., 1:-1, :-2], ghosted[..., 1:-1, 2:]
        return ALPHA * self.points**2 * (north + south + west + east - 4 * inner)

    def forward(self, t: Tensor, ghosted: Tensor) -> Tensor:
        return self.diffusion(t, ghosted) + self.kinetics(ghosted[..., 1:-1, 1:-1])


def start(x: Tensor, y: Tensor) -> Tensor:
    """y0 at coordinates (points, points), (2, points, points)."""
    return torch.stack([22 * y * (1 - y) ** 1.5, 27 * x * (1 - x) ** 1.5])


def whole_start(points: int) -> Tensor:
    x = torch.arange(points, dtype=torch.float64) / points
    return start(*torch.meshgrid(x, x, indexing="ij"))


def diffusion_matrix(points: int) -> csr_array:
    """(2 points², 2 points²), the Jacobian of ``Brusselator.diffusion``."""
    here = np.arange(points)
    ahead = csr_array((np.ones(points), (here, (here + 1) % points)), shape=(points, points))
    along = ahead + ahead.T - 2 * eye_array(points)
    one = eye_array(points)
    return csr_array(ALPHA * points**2 * block_diag([kron(along, one) + kron(one, along)] * 2))


class Fourier:
    """shift − (the diffusion) inverted exactly, by fast Fourier transforms: a preconditioner of one's own.

    A wave of l and m periods along the axes is an eigenvector of the five-point stencil on a periodic grid,
    with −4 α points² (sin²(π l / points) + sin²(π m / points)).
    """

    def __init__(self, points: int) -> None:
        self._size = (points, points)
        k = torch.arange(points, dtype=torch.float64)
        along = 4 * ALPHA * points**2 * torch.sin(torch.pi * k / points) ** 2
        # The transform of real numbers is symmetric: half of it along the last axis is all of it.
        self._eigenvalues = -(along[:, None] + along[: points // 2 + 1])

    def update(self, t: Tensor, y: Tensor, shift: float) -> None:
        self._inverse = 1 / (shift - self._eigenvalues)

    def apply(self, residual: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(residual).mul_(self._inverse), s=self._size)

    apply_transpose = apply  # the diffusion is symmetric


def linear_solver(diffusion, preconditioner: str, method: str = "gmres") -> Krylov:
    """Only the diffusion is assembled, given as a function or as a matrix, which is linear."""
    return Krylov(method, Assembled(diffusion, preconditioner, constant=True))
