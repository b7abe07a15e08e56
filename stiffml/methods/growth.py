"""How much longer than the last steps the next one of an adaptive run may be."""

from __future__ import annotations

import numpy as np


class Growth:
    """The next step is at most ratioʲ times as long as the j-th last one, for one j ≤ ``steps``.

    So steps grow by ``ratio`` at most from one to the next for long, but one that was shortened, to land on
    an output, may be followed at once by one as long as those before it. It serves several runs side by side,
    each by itself.

    Parameters
    ----------
    ratio : float
        May be infinite.
    steps : int
        So many of the last steps count. Default 1.
    largest : float
        The next step is never longer than the last one by a larger ratio. Default ``ratio``.
    runs : int
        Default 1.
    """

    def __init__(self, ratio: float, steps: int = 1, largest: float | None = None, runs: int = 1) -> None:
        self.ratio, self.largest = ratio, ratio if largest is None else largest
        self._sizes = np.zeros((runs, steps))  # newest first
        self._ratios = ratio ** np.arange(1, steps + 1)

    @property
    def steps(self) -> int:
        return len(self._ratios)

    def next_size(self, size: float, wanted: float, cut: bool = False) -> float:
        """The same for one run: after a step of ``size``, at most that wanted."""
        only = np.zeros(1, dtype=int)
        return float(self.after(only, np.array([size]), np.array([wanted]), np.array([cut]))[0])

    def after(self, runs: np.ndarray, sizes: np.ndarray, wanted: np.ndarray, cut: np.ndarray) -> np.ndarray:
        """The sizes of the next steps of some runs, at most those wanted: (K,) -> (K,).

        Parameters
        ----------
        runs : ndarray
            (K,) their indices.
        sizes : ndarray
            (K,) of the steps they have just taken.
        wanted : ndarray
            (K,)
        cut : ndarray
            (K,) bool, whether these steps were to be longer: what was possible before is not any more.
        """
        before = np.where(cut[:, None], 0.0, self._sizes[runs, :-1])
        past = np.concatenate([sizes[:, None], before], axis=1)
        self._sizes[runs] = past
        grown = np.max(past * self._ratios, axis=1)
        return np.minimum(wanted, np.minimum(grown, self.largest * sizes))
