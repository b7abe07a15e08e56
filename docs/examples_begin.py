"""What the examples of the reference take for granted; the page shows it, and the tests run it first."""

import numpy as np
import torch

import stiffml  # noqa: F401
from stiffml.training import Run, Runs

rates = torch.tensor([1.0, 1000.0], dtype=torch.float64)  # per unit of time: a slow decay and a fast one
y0 = torch.ones(2, dtype=torch.float64)
t = torch.tensor([0.0, 1.0], dtype=torch.float64)


def func(t, y):
    return -rates * y


class Decay(torch.nn.Module):
    """A model to be fitted, y' = −k y."""

    def __init__(self, k=2.0):
        super().__init__()
        self.k = torch.nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, t, y):
        return -self.k * y


times = np.linspace(0, 2, 9)
exact = np.exp(-3 * times)[:, None]  # k is 3
runs = Runs([Run("a", times, exact), Run("b", times, exact / 2)], ["A"], noise=0.01, initial="known")
