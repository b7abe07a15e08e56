"""Every example of the README runs, with little more than it says itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from kinetics import write_kinetics
from small_problems import times
from torch import Tensor

import stiffml

TEXT = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = {
    f"line {TEXT[: found.start()].count(chr(10)) + 1}": found[1]
    for found in re.finditer(r"```python\n(.*?)```", TEXT, re.DOTALL)
}


class Model(torch.nn.Module):
    """Diffusion and a reaction."""

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return 100 * (y.roll(1, -1) + y.roll(-1, -1) - 2 * y)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.diffusion(t, y) - y**3


@pytest.mark.parametrize("where", BLOCKS)
def test_examples(where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    write_kinetics(tmp_path / "experiments.csv")
    model = Model()
    supposed: dict[str, Any] = {
        "__name__": "example",
        "stiffml": stiffml,
        "torch": torch,
        "model": model,
        "func": model,
        "y0": torch.linspace(1, 2, 12, dtype=torch.float64),
        "t": times(0, 1e-6),  # so that a large field takes a moment
    }
    exec(compile(BLOCKS[where], f"README.md, the example at {where}", "exec"), supposed)


def test_there_are_examples() -> None:
    assert len(BLOCKS) >= 8, "examples are no longer found; look at how they are marked"
