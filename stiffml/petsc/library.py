"""petsc4py, imported once, with an explanation when it is missing or too old."""

import sys
from typing import Any

try:
    import petsc4py

    if "petsc4py.PETSc" not in sys.modules:
        # PETSc's own signal handler would turn signals and crashes elsewhere into an MPI abort.
        petsc4py.init(["stiffml", "-no_signal_handler"])
    from petsc4py import PETSc as _petsc
except ImportError as error:
    raise ImportError(
        "stiffml needs petsc4py 3.24, 3.25 or 3.26 (a conda package, a cluster's module, or `make demo` in "
        "stiffml's source folder, which builds it)"
    ) from error

OLDEST = (3, 24, 0)
"""The oldest version of PETSc that was tried: ``tests/petsc-3.24.6.txt`` has what falls short there."""

PETSc: Any = _petsc  # Any because the type stubs lag behind the module

if PETSc.Sys.getVersion() < OLDEST:
    raise ImportError(
        f"stiffml needs PETSc {OLDEST[0]}.{OLDEST[1]} or newer, found "
        f"{'.'.join(map(str, PETSc.Sys.getVersion()))}"
    )

if PETSc.ScalarType().dtype != "float64":
    raise ImportError(f"stiffml needs a PETSc of real float64 numbers, found {PETSc.ScalarType().dtype}")


_REASONS = PETSc.SNES.ConvergedReason
NOT_FINITE = getattr(_REASONS, "DIVERGED_FUNCTION_NANORINF", None) or _REASONS.DIVERGED_FNORM_NAN
"""Why Newton's iteration ends where f is not finite; before PETSc 3.25 it has another name."""

MAX_REJECTIONS = "ts_max_step_rejections" if PETSc.Sys.getVersion() >= (3, 25, 0) else "ts_max_reject"
"""The option for how often a step may be rejected."""


def folders() -> list[str]:
    """The folders in which this PETSc says that it is."""
    config = petsc4py.get_config()
    base, arch = config["PETSC_DIR"], config.get("PETSC_ARCH", "")
    return [f"{base}/{arch}", base] if arch else [base]


__all__ = ["MAX_REJECTIONS", "NOT_FINITE", "PETSc", "folders"]
