"""Why a function is not compiled."""


class NotCompilableError(Exception):
    """A function cannot be compiled; the message says why, and where in the user's code."""
