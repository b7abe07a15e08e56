"""How to install the packages that some features need: one sentence for all errors."""

from __future__ import annotations


def to_install(extra: str) -> str:
    """The command for one of the extras in ``pyproject.toml``; stiffml is on no package index yet."""
    return f".venv/bin/pip install '.[{extra}]' (in stiffml's folder)"
