"""A batch of trajectories over processes: each solves its share, all get the whole result and gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stiffml import checks
from stiffml.distributed.abort import EndsAll, EnsembleError, together
from stiffml.distributed.dependence import check_dependence
from stiffml.distributed.processes import processes, shares
from stiffml.gradients.hooks import without_hooks
from stiffml.parameters.naming import each_once, given_names
from stiffml.parameters.passed import collected
from stiffml.system.state import State

_numbers = itertools.count(1)
"""Of calls, forwards and backwards: ranks that did different things count alike again after the error."""


class Ensemble(nn.Module):
    """A module whose batch is split over the processes of this program.

    ::

        layer = Ensemble(stiffml.ODEBlock(func, t, batch_dims=1, method="bdf"))
        y = layer(y0)  # y0 (batch, …) and y (len(t), batch, …) are the whole batch, on every rank
        loss(y).backward()  # every rank gets the whole gradient

    The loop, the loss and the optimiser stay as they are: every rank runs the same program on the same data,
    and solves its share of the samples. Start it with ``torchrun --nproc-per-node 4 train.py`` or with
    ``OMP_NUM_THREADS=1 mpiexec -n 4 python train.py`` (``pip install "stiffml[mpi]"``), where without that
    variable every rank would use threads on all processors, and all be slower than one; in a single process
    this is the module itself. Where there are fewer samples than ranks, some idle.

    With given steps, ``Fixed`` or ``Grid``, results and gradients are those of one process up to rounding,
    and up to the Newton tolerance of implicit methods. The samples of one solve share their step sizes, so
    adaptive steps depend on how many ranks there are, and results agree to the tolerance of the solve.

    Gradients reach y0, the module's parameters, its buffers that require them, and ``params``; an output that
    depends on any other tensor that requires a gradient is an error. Hooks on parameters see whole gradients.
    There are as many derivatives as the module itself has.

    All ranks must do the same. Parameters and buffers are made those of rank 0 when the Ensemble is made, as
    DistributedDataParallel does, and stay the same because all ranks get the same gradients. In each call the
    ranks compare their y0, parameters and gradient with respect to y. Buffers that the module changes as it
    runs are left to each rank.

    If the module fails on one rank, that rank raises its own exception and the others raise
    :class:`EnsembleError`, which is a SolveError too if nothing else happened; all can go on from there. An
    error that nothing catches ends all processes, as long as an Ensemble exists (see
    :class:`stiffml.distributed.abort.EndsAll`), and so does one that is killed. Under torchrun ranks wait
    for each other no longer than torch.distributed lets them: half an hour, unless ``init_process_group`` was
    called before with another ``timeout``.

    Parameters
    ----------
    module : nn.Module
        module(y0) returns a tensor or a tuple of tensors, in which a sample depends on the same sample of y0
        only. It must not be something that the ranks compute together, such as the solve of a Field.
    dim : int
        The dimension of the outputs that counts samples. Default 1: of an ODEBlock the times come first.
    params : iterable of Tensor
        Tensors besides the module's own that need gradients, such as those in ``params`` of an ODEBlock.

    ``forward(y0)`` returns what the module returns for the whole y0, (batch, …) or a tuple of such tensors.
    """

    def __init__(self, module: nn.Module, dim: int = 1, params: Iterable[Tensor] = ()) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"module must be an nn.Module such as an ODEBlock, not {checks.described(module)}"
            )
        self.module, self.dim, self._params = (
            module,
            checks.whole("dim", dim, least=-64, most=63),
            collected(params),
        )
        if processes().size > 1:
            self._ends_all = EndsAll()
            _make_the_same(self._tensors())

    def forward(self, y0: State) -> State:
        if processes().size == 1:
            return self.module(y0)
        alone = isinstance(y0, Tensor)
        parts = (y0,) if isinstance(y0, Tensor) else tuple(y0)
        tensors = {name: tensor for name, tensor in self._tensors().items() if tensor.requires_grad}
        call = _Call(
            name=f"forward pass {next(_numbers)}",
            lengths=tuple(shares(_samples(parts), processes().size)),
            names=(*_names("y0", len(parts), alone), *tensors),
            dims=(*(0 for _ in parts), *(None for _ in tensors)),
        )
        records = torch.is_grad_enabled()

        def solve() -> _Part:
            mine = [call.share(part, 0).requires_grad_(records and part.requires_grad) for part in parts]
            y = self.module(mine[0] if alone else tuple(mine))
            outputs = [y] if isinstance(y, Tensor) else y
            _check_outputs(outputs, self.dim, len(mine[0]))
            inputs = [*mine, *tensors.values()]
            if records:
                check_dependence(outputs, inputs)
            return _Part(inputs, outputs, is_tensor=isinstance(y, Tensor))

        inputs = (*parts, *tensors.values())
        part, found = call.do(inputs, solve)
        is_tensor, first = found[0]  # rank 0 always has samples
        names = _names("y", len(first), is_tensor)
        outputs = _outputs(found, names, (self.dim,) * len(names), (parts[0].device,) * len(names))
        y = _Whole.apply(call, part, outputs, *inputs)
        return y[0] if is_tensor else y

    def extra_repr(self) -> str:
        return f"dim={self.dim}"

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors besides y0, each once."""
        own = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        return each_once(own | given_names(None, self._params))


# ---- The whole, as a function of which torch knows the derivative ------------------------------------------


@dataclass(frozen=True)
class _Call:
    """What all ranks do together, each with its share of the samples.

    Attributes
    ----------
    name : str
    lengths : tuple of int
        The samples of each rank.
    names : tuple of str
        Of the inputs.
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
        self, inputs: Sequence[Tensor | None], work: Callable[[], _Part], compare_from: int = 0
    ) -> tuple[_Part, list[_Description]]:
        """This rank's part, if it has samples, and what is known of those of all ranks. Collective."""
        rank = processes().rank
        begin, length = sum(self.lengths[:rank]), self.lengths[rank]
        who = f"rank {rank} (samples {begin} to {begin + length - 1})" if length else f"rank {rank}"
        given = dict(zip(self.names[compare_from:], inputs[compare_from:], strict=True))
        return together(self.name, who, given, work if length else _Part, _described)


class _Part(NamedTuple):
    """This rank's outputs, with their graph from its inputs; nothing on a rank without samples."""

    inputs: Sequence[Tensor | None] = ()
    outputs: Sequence[Tensor | None] = ()
    is_tensor: bool = False  # whether the module returned a tensor, not a tuple


_Description = tuple[bool, list[tuple[torch.Size, torch.dtype, bool] | None]]
"""Of a part: whether the module returned a tensor; shape, type and differentiability of each output."""


def _described(part: _Part) -> _Description:
    return part.is_tensor, [None if x is None else (x.shape, x.dtype, x.requires_grad) for x in part.outputs]


class _Output(NamedTuple):
    """A whole output of a call: what is put together along ``dim``, or for None the sum over the ranks."""

    name: str
    dim: int | None
    rest: tuple[int, ...]  # its shape without the samples
    dtype: torch.dtype
    device: torch.device  # on this rank
    differentiable: bool


class _Whole(torch.autograd.Function):
    """(call, this rank's part of it, its outputs, *whole inputs) -> whole outputs.

    Its derivative is a call of the same form, whose further inputs are the gradients with respect to the
    outputs. Gradients with respect to inputs that were split are put together; those with respect to inputs
    that were whole are sums over the ranks.
    """

    @staticmethod
    def forward(ctx, call: _Call, part: _Part, outputs: Sequence[_Output | None], *inputs: Tensor | None):
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
        call = _Call(
            name=f"backward pass {next(_numbers)} of {ctx.call.name}",
            lengths=ctx.call.lengths,
            names=(*ctx.call.names, *(f"the gradient with respect to {name}" for name in names)),
            dims=(*ctx.call.dims, *dims),
        )
        again = torch.is_grad_enabled()

        def differentiate() -> _Part:
            along: list[Tensor | None] = [None] * len(cotangents)
            for i, (whole, dim) in enumerate(zip(cotangents, dims, strict=True)):
                if whole is not None:
                    along[i] = call.share(whole, dim).requires_grad_(again and whole.requires_grad)
            return _Part([*mine, *along], _gradients(outputs, mine, along, again))

        wholes = (*inputs, *cotangents)
        part, found = call.do(wholes, differentiate, compare_from=n)
        devices = [torch.device("cpu") if whole is None else whole.device for whole in inputs]
        gradients = _outputs(found, ctx.call.names, ctx.call.dims, devices)
        return None, None, None, *_Whole.apply(call, part, gradients, *wholes)


def _gradients(
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
    call: _Call, mine: Sequence[Tensor | None], outputs: Sequence[_Output | None]
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


def _outputs(
    found: Sequence[_Description],
    names: Sequence[str],
    dims: Sequence[int | None],
    devices: Sequence[torch.device],
) -> list[_Output | None]:
    """The whole outputs, from what each rank has; None for one that no rank has."""
    outputs: list[_Output | None] = []
    for i, (name, dim, device) in enumerate(zip(names, dims, devices, strict=True)):
        whole: _Output | None = None
        for rank, (_, described) in enumerate(found):
            mine = described[i] if described else None
            if mine is None:
                continue
            shape, dtype, differentiable = mine
            rest = list(shape)
            if dim is not None:
                del rest[dim]
            own = _Output(name, dim, tuple(rest), dtype, device, differentiable)
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


# ---- What goes in and comes out ----------------------------------------------------------------------------


def _make_the_same(tensors: Mapping[str, Tensor]) -> None:
    """Give every rank the values of rank 0."""
    mine = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    for rank, theirs in enumerate(processes().exchange(mine)):
        if theirs != mine:
            names = sorted(name for name in mine | theirs if mine.get(name) != theirs.get(name))
            raise EnsembleError(f"the module has other tensors on rank {rank}: {', '.join(names)}", (rank,))
    with torch.no_grad():
        for tensor in tensors.values():
            first = processes().from_first(tensor)
            if not torch.equal(first, tensor):  # what is equal may be part of a graph, and stays untouched
                tensor.copy_(first)


def _samples(parts: Sequence[Tensor]) -> int:
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError("y0 must be a tensor or a tuple of tensors")
    lengths = {len(part) if part.dim() else 0 for part in parts}
    if len(lengths) > 1 or 0 in lengths:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise ValueError(
            f"all of y0 must have the same leading dimension, of at least one sample, not {shapes}"
        )
    return lengths.pop()


def _names(name: str, count: int, is_tensor: bool) -> list[str]:
    return [name] if is_tensor else [f"{name}[{i}]" for i in range(count)]


def _check_outputs(outputs: Sequence[Tensor], dim: int, length: int) -> None:
    if not isinstance(outputs, list | tuple) or not all(isinstance(output, Tensor) for output in outputs):
        raise TypeError(f"the module must return a tensor or a tuple of them, not {type(outputs).__name__}")
    for output in outputs:
        if not -output.dim() <= dim < output.dim() or output.shape[dim] != length:
            raise ValueError(
                f"the module returned shape {tuple(output.shape)} for {length} samples, of which dimension "
                f"{dim} does not count them; pass Ensemble(module, dim=…)"
            )
