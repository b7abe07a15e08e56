"""The user's function on flat vectors: many states in one call, within its span of time."""
