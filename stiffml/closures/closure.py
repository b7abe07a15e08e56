"""Known physics plus what is missing of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.checks import described
from stiffml.closures.alone import alone
from stiffml.closures.components import invariant_rows, magnitudes, named, places
from stiffml.closures.features import Features, LinearFeatures, LogFeatures
from stiffml.closures.heads import Head, Reactions, Setting, Sinh
from stiffml.closures.known_and_missing import Known, KnownAndMissing, WithDependent, dependent_of
from stiffml.closures.matching import is_trainable, match_rates
from stiffml.closures.networks import mlp
from stiffml.closures.preparing import FLOOR, RIDGES, sizes_of, suggested
from stiffml.training import Preparable, Runs

GAIN = 1e-2
"""Of the last layer of a network that is made: a fit begins near the known part, whose solution exists.

From weights of size 1 the first solves of a fit failed on POLLU with most heads and features.
"""


class Closure(KnownAndMissing, Preparable):
    """f(t, y) = known(t, y) + scale · head(network(features(t, y))), as ``func`` of a solve.

    States y are (…, n) with any leading dimensions, t one number or one for each along the first of them.
    ``scale``, ``typical`` and what follows from them are buffers: ``state_dict`` has them.

    Conserved sums change by rounding only (1e-16 of the largest rates in them): the missing rates are
    projected, nearest in units of ``scale``, on those that conserve. A trace component thus gets at most its
    scale times the length of the head's numbers, however large the others are. Known and missing part
    conserve each by itself; what the known part does is left as it is.

    Without ``typical`` a closure is not complete before it has seen data: :func:`stiffml.training.fit`, or
    :meth:`prepare`, then takes from the runs what was left out.

    Parameters
    ----------
    known : callable, nn.Module or None
        known(t, y) -> dy/dt in the shape of y; a module becomes a submodule. None where nothing is known:
        then, if nothing but the widths of a network is given, data decide. If some components settle within
        the first interval, these relax to what the network says of the others (``Relaxation``). Else, if
        times span three decades or more and nothing is negative, rates are ``ProductionLoss`` of logarithms;
        two hidden layers of 10 serve well. A fit then takes a growing horizon.
    network : nn.Module or sequence of int
        From features (…, ``features.count``) to the head's numbers; or the widths of the hidden layers of an
        :func:`mlp` that is made to fit, and drawn from ``seed`` with the small ``gain`` 1e-2. Default
        ``()``, no hidden layer: with logarithms and reactions rates are then products of powers.
    typical : array_like, optional
        (n,) typical magnitude of each component, such as ``problem.scale``. Default: from data.
    scale : array_like, optional
        Of the missing rates: one number, or (n,) of which those of ``where`` count. :func:`missing_rate`
        finds it from data, :func:`rate_scale` is range/t_end. Default: from data, or ``typical`` where that
        is given, which is 1 per unit of time.
    where : sequence of str or int, optional
        Components that the missing part acts on, by name or number from 0. Default: all where ``typical`` is
        given, else those in which data show that something is missing, and where ``conserve`` asks for
        partners of these, those in which errors could hide it. In any case without what ``known`` says to be
        dependent (:class:`WithDependent`): a reactor's temperature follows from the species that are named.
        Only where it is named itself is it learned like any other.
    components : sequence of str, optional
        Names of the n components. Default: those of the data, or y1, y2, … where ``typical`` is given.
    head : Head
        ``Linear()``, ``Sinh()``, ``ProductionLoss()``, ``Reactions()`` or ``Relaxation()``; see the heads
        for what holds with each. Default ``Sinh()`` where ``typical`` is given, else ``Reactions(shift=0)``,
        which needs components of one unit.
    features : Features
        Default ``LinearFeatures(typical)`` where ``typical`` is given, else logarithms of what is in
        ``where`` and of what is dependent.
    conserve : mapping or array_like, optional
        ``problem.invariants``, ``reactor.invariants``, or rows (m, n): the missing part leaves all sums w·y
        as they are.
    seed : int
        Of a network given by widths.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; by name, with the widths that a network needs.

    Examples
    --------
    >>> import torch, stiffml
    >>> from stiffml.closures import Closure, Reactions
    >>> decay = lambda t, y: torch.stack([-y[..., 0], y[..., 0], 0 * y[..., 0]], dim=-1)
    >>> model = Closure(decay, [8], typical=torch.ones(3), where=["B", "C"], components=["A", "B", "C"],
    ...                 head=Reactions(), conserve=torch.ones(1, 3))
    >>> model.reactions
    ('B <=> C',)
    >>> t = torch.linspace(0, 2, 3, dtype=torch.float64)
    >>> y = stiffml.odeint(model, torch.tensor([1.0, 0.0, 0.0]).double(), t)
    >>> bool((y.sum(dim=-1) - 1).abs().max() < 1e-12)
    True
    """

    typical: Tensor
    places: Tensor
    back: Tensor

    def __init__(
        self,
        known: Known | None,
        network: nn.Module | Sequence[int] = (),
        *,
        typical: Any = None,
        scale: Any = None,
        where: Any = None,
        components: Sequence[str] | None = None,
        head: Head | None = None,
        features: Features | None = None,
        conserve: Any = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if known is not None and not callable(known):
            raise TypeError(f"known must be callable as known(t, y), or None, not {described(known)}")
        if not isinstance(network, nn.Module) and (
            isinstance(network, str) or not isinstance(network, Sequence)
        ):
            raise TypeError(
                f"network must be a torch.nn.Module or the widths of hidden layers, not {described(network)}"
            )
        if head is not None and not isinstance(head, Head):
            raise TypeError(
                f"head must be Linear(), Sinh(), ProductionLoss(), Reactions() or Relaxation(), not "
                f"{described(head)}"
            )
        self.known, self.conserve, self.seed = known, conserve, seed
        self._left_out: dict[str, Any] | None = None
        if typical is None:
            self._left_out = {
                **{"network": network, "scale": scale, "where": where, "components": components},
                **{"head": head, "features": features},
            }
            return
        typical = magnitudes("typical", typical)
        names = named(components, len(typical))
        follow = dependent_of(known, names) if where is None else ()
        chosen = [i for i in places("where", where, names) if i not in follow]
        sizes = _scales(typical.numpy() if scale is None else scale, len(typical), chosen, names)
        features = _features(features, typical)
        self._complete(network, typical, sizes, chosen, names, Sinh() if head is None else head, features)

    def _complete(
        self,
        network: nn.Module | Sequence[int],
        typical: Tensor,
        sizes: np.ndarray,
        chosen: list[int],
        components: tuple[str, ...],
        head: Head,
        features: Features,
    ) -> None:
        self.components, count = components, len(components)
        self.where = tuple(components[i] for i in chosen)
        follow = dependent_of(self.known, components)
        self._follows = bool(follow) and not set(follow) & set(chosen)
        self.register_buffer("typical", typical)
        self.features = features
        rows = invariant_rows(self.conserve, count)[:, chosen]
        self.rates = head.rates(Setting(self.where, sizes, rows))
        if np.linalg.matrix_rank(rows) == len(chosen):
            raise ValueError(
                f"conserve leaves nothing to {', '.join(self.where)}: any rate of these changes a sum; "
                "name more components in where"
            )
        self.network = _network(network, self.features.count, self.rates.outputs, self.seed)
        # Where the rate of each component stands among those of the missing part; one beyond for a zero.
        back = [chosen.index(i) if i in chosen else len(chosen) for i in range(count)]
        self.register_buffer("places", torch.tensor(chosen), persistent=False)
        self.register_buffer("back", torch.tensor(back), persistent=False)

    def prepare(self, runs: Runs, *, compile: bool = False) -> dict[str, Any]:
        """Take what was left out from runs, and match the network's rates to what ``known`` lacks there.

        :func:`missing_rate` says where something is missing, and how much; :func:`match_rates` gives the
        network weights with which a fit of trajectories can begin; frozen ones stay. A closure that is
        complete, such as one that was given ``typical``, stays as it is. :func:`stiffml.training.fit` calls
        this by itself.

        Parameters
        ----------
        runs : Runs
            With all components observed, though not at all times.
        compile : bool
            For the solves of :func:`match_rates`. Default False.

        Returns
        -------
        dict
            Arguments of a fit that suit what was prepared; none where the closure was complete.

        Raises
        ------
        ValueError
            If nothing seems to be missing and ``where`` is not given, or for what does not fit.
        """
        given = self._left_out
        if given is None:
            return {}
        if given["components"] is not None and tuple(given["components"]) != runs.components:
            raise ValueError(f"runs have components {runs.components}, the closure {given['components']}")
        said = any(given[name] is not None for name in ("scale", "where", "head", "features"))
        if (
            self.known is None
            and self.conserve is None
            and not said
            and isinstance(given["network"], Sequence)
        ):
            parts = alone(runs, given["network"], self.seed)
            if parts is not None:
                every = list(range(len(runs.components)))
                network, typical, scale, head, features, matching, fitted = parts
                self._complete(network, typical, scale, every, runs.components, head, features)
                self._left_out = None
                if matching is not None:
                    match_rates(self, runs, **matching, compile=compile)
                return fitted
        found = sizes_of(self.known, runs, given["where"], given["scale"], self.conserve)
        chosen, typical = list(found.where), magnitudes("typical", found.typical)
        features, head = given["features"], given["head"]
        if features is None:
            shown = sorted({*chosen, *dependent_of(self.known, runs.components)})
            features = LogFeatures(typical, linear=False, floor=FLOOR, of=shown)
        self._complete(
            given["network"],
            typical,
            _scales(found.scale, len(typical), chosen, runs.components),
            chosen,
            runs.components,
            Reactions(shift=0.0) if head is None else head,
            _features(features, typical),
        )
        self._left_out = None
        if is_trainable(self.network):
            match_rates(self, runs, ridges=RIDGES, compile=compile)
        return suggested(runs, isinstance(given["network"], nn.Module) or len(given["network"]) > 0)

    @property
    def reactions(self) -> tuple[str, ...]:
        """The reactions of a ``Reactions`` head, in words; none for another head."""
        return getattr(self.rates, "written", ())

    def missing(self, t: Tensor, y: Tensor) -> Tensor:
        """The missing part of dy/dt, in the shape of y."""
        if self._left_out is not None:
            raise RuntimeError(
                "this Closure has not seen data: pass it to stiffml.training.fit, call prepare(runs), or "
                "give it typical=…"
            )
        if y.shape[-1] != len(self.components):
            raise ValueError(
                f"y must have {len(self.components)} components in its last dimension, "
                f"not shape {tuple(y.shape)}"
            )
        z = (y / self.typical).index_select(-1, self.places)
        rates = self.rates(self.network(self.features(t, y)), z)
        if len(self.where) < len(self.components):
            rates = torch.cat([rates, torch.zeros_like(rates[..., :1])], dim=-1).index_select(-1, self.back)
        if self._follows and isinstance(self.known, WithDependent):
            return self.known.follow(t, y, rates)
        return rates

    def extra_repr(self) -> str:
        if self._left_out is not None:
            return "what is left out is taken from data"
        return f"{len(self.components)} components, missing in {', '.join(self.where)}"


def _scales(value: Any, count: int, chosen: list[int], names: Sequence[str]) -> np.ndarray:
    """(k,) of the components chosen; those of others do not count."""
    found = np.asarray(value.detach() if isinstance(value, Tensor) else value)
    if found.shape == (count,):
        found = found[chosen]
        if not (np.isfinite(found) & (found > 0)).all():
            at = chosen[int(np.argmin(np.isfinite(found) & (found > 0)))]
            raise ValueError(
                f"scale of {names[at]} must be positive and finite, not {float(np.asarray(value)[at]):g}; "
                "leave it out of where, or give a scale"
            )
    elif found.ndim:
        raise ValueError(
            f"scale must be one number, or one for each of {count} components, not {described(value)}"
        )
    return magnitudes("scale", found, len(chosen)).numpy()


def _features(features: Features | None, typical: Tensor) -> Features:
    if features is None:
        return LinearFeatures(typical)
    if not isinstance(features, Features):
        raise TypeError(f"features must be LinearFeatures(…) or LogFeatures(…), not {described(features)}")
    if len(features.typical) != len(typical):
        raise ValueError(f"features are of {len(features.typical)} components, typical of {len(typical)}")
    return features


def _network(network: Any, count: int, outputs: int, seed: int) -> nn.Module:
    """The network, which must take and give the right numbers; made, where widths are given."""
    if not isinstance(network, nn.Module):
        return mlp([count, *network, outputs], seed=seed, gain=GAIN)
    first = next(network.parameters(), torch.zeros(0, dtype=torch.float64))
    if first.dtype is not torch.float64:
        raise ValueError(
            f"network must be in double precision, as typical and scale are: network.double(), "
            f"not {first.dtype}; the closure can be made single afterwards"
        )
    try:
        with torch.no_grad():
            found = network(torch.zeros(2, count, dtype=first.dtype, device=first.device)).shape
    except RuntimeError as error:
        raise ValueError(f"network must take {count} features: {error}") from error
    if found != (2, outputs):
        raise ValueError(
            f"network must give {outputs} numbers from {count} features, as mlp([{count}, 32, {outputs}]) "
            f"does, not {found[-1] if len(found) else 'one'}"
        )
    return network
