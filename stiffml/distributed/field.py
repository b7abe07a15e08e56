"""Fields on a regular grid, spread over MPI processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stiffml.distributed.abort import EndsAll
from stiffml.distributed.arguments import axes_of, for_each_axis, positive_count
from stiffml.distributed.communicator import mpi4py_communicator, petsc_communicator
from stiffml.distributed.decomposition import decompose
from stiffml.distributed.exchange import Exchange
from stiffml.distributed.reduction import sum_over_processes
from stiffml.distributed.space import FieldSpace
from stiffml.distributed.stencil import StencilJacobian
from stiffml.distributed.transfer import gather_parts, scatter_parts
from stiffml.petsc.library import PETSc
from stiffml.system.space import Space, is_solved_alone

Local = Callable[[Tensor, Tensor], Tensor]


class Field:
    """Several species on a regular grid in 1 to 3 dimensions, of which each process holds a box of points.

    Every process makes the same Field and calls its methods in the same order, those marked collective
    even if it needs no result: they wait for each other. Derivatives are such calls too. An exception that
    one process does not catch ends all of them, as long as a Field exists there.

    On one process all of this works without MPI.

    Parameters
    ----------
    shape : sequence of 1 to 3 int
        Points along each axis of the whole grid.
    species : int
        Numbers at each point.
    periodic : bool or sequence of bool
        Whether the domain closes upon itself: for all axes, or for each.
    width : int
        How many points away a right-hand side looks. Each process needs as many along every axis.
    comm : communicator of mpi4py or petsc4py, optional
        The processes; default all.

    Attributes
    ----------
    shape, species, periodic, width
        As given, ``periodic`` for each axis.
    rank, size : int
        This process's number, and how many there are.
    ranges : tuple of tuple of (start, stop)
        This process's points along each axis.
    part_shape : tuple of int
        (species, n0, …), of this process's part.
    coordinates : tuple of Tensor
        Of this process's points along each axis, each (n0, …). The domain has length 1 along each axis; a
        periodic axis of n points has them at i/n, others at (i + 1/2)/n, the middles of n cells.
    space : Space
        Sums and decisions over all parts of a state.
    decomposition : Decomposition
        Which process holds which points.

    Examples
    --------
    >>> from stiffml.distributed import Field
    >>> field = Field((64,), species=1)
    >>> u0 = field.create(lambda x: torch.sin(2 * torch.pi * x))
    >>> def diffusion(t, y):  # with one ghost point at each side
    ...     return 64**2 * (y[..., 2:] + y[..., :-2] - 2 * y[..., 1:-1])
    >>> sol = stiffml.solve(field.rhs(diffusion), u0, 0.01 * t, method="bdf")
    >>> sol.y.shape, bool(field.sum(sol.y[-1].abs()) < 0.7 * field.sum(u0.abs()))
    (torch.Size([2, 1, 64]), True)
    """

    def __init__(
        self,
        shape: Sequence[int],
        species: int = 1,
        *,
        periodic: bool | Sequence[bool] = True,
        width: int = 1,
        comm: object | None = None,
    ) -> None:
        self.shape = axes_of(shape)
        self.periodic = for_each_axis(periodic, len(self.shape))
        self.species = positive_count("species", species)
        self.width = positive_count("width", width)
        petsc = petsc_communicator(comm)
        self.rank, self.size = petsc.getRank(), petsc.getSize()
        self.space = Space()
        if self.size > 1:
            self._ends_all = EndsAll()
            self._comm = mpi4py_communicator(petsc)
            self.space = FieldSpace(self._comm)
        # PETSc objects of several processes that one of them has dropped wait until all do this.
        PETSc.garbage_cleanup(petsc)
        self.decomposition = decompose(self.shape, self.periodic, self.width, petsc)
        self.ranges = self.decomposition.own
        self._exchange = Exchange(self.decomposition, self.species, self.width, petsc)
        self.part_shape = self._exchange.shape
        self.coordinates = self._coordinates()

    def _coordinates(self) -> tuple[Tensor, ...]:
        axes = [
            (torch.arange(start, stop, dtype=torch.float64) + (0.0 if wraps else 0.5)) / points
            for (start, stop), points, wraps in zip(self.ranges, self.shape, self.periodic, strict=True)
        ]
        return torch.meshgrid(*axes, indexing="ij")

    def create(self, function: Callable[..., Tensor | np.ndarray | Sequence[Any]]) -> Tensor:
        """This process's part of a field given by its coordinates, float64 (species, n0, …).

        Parameters
        ----------
        function : callable
            Of one tensor (n0, …) an axis, from [0, 1); returns one value a species, as a tensor or a
            sequence. Each may be a number, or whatever else broadcasts to (n0, …). A single species may
            come by itself.
        """
        values = function(*self.coordinates)
        if not isinstance(values, list | tuple):
            whole = torch.as_tensor(values)
            by_itself = whole.dim() == 0 or (self.species == 1 and whole.dim() < len(self.part_shape))
            values = [whole] if by_itself else [*whole]
        if len(values) != self.species:
            raise ValueError(
                f"Field.create: the function must return {self.species} species, not {len(values)}"
            )
        return torch.stack([self._spread(number, torch.as_tensor(v)) for number, v in enumerate(values)])

    def _spread(self, number: int, value: Tensor) -> Tensor:
        points = self.part_shape[1:]
        try:
            return value.double().broadcast_to(points)
        except RuntimeError:
            raise ValueError(
                f"Field.create: species {number} has shape {tuple(value.shape)}, which does not broadcast to "
                f"this process's points {points}"
            ) from None

    def rhs(self, local: Local) -> FieldRHS:
        """The right-hand side f(t, y) on parts that a function on ghosted parts makes; see FieldRHS."""
        return FieldRHS(self, local)

    def ghosted(self, y: Tensor) -> Tensor:
        """A part with its surroundings: (species, n0, …) -> (species, n0 + 2·width, …); collective.

        The ghosts around a part are the points of other processes, or of the other end of a periodic axis.
        Outside an axis that is not periodic they repeat the value at the edge, so nothing flows through it.
        Differentiable any number of times.
        """
        self._check(y)
        if self.size > 1 and is_solved_alone():
            raise ValueError(
                "func uses a field that is spread over processes, but is neither field.rhs(…) nor a torch "
                "module that holds it, so each process would solve it on its own. Try: func=field.rhs(…); or "
                "make what is around it an nn.Module with it as a submodule"
            )
        return self._exchange(y)

    def sparse_jacobian(self) -> StencilJacobian:
        """∂f/∂y of right-hand sides that :meth:`rhs` makes: where it has entries, and how it is evaluated."""
        return StencilJacobian(self.decomposition, self.species)

    def at_low_edge(self, axis: int) -> bool:
        """Whether this process's ghosts before its first point along an axis lie outside the domain."""
        return not self.periodic[axis] and self.ranges[axis][0] == 0

    def at_high_edge(self, axis: int) -> bool:
        """Whether this process's ghosts after its last point along an axis lie outside the domain."""
        return not self.periodic[axis] and self.ranges[axis][1] == self.shape[axis]

    def sum(self, x: Tensor) -> Tensor:
        """The sum of a tensor over all its elements and all processes, 0-d, on each process; collective.

        For a loss, which each process then holds: the gradient with respect to ``x`` is complete there.
        """
        return sum_over_processes(x.sum(), self.space)

    def gather(self, y: Tensor) -> Tensor | None:
        """The whole (…, species, N0, …) of parts (…, species, n0, …) on process 0, else None; collective.

        Leading dimensions, such as time, are kept. Not differentiable.
        """
        self._check(y, leading=True)
        if self.size == 1:
            return y.detach().clone()
        return gather_parts(y, self.shape, self.decomposition.ranges, self._comm)

    def scatter(self, whole: Tensor | None) -> Tensor:
        """Each process's part of a whole that process 0 passes, and the others None; collective.

        Undoes :meth:`gather`: to go on from a file, for example.
        """
        wrong = self._why_not_whole(whole) if self.rank == 0 else ""
        if self.size > 1:
            wrong = self._comm.bcast(wrong, root=0)
        if wrong:
            raise ValueError(wrong)
        if self.size == 1:
            return torch.as_tensor(whole).detach().clone()
        first = torch.as_tensor(whole).detach() if self.rank == 0 else None
        return scatter_parts(first, self.decomposition.ranges, self._comm)

    def _why_not_whole(self, whole: Tensor | None) -> str:
        end = (self.species, *self.shape)
        got = () if whole is None else tuple(whole.shape)
        if got[-len(end) :] == end:
            return ""
        return f"Field.scatter: process 0 needs a tensor whose shape ends in {end}, not {got}"

    def _check(self, y: Tensor, leading: bool = False) -> None:
        shape, part = tuple(y.shape), self.part_shape
        if (shape[-len(part) :] if leading else shape) != part:
            end = "end in" if leading else "be"
            raise ValueError(
                f"the shape of y must {end} {part} (species, then this process's points), but it is {shape}"
            )
        if y.dtype != torch.float64:
            raise ValueError(f"y must be torch.float64, as fields are, but it is {y.dtype}")

    def __deepcopy__(self, memo: dict[int, object]) -> Field:
        # Nothing in it changes, and copies of a right-hand side must talk to the same processes.
        return self

    def __repr__(self) -> str:
        return (
            f"Field(shape={self.shape}, species={self.species}, periodic={self.periodic}, "
            f"width={self.width}, rank {self.rank} of {self.size})"
        )


class FieldRHS(nn.Module):
    """f(t, y) on a process's part of a field; collective, and so are its derivatives.

    Gradients of parameters taken through it are this process's share: ``field.space.sum_tensor`` adds those
    of all.

    Parameters
    ----------
    field : Field
    local : callable or nn.Module
        ``local(t, ghosted)`` of a time and a part with its surroundings, (species, n0 + 2·width, …),
        channels first as convolutions take it; returns the slope of the part, (species, n0, …). A module
        becomes a submodule.

        At the edges of an axis that is not periodic it may overwrite the ghosts of ``ghosted`` in place
        for another condition than no flux, where ``field.at_low_edge(axis)`` or ``at_high_edge`` say that
        they lie outside. But the result must depend on ``ghosted`` on every process, and nonlinearly on
        all or none: a process that finds nothing to differentiate keeps the others waiting.
    """

    def __init__(self, field: Field, local: Local) -> None:
        super().__init__()
        if not callable(local):
            raise TypeError(
                f"Field.rhs: local must be callable as local(t, ghosted), not {type(local).__name__}"
            )
        self.field = field
        self.local = local

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        value = self.local(t, self.field.ghosted(y))
        if not isinstance(value, Tensor):
            raise TypeError(f"Field.rhs: local must return a tensor, not {type(value).__name__}")
        if value.shape != y.shape:
            raise ValueError(
                f"Field.rhs: local returned shape {tuple(value.shape)}, but this process's part of the field "
                f"has shape {tuple(y.shape)}: {self.field.width} fewer points than ghosted at each end"
            )
        return value

    def extra_repr(self) -> str:
        return repr(self.field)
