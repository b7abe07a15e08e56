"""Krylov methods on products with the Jacobian, with a preconditioner."""
