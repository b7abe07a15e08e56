"""Why a function is not compiled."""


class NotCompilableError(Exception):
    """A function cannot be compiled; the message says why, and where in the user's code."""


class NotFiniteError(NotCompilableError):
    """It has no finite value where it would be compared with torch; with other numbers it may have."""
