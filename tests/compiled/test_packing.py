"""The numbers of tensors are those they have now, wherever these lie."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from stiffml.compiled.packing import Packing

D = torch.float64


def numbers(tensors: list[Tensor]) -> np.ndarray:
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors]).numpy()


def transpose(tensor: Tensor) -> None:
    tensor.data = tensor.data.t()


CHANGES: dict[str, Callable[[list[Tensor]], object]] = {
    "nothing": lambda tensors: None,
    "in place": lambda tensors: tensors[0].data.mul_(2),
    "unseen by torch": lambda tensors: tensors[0].detach().numpy().__setitem__((0, 0), 7.0),
    "other memory": lambda tensors: setattr(tensors[0], "data", torch.rand(3, 3, dtype=D)),
    "other order in memory": lambda tensors: transpose(tensors[0]),
    "another tensor": lambda tensors: tensors.__setitem__(1, torch.rand(2, dtype=D)),
    "single precision": lambda tensors: tensors.__setitem__(1, torch.rand(2)),
    "a part of another": lambda tensors: tensors.__setitem__(1, torch.rand(4, dtype=D)[::2]),
    "less": lambda tensors: setattr(tensors[0], "data", tensors[0].data[:1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_present_values(change: str) -> None:
    packing = Packing()
    tensors = [torch.rand(3, 3, dtype=D, requires_grad=True), torch.rand(2, dtype=D), torch.rand((), dtype=D)]
    with torch.no_grad():
        for _ in range(2):
            assert np.array_equal(packing.packed(tensors), numbers(tensors))
        CHANGES[change](tensors)
        for _ in range(2):
            assert np.array_equal(packing.packed(tensors), numbers(tensors))


def test_packed_numbers_are_copies() -> None:
    packing, tensor = Packing(), torch.zeros(3, dtype=D)
    before = packing.packed([tensor]), packing.packed([tensor])
    tensor += 1
    assert not np.any(before)
    assert packing.packed([]).size == 0
