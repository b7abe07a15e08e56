"""How linear systems with a·M − b·∂f/∂y are solved, forwards inside PETSc and for recorded steps."""
