"""Cost of one training iteration of the Robertson fit, in f-units: multiples of one eager call of the
network. Both are timed in turn in one run, and medians are compared, since machines are noisy.

    python benchmarks/robertson_training.py [--repeats 25]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass

import torch

from stiffml import Grid, solve
from stiffml.fits.robertson import Network, error_of, observations


@dataclass(frozen=True)
class Cost:
    """Medians: an eager call in µs, forward and backward passes in f-units; Newton iterations a solve."""

    call_us: float
    forward_f: float
    backward_f: float
    newton_iterations: int

    @property
    def total_f(self) -> float:
        return self.forward_f + self.backward_f

    @property
    def ratio(self) -> float:
        return self.backward_f / self.forward_f


def measure(repeats: int = 25, seed: int = 0) -> Cost:
    """Forward and backward of the fit at its initial weights, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data, network = observations(), Network(seed)
        calls, forwards, backwards = [], [], []
        for repeat in range(repeats + 2):
            with torch.no_grad():
                began = time.perf_counter()
                for _ in range(50):
                    network(data.times[0], data.scaled[0])
                calls.append((time.perf_counter() - began) / 50)
            began = time.perf_counter()
            solution = solve(network, data.scaled[0], data.times, method="cn", steps=Grid())
            loss = error_of(solution, data)
            between = time.perf_counter()
            loss.backward()
            forwards.append(between - began)
            backwards.append(time.perf_counter() - between)
            if repeat < 2:  # warm-up
                calls, forwards, backwards = [], [], []
    finally:
        torch.set_num_threads(threads)
    call = statistics.median(calls)
    return Cost(
        call * 1e6,
        statistics.median(forwards) / call,
        statistics.median(backwards) / call,
        solution.stats.newton_iterations,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    cost = measure(parser.parse_args().repeats)
    print(
        json.dumps({**asdict(cost), "total_f": cost.total_f, "backward_over_forward": cost.ratio}, indent=1)
    )
