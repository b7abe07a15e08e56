"""Does the trainings of a comparison: one after the other, or in processes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from pathlib import Path

from stiffml.threads import SAID
from stiffml.training.comparing.training import Task, train


def do_all(
    tasks: Sequence[Task], jobs: int, executor: Executor | None, report: Callable[[int, int, str], None]
) -> None:
    """Do those that are not done yet: here, in ``jobs`` processes, or as the executor does."""
    waiting = [task for task in tasks if not task.done]
    done = len(tasks) - len(waiting)
    if executor is None and (jobs == 1 or len(waiting) < 2):
        for number, task in enumerate(waiting, done + 1):
            train(task)
            report(number, len(tasks), task.label)
        return
    for task in waiting[:1]:
        _require_portable(task)
    with _pool(min(jobs, len(waiting))) if executor is None else nullcontext(executor) as pool:
        futures: dict[Future[Path], Task] = {pool.submit(train, task): task for task in waiting}
        try:
            for number, future in enumerate(as_completed(futures), done + 1):
                future.result()
                report(number, len(tasks), futures[future].label)
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _require_portable(task: Task) -> None:
    try:
        pickle.dumps(task)
    except Exception as error:  # pickle raises many kinds
        raise ValueError(
            f"jobs: another process cannot get the model or an argument ({error}); define it at the top of a "
            "module, not in a function or as a lambda, or use jobs=1"
        ) from error


@contextmanager
def _pool(jobs: int):
    """Processes with one thread each. They begin anew: a copy of this one would share PETSc's state."""
    before = {name: os.environ.get(name) for name in SAID}
    os.environ.update(dict.fromkeys(SAID, "1"))
    try:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            yield pool
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
