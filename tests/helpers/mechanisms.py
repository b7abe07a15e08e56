"""Mechanisms, states, and the comparison with Cantera, for the tests of problems.chemistry."""

from __future__ import annotations

import functools
from pathlib import Path

import cantera
import numpy as np
import torch
from torch import Tensor

from problems.chemistry import Mechanism

mechanism = functools.cache(Mechanism.from_yaml)
solution = functools.cache(cantera.Solution)

HEADER = """
units: {{length: cm, quantity: mol, activation-energy: cal/mol}}
phases:
- name: gas
  thermo: ideal-gas
  species:
  - {species}
  kinetics: gas
  {phase}
reactions:
"""

# What a falloff reaction needs beside its equation, for snippets.
LIMITS = """
  type: falloff
  low-P-rate-constant: {A: 2.3e+18, b: -0.9, Ea: -1700.0}
  high-P-rate-constant: {A: 7.4e+13, b: -0.37, Ea: 0.0}"""


def write(
    folder: Path, reactions: str, species: str = "h2o2.yaml/species: all", phase: str = "transport: none"
) -> str:
    """A mechanism file with these reactions among species of a file that Cantera ships."""
    path = folder / "mechanism.yaml"
    path.write_text(HEADER.format(species=species, phase=phase) + reactions.strip("\n") + "\n")
    return str(path)


def random_states(count: int, species: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Temperatures, pressures and mass fractions; in every third state, a third of them exactly zero."""
    rng = np.random.default_rng(seed)
    T = rng.uniform(300, 3000, count)
    p = 101325 * np.exp(rng.uniform(np.log(0.1), np.log(50), count))
    Y = rng.dirichlet(np.ones(species), count)
    Y[::3, 1:][rng.random((len(Y[::3]), species - 1)) < 1 / 3] = 0
    return T, p, Y / Y.sum(axis=1, keepdims=True)


def difference(ours: Tensor, theirs: np.ndarray, scale: np.ndarray) -> tuple[float, int]:
    """Largest difference relative to ``scale``, and its column; where that is zero, both must be."""
    error = np.abs(ours.detach().numpy() - theirs)
    assert np.all(error[scale == 0] == 0), "what Cantera has as exactly zero is not"
    error = error / np.where(scale == 0, 1, scale)
    return float(error.max()), int(error.argmax()) % error.shape[-1]


def compare_rates(
    m: Mechanism, gas: cantera.Solution, states: tuple[np.ndarray, ...], normalized: bool = True
) -> None:
    """Rates of progress relative to each, net production relative to creation and destruction."""
    assert m.species == tuple(gas.species_names), "species, or their order"
    assert m.n_reactions == gas.n_reactions, "number of reactions"
    rows: dict[str, list[np.ndarray]] = {"forward": [], "reverse": [], "net": [], "gross": []}
    for T, p, Y in zip(*states, strict=True):
        if normalized:
            gas.Y = Y
        else:
            gas.set_unnormalized_mass_fractions(Y)
        gas.TP = T, p
        rows["forward"].append(gas.forward_rates_of_progress)
        rows["reverse"].append(gas.reverse_rates_of_progress)
        rows["net"].append(gas.net_production_rates)
        rows["gross"].append(np.abs(gas.creation_rates) + np.abs(gas.destruction_rates))
    theirs = {name: np.array(values) for name, values in rows.items()}
    T, p, Y = (torch.from_numpy(x) for x in states)
    forward, reverse = m.rates_of_progress(T, p, Y)
    for name, ours in (("forward", forward), ("reverse", reverse)):
        error, worst = difference(ours, theirs[name], np.abs(theirs[name]))
        assert error < 1e-9, f"{name} rates differ by {error:.1e}, most of {m.equations[worst]}"
    error, worst = difference(m.net_production_rates(T, p, Y), theirs["net"], theirs["gross"])
    assert error < 1e-9, f"rates agree, but production of {m.species[worst]} differs by {error:.1e}"
