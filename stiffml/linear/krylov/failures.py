"""Why a Krylov method failed, in words."""

from __future__ import annotations

from stiffml.petsc.library import PETSc

SHOWN = 5
"""The number of last residuals that a message shows."""


def describe_failure(ksp) -> str:
    """Why a Krylov method failed, with its last residuals; empty if it did not."""
    reason = ksp.getConvergedReason()
    if reason >= 0:
        return ""
    names = {
        value: name for name, value in vars(PETSc.KSP.ConvergedReason).items() if not name.startswith("_")
    }
    why = {
        PETSc.KSP.ConvergedReason.DIVERGED_MAX_IT: "too many iterations",
        PETSc.KSP.ConvergedReason.DIVERGED_DTOL: "its residual grew",
        PETSc.KSP.ConvergedReason.DIVERGED_NANORINF: "a residual is infinite or NaN",
        PETSc.KSP.ConvergedReason.DIVERGED_PCSETUP_FAILED: "the preconditioner could not be set up",
        PETSc.KSP.ConvergedReason.DIVERGED_BREAKDOWN: "it broke down",
        PETSc.KSP.ConvergedReason.DIVERGED_INDEFINITE_PC: "it needs a definite preconditioner",
        PETSc.KSP.ConvergedReason.DIVERGED_INDEFINITE_MAT: "it needs a definite matrix",
    }.get(reason, names.get(reason, str(reason)).lower().replace("_", " "))
    residuals = ksp.getConvergenceHistory()
    residuals = residuals[residuals > 0][-SHOWN:]
    last = ", ".join(f"{r:.2e}" for r in residuals) or "none"
    return (
        f"{ksp.getType()} stopped after {ksp.getIterationNumber()} iterations ({why}); last residuals: {last}"
    )
