"""CPU time of things that take turns, so that what else the machine does meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def in_turns(cases: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median CPU time of each case in seconds, after one call that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for round_ in range(repeats + 1):
        for name, case in cases.items():
            began = time.process_time()
            case()
            if round_:
                taken[name].append(time.process_time() - began)
    return {name: statistics.median(times) for name, times in taken.items()}
