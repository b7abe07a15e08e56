"""A closure as data suggest it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stiffml.closures.closure import Closure, Known
from stiffml.closures.features import LogFeatures
from stiffml.closures.heads import Reactions
from stiffml.closures.matching import match_rates
from stiffml.closures.missing import missing_rate
from stiffml.training.data import Runs

SHARE = 0.05
"""Of the largest missing rate, below which a component is not named: errors of the rule reach that."""

FLOOR = 1e-2
"""Of logarithms: components that begin at 0 are hardly ever observed below a hundredth of their largest."""

RIDGES = (10.0, 1.0, 0.1, 0.01)


def closure_for(
    known: Known,
    runs: Runs,
    network: Sequence[int] = (),
    *,
    where: Any = None,
    conserve: Any = None,
    ridges: Sequence[float] = RIDGES,
    seed: int = 0,
) -> Closure:
    """A closure of reactions among the components that lack something, with rates matched to data.

    :func:`missing_rate` says where something is missing, and how much. Elementary reactions among these
    components that keep the sums go both ways, at rates that depend on these components alone: products of
    powers without hidden layers, as by mass action, a network of their logarithms with them.
    :func:`match_rates` gives it weights with which a fit of trajectories can begin.

    Parameters
    ----------
    known : callable
        known(t, y) -> dy/dt, of states (n,) and (batch, n).
    runs : Runs
        With all components observed.
    network : sequence of int
        Widths of hidden layers. Default none: powers of what is in ``where``.
    where : sequence of str or int, optional
        Default: what ``missing_rate`` names, as far as it lacks a twentieth of the largest missing rate.
        Give it where data are noisy, or components have different units.
    conserve : mapping or array_like, optional
        As of :class:`Closure`.
    ridges : sequence of float
        As of :func:`match_rates`. Default 10, 1, 0.1, 0.01.
    seed : int
        Of the network.

    Returns
    -------
    Closure

    Raises
    ------
    ValueError
        If nothing seems to be missing and ``where`` is not given, or for what :class:`Closure` refuses.

    Example
    -------
    >>> import numpy as np, torch
    >>> from stiffml.closures import closure_for
    >>> from stiffml.training import Run, Runs
    >>> t = np.linspace(0, 1, 20)
    >>> a = [size * np.exp(-3 * t) for size in (1.0, 0.5)]
    >>> runs = Runs([Run(f"{i}", t, np.stack([x, x[0] - x], 1)) for i, x in enumerate(a)], ["A", "B"])
    >>> known = lambda t, y: torch.stack([-y[..., 0], y[..., 0]], dim=-1)  # lacks 2 of the 3
    >>> closure_for(known, runs, conserve=[[1.0, 1.0]]).reactions
    ('A <=> B',)
    """
    found = missing_rate(known, runs)
    scale = found.scale
    if where is None:
        named = zip(found.components, scale.tolist(), strict=True)
        where = [name for name, size in named if size > SHARE * float(scale.max()) and name in found.where]
        if not where:
            raise ValueError(
                "closure_for: the data show nothing that known lacks; name components in where, or see "
                "missing_rate(known, runs) for what could have been seen"
            )
    if not float(scale.max()) > 0:
        raise ValueError("closure_for: missing_rate finds no scale; make a Closure(…, scale=…) by hand")
    typical = np.nanmax(np.abs(runs.values), axis=0)
    typical = np.where(typical > 0, typical, 1.0)
    places = [one if isinstance(one, int) else runs.components.index(one) for one in where]
    closure = Closure(
        known,
        network,
        typical=typical,
        scale=torch.where(scale > 0, scale, scale.max()),
        where=where,
        components=runs.components,
        head=Reactions(shift=0.0),
        features=LogFeatures(typical, linear=False, floor=FLOOR, of=places),
        conserve=conserve,
        seed=seed,
    )
    match_rates(closure, runs, ridges=ridges)
    return closure
