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
    "puromycin": "stiffml.experiments.puromycin",
    "ignition": "stiffml.experiments.ignition",
}
"""Each has its Experiment as EXPERIMENT."""


def names() -> tuple[str, ...]:
    """The names of all experiments.

    Examples
    --------
    >>> from stiffml import experiments
    >>> "crnn" in experiments.names()
    True
    """
    return tuple(MODULES)


def load(name: str) -> Experiment:
    """The experiment of that name.

    Parameters
    ----------
    name : str
        One of :func:`names`.

    Returns
    -------
    Experiment

    Raises
    ------
    ValueError
        If there is none.

    Examples
    --------
    >>> from stiffml import experiments
    >>> experiments.load("van_der_pol").source
    'C. Fronk & L. Petzold, arXiv 2410.05592 (implicit methods) and 2412.01181 (exponential ones)'
    """
    if name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, 1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no experiment {name!r}.{meant} Known: {', '.join(MODULES)}")
    found = importlib.import_module(MODULES[name]).EXPERIMENT
    assert isinstance(found, Experiment)
    return found
