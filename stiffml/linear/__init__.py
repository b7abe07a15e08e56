"""Linear solvers for a·M − b·∂f/∂y: inside PETSc's Newton iteration, and for recorded steps."""

from stiffml.linear.given_jacobian import JacobianFunc
from stiffml.linear.preconditioners import Assembled, PointBlock
from stiffml.linear.settings import GMRES, LU, Krylov
from stiffml.linear.sparsity import Sparsity

__all__ = ["GMRES", "LU", "Assembled", "JacobianFunc", "Krylov", "PointBlock", "Sparsity"]
