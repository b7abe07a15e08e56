"""The PETSc options that a solve accepts: those that do not change the equations of a step or their solution.

The adjoint differentiates the equations that a method documents. An option that changes these equations, or
leaves them unsolved, would silently make gradients wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stiffml.methods import Method


@dataclass(frozen=True)
class _Group:
    """A group of related options.

    Attributes
    ----------
    what : str
        What the options do, for messages.
    needs : str
        What a solve must have for them to take effect: ``"steps"`` (adaptive steps), ``"newton"``,
        ``"linear"`` (linear systems), ``"krylov"``.
    names, prefixes : tuple of str
        Full names of options, and beginnings of names.
    but : tuple of str
        Beginnings of names that do not belong to the group.
    """

    what: str
    needs: str
    names: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    but: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        listed = name in self.names or name.startswith(self.prefixes)
        return listed and not name.startswith(self.but or ("?",))


UNDERSTOOD = (
    _Group(
        "the controller of adaptive steps",
        "steps",
        names=(
            *("ts_adapt_safety", "ts_adapt_reject_safety", "ts_adapt_clip", "ts_adapt_wnormtype"),
            *("ts_adapt_max_ignore", "ts_adapt_time_step_increase_delay", "ts_adapt_monitor"),
        ),
    ),
    _Group(
        "how Newton's iteration gets to its end, and what it prints",
        "newton",
        names=(
            *("snes_linesearch_type", "snes_linesearch_order", "snes_linesearch_max_it"),
            *("snes_lag_jacobian", "snes_lag_preconditioner"),
            *("snes_monitor", "snes_converged_reason", "snes_view"),
        ),
    ),
    _Group(
        "what linear solves print",
        "linear",
        names=(
            *("ksp_monitor", "ksp_monitor_true_residual", "ksp_monitor_singular_value"),
            *("ksp_converged_reason", "ksp_view", "ksp_view_eigenvalues", "ksp_view_singularvalues"),
        ),
    ),
    _Group(
        "the factors of linear=LU(), or of an incomplete factorisation",
        "linear",
        prefixes=("pc_factor_",),
    ),
    _Group(
        "a Krylov method and its preconditioner, and the solvers inside of that",
        "krylov",
        prefixes=("ksp_", "pc_", "mg_", "sub_", "redundant_", "telescope_", "mat_"),
        # These may accept unsolved systems as solved, or fail with PETSc's own errors.
        but=(
            *("ksp_conv", "ksp_divtol", "ksp_error_if", "ksp_initial_guess", "ksp_constant_null_space"),
            *("ksp_min_it", "ksp_saws", "ksp_monitor_python", "ksp_monitor_saws", "ksp_reuse"),
        ),
    ),
)
"""All options that are accepted."""

INSTEAD = (
    (
        "ts_monitor",
        "PETSc prints it in a loop over steps that stiffml does not use; see Solution.steps and stats",
    ),
    ("ts_view", "PETSc prints it in a loop over steps that stiffml does not use; see Solution.stats"),
    ("ts_adapt_dt_", "use steps=Adaptive(minimum=…, maximum=…)"),
    ("ts_adapt_always_accept", "it takes steps whatever their error; use steps=Fixed(h) or Grid(substeps)"),
    ("ts_adapt_", "the controller is set by steps=Adaptive(…)"),
    ("ts_rosw_recompute_jacobian", "it changes the equations of a step, which the adjoint differentiates"),
    (
        ("ts_theta_", "ts_bdf_", "ts_rosw_", "ts_arkimex_", "ts_dirk_", "ts_rk_"),
        "it changes the equations of a step, which the adjoint differentiates; use method=",
    ),
    (("ts_event_", "ts_trajectory_", "ts_save_trajectory"), "use event= and adjoint=Discrete(…)"),
    (
        ("snes_type", "npc_"),
        "it may leave the equations of a step unsolved; Newton's iteration is what is used",
    ),
    (
        ("snes_mf", "snes_fd", "ts_fd_color", "ts_rhs_jacobian"),
        "use jacobian='matrix-free', 'coloured' or 'dense'; its products come from torch",
    ),
    (
        ("snes_lag_jacobian_persists", "snes_lag_preconditioner_persists"),
        "a Jacobian of another step size makes updates look smaller than they are",
    ),
    (
        ("snes_rtol", "snes_atol", "snes_stol", "snes_max_", "snes_convergence_test", "snes_force_iteration"),
        "use newton=Newton(rtol=…, atol=…, max_iterations=…)",
    ),
    ("snes_ksp_ew", "linear systems solved that roughly hide Newton's error; use linear=GMRES(rtol=…)"),
    (("snes_test_", "snes_compare_"), "use stiffml.check_gradients"),
    (("snes_linesearch_damping", "snes_linesearch_max"), "short updates look converged"),
    (
        ("ksp_conv", "ksp_divtol", "ksp_min_it", "ksp_initial_guess", "ksp_constant_null_space"),
        "it may leave linear systems unsolved; use linear=GMRES(rtol=…, max_iterations=…)",
    ),
    (
        ("ksp_", "pc_", "mg_", "sub_", "redundant_", "telescope_", "mat_"),
        "it goes with linear=GMRES(…) or Krylov(…)",
    ),
    (
        ("log_", "info", "options_", "help", "malloc_"),
        "it is the whole process's, and belongs to PETSc's start",
    ),
)
"""Beginnings of refused options, with the reason or what to use instead; the first match is reported."""

_SEARCHES = ("basic", "bt", "l2")

_PRINTING_WORDS = ("monitor", "view", "reason")


def require_understood(options: Mapping[str, object], method: Method, adaptive: bool, krylov: bool) -> None:
    """Raise ValueError for an option that is not in :data:`UNDERSTOOD`, or that would have no effect.

    Parameters
    ----------
    options : mapping
        By name, with or without a leading dash.
    method : Method
    adaptive : bool
        Whether steps have their error controlled.
    krylov : bool
        Whether linear systems are solved iteratively.
    """
    steps = method.in_petsc
    there = {"steps": adaptive, "newton": method.newton, "linear": method.implicit, "krylov": krylov}
    if not steps:
        there |= {"steps": False, "newton": False, "linear": False}
    for given, value in options.items():
        name = given.lstrip("-")
        groups = [group for group in UNDERSTOOD if group.has(name)]
        if any(there[group.needs] for group in groups):
            _check_value(name, value)
            continue
        if groups and not (krylov is False and "krylov" in [group.needs for group in groups]):
            if not steps:
                raise ValueError(
                    f"options: {name} has no effect, because the steps of {method} are not taken by PETSc; "
                    "leave it out"
                )
            lacks = {"steps": "steps with an error estimate", "newton": "Newton iterations"}
            what = lacks.get(groups[0].needs, "linear systems")
            raise ValueError(f"options: {name} has no effect, because this solve has no {what}; leave it out")
        for beginnings, reason in INSTEAD:
            if name.startswith(beginnings):
                raise ValueError(f"options: {name} is refused: {reason}")
        known = "; ".join(
            f"{', '.join((*group.names, *(prefix + '*' for prefix in group.prefixes)))} ({group.what})"
            for group in UNDERSTOOD
        )
        raise ValueError(
            f"options: {name} is none that stiffml understands, so it cannot say what that does to steps and "
            f"gradients. Understood are {known}"
        )


def _check_value(name: str, value: object) -> None:
    if name.startswith("snes_lag_"):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(
                f"options: {name} must be at least 1, not {value!r}: a Jacobian of another step size makes "
                "updates look smaller than they are"
            )
    elif name == "snes_linesearch_type" and value not in _SEARCHES:
        raise ValueError(
            f"options: snes_linesearch_type must be one of {', '.join(_SEARCHES)}, not {value!r}: others "
            "take lengths at which the equations of a step need not hold"
        )
    elif name == "ksp_norm_type" and value == "none":
        raise ValueError("options: ksp_norm_type = 'none' leaves linear systems unsolved")


def as_petsc_takes(name: str, value: object) -> object:
    """The value of an option for PETSc's database; None for printing options that are set to True."""
    return None if value is True and any(word in name for word in _PRINTING_WORDS) else value
