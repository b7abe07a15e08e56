"""Solves in which every sample has output times and steps of its own: t of shape (batch, n)."""
