"""The problem M u' = f + g on flat vectors, with the derivatives of the user's functions."""
