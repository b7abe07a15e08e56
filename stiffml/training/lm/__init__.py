"""Least squares along trajectories: Levenberg-Marquardt from exact sensitivities."""
