"""The experiments by name. Their modules are imported when they are asked for."""

from __future__ import annotations

import difflib
import importlib

from stiffml.experiments.experiment import Experiment

MODULES = {
    "implicit_explicit": "stiffml.experiments.implicit_explicit",
    "images": "stiffml.experiments.images",
    "flow": "stiffml.experiments.flow",
    "crnn": "stiffml.experiments.crnn.study",
    "closure": "stiffml.experiments.closure.study",
    "sinode_burgers": "stiffml.experiments.sinode.burgers",
    "sinode_ks": "stiffml.experiments.sinode.ks",
    "van_der_pol": "stiffml.experiments.van_der_pol",
    "pendulum": "stiffml.experiments.pendulum",
    "reaction_diffusion": "stiffml.experiments.reaction_diffusion.study",
    "theophylline": "stiffml.experiments.theophylline",
    "ignition": "stiffml.experiments.ignition",
}
"""Each has its Experiment as EXPERIMENT."""


def names() -> tuple[str, ...]:
    """The names of all experiments."""
    return tuple(MODULES)


def load(name: str) -> Experiment:
    """The experiment of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, 1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no experiment {name!r}.{meant} Known: {', '.join(MODULES)}")
    found = importlib.import_module(MODULES[name]).EXPERIMENT
    assert isinstance(found, Experiment)
    return found
