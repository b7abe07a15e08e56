"""A call whose samples are split over the processes, as one function of which torch knows the derivative."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stiffml.distributed.collective import EnsembleError, together
from stiffml.distributed.processes import processes
from stiffml.gradients.hooks import without_hooks

call_numbers = itertools.count(1)
"""Numbers of calls, forwards and backwards. After ranks that did different things they agree again."""


@dataclass(frozen=True)
class SplitCall:
    """What all ranks do together, each with its share of the samples.

    Attributes
    ----------
    name : str
        For messages.
    lengths : tuple of int
        The number of samples of each rank.
    names : tuple of str
        The names of the inputs.
    dims : tuple of int or None
        For each input the dimension that counts samples; None for one that every rank uses as a whole.
    """

    name: str
    lengths: tuple[int, ...]
    names: tuple[str, ...]
    dims: tuple[int | None, ...]

    def share(self, whole: Tensor, dim: int | None) -> Tensor:
        """This rank's part of an input, without its graph."""
        if dim is None:
            return whole.detach()
        rank = processes().rank
        return whole.detach().narrow(dim, sum(self.lengths[:rank]), self.lengths[rank])

    def do(
        self, inputs: Sequence[Tensor | None], work: Callable[[], Part], compare_from: int = 0
    ) -> tuple[Part, list[Description]]:
        """Do this rank's part, if it has samples: it, and the descriptions of all parts. Collective."""
        rank = processes().rank
        begin, length = sum(self.lengths[:rank]), self.lengths[rank]
        who = f"rank {rank} (samples {begin} to {begin + length - 1})" if length else f"rank {rank}"
        given = dict(zip(self.names[compare_from:], inputs[compare_from:], strict=True))
        return together(self.name, who, given, work if length else Part, _description)


class Part(NamedTuple):
    """This rank's outputs, with their graph from its inputs; nothing on a rank without samples."""

    inputs: Sequence[Tensor | None] = ()
    outputs: Sequence[Tensor | None] = ()
    is_tensor: bool = False  # whether the module returned a tensor, not a tuple


Description = tuple[bool, list[tuple[torch.Size, torch.dtype, bool] | None]]
"""Of a part: whether the module returned a tensor; shape, type and differentiability of each output."""


def _description(part: Part) -> Description:
    return part.is_tensor, [None if x is None else (x.shape, x.dtype, x.requires_grad) for x in part.outputs]


class Output(NamedTuple):
    """A whole output of a call: parts put together along ``dim``, or for None the sum over the ranks."""

    name: str
    dim: int | None
    rest: tuple[int, ...]  # its shape without the samples
    dtype: torch.dtype
    device: torch.device  # on this rank
    differentiable: bool


class Whole(torch.autograd.Function):
    """(call, this rank's part of it, its outputs, *whole inputs) -> whole outputs.

    Its derivative is a call of the same form, whose further inputs are the gradients with respect to the
    outputs. Gradients with respect to inputs that were split are put together; those with respect to inputs
    that were whole are sums over the ranks.
    """

    @staticmethod
    def forward(ctx, call: SplitCall, part: Part, outputs: Sequence[Output | None], *inputs: Tensor | None):
        ctx.call, ctx.outputs, ctx.counts = call, outputs, (len(inputs), len(part.inputs))
        # Kept nowhere else, so that torch frees the graph of this part when it frees that of the whole.
        ctx.save_for_backward(*inputs, *part.inputs, *part.outputs)
        wholes = _put_together(call, part.outputs, outputs)
        ctx.mark_non_differentiable(
            *(w for w, output in zip(wholes, outputs, strict=True) if output and not output.differentiable)
        )
        return tuple(wholes)

    @staticmethod
    def backward(ctx, *cotangents: Tensor | None):
        (n, m), saved = ctx.counts, ctx.saved_tensors
        inputs, mine, outputs = saved[:n], saved[n : n + m], saved[n + m :]
        names = [None if output is None else output.name for output in ctx.outputs]
        dims = [None if output is None else output.dim for output in ctx.outputs]
        call = SplitCall(
            name=f"backward pass {next(call_numbers)} of {ctx.call.name}",
            lengths=ctx.call.lengths,
            names=(*ctx.call.names, *(f"the gradient with respect to {name}" for name in names)),
            dims=(*ctx.call.dims, *dims),
        )
        again = torch.is_grad_enabled()

        def differentiate() -> Part:
            along: list[Tensor | None] = [None] * len(cotangents)
            for i, (whole, dim) in enumerate(zip(cotangents, dims, strict=True)):
                if whole is not None:
                    along[i] = call.share(whole, dim).requires_grad_(again and whole.requires_grad)
            return Part([*mine, *along], _gradients_of(outputs, mine, along, again))

        wholes = (*inputs, *cotangents)
        part, found = call.do(wholes, differentiate, compare_from=n)
        devices = [torch.device("cpu") if whole is None else whole.device for whole in inputs]
        gradients = outputs_of(found, ctx.call.names, ctx.call.dims, devices)
        return None, None, None, *Whole.apply(call, part, gradients, *wholes)


def _gradients_of(
    outputs: Sequence[Tensor | None],
    inputs: Sequence[Tensor | None],
    along: Sequence[Tensor | None],
    again: bool,
) -> list[Tensor | None]:
    """The gradient with respect to each input of a part, None where the outputs do not depend on it."""
    pairs = [(o, a) for o, a in zip(outputs, along, strict=True) if o is not None and a is not None]
    pairs = [(o, a) for o, a in pairs if o.requires_grad]
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    found: Iterator[Tensor | None] = iter([None] * len(wanted))
    if pairs and wanted:
        of, cotangents = zip(*pairs, strict=True)
        with without_hooks(wanted):
            # The graph is kept, because it is that of the whole which torch decides to keep or to free.
            found = iter(
                torch.autograd.grad(
                    of, wanted, cotangents, retain_graph=True, create_graph=again, allow_unused=True
                )
            )
    return [next(found) if x is not None and x.requires_grad else None for x in inputs]


def _put_together(
    call: SplitCall, mine: Sequence[Tensor | None], outputs: Sequence[Output | None]
) -> list[Tensor | None]:
    """The whole outputs from those of all ranks; what a rank does not have counts as zero."""
    group = processes()
    mine = mine or [None] * len(outputs)
    wholes: list[Tensor | None] = [None] * len(outputs)
    sums: list[tuple[int, Tensor]] = []
    for i, (own, output) in enumerate(zip(mine, outputs, strict=True)):
        if output is None:
            continue
        if output.dim is None:
            zeros = torch.zeros(output.rest, dtype=output.dtype, device=output.device)
            sums.append((i, zeros if own is None else own.detach()))
            continue
        length = call.lengths[group.rank]
        if own is None:
            rows = torch.zeros((length, *output.rest), dtype=output.dtype, device=output.device)
        else:
            rows = own.detach().movedim(output.dim, 0)
        wholes[i] = group.gather(rows, call.lengths).movedim(0, output.dim).contiguous()
    if sums:
        # All in one message, and in double precision: the number of ranks then matters little to single.
        wide = [_reals(own).double().cpu() for _, own in sums]
        total = group.total(torch.cat([values.reshape(-1) for values in wide]))
        parts = total.split([values.numel() for values in wide])
        for (i, own), values, like in zip(sums, parts, wide, strict=True):
            values = values.view(like.shape).to(own.device, _reals(own).dtype)
            wholes[i] = torch.view_as_complex(values) if own.is_complex() else values
    return wholes


def _reals(values: Tensor) -> Tensor:
    return torch.view_as_real(values) if values.is_complex() else values


def outputs_of(
    found: Sequence[Description],
    names: Sequence[str],
    dims: Sequence[int | None],
    devices: Sequence[torch.device],
) -> list[Output | None]:
    """The whole outputs, from what each rank has; None for one that no rank has."""
    outputs: list[Output | None] = []
    for i, (name, dim, device) in enumerate(zip(names, dims, devices, strict=True)):
        whole: Output | None = None
        for rank, (_, described) in enumerate(found):
            mine = described[i] if described else None
            if mine is None:
                continue
            shape, dtype, differentiable = mine
            rest = list(shape)
            if dim is not None:
                del rest[dim]
            own = Output(name, dim, tuple(rest), dtype, device, differentiable)
            if whole is None:
                first, whole = rank, own
            elif (own.rest, own.dtype) != (whole.rest, whole.dtype):
                raise EnsembleError(
                    f"{name} has shape {list(whole.rest)} and type {whole.dtype} on rank {first}, but "
                    f"{list(own.rest)} and {own.dtype} on rank {rank}, apart from the samples, and cannot be "
                    "put together. An event that ends solves at different outputs has this effect",
                    (first, rank),
                )
            else:
                whole = whole._replace(differentiable=whole.differentiable or differentiable)
        outputs.append(whole)
    return outputs
