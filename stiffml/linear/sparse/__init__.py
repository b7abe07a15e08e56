"""Sparse matrices: their pattern, filled by few products, and factorised."""
