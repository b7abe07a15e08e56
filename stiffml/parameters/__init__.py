"""The parameters of a right-hand side: their checks, their names, and what they are computed from."""
