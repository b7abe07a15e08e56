"""A function of a batch as a function of one sample, for samples that have times of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from stiffml.system.function.batching import Batching, Func, batching_of
from stiffml.system.function.generic_states import nearby
from stiffml.system.state import Layout, State

SAME = {torch.float64: 1e-6, torch.float32: 1e-4}
"""The difference that a value may have for one sample alone, relative to the largest component."""


class WrongShapeError(ValueError):
    """The function returned another shape than that of the state."""


class OneSample:
    """``func``, which takes batches, as a function of one sample at a 0-d time.

    It also takes K samples at K times, (K,) or (K, 1, …, 1), as :func:`batching.evaluate_many` calls it.

    Parameters
    ----------
    func : callable
        func(t, y), with any number of samples in y.
    batch_dims : int
        The number of leading dimensions of y.
    takes_many : bool
        Whether the times given to func have the batch dimensions, also those of one sample. Otherwise they
        are 0-d there.
    flat : bool
        Whether the times of K samples are given as (K,) rather than (K, 1, …, 1).
    """

    def __init__(self, func: Func, batch_dims: int, takes_many: bool, flat: bool = True) -> None:
        self.func, self._dims, self._takes_many, self._flat = func, batch_dims, takes_many, flat

    @property
    def kept_with(self) -> tuple[Func, tuple[object, ...]]:
        """The function that findings are remembered with, and under which key."""
        return self.func, ("one sample", self._dims, self._takes_many, self._flat)

    @property
    def training(self) -> object:
        """What findings about a module depend on."""
        return getattr(self.func, "training", None)

    def __call__(self, t: Tensor, y: State) -> State:
        ones = (1,) * self._dims
        if t.dim() == 0:
            value = self.func(
                t.reshape(ones) if self._takes_many else t, _each(y, lambda p: p[(None,) * self._dims])
            )
            return _each(value, self._only)
        count = len(t)
        lead = (count, *ones[1:])
        times = t.reshape(lead) if self._flat else t.reshape(*lead, *t.shape[1:])
        value = self.func(times, _each(y, lambda p: p.reshape(*lead, *p.shape[1:])))
        return _each(value, lambda p: p.reshape(count, *p.shape[self._dims :]))

    def _only(self, part: Tensor) -> Tensor:
        """The value for the only sample."""
        if part.shape[: self._dims] != (1,) * self._dims:
            raise ValueError(
                f"func returned shape {tuple(part.shape)} for a single sample. If samples have times of "
                "their own, t of shape (batch, n), func is called for those still under way, so it must take "
                "any number of them: what differs between samples goes into the state, as components "
                "whose derivative is zero"
            )
        return part[(0,) * self._dims]


def _each(y: State, change: Callable[[Tensor], Tensor]) -> State:
    """The parts of a state, changed; what is no tensor stays as it is, for later checks."""
    if isinstance(y, tuple | list):
        return tuple(change(part) if isinstance(part, Tensor) else part for part in y)
    return change(y) if isinstance(y, Tensor) else y


def one_sample(func: Func, layout: Layout, of_one: Layout, begins: np.ndarray, u: np.ndarray) -> OneSample:
    """``func`` as a function of one sample, compared with its values for the whole batch.

    Parameters
    ----------
    layout, of_one : Layout
        Of the batch, and of one of its samples.
    begins : ndarray
        (samples,) times at which func is defined for each sample.
    u : ndarray
        (size,) the state near which it is tried.

    Raises
    ------
    ValueError
        If the value for a sample alone is not that in the batch.
    Exception
        What func raises for the batch.
    """
    dims = len(layout.batch)
    # The first calls record graphs if the caller's do: func may keep what it computes.
    takes_many = _takes_many(func, layout, begins, u)
    with torch.no_grad():
        single = OneSample(func, dims, takes_many)
        _require_independent(single, layout, of_one, begins, u)
        time, state = torch.tensor(begins[0], dtype=torch.float64), torch.from_numpy(u[: of_one.size])
        others = [float(t) for t in np.unique(begins)[-2:] if t != begins[0]]
        for flat in (True, False):
            candidate = OneSample(func, dims, takes_many, flat)
            if batching_of(candidate, of_one, time, state, others) is Batching.NATIVE:
                return candidate
    return single


def _takes_many(func: Func, layout: Layout, begins: np.ndarray, u: np.ndarray) -> bool:
    """Whether func wants a time for each sample, as it then takes none of a single time."""
    try:
        _whole(func, layout, begins, u, False)
    except Exception as error:  # the user's function may raise anything
        try:
            _whole(func, layout, begins, u, True)
        except WrongShapeError as wrong:
            raise (error if isinstance(error, WrongShapeError) else wrong) from None
        except Exception:
            raise error from None
        return True
    return False


def _whole(func: Func, layout: Layout, begins: np.ndarray, u: np.ndarray, takes_many: bool) -> np.ndarray:
    """(samples, width) of func for the whole batch: at the times of the samples, or at the first one."""
    times = torch.from_numpy(begins).to(layout.device, layout.dtype)
    t = times.reshape(layout.batch) if takes_many else times[0]
    y = layout.unflatten(torch.from_numpy(u.copy()).to(layout.device, layout.dtype))
    value = func(t, y)
    shapes = tuple(part.shape for part in value) if isinstance(value, tuple | list) else (value.shape,)
    if shapes != layout.shapes:
        wanted, got = (
            tuple(map(tuple, s)) if layout.is_tuple else tuple(s[0]) for s in (layout.shapes, shapes)
        )
        hint = "; write t[:, None] where times (batch,) meet states (batch, components)" if takes_many else ""
        raise WrongShapeError(f"func returned shape {got}, but y0 has shape {wanted}{hint}")
    found = tuple(value) if isinstance(value, list) else value
    return layout.flatten(found).detach().double().cpu().numpy().reshape(layout.samples, layout.width)


def _require_independent(
    single: OneSample, layout: Layout, of_one: Layout, begins: np.ndarray, u: np.ndarray
) -> None:
    """Raise ValueError unless samples alone have the values that they have in the batch."""
    samples = sorted({0, layout.samples // 2, layout.samples - 1})
    takes_many = single._takes_many
    for state, whole in _batches(single.func, layout, begins, u, takes_many):
        off, size = np.zeros(layout.samples), max(float(np.abs(whole[samples]).max()), 1e-300)
        for i in samples:
            time = torch.tensor(
                begins[i] if takes_many else begins[0], dtype=layout.dtype, device=layout.device
            )
            row = torch.from_numpy(state.reshape(layout.samples, -1)[i].copy())
            value = single(time, of_one.unflatten(row.to(layout.device, layout.dtype)))
            alone = of_one.flatten(tuple(value) if isinstance(value, list) else value)
            off[i] = np.abs(alone.double().cpu().numpy() - whole[i]).max()
        bound = SAME[layout.dtype] * size + 1e-8 * float(np.abs(state).max())
        if not off.max() <= bound:
            i = int(np.nanargmax(off))
            raise ValueError(_unlike(layout, i, float(off[i]), takes_many))
        return


def _batches(
    func: Func, layout: Layout, begins: np.ndarray, u: np.ndarray, takes_many: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """States near ``u`` at which func is finite for the whole batch, and its values."""
    for state in nearby(u, np.random.default_rng(0)):
        try:
            whole = _whole(func, layout, begins, state, takes_many)
        except Exception:  # the next state may do; at the last one, u itself, func has been called before
            continue
        if np.isfinite(whole).all():
            yield state, whole


def _unlike(layout: Layout, sample: int, off: float, takes_many: bool) -> str:
    where = list(map(int, np.unravel_index(sample, layout.batch)))
    advice = "a func without means, batch statistics, attention or indices over the leading dimensions"
    if takes_many:
        advice = (
            "t[:, None] where the times (batch,) meet states (batch, components), since t alone would be "
            f"broadcast over components; and {advice}"
        )
    return (
        f"func: its value for sample {where} differs by {off:.3g} between that sample alone and the whole "
        f"batch, but with t of shape (batch, n) samples are independent. Try: {advice}"
    )


def times_of_trial(times: Sequence[np.ndarray]) -> np.ndarray:
    """(samples,) a time inside the span of each sample, no two of them equal if spans allow."""
    fractions = np.linspace(0.05, 0.4, len(times))
    return np.array([t[0] + part * (t[-1] - t[0]) for part, t in zip(fractions, times, strict=True)])
