"""PETSc options of one solve: set under their own prefix, checked, and removed afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from stiffml.petsc.known_options import as_petsc_takes
from stiffml.petsc.library import PETSc

_numbers = itertools.count()
_SET_BY_ARGUMENTS = (
    *("ts_rtol", "ts_atol", "ts_time_step", "ts_dt"),
    *("ts_max_steps", "ts_max_time", "ts_init_time", "ts_run_steps", "ts_final_time", "ts_time_span"),
    *("ts_type", "ts_adapt_type", "ts_adapt_scale_solve_failed", "ts_max_step_rejections", "ts_max_reject"),
    *("ts_max_snes_failures", "ts_exact_final_time", "ts_eval_times", "ts_error_if_step_fails"),
    "snes_max_it",
)
"""Options that PETSc accepts, but whose effect belongs to arguments of the solve."""


def require_free(names: Iterable[str], managed: Iterable[str] = ()) -> None:
    """Raise ValueError for options that only stiffml may set, including those in ``managed``."""
    clashes = sorted({name.lstrip("-") for name in names} & {*managed, *_SET_BY_ARGUMENTS})
    if clashes:
        raise ValueError(
            f"options: {', '.join(clashes)} is set by the arguments of the solve "
            "(method, steps, rtol, atol, newton, linear); use those"
        )


class ScopedOptions:
    """Options for one TS.

    Parameters
    ----------
    managed : mapping
        Options that stiffml sets and the caller may not override.
    suggested : mapping
        Options that stiffml sets and the caller may override.
    extra : mapping
        The caller's options, with or without a leading dash. :mod:`stiffml.petsc.known_options` lists those
        that a solve accepts.

    Raises
    ------
    ValueError
        If ``extra`` has a managed option.
    """

    def __init__(
        self, managed: Mapping[str, object], suggested: Mapping[str, object], extra: Mapping[str, object]
    ) -> None:
        self.prefix = f"stiffml_{next(_numbers)}_"
        self._database = PETSc.Options(self.prefix)
        self._extra = {name.lstrip("-"): value for name, value in extra.items()}
        require_free(self._extra, managed)
        values = {**managed, **suggested, **self._extra}
        self._values = values
        for name, value in values.items():
            self._database.setValue(name, as_petsc_takes(name, value))

    def get(self, name: str) -> object:
        """The value of an option; None if it is not set."""
        return self._values.get(name)

    def check_used(self) -> None:
        """Raise ValueError if PETSc has not used one of the caller's options."""
        everything = PETSc.Options()  # of one with a prefix, PETSc 3.24 asks without it
        unused = [name for name in self._extra if not everything.used(self.prefix + name)]
        if unused:
            raise ValueError(
                f"options: PETSc made no use of {', '.join(unused)} "
                "(unknown, or of no effect with this method and solver)"
            )

    def remove(self) -> None:
        """Remove the options from PETSc's database."""
        for name in self._values:
            self._database.delValue(name)
