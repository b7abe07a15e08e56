"""A random search over combinations of methods, problems and options: values against scipy and against the
methods' formulas, gradients against differences of the very solve.

In ``helpers/combinations``, ``drawing.py`` draws, ``problems.py`` has the problems with their oracles,
``runs.py`` makes a solve of a draw, ``checks.py`` checks it; ``helpers/steps_by_hand.py`` has the formulas.
"""

from __future__ import annotations

import inspect

import pytest
from combinations.checks import failures
from combinations.drawing import ARGUMENTS, AXES, draw

from stiffml import METHODS, solve

QUICK, MANY = range(60), range(3000, 4000)


@pytest.mark.parametrize("seed", QUICK)
def test_combination(seed: int) -> None:
    found = failures(seed, each=False)
    assert not found, "\n".join(found)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", MANY)
def test_more_combinations(seed: int) -> None:
    found = failures(seed, each=seed % 4 == 0)
    assert not found, "\n".join(found)


def test_every_choice_is_drawn() -> None:
    """Each value of each choice, and each method with and without what it is able to do."""
    drawn = [draw(seed) for seed in MANY]
    for name, values in AXES.items():
        missing = set(values) - {getattr(c, name) for c in drawn}
        assert not missing, f"{name}: {missing} never come; look at _sensible in drawing.py"
    for name, method in METHODS.items():
        solved = [c for c in drawn if c.method == name and c.refusal() is None]
        assert solved, f"{name} is always refused; look at Combination.refusal"
        able = {
            "adaptive": (method.adaptive, any(c.adaptive for c in solved)),
            "split": (method.split, any(c.is_split for c in solved)),
            "mass": (method.mass, any(c.has_mass for c in solved)),
        }
        for what, (expected, found) in able.items():
            assert found == expected, f"{name}: {what} is {expected} in the table, drawn and solved: {found}"
    refused = {c.refusal() for c in drawn}
    assert len(refused) >= 5, f"only {refused} are tried; look at UNSUITED"


def test_every_argument_is_drawn_or_left_out_with_a_reason() -> None:
    missing = set(inspect.signature(solve).parameters) - ARGUMENTS.keys()
    assert not missing, f"{missing}: add a choice to AXES in drawing.py, and to Run.arguments"
