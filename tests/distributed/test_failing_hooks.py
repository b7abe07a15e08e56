"""What several processes change of Python: only while a Field or an Ensemble exists, and nothing else."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from stiffml.distributed import abort as abort_module
from stiffml.distributed.abort import EndsAll


class Aborted(BaseException):
    pass


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in one of two processes, whose end is an exception; nothing is left behind."""

    def abort(code: int) -> None:
        raise Aborted(code)

    before = hooks()
    monkeypatch.setattr(abort_module, "mpi_world", lambda: SimpleNamespace(rank=1, size=2))
    monkeypatch.setattr(abort_module, "_abort", abort)
    yield
    gc.collect()
    assert hooks() == before, "something stays in place; look at EndsAll._close_one"
    abort_module.atexit.unregister(abort_module._abort_if_left_by_error)


def hooks() -> tuple:
    return sys.excepthook, sys.exit, threading.excepthook, threading.__excepthook__


def fails() -> None:
    error = ValueError("nobody catches it")
    sys.excepthook(ValueError, error, None)


def test_all_end_while_one_is_held(capsys: pytest.CaptureFixture[str]) -> None:
    before = hooks()
    one, other = EndsAll(), EndsAll()
    twin = copy.deepcopy(one)
    again = pickle.loads(pickle.dumps(other))
    for held in ("one", "other", "twin"):
        with pytest.raises(Aborted) as caught:
            fails()
        assert caught.value.args == (1,)
        assert "rank 1 of 2 failed" in capsys.readouterr().err
        if held == "one":
            del one
        elif held == "other":
            del other, twin
    assert hooks() != before, "a copy is still held"
    with pytest.raises(SystemExit) as left:
        sys.exit(3)
    assert left.value.code == 3
    del left, again
    gc.collect()
    assert hooks() == before
    fails()  # prints, and ends nothing
    assert "nobody catches it" in capsys.readouterr().err


def test_what_came_later_stays() -> None:
    """Notebooks and loggers put hooks of their own in place, and call those that were there."""
    before = hooks()
    seen: list[str] = []
    held = EndsAll()
    ours = sys.excepthook, sys.exit

    def later(kind, error, trace) -> None:
        seen.append("later")
        ours[0](kind, error, trace)

    try:
        sys.excepthook = later
        with pytest.raises(Aborted):
            fails()
        newer = EndsAll()  # ours comes first again, once
        assert sys.excepthook is not later
        with pytest.raises(Aborted):
            fails()
        del newer, held
        gc.collect()
        assert sys.excepthook is later
        assert sys.exit is before[1]
        fails()
        assert seen == ["later"] * 3
        with pytest.raises(SystemExit):
            ours[1](2)  # kept by whoever imported it by name
    finally:
        sys.excepthook = before[0]


def test_what_came_later_and_went(capsys: pytest.CaptureFixture[str]) -> None:
    held = EndsAll()
    ours = sys.excepthook
    sys.excepthook = print
    del held
    gc.collect()
    assert sys.excepthook is print
    try:
        sys.excepthook = ours  # as a context manager puts back what it found
        fails()
        assert "nobody catches it" in capsys.readouterr().err
    finally:
        sys.excepthook = sys.__excepthook__


def test_one_process_changes_nothing() -> None:
    code = (
        "import sys, threading\n"
        "before = sys.excepthook, sys.exit, threading.excepthook\n"
        "import stiffml.distributed as d, stiffml, torch\n"
        "field = d.Field((4,)); layer = d.Ensemble(torch.nn.Linear(1, 1))\n"
        "assert (sys.excepthook, sys.exit, threading.excepthook) == before\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
