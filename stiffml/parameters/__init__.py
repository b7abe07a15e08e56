"""Which tensors are parameters of a right-hand side: those passed, their sources and names."""
