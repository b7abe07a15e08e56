"""Which implicit method is best for small systems: time against digits, over the library and all methods.

    python benchmarks/defaults.py [--mode compiled eager] [--contenders] [--longest 20] [--anew]
        [--problems NAME …] [--methods NAME …] [--rtols 1e-3 …]

Every problem of the library with at most 100 unknowns, whose Jacobians are dense, is solved to the end of its
span by every adaptive implicit method that can take it, at rtol 1e-3 to 1e-8 with the problem's thresholds,
as it is and compiled; dopri5 and tsit5 take part as a control. Digits are those of the end state by the
library's reference, as ``stiffml workprecision`` counts them. CPU seconds of one thread, a function compiled
before; the median of three solves, of those above 0.05 seconds one. A solve has failed that takes more than
20 000 steps, ``--longest`` seconds, or 20 times the seconds of bdf at the smallest tolerance (and half a
second); smaller tolerances are then not tried. Between breakpoints a solve starts anew, as with
``breakpoints=``; the function of each section is compiled once.

The summary compares a method with the cheapest one at equal digits: logarithms of times are interpolated
between tolerances. Medians are over problems; one that fails, or whose digits are never reached, counts as
infinitely dear. ``f_units`` of a solve are its CPU seconds by ``seconds_per_call`` of its problem.

``--contenders`` takes all methods on Robertson's reaction and HIRES, and on the others those that were within
twice the least time there, at 4 or at 5 digits. Measured rows are kept and not measured again, unless
``--anew``. Writes benchmarks/results/defaults.json and defaults.png; the first after each method.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from defaults_summary import FIRST, contenders, draw, summary
from measuring import RESULTS, machine
from torch import Tensor, nn

import problems
import stiffml
from problems import Problem
from problems.checking import compare
from problems.references import Reference
from problems.workprecision import end_reference, seconds_per_call
from stiffml import METHODS, Adaptive, SolveError, Status

RTOLS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
LARGEST, LONGEST, LONG, REPEATS, MAX_STEPS = 100, 20.0, 0.05, 3, 20_000
DEAREST, LEAST = 20.0, 0.5
CONTROLS = ("dopri5", "tsit5")
SAME = ("bdf5",)
"""As bdf."""
MODES = ("compiled", "eager")


def all_methods() -> tuple[str, ...]:
    """Every adaptive implicit method that takes a function as a whole, and the controls."""
    implicit = (n for n, m in METHODS.items() if m.implicit and m.adaptive and m.whole and n not in SAME)
    return (*implicit, *CONTROLS)


def takes(problem: Problem, method: str) -> bool:
    if problem.mass is None:
        return True
    return METHODS[method].adaptive_dae if (problem.mass == 0).any() else METHODS[method].mass


class Section(nn.Module):
    """A right-hand side between two breakpoints: evaluated strictly inside them."""

    def __init__(self, func: nn.Module, begin: float, end: float) -> None:
        super().__init__()
        self.func = func
        self.begin, self.end = math.nextafter(begin, end), math.nextafter(end, begin)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.func(t.clamp(self.begin, self.end), y)


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem ready to be solved: by sections, each compiled or not."""

    problem: Problem
    reference: Reference
    ends: tuple[float, ...]
    funcs: tuple[Callable, ...]

    @classmethod
    def of(cls, problem: Problem, mode: str) -> Case:
        begin, end = problem.t_span
        ends = (begin, *(b for b in problem.breakpoints if begin < b < end), end)
        func, y0 = problem.func(), problem.initial_state()
        funcs: list[nn.Module] = [func] if len(ends) == 2 else []
        funcs = funcs or [Section(func, a, b) for a, b in itertools.pairwise(ends)]
        if mode == "compiled":
            spans = itertools.pairwise(ends)
            funcs = [stiffml.compile(f, y0, t=span) for f, span in zip(funcs, spans, strict=True)]
        return cls(problem, end_reference(problem), ends, tuple(funcs))

    def solve(self, method: str, rtol: float, longest: float) -> dict[str, Any]:
        """What a solve cost and brought; its ``failure`` where it failed."""
        problem, y = self.problem, self.problem.initial_state()
        atol, mass = problem.atol(rtol), problem.mass_matrix()
        evaluations = steps = in_c = 0
        began, until = time.process_time(), time.perf_counter() + longest
        try:
            with torch.no_grad():
                for func, span in zip(self.funcs, itertools.pairwise(self.ends), strict=True):
                    left = until - time.perf_counter()
                    if left <= 0:
                        return {"failure": "too long"}
                    found = stiffml.solve(
                        *(func, y, torch.tensor(span, dtype=torch.float64)),
                        **{"method": method, "rtol": rtol, "atol": atol, "mass": mass},
                        **{"max_seconds": left, "steps": Adaptive(max_steps=MAX_STEPS)},
                    )
                    y = found.y[-1]
                    evaluations += found.stats.rhs_evals
                    steps += found.stats.accepted
                    in_c += found.stats.in_c
        except SolveError as error:
            late = error.status in (Status.MAX_STEPS, Status.MAX_SECONDS)
            return {"failure": "too long" if late else str(error).splitlines()[0][:70]}
        seconds = time.process_time() - began
        digits = compare(problem, self.reference, y.numpy()).digits
        return {"cpu_s": seconds, "digits": digits, "rhs_evals": evaluations, "steps": steps, "in_c": in_c}


def limit(case: Case, rtol: float, longest: float) -> float:
    """Seconds that a solve may take: so many times those of bdf."""
    began = time.perf_counter()
    case.solve("bdf", rtol, longest)
    return min(longest, max(LEAST, DEAREST * (time.perf_counter() - began)))


def measured(case: Case, method: str, rtols: Sequence[float], longest: float) -> dict[str, list]:
    """Columns over ``rtols``."""
    rows: list[dict[str, Any]] = []
    for rtol in sorted(rtols, reverse=True):
        if rows and rows[-1].get("failure", "").endswith("too long"):
            rows.append({"failure": "too long"})
            continue
        rows.append(case.solve(method, rtol, longest))
        seconds = [rows[-1].get("cpu_s", LONG)]
        while seconds[0] < LONG and len(seconds) < REPEATS:
            seconds.append(case.solve(method, rtol, longest).get("cpu_s", math.inf))
        if "cpu_s" in rows[-1]:
            rows[-1]["cpu_s"] = statistics.median(seconds)
    names = ("cpu_s", "digits", "rhs_evals", "steps", "in_c", "failure")
    return {name: [_rounded(row.get(name)) for row in rows] for name in names}


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def small(names: Sequence[str]) -> Iterator[Problem]:
    for name in names or problems.names():
        try:
            problem = problems.load(name)
        except FileNotFoundError:  # a mechanism of a package that is not installed
            continue
        if problem.size <= LARGEST and problem.references:
            yield problem


def write(result: dict[str, Any], folder: Path) -> None:
    """A line a row, or the file would have 50 000."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join("  " + json.dumps(row) for row in result["rows"])
    rest = json.dumps({name: value for name, value in result.items() if name != "rows"}, indent=1)
    (folder / "defaults.json").write_text(rest[: rest.rindex("\n}")] + ',\n "rows": [\n' + rows + "\n ]\n}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mode", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--problems", nargs="+", default=[])
    parser.add_argument("--methods", nargs="+", default=[], choices=all_methods())
    parser.add_argument("--contenders", action="store_true", help="all methods on two problems only")
    parser.add_argument("--rtols", nargs="+", type=float, default=RTOLS)
    parser.add_argument("--longest", type=float, default=LONGEST, help="seconds of a solve")
    parser.add_argument("--anew", action="store_true", help="measure rows that are there again")
    parser.add_argument(
        "--summary", action="store_true", help="only the summary and picture of what is there"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = asked.out / "defaults.json"
    known = json.loads(path.read_text()) if path.exists() else {"rows": [], "seconds_per_call": {}}
    rows = {(row["mode"], row["problem"], row["method"]): row for row in known["rows"]}
    result = {
        "command": shlex.join(["python", "benchmarks/defaults.py", *sys.argv[1:]]),
        "machine": machine(),
        "seconds_per_call": known["seconds_per_call"],
    }

    def store() -> None:
        found = list(rows.values())
        write({**result, "summary": summary(found), "rows": found}, asked.out)

    for mode in () if asked.summary else asked.mode:
        for problem in sorted(small(asked.problems), key=lambda one: one.name not in FIRST):
            chosen = asked.methods or all_methods()
            if asked.contenders and problem.name not in FIRST:
                own = contenders([row for (of, _, _), row in rows.items() if of == mode])
                chosen = [m for m in chosen if m in (*own, *CONTROLS)]
            methods = [m for m in chosen if takes(problem, m)]
            missing = [m for m in methods if asked.anew or (mode, problem.name, m) not in rows]
            if not missing:
                continue
            case = Case.of(problem, mode)
            result["seconds_per_call"][problem.name] = seconds_per_call(problem)
            for method in ("bdf", "rosw-rodaspr2", "dirk-es324sal"):  # derivatives are compiled at first use
                case.solve(method, 1e-2, asked.longest)
            longest = limit(case, min(asked.rtols), asked.longest)
            for method in missing:
                columns = measured(case, method, asked.rtols, longest)
                about = {"mode": mode, "problem": problem.name, "method": method}
                about |= {"rtol": sorted(asked.rtols, reverse=True), "longest": _rounded(longest)}
                rows[mode, problem.name, method] = about | columns
                store()
            print(mode, problem.name, f"{len(missing)} methods", time.strftime("%H:%M:%S"), flush=True)
    store()
    draw(json.loads(path.read_text()), asked.out / "defaults.png")


if __name__ == "__main__":
    main()
