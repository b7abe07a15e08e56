"""Derivatives of runs: reverse sweep, tangents, second derivatives, and the link to torch.autograd."""
