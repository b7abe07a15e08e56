"""What the output of a module depends on, in torch's graph."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stiffml.parameters.leaves import dependent_pair, origin, roots


def check_dependence(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
    """Raise ValueError unless gradients reach every tensor that needs one, and reach it once."""
    known = [tensor for tensor in inputs if tensor.requires_grad]
    for leaf in roots(outputs, {origin(tensor) for tensor in known}).leaves.values():
        raise ValueError(
            f"the module's output depends on a tensor of shape {tuple(leaf.shape)} that needs a "
            "gradient but is not one of its parameters: make it one (an nn.Parameter, or its module a "
            "submodule), or pass it in Ensemble(module, params=[…])"
        )
    # The gradient of such a tensor would count here, and again on its way through the other.
    pair = dependent_pair(known)
    if pair is not None:
        derived, other = (tuple(known[position].shape) for position in pair)
        raise ValueError(
            f"a tensor of shape {derived}, a buffer of the module or one of params, was "
            f"computed from another of shape {other}: leave it out, or make it in forward()"
        )
