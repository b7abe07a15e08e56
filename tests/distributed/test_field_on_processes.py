"""Fields on several processes: exchanges, derivatives and refusals are those of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from field_script import CASES, waves

from stiffml.distributed.field import Field

pytestmark = pytest.mark.alone  # several processes wait for one another

SCRIPT = Path(__file__).parents[1] / "helpers" / "field_script.py"
LAUNCHER = Path(sys.executable).with_name("mpiexec")


Results = dict[int, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What the script finds on 1, 2 and 4 processes."""
    pytest.importorskip("mpi4py")
    if not LAUNCHER.exists():
        pytest.skip("no mpiexec beside this Python")
    folder = tmp_path_factory.mktemp("field")
    found = {}
    for size in (1, 2, 4):
        path = folder / f"{size}.npz"
        command = [str(LAUNCHER), "-n", str(size), sys.executable, str(SCRIPT), str(path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        with np.load(path) as file:
            found[size] = dict(file)
    return found


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", [*CASES, "held"])
def test_derivatives_on_several_processes(results: Results, name: str, size: int) -> None:
    """f, J v, Jᵀw with a retained graph, gradients and second derivatives of losses, for y and parameters."""
    keys = [
        key for key in results[1] if key.startswith(f"{name} ") and key.split()[1] not in ("gap", "ghosts")
    ]
    assert len(keys) > 15
    for key in keys:
        expected = results[1][key]
        scale = np.abs(expected).max()
        assert scale > 0
        np.testing.assert_allclose(results[size][key], expected, rtol=0, atol=1e-14 * scale, err_msg=key)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", CASES)
def test_exchanges_on_several_processes(results: Results, name: str, size: int) -> None:
    found = results[size]
    assert found[f"{name} ghosts right"]
    assert abs(found[f"{name} gap"]) < 1e-13
    assert found[f"{name} scattered"]
    assert np.array_equal(found[f"{name} y"], results[1][f"{name} y"])
    assert np.array_equal(found[f"{name} history"][2, 0], 3 * found[f"{name} y"])


def test_one_process_of_the_script_is_this_one(results: Results) -> None:
    for name, arguments in CASES.items():
        assert np.array_equal(results[1][f"{name} y"], waves(Field(**arguments), 0.0).numpy())


REFUSED = {
    "points": "points along every axis",
    "singular mass": "whole in one process",
    "function around it": "neither field.rhs(…) nor a torch module",
    "bound method": "neither field.rhs(…) nor a torch module",
    "given matrix": "source must come from field.rhs(local)",
    "sensitivities": "y0",
    "check_gradients": "use one process",
}
"""What several processes refuse, and part of what is said then."""

ONE_PROCESS = {"points": "more than", "singular mass": ""}
"""What one process refuses as well."""


@pytest.mark.parametrize("size", [1, 2, 4])
def test_decisions_on_several_processes(results: Results, size: int) -> None:
    found = results[size]
    ranks = range(size)
    assert found["sum"] == sum(rank + 0.5 for rank in ranks)
    assert found["max"] == -1.0
    assert np.isnan(found["max nan"])
    assert found["max inf"] == -np.inf
    assert found["every"].tolist() == [True, False, False]
    assert found["array"].tolist() == [[size, sum(ranks)], [2 * size, 4 * size]]
    assert found["zero"] == sum(ranks)
    assert found["alone"].tolist() == [1, 1, 5, 5]
    assert found["vector"] == size
    refused = {key.removeprefix("refused: "): str(text) for key, text in found.items() if "refused" in key}
    assert refused.keys() >= REFUSED.keys()
    for what, message in REFUSED.items():
        assert (message if size > 1 else ONE_PROCESS.get(what, "")) in refused[what], what
        assert size > 1 or what in ONE_PROCESS or not refused[what], "one process can do this"
