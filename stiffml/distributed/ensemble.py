"""A batch of trajectories over processes: each solves its share, all get the whole result and gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from stiffml import checks
from stiffml.distributed.abort import EndsAll
from stiffml.distributed.collective import EnsembleError
from stiffml.distributed.dependence import check_dependence
from stiffml.distributed.processes import processes, shares
from stiffml.distributed.split_call import Part, SplitCall, Whole, call_numbers, outputs_of
from stiffml.parameters.naming import each_once, given_names
from stiffml.parameters.passed import collected
from stiffml.system.state import State


class Ensemble(nn.Module):
    """A module whose batch is split over the processes of this program.

    ::

        layer = Ensemble(stiffml.ODEBlock(func, t, batch_dims=1, method="bdf"))
        y = layer(y0)  # y0 (batch, …) and y (len(t), batch, …) are the whole batch, on every rank
        loss(y).backward()  # every rank gets the whole gradient

    The loop, the loss and the optimiser stay as they are: every rank runs the same program on the same data,
    and solves its share of the samples. Start it with ``torchrun --nproc-per-node 4 train.py`` or with
    ``OMP_NUM_THREADS=1 mpiexec -n 4 python train.py`` (``pip install '.[mpi]'``), where without that
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
    ``stiffml/distributed/abort.py``), and so does one that is killed. Under torchrun ranks wait
    for each other no longer than torch.distributed lets them: half an hour, unless ``init_process_group`` was
    called before with another ``timeout``.

    ``forward(y0)`` returns what the module returns for the whole y0, (batch, …) or a tuple of such tensors.

    Parameters
    ----------
    module : nn.Module
        module(y0) returns a tensor or a tuple of tensors, in which a sample depends on the same sample of y0
        only. It must not be something that the ranks compute together, such as the solve of a Field.
    dim : int
        The dimension of the outputs that counts samples. Default 1: of an ODEBlock the times come first.
    params : iterable of Tensor
        Tensors besides the module's own that need gradients, such as those in ``params`` of an ODEBlock.

    Examples
    --------
    >>> from stiffml.distributed import Ensemble
    >>> layer = Ensemble(stiffml.ODEBlock(func, t, batch_dims=1))
    >>> layer(torch.ones(6, 2).double()).shape  # in one process as in many
    torch.Size([2, 6, 2])
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
        call = SplitCall(
            name=f"forward pass {next(call_numbers)}",
            lengths=tuple(shares(_samples(parts), processes().size)),
            names=(*_names("y0", len(parts), alone), *tensors),
            dims=(*(0 for _ in parts), *(None for _ in tensors)),
        )
        records = torch.is_grad_enabled()

        def solve() -> Part:
            mine = [call.share(part, 0).requires_grad_(records and part.requires_grad) for part in parts]
            y = self.module(mine[0] if alone else tuple(mine))
            outputs = [y] if isinstance(y, Tensor) else y
            _check_outputs(outputs, self.dim, len(mine[0]))
            inputs = [*mine, *tensors.values()]
            if records:
                check_dependence(outputs, inputs)
            return Part(inputs, outputs, is_tensor=isinstance(y, Tensor))

        inputs = (*parts, *tensors.values())
        part, found = call.do(inputs, solve)
        is_tensor, first = found[0]  # rank 0 always has samples
        names = _names("y", len(first), is_tensor)
        outputs = outputs_of(found, names, (self.dim,) * len(names), (parts[0].device,) * len(names))
        y = Whole.apply(call, part, outputs, *inputs)
        return y[0] if is_tensor else y

    def extra_repr(self) -> str:
        return f"dim={self.dim}"

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors besides y0, each once."""
        own = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        return each_once(own | given_names(None, self._params))


def _make_the_same(tensors: Mapping[str, Tensor]) -> None:
    """Give the tensors on every rank the values of rank 0."""
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
