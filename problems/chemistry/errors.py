"""What can be wrong with a mechanism file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MechanismError(ValueError):
    """A mechanism file cannot be read; the message names the file, the section and the entry."""


class UnsupportedMechanismError(MechanismError):
    """A mechanism file uses a model that this package does not have; the message names it and its place."""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Turn a ValueError raised inside into a MechanismError whose message begins with ``where``."""
    try:
        yield
    except UnsupportedMechanismError as error:
        raise UnsupportedMechanismError(f"{where}: {error}") from error
    except ValueError as error:
        raise MechanismError(f"{where}: {error}") from error
