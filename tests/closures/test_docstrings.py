"""The examples in the docstrings of stiffml.closures run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import stiffml.closures

MODULES = [module.name for module in pkgutil.iter_modules(stiffml.closures.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"stiffml.closures.{name}"))
    assert found.failed == 0


def test_public_classes_have_examples() -> None:
    for name in ("Closure", "LogFeatures", "Hybrid", "Positive", "CRNN", "Arrhenius", "StableLinear"):
        assert ">>>" in getattr(stiffml.closures, name).__doc__
