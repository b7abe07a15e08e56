"""How linear systems with a·M − b·∂f/∂y are solved, forwards inside PETSc and for recorded steps."""

from stiffml.linear.preconditioners import Assembled, PointBlock
from stiffml.linear.settings import GMRES, LU, Krylov, Sparsity

__all__ = ["GMRES", "LU", "Assembled", "Krylov", "PointBlock", "Sparsity"]
