"""Output times of every sample: their checks, and which of them are repeated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stiffml.interface.feasibility import require_sane_span
from stiffml.interface.output_times import increasing
from stiffml.steps import ends_of_steps


@dataclass(frozen=True)
class OwnTimes:
    """Output times, in which a sample may repeat one.

    Attributes
    ----------
    t : Tensor
        (samples, n) as given.
    direction : int
        ±1.
    distinct : tuple of ndarray
        For each sample its times without repetitions, in solver time.
    which : ndarray
        (samples, n) int: which of its distinct times an entry is.
    """

    t: Tensor
    direction: int
    distinct: tuple[np.ndarray, ...]
    which: np.ndarray

    def firsts(self, sample: int, chosen: np.ndarray) -> np.ndarray:
        """(k,) positions in t of those of a sample's distinct times that are ``chosen``."""
        return np.searchsorted(self.which[sample], np.flatnonzero(chosen))

    def on_steps(self, interpolated: bool) -> tuple[np.ndarray, ...]:
        """For each sample (distinct,) bool: on which of its distinct times steps end."""
        known = {
            id(own): ends_of_steps(own, interpolated) if len(own) > 1 else np.ones(1, dtype=bool)
            for own in self.different
        }
        return tuple(known[id(own)] for own in self.distinct)

    @property
    def different(self) -> list[np.ndarray]:
        """Those of ``distinct`` that are not those of an earlier sample."""
        return list({id(own): own for own in self.distinct}.values())


def own_times(t: Tensor, batch: tuple[int, ...]) -> OwnTimes:
    """Times (\\*batch, n), which increase in every row or decrease in every row, apart from repetitions.

    Raises
    ------
    ValueError
        For any others; the message names the sample.
    """
    if t.shape[:-1] != batch:
        shape = tuple(t.shape)
        if not batch:
            raise ValueError(
                f"t must be one-dimensional, not of shape {shape}, unless samples have times of their own: "
                f"then pass batch_dims={t.dim() - 1}, for as many leading dimensions of y0"
            )
        raise ValueError(
            f"t must have shape (n,), for all samples, or ({', '.join(map(str, batch))}, n) with times "
            f"of its own for every sample of y0, not {shape}"
        )
    rows = t.reshape(-1, t.shape[-1])
    values = rows.detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        at = np.argwhere(~np.isfinite(values))[0].tolist()
        raise ValueError(f"t is not finite at position {_where(at[0], batch, at[1])}")
    changes = np.sign(np.diff(values, axis=1))
    direction = -1 if (changes < 0).any() and not (changes > 0).any() else 1
    if (changes != direction)[changes != 0].any():
        both = (changes > 0).any(axis=1) & (changes < 0).any(axis=1)
        if not both.any():
            up, down = int(np.argmax((changes > 0).any(axis=1))), int(np.argmax((changes < 0).any(axis=1)))
            raise ValueError(
                "t must increase for all samples or decrease for all, but it increases for sample "
                f"{_where(up, batch)} and decreases for sample {_where(down, batch)}; solve these separately"
            )
        i = int(np.argmax(both))
        j = int(np.argmax(changes[i] == -np.sign(changes[i][np.flatnonzero(changes[i])[0]])))
        raise ValueError(
            f"t must increase or decrease (repeated times are allowed), but for sample {_where(i, batch)} "
            f"t[{j}] = {values[i, j]:.17g} and t[{j + 1}] = {values[i, j + 1]:.17g}"
        )
    new = np.concatenate([np.ones((len(values), 1), dtype=bool), changes != 0], axis=1)
    known: dict[bytes, np.ndarray] = {}
    keys = [own.tobytes() for own in values]
    for i, (key, own, is_new) in enumerate(zip(keys, values, new, strict=True)):
        if key in known:
            continue
        try:
            require_sane_span(torch.from_numpy(own))
            once = increasing(torch.from_numpy(own[is_new]))[1] if is_new.sum() > 1 else direction * own[:1]
        except ValueError as error:
            raise ValueError(f"for sample {_where(i, batch)}: {error}") from None
        known[key] = once
    return OwnTimes(rows, direction, tuple(map(known.__getitem__, keys)), np.cumsum(new, axis=1) - 1)


def _where(sample: int, batch: tuple[int, ...], *rest: int) -> list[int]:
    """The index of a sample in y0."""
    return [*map(int, np.unravel_index(sample, batch)), *rest]
