"""Runs in two parts that have nothing in common, and the windows of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stiffml.checks import described, number, texts, whole
from stiffml.training.data.labels import require_known, shortened
from stiffml.training.data.run import Run

Parts = tuple[list[Run], list[Run]]


def parts(
    runs: Sequence[Run], noise: np.ndarray, by: Any, fraction: Any, seed: Any, validate: Any, at: Any
) -> Parts:
    """See :meth:`Runs.split`."""
    if not isinstance(by, str) or by not in ("run", "time"):
        raise ValueError(f'by must be "run" or "time", not {described(by)}')
    seed = whole("seed", seed, least=0)
    other, value = ("at", at) if by == "run" else ("validate", validate)
    if value is not None:
        raise ValueError(f'{other} is for by="{"time" if by == "run" else "run"}", not for by="{by}"')
    own = validate if by == "run" else at
    if fraction is not None and own is not None:
        raise ValueError(f"fraction and {'validate' if by == 'run' else 'at'} exclude each other")
    share = number("fraction", 0.8 if fraction is None else fraction, above=0, below=1)
    if by == "run":
        return _by_run(runs, share, seed, validate)
    return _by_time(runs, share, None if at is None else number("at", at), noise)


def _by_run(runs: Sequence[Run], fraction: float, seed: int, validate: Any) -> Parts:
    sources = list(dict.fromkeys(run.source for run in runs))
    if validate is None:
        first = round(fraction * len(sources))
        if not 0 < first < len(sources):
            raise ValueError(f"fraction = {fraction:g} of {len(sources)} runs leaves one part empty")
        order = np.random.default_rng(seed).permutation(len(sources))
        apart = {sources[i] for i in order[first:]}
    else:
        apart = set(texts("validate", validate))
        require_known("validate", sorted(apart), sources)
        if not 0 < len(apart) < len(sources):
            raise ValueError(f"validate = {shortened(sorted(apart))} leaves one part empty")
    return [run for run in runs if run.source not in apart], [run for run in runs if run.source in apart]


def _by_time(runs: Sequence[Run], fraction: float, at: float | None, noise: np.ndarray) -> Parts:
    if any(run.source != run.name for run in runs):
        raise ValueError(
            'by="time": windows overlap, and would be in both parts; split before cutting windows'
        )
    needed = _observed(runs)
    early, late = [], []
    for run in runs:
        count = round(fraction * len(run)) if at is None else int(np.searchsorted(run.times, at))
        if count > 1:  # nothing can be fitted to one time
            early.append(run.cut(0, count, noise))
        starts = np.flatnonzero(run.mask[count:, needed].all(axis=1)) + count
        if len(starts) and starts[0] < len(run) - 1:
            late.append(run.cut(int(starts[0]), len(run), noise))
    where = f"fraction = {fraction:g}" if at is None else f"at = {at:g}"
    if not early or not late:
        behind = "no complete state with an observation behind it after"
        why = behind if early else "no two times of a run before"
        raise ValueError(f"{where} leaves one part empty: there are {why} the split")
    return early, late


def windows(runs: Sequence[Run], noise: np.ndarray, length: Any, stride: Any) -> list[Run]:
    """See :meth:`Runs.windows`."""
    length, stride = whole("length", length), whole("stride", stride)
    needed = _observed(runs)
    found = []
    for run in runs:
        complete = np.asarray(run.mask[:, needed].all(axis=1))
        complete[0] |= bool(np.isfinite(run.y0_noise[needed]).all())
        starts: dict[int, None] = {}
        for first in range(0, len(run) - length, stride):
            behind = np.flatnonzero(complete[first : len(run) - length])
            if len(behind):
                starts[first + int(behind[0])] = None
        for first in starts:
            stop = first + length + 1
            if run.mask[first + 1 : stop].any():
                found.append(run.cut(first, stop, noise, f"{run.name}[{first}:{stop}]"))
    if not found:
        longest = max(map(len, runs))
        raise ValueError(
            f"length = {length}: no run has {length + 1} times of which the first is observed in all "
            f"components; the longest run has {longest} times"
        )
    return found


def _observed(runs: Sequence[Run]) -> np.ndarray:
    """(components,) which are observed anywhere; the others are hidden, and no start can wait for them."""
    return np.any([run.mask.any(axis=0) for run in runs], axis=0)
