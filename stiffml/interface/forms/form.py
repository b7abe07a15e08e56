"""The form of a state that is neither a real tensor nor a tuple of real tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from stiffml.checks import described
from stiffml.system.state import State

Tree = Any
"""A nesting of dictionaries, tuples and lists, in the sense of torch's ``pytree``, with tensors as leaves."""


@dataclass(frozen=True)
class Form:
    """Which structure the real tensors of a state have, and which of them are pairs of reals.

    Attributes
    ----------
    spec : TreeSpec
        The structure. The leaves, in its order, are a tuple state; a single leaf is a state by itself.
    is_complex : tuple of bool
        For each leaf whether it is complex. Its real form has one dimension more, of the real and the
        imaginary part.
    """

    spec: TreeSpec
    is_complex: tuple[bool, ...]

    def leaves(self, name: str, tree: Tree) -> list[Any]:
        """What is at the places of the leaves of a tree.

        Raises
        ------
        TypeError
            For another structure.
        """
        try:
            return self.spec.flatten_up_to(tree)
        except Exception:
            wanted = described(tree_unflatten(["…"] * len(self.is_complex), self.spec))
            raise TypeError(
                f"{name} must have the structure of y0, {wanted}, not {described(tree)}"
            ) from None

    def tree(self, leaves: Sequence[Any]) -> Tree:
        """The tree with these leaves."""
        return tree_unflatten(list(leaves), self.spec)

    def state(self, leaves: Sequence[Tensor]) -> State:
        """The leaves as a state."""
        return leaves[0] if self.spec.is_leaf() else tuple(leaves)

    def real(self, name: str, tree: Tree) -> State:
        """A tree of tensors, or of arrays, as a state of real tensors, differentiably.

        Raises
        ------
        TypeError
            For another structure, or other leaves.
        """
        leaves = self.leaves(name, tree)
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                raise TypeError(f"{name} must consist of tensors, as y0 does, not {described(leaf)}")
        pairs = zip(leaves, self.is_complex, strict=True)
        return self.state([as_pairs(leaf) if is_complex else leaf for leaf, is_complex in pairs])

    def own(self, state: Any) -> Tree:
        """A state of real tensors, with any leading dimensions, as a tree, differentiably."""
        leaves = state if isinstance(state, tuple) else (state,)
        pairs = zip(leaves, self.is_complex, strict=True)
        # torch.view_as_complex would ask for the memory of each leaf to begin at an even place.
        return self.tree([torch.complex(*leaf.unbind(-1)) if pair else leaf for leaf, pair in pairs])

    def by_leaf(self, name: str, value: Any, take: Callable[[Any], Any]) -> Any:
        """What is given for all components, as for a tolerance: one for all, or with the structure of y0.

        ``take`` makes a number, or a tensor, of what is given for a leaf. Where it gives a tensor for a
        complex leaf, both parts get it.
        """
        if value is None or _is_number(value):
            return value
        found = []
        for leaf, pair in zip(self.leaves(name, value), self.is_complex, strict=True):
            one = take(leaf)
            found.append(one[..., None] if pair and isinstance(one, Tensor) and one.dim() else one)
        return found[0] if self.spec.is_leaf() else tuple(found)


def as_pairs(leaf: Tensor) -> Tensor:
    """Complex numbers (…) as pairs of reals (…, 2); real ones have no imaginary part."""
    if not leaf.is_complex():
        return torch.stack([leaf, torch.zeros_like(leaf)], dim=-1)
    return torch.stack([leaf.real, leaf.imag], dim=-1)


def real_parts(tree: Tree) -> tuple[Tensor, ...]:
    """The leaves of a state in any form as real tensors."""
    return tuple(as_pairs(leaf) if leaf.is_complex() else leaf for leaf in tree_leaves(tree))


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number) or (
        isinstance(value, Tensor | np.ndarray) and value.ndim == 0
    )


def form_of(y0: Any) -> tuple[Form | None, State]:
    """The form of an initial state, and the state as real tensors.

    The form is None for a real tensor and a tuple of real tensors, which are states already, and for what is
    no state at all: the checks of y0 say so.
    """
    if isinstance(y0, Tensor) and not y0.is_complex():
        return None, y0
    if type(y0) is tuple and y0 and all(isinstance(p, Tensor) and not p.is_complex() for p in y0):
        return None, y0
    leaves, spec = tree_flatten(y0)
    found = [_tensor(leaf) for leaf in leaves]
    if not found or not all(isinstance(leaf, Tensor) for leaf in found):
        return None, y0
    form = Form(spec, tuple(leaf.is_complex() for leaf in found))
    return form, form.real("y0", form.tree(found))


def _tensor(leaf: Any) -> Any:
    """An array as a tensor, whole numbers in double precision; anything else as it is."""
    if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "iufc":
        return leaf
    return torch.from_numpy(leaf.astype(float) if leaf.dtype.kind in "iu" else leaf.copy())
