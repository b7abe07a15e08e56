"""Runs as padded tensors, and batches of them in a seeded order that a resumed training goes on with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stiffml.checks import described, flag, whole
from stiffml.training.data.run import Run


@dataclass(frozen=True, eq=False)
class Batch:
    """Runs of different lengths as tensors of one shape. Shorter runs are padded, at their last time.

    Attributes
    ----------
    names : tuple of str
    times : Tensor
        (runs, n); padding repeats the last time of the run.
    values : Tensor
        (n, runs, components), 0 where nothing was observed.
    mask : Tensor
        (n, runs, components), true where something was observed that has a weight; false in padding.
    weights : Tensor
        (n, runs, components), 0 where ``mask`` is false, so that ``(weights * (y - values) ** 2).sum()`` has
        observations only.
    y0, y0_noise : Tensor
        (runs, components) states at the first times, and their standard deviations: 0 where they are known,
        infinite where they have to be learned.
    lengths : Tensor
        (runs,) times of each run.
    inputs : Tensor
        (runs, k)
    forcing_times, forcing : Tensor or None
        (runs, m) and (m, runs, k), padded likewise; None without forcing.

    Examples
    --------
    >>> a, b = Run("a", [0, 1, 4], [[1.0], [0.6], [0.1]]), Run("b", [0, 2], [[2.0], [1.0]])
    >>> batch = Runs([a, b], ["A"]).padded()
    >>> batch.times, batch.lengths
    (tensor([[0., 1., 4.],
            [0., 2., 2.]], dtype=torch.float64), tensor([3, 2]))
    >>> y = stiffml.odeint(lambda t, y: -y / 2, batch.y0, batch.times, batch_dims=1)  # (n, runs, components)
    >>> loss = (batch.weights * (y - batch.values) ** 2).sum()  # of observations only
    """

    names: tuple[str, ...]
    times: Tensor
    values: Tensor
    mask: Tensor
    weights: Tensor
    y0: Tensor
    y0_noise: Tensor
    lengths: Tensor
    inputs: Tensor
    forcing_times: Tensor | None = None
    forcing: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """The batch on another device, or its real numbers in another precision; as ``Tensor.to``."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                new = value.to(*args, **kwargs)
                moved[field.name] = new if value.is_floating_point() else new.to(value.dtype)
        return replace(self, **moved)

    def forcing_at(self, t: Tensor) -> Tensor:
        """(runs, k) forcing at a time, or at one time of each run, (runs,).

        Linear between the times of the table, constant outside.

        Raises
        ------
        ValueError
            If the runs have no forcing.
        """
        if self.forcing is None or self.forcing_times is None:
            raise ValueError("forcing_at: these runs have no forcing")
        table = self.forcing_times
        at = torch.as_tensor(t, dtype=table.dtype, device=table.device).expand(len(self))
        at = torch.minimum(torch.maximum(at, table[:, 0]), table[:, -1])
        if table.shape[1] == 1:
            return self.forcing[0]
        right = torch.searchsorted(table, at.detach()[:, None].contiguous())[:, 0].clamp(
            1, table.shape[1] - 1
        )
        run = torch.arange(len(self), device=table.device)
        begin, end = table[run, right - 1], table[run, right]
        # The padding of a table repeats its last time; what is left of an interval without length is its end.
        share = torch.where(end > begin, (at - begin) / torch.where(end > begin, end - begin, 1), 1)[:, None]
        return self.forcing[right - 1, run] * (1 - share) + self.forcing[right, run] * share


def padded(runs: Sequence[Run], dtype: torch.dtype = torch.float64, device: Any = None) -> Batch:
    """The runs as one :class:`Batch`."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point type of torch, not {described(dtype)}")
    try:
        device = None if device is None else torch.device(device)
        torch.empty(0, device=device)
    except Exception as error:
        raise ValueError(f"device: {described(device)} cannot be used ({error})") from error
    lengths = [len(run) for run in runs]
    masks = _stacked([run.mask for run in runs], False)
    weights = np.where(masks, _stacked([run.weights for run in runs], 0.0), 0.0)
    values = np.where(masks, _stacked([run.values for run in runs], 0.0), 0.0)

    def real(array: Any) -> Tensor:
        return torch.tensor(np.ascontiguousarray(array), dtype=dtype, device=device)

    tables = [run.forcing for run in runs]
    forced: dict[str, Tensor] = {}
    if all(table is not None for table in tables):
        forced = {
            "forcing_times": real(_stacked([table.times for table in tables if table], None).T),
            "forcing": real(_stacked([table.values for table in tables if table], None)),
        }
    return Batch(
        names=tuple(run.name for run in runs),
        times=real(_stacked([run.times for run in runs], None).T),
        values=real(values),
        mask=torch.tensor(masks, device=device),
        weights=real(weights),
        y0=real([run.y0 for run in runs]),
        y0_noise=real([run.y0_noise for run in runs]),
        lengths=torch.tensor(lengths, device=device),
        inputs=real([list(run.inputs.values()) for run in runs]).reshape(len(runs), -1),
        **forced,
    )


def _stacked(arrays: list[np.ndarray], filling: Any) -> np.ndarray:
    """(longest, runs, …) arrays side by side; filled up with a value, or (None) with the last row."""
    longest = max(map(len, arrays))
    rows = [np.minimum(np.arange(longest), len(array) - 1) for array in arrays]
    stacked = np.stack([array[row] for array, row in zip(arrays, rows, strict=True)], axis=1)
    if filling is not None:
        for index, array in enumerate(arrays):
            stacked[len(array) :, index] = filling
    return stacked


def members(count: int, size: int, iteration: int, seed: int | None) -> list[int]:
    """Which of ``count`` are in the batch of an iteration, counted from 0; all once in each epoch.

    ``seed``: of the order, which is another one each epoch; None: in their own order.
    """
    epoch, place = divmod(iteration, -(-count // size))
    order = np.arange(count)
    if seed is not None:
        order = np.random.default_rng([seed, epoch]).permutation(order)
    return order[place * size : (place + 1) * size].tolist()


class Minibatches:
    """Batches of ``size`` runs, each epoch in a new order that depends on ``seed`` and the epoch only.

    ``for batch in minibatches`` goes through one epoch, or through the rest of one that was begun, and
    ``state_dict`` holds the place. :meth:`at` gives the batch of any iteration without such a place: an
    iteration that is tried again has the batch it had, and so has a resumed training.

    Parameters
    ----------
    runs : sequence of Run
        Runs or windows.
    size : int
        Runs in a batch; the last of an epoch may have fewer.
    seed : int
        Default 0.
    shuffle : bool
        Whether the order is random. Default true.
    dtype, device
        Of the tensors. Default float64, on the CPU.

    Examples
    --------
    >>> for batch in runs.minibatches(1, seed=0):
    ...     print(batch.names)
    ('a',)
    ('b',)
    """

    def __init__(
        self,
        runs: Sequence[Run],
        size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        dtype: torch.dtype = torch.float64,
        device: Any = None,
    ) -> None:
        self.size, self.seed = whole("size", size), whole("seed", seed, least=0)
        self.shuffle = flag("shuffle", shuffle)
        self._runs, self._dtype, self._device = list(runs), dtype, device
        self._position = 0
        padded(self._runs[:1], dtype, device)  # so that a wrong type is said here

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._runs) // self.size)

    def at(self, iteration: int) -> Batch:
        """The batch of an iteration, counted from 0 through all epochs."""
        place = whole("iteration", iteration, least=0)
        chosen = members(len(self._runs), self.size, place, self.seed if self.shuffle else None)
        return padded([self._runs[i] for i in chosen], self._dtype, self._device)

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(len(self) - self._position % len(self)):
            self._position += 1
            yield self.at(self._position - 1)

    def state_dict(self) -> dict[str, int]:
        """The place, and what the order depends on."""
        return {**self._order(), "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at the place of a state.

        Raises
        ------
        ValueError
            For a state of other batches.
        """
        if not isinstance(state, dict) or state.keys() != self.state_dict().keys():
            raise ValueError(f"state must be one that state_dict() gave, not {described(state)}")
        for name, own in self._order().items():
            if state[name] != own:
                raise ValueError(f"state: it was made with {name} = {state[name]}, not {own}")
        self._position = whole("state: position", state["position"], least=0)

    def _order(self) -> dict[str, int]:
        return {"runs": len(self._runs), "size": self.size, "seed": self.seed, "shuffle": int(self.shuffle)}
