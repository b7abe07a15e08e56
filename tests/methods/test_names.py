"""Names of methods: in any case, and those of other packages."""

from __future__ import annotations

import re

import pytest

from stiffml import METHODS, Theta
from stiffml.methods.names import ELSEWHERE, FAMILIES
from stiffml.methods.table import resolve


def test_names_in_any_case() -> None:
    assert all(name == name.lower() for name in METHODS)
    for name, method in METHODS.items():
        assert resolve(name.upper()) == method
        assert resolve(name.title()) == method


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("radau", "rosw-rodaspr2"),
        ("Radau", "rosw-rodaspr2"),
        ("rodas", "rosw-rodaspr2"),
        ("rodas5p", "rosw-rodaspr2"),
        ("kvaerno", "arkimex-4"),
        ("Kvaerno5", "arkimex-5"),
        ("LSODA", "bdf"),
        ("cvode", "bdf"),
        ("ode15s", "bdf"),
        ("ode23s", "rosw-2p"),
        ("ros", "rosw-ra34pw2"),
        ("trapezoid", "cn"),
        ("tr-bdf2", "dirk-es213sal"),
        ("RK45", "dopri5"),
    ],
)
def test_names_of_other_packages(name: str, nearest: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^method: unknown name '{name}'\. The nearest here is '{nearest}': "
    ) as found:
        resolve(name)
    assert len(str(found.value)) < 520, "families, not all names"


def test_what_is_suggested_is_there() -> None:
    for name, (nearest, reason) in ELSEWHERE.items():
        assert nearest in METHODS, name
        assert reason[-1] not in ".;"
        assert name == re.sub(r"[^a-z0-9]", "", name)
    named = re.findall(r"'([^']+)'", FAMILIES)
    assert set(named) <= METHODS.keys()
    kinds = {type(method) for method in METHODS.values()}
    assert {kind for name in named for kind in type(METHODS[name]).__mro__} >= kinds - {Theta}
    with pytest.raises(ValueError, match=r"Did you mean 'bdf5'\?"):
        resolve("bdff5")
    with pytest.raises(ValueError, match=r"unknown name 'q'\. Families"):
        resolve("q")
