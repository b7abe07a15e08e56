"""Networks of dense layers, with an initialisation that a seed alone determines."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import nn

from stiffml.checks import described, number, whole

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
"""Smooth ones: implicit methods differentiate the right-hand side."""


class MLP(nn.Sequential):
    """Dense layers with an activation between them; :func:`mlp` makes it.

    Examples
    --------
    >>> from stiffml.closures import mlp
    >>> network = mlp([2, 8, 1], seed=1)
    >>> sum(p.numel() for p in network.parameters())  # 2·8 + 8 and 8 + 1
    33
    >>> same = mlp([2, 8, 1], seed=0).reset(1)
    >>> bool((same[0].weight == network[0].weight).all())
    True
    """

    def __init__(self, widths: Sequence[int], activation: str, gain: float, seed: int) -> None:
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [
                nn.utils.skip_init(nn.Linear, before, after, dtype=torch.float64),
                ACTIVATIONS[activation](),
            ]
        super().__init__(*layers[:-1])
        self.gain = gain
        self.reset(seed)

    @torch.no_grad()
    def reset(self, seed: int) -> MLP:
        """Draw all weights anew from a seed, and return the network.

        Biases are 0. Weights are Glorot's: normal, with variance 2/(inputs + outputs) of a layer, those of
        the last layer multiplied by ``gain``. The numbers do not depend on what torch has drawn before, nor
        change what it draws next.
        """
        generator = torch.Generator().manual_seed(whole("seed", seed, least=0))
        layers = [layer for layer in self if isinstance(layer, nn.Linear)]
        for layer in layers:
            deviation = (2 / (layer.in_features + layer.out_features)) ** 0.5
            drawn = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
            layer.weight.copy_(drawn * deviation * (self.gain if layer is layers[-1] else 1.0))
            layer.bias.zero_()
        return self

    def reset_parameters(self) -> None:
        """Draw all weights anew, from a seed of torch's random numbers."""
        self.reset(int(torch.randint(2**31, ())))


def mlp(widths: Sequence[int], activation: str = "gelu", *, seed: int = 0, gain: float = 1.0) -> MLP:
    """A network of dense layers, in double precision; :meth:`MLP.reset` says how it begins.

    Parameters
    ----------
    widths : sequence of int
        Numbers that go in, those between the layers, and those that come out.
    activation : str
        Between layers: ``"gelu"`` (default), ``"tanh"``, ``"silu"``, ``"elu"``, ``"softplus"``,
        ``"sigmoid"``.
    seed : int
        Of the weights.
    gain : float
        Multiplies the weights of the last layer: with a small one the network begins near 0.

    Raises
    ------
    TypeError, ValueError
        For another activation, or widths that are no positive whole numbers.

    Examples
    --------
    >>> import torch
    >>> from stiffml.closures import mlp
    >>> network = mlp([3, 16, 16, 2], seed=1)
    >>> network(torch.zeros(5, 3).double()).shape
    torch.Size([5, 2])
    >>> start = network[0].weight.clone()
    >>> bool((network.reset(2)[0].weight == start).any()), bool((network.reset(1)[0].weight == start).all())
    (False, True)
    """
    if isinstance(widths, str) or not isinstance(widths, Sequence):
        raise TypeError(f"mlp: widths must be whole numbers, such as [3, 16, 2], not {described(widths)}")
    sizes = [whole("mlp: widths", width) for width in widths]
    if len(sizes) < 2:
        raise ValueError(f"mlp: widths must hold what goes in and what comes out, not {described(widths)}")
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"mlp: activation must be one of {known}, not {described(activation)}")
    return MLP(sizes, activation, number("mlp: gain", gain), seed)
