"""Derivatives of the user's function: blocks, products, sparsity patterns, systems with a·M − b·J."""
