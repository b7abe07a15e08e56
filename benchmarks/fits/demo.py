"""What ``make demo`` does after its set-up, from many seeds, each with caches as the set-up leaves them.

    python benchmarks/fits/demo.py [SEEDS] [--first SEED] [--out FOLDER]

For each seed ``stiffml fit robertson --seed SEED`` in a process of its own, with a home of its own in which
``environment/first_use.py`` has been before: the seconds that a user waits, until the pictures and the table
are there. The errors are those of the fit's own files: along its steps, and solved again at times never seen.
Beside each fit AdamW trains on another core. Other work on the machine shows: a loop of 1e7 additions in
Python is timed before each seed. Writes benchmarks/results/fits_demo.json and fits_demo.png.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measuring import RESULTS, Bound, machine, store

ROOT = Path(__file__).resolve().parents[2]
SECONDS, TRAINING, UNSEEN = 20.0, 1e-5, 1e-3
ADDITIONS = 10**7


def at_home(home: Path) -> dict[str, str]:
    """The environment of a user whose caches are in ``home``."""
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    others = ("MPLCONFIGDIR", "STIFFML_CACHE")
    left = {name: value for name, value in os.environ.items() if name not in others}
    return {**left, **own}


def measured(seed: int) -> dict:
    """A row."""
    with tempfile.TemporaryDirectory() as folder:
        home, out = Path(folder, "home"), Path(folder, "fit")
        (home / ".cache").mkdir(parents=True)
        environment = at_home(home)
        subprocess.run([sys.executable, ROOT / "environment" / "first_use.py"], check=True, env=environment)
        loop = _loop()
        command = [Path(sys.executable).with_name("stiffml"), "fit", "robertson", "--seed", str(seed)]
        began = time.perf_counter()
        subprocess.run([*command, "--out", out], check=True, env=environment, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        with xarray.open_dataset(out / "trajectory.nc", engine="h5netcdf") as found:
            held_out = found["held_out"] == 1
            off = np.abs(found["fitted"] - found["observed"]).where(held_out, drop=True)
            # The first row is the initial state, which is given.
            unseen, training = float(off[1:].mean()), float(found.attrs["error"])
    return {"seed": seed, "seconds": seconds, "training": training, "unseen": unseen, "loop_s": loop}


def _loop() -> float:
    began, total = time.perf_counter(), 0
    for i in range(ADDITIONS):
        total += i
    return time.perf_counter() - began


def bounds(rows: list[dict]) -> list[Bound]:
    most = {name: max(row[name] for row in rows) for name in ("seconds", "training", "unseen")}
    return [
        Bound("most seconds of a seed", most["seconds"], SECONDS),
        Bound("largest error along the steps of a fit", most["training"], TRAINING),
        Bound("largest error solved again, at times never seen", most["unseen"], UNSEEN),
    ]


def draw(result: dict, path: Path) -> None:
    """Seconds by seed, with the bound."""
    from matplotlib.figure import Figure

    rows = result["rows"]
    axes = Figure(figsize=(7.5, 3.2), layout="constrained").add_subplot()
    axes.bar([row["seed"] for row in rows], [row["seconds"] for row in rows], color="#888888")
    axes.axhline(SECONDS, color="black", lw=0.8, ls="--")
    axes.set(xlabel="seed", ylabel="seconds", title="stiffml fit robertson, right after the set-up")
    axes.spines[["top", "right"]].set_visible(False)
    axes.figure.savefig(path, dpi=130)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", nargs="?", type=int, default=40)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    rows = []
    for seed in range(asked.first, asked.first + asked.seeds):
        rows.append(measured(seed))
        print({name: float(f"{value:.3g}") for name, value in rows[-1].items()}, flush=True)
    found = bounds(rows)
    result = {
        "command": shlex.join(["python", "benchmarks/fits/demo.py", *arguments]),
        "machine": machine(),
        "median_seconds": statistics.median(row["seconds"] for row in rows),
        "rows": rows,
        "bounds": [bound.row() for bound in found],
    }
    store(result, draw, asked.out, "fits_demo")
    print("\n".join(map(str, found)))


if __name__ == "__main__":
    main(sys.argv[1:])
