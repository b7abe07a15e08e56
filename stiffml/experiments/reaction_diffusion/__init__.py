"""The reaction of a field, learned at every point with the diffusion known."""
