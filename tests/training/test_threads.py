"""Small models are fitted on one thread, whatever was set before, unless the environment says otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch import Tensor, nn

from stiffml.threads import SAID
from stiffml.training import Run, Runs, fit


class Decay(nn.Module):
    """y' = −k y, which notes how many threads there are."""

    def __init__(self, others: int = 0) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.others = nn.Parameter(torch.zeros(others, dtype=torch.float64), requires_grad=False)
        self.seen: list[int] = []

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.seen.append(torch.get_num_threads())
        if torch.get_num_threads() == 1:
            assert all(pool["num_threads"] == 1 for pool in threadpool_info()), "look at stiffml/threads.py"
        return -self.k * y


@pytest.mark.parametrize("arguments", [{}, {"optimizer": "adam", "iterations": 3}], ids=["lm", "adam"])
@pytest.mark.parametrize(("others", "said", "threads"), [(0, None, 1), (20_000, None, 2), (0, "2", 2)])
def test_threads(
    others: int, said: str | None, threads: int, arguments: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SAID:
        monkeypatch.delenv(name, raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    times = np.linspace(0, 1, 6)
    runs = Runs([Run("decay", times, np.exp(-2 * times)[:, None])], ["y"])
    model, before = Decay(others), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fit(model, runs, **arguments)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    # The first calls are those of the checks, before the fit.
    assert model.seen[-1] == threads, "look at training/fit.py"
    assert model.seen.count(threads) > len(model.seen) / 2
