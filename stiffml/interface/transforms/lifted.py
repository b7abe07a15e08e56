"""Functions of plain tensors lifted to the tensors of ``torch.func``, with derivatives of any order.

Within a transform tensors have no numbers, which a solve needs. A ``torch.autograd.Function`` is handed
through all transforms, one after the other, until its inputs are plain: a batch is taken apart, and
derivatives become products of the function's Jacobian, which are functions of plain tensors again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function

from stiffml.interface.transforms.substitution import is_wrapped

Tensors = tuple[Tensor, ...]


class Plain(ABC):
    """A function of plain tensors that torch can differentiate.

    What has been computed for some values is kept with its graph, since derivatives ask for it again.
    """

    def __init__(self) -> None:
        self._known: dict[object, tuple[list[Tensor], Tensors]] = {}

    @abstractmethod
    def compute(self, *inputs: Tensor) -> Tensors:
        """The outputs, with their graph."""

    def values(self, *inputs: Tensor) -> Tensors:
        """The outputs without a graph."""
        return tuple(output.detach() for output in self.traced(inputs)[1])

    def traced(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensors]:
        """Leaves with the values of the inputs, and the outputs computed from them."""
        key = tuple(map(_told, inputs))
        if key not in self._known:
            leaves = [x.detach().clone().requires_grad_(_is_smooth(x)) for x in inputs]
            with torch.enable_grad():
                self._known[key] = leaves, self.compute(*leaves)
        return self._known[key]

    def takes_batches(self, inputs: Sequence[Tensor]) -> bool:
        """Whether its graph can be gone through for many cotangents at once."""
        return True

    def batched(self, in_dims: Sequence[int | None], inputs: Sequence[Tensor]) -> Tensors | None:
        """The outputs for a batch of plain inputs, in dimension 0, if there is a way of its own to them."""
        return None

    def pulled_back(self, inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Tensors | None:
        """The gradients of the inputs, if there is a way of its own to them."""
        return None

    def jacobian_products(self, inputs: Sequence[Tensor], tangents: Sequence[Tensor]) -> Tensors | None:
        """The derivative of the outputs along tangents, if there is a way of its own to it."""
        return None


class VectorJacobian(Plain):
    """(inputs, cotangents) -> the gradients of the inputs."""

    def __init__(self, of: Plain, count: int) -> None:
        super().__init__()
        self._of, self._count = of, count

    def compute(self, *inputs: Tensor) -> Tensors:
        leaves = inputs[: self._count]
        return _gradients(self._of.compute(*leaves), leaves, inputs[self._count :], create_graph=True)

    def values(self, *inputs: Tensor) -> Tensors:
        found = self._of.pulled_back(inputs[: self._count], inputs[self._count :])
        if found is not None:
            return found
        leaves, outputs = self._of.traced(inputs[: self._count])
        return _gradients(outputs, leaves, inputs[self._count :])

    def takes_batches(self, inputs: Sequence[Tensor]) -> bool:
        """Whether its graph can be gone through for many cotangents at once."""
        return True

    def batched(self, in_dims: Sequence[int | None], inputs: Sequence[Tensor]) -> Tensors | None:
        # Many cotangents of one solve.
        is_held = all(at is None for at in in_dims[: self._count]) and None not in in_dims[self._count :]
        if not is_held or not self._of.takes_batches(inputs[: self._count]):
            return None
        leaves, outputs = self._of.traced(inputs[: self._count])
        cotangents = inputs[self._count :]
        pairs = zip(cotangents, in_dims[self._count :], strict=True)
        moved = [c.movedim(at, 0) for c, at in pairs if at is not None]
        return _gradients(outputs, leaves, moved, many=len(moved[0]))


class JacobianVector(Plain):
    """(inputs, tangents) -> the derivatives of the outputs along them."""

    def __init__(self, of: Plain, count: int) -> None:
        super().__init__()
        self._of, self._count = of, count

    def compute(self, *inputs: Tensor) -> Tensors:
        leaves = inputs[: self._count]
        return _along(self._of.compute(*leaves), leaves, inputs[self._count :], create_graph=True)

    def values(self, *inputs: Tensor) -> Tensors:
        given, tangents = inputs[: self._count], inputs[self._count :]
        found = self._of.jacobian_products(given, tangents)
        if found is not None:
            return found
        leaves, outputs = self._of.traced(given)
        return _along(outputs, leaves, tangents)

    def takes_batches(self, inputs: Sequence[Tensor]) -> bool:
        return False

    def pulled_back(self, inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Tensors | None:
        # The gradient of ⟨c, J v⟩ is the derivative of Jᵀc along v, which takes one order less.
        given, tangents = inputs[: self._count], inputs[self._count :]
        pull = VectorJacobian(self._of, self._count)
        along = JacobianVector(pull, self._count + len(cotangents))
        held = map(torch.zeros_like, cotangents)
        return (
            *along.values(*given, *cotangents, *tangents, *held)[: self._count],
            *pull.values(*given, *cotangents),
        )


class Lifted(Function):
    """(plain function, inputs) -> its outputs, within any transforms."""

    @staticmethod
    def forward(plain: Plain, *inputs: Tensor) -> Tensors:
        return plain.values(*inputs)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.plain, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, *cotangents: Tensor):
        inputs = ctx.saved_tensors
        found = Lifted.apply(VectorJacobian(ctx.plain, len(inputs)), *inputs, *cotangents)
        return None, *(g if _is_smooth(x) else None for g, x in zip(found, inputs, strict=True))

    @staticmethod
    def jvp(ctx, _, *tangents: Tensor | None):
        inputs = ctx.saved_tensors
        pairs = zip(tangents, inputs, strict=True)
        filled = [torch.zeros_like(x) if tangent is None else tangent for tangent, x in pairs]
        return Lifted.apply(JacobianVector(ctx.plain, len(inputs)), *inputs, *filled)

    @staticmethod
    def vmap(info, in_dims, plain: Plain, *inputs: Tensor):
        if not any(is_wrapped(x) or x.requires_grad for x in inputs):
            found = plain.batched(in_dims[1:], inputs)
            if found is not None:
                return found, (0,) * len(found)
        rows = []
        for number in range(info.batch_size):
            pairs = zip(inputs, in_dims[1:], strict=True)
            rows.append(Lifted.apply(plain, *(x if at is None else x.select(at, number) for x, at in pairs)))
        shapes = {tuple(output.shape for output in row) for row in rows}
        if len(shapes) > 1:
            raise ValueError(
                "torch.vmap: outputs of the samples differ in number, as after events; solve them one by one"
            )
        outputs = tuple(torch.stack(parts) for parts in zip(*rows, strict=True))
        return outputs, (0,) * len(outputs)


def _is_smooth(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _told(x: Tensor) -> object:
    """The numbers of a tensor, for a comparison."""
    numbers = x.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return x.dtype, x.shape, numbers.view(torch.uint8).numpy().tobytes()


def _gradients(
    outputs: Sequence[Tensor],
    leaves: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    create_graph: bool = False,
    many: int | None = None,
) -> Tensors:
    """The gradients of the leaves, zeros where nothing depends on one; for so ``many`` cotangents stacked."""
    batch = () if many is None else (many,)
    pairs = [(y, c) for y, c in zip(outputs, cotangents, strict=True) if y.requires_grad]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    found: dict[int, Tensor | None] = {}
    if pairs and wanted:
        of, along = zip(*pairs, strict=True)
        how: dict[str, bool] = {"retain_graph": True, "create_graph": create_graph, "allow_unused": True}
        gradients = torch.autograd.grad(of, wanted, along, is_grads_batched=many is not None, **how)
        found = {id(leaf): g for leaf, g in zip(wanted, gradients, strict=True)}
    known = [found.get(id(leaf)) for leaf in leaves]
    pairs_of_leaves = zip(known, leaves, strict=True)
    return tuple(leaf.new_zeros((*batch, *leaf.shape)) if g is None else g for g, leaf in pairs_of_leaves)


def _along(
    outputs: Sequence[Tensor],
    leaves: Sequence[Tensor],
    tangents: Sequence[Tensor],
    create_graph: bool = False,
) -> Tensors:
    """The derivative along tangents: that of the gradients by their cotangents, in which they are linear."""
    probes = [torch.zeros_like(output, requires_grad=True) for output in outputs]
    with torch.enable_grad():
        gradients = _gradients(outputs, leaves, probes, create_graph=True)
    return _gradients(gradients, probes, tangents, create_graph)
