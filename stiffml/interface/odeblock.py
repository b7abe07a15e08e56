"""``ODEBlock``: a solve as a layer."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from stiffml.checks import described, times
from stiffml.interface.arguments import DEFAULTS, Bounded, named_arguments
from stiffml.interface.graphs import outside_of_graphs
from stiffml.interface.jumps import Jumps
from stiffml.interface.solution import Solution
from stiffml.interface.solve import odeint
from stiffml.interface.tolerances import Tolerance
from stiffml.linear import LU, JacobianFunc, Krylov, Sparsity
from stiffml.methods import Method
from stiffml.parameters.names import reached
from stiffml.parameters.passed import collected
from stiffml.run.crossings import Watched
from stiffml.run.watching import Callback
from stiffml.settings import Discrete, Newton
from stiffml.steps import KeptSteps, Recorded, Steps
from stiffml.system.function.batching import Func
from stiffml.system.state import State


class Keeper(nn.Module):
    """Makes kept steps part of the ``state_dict`` of the module it belongs to."""

    def __init__(self, kept: KeptSteps) -> None:
        super().__init__()
        self.kept = kept

    def get_extra_state(self) -> dict[str, Any]:
        return self.kept.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.kept.load_state_dict(state)


class ODEBlock(nn.Module):
    """A layer that integrates its input through the times t.

    ``forward(y0)`` returns the states at all times, (n, \\*y0.shape). With ``steps=KeptSteps(…)`` the steps
    and the solution that are kept are part of the block's ``state_dict``, and a copy of the block has a copy.

    Parameters
    ----------
    func : callable or nn.Module
        func(t, y) -> dy/dt; a module becomes a submodule.
    t : Tensor
        (n,) output times, or (batch, n) of every sample. A buffer: it moves with the module, but is not
        saved with its weights.
    method, rtol, …
        As for :func:`solve`, except ``throw``.
    params : iterable of Tensor
        As for :func:`solve`. Each ``nn.Parameter`` among them becomes a parameter of the block,
        ``"params.i"``, for optimisers, ``state_dict`` and ``to``; other tensors stay as they are. A copy of
        the block has copies of its tensors, except those that a plain function (a lambda, say) reads: a copy
        of a function is that function, which reads the same tensors.

    Examples
    --------
    >>> block = stiffml.ODEBlock(func, torch.linspace(0, 1, 5).double(), method="bdf", rtol=1e-8)
    >>> block(y0).shape
    torch.Size([5, 2])
    """

    t: Tensor

    @named_arguments()
    def __init__(
        self,
        func: Func,
        t: Tensor,
        *,
        method: str | Method | None = "bdf",
        rtol: Tolerance | None = None,
        atol: Tolerance | None = None,
        steps: Steps | KeptSteps | Sequence[Recorded] | None = None,
        stepping: str = "auto",
        guess: Solution | None = None,
        outputs: str = "auto",
        linear: LU | Krylov | str = "auto",
        jacobian: str | Sparsity | JacobianFunc = "auto",
        batch_dims: int = 0,
        mass: Tensor | None = None,
        make_consistent: bool = False,
        event: Watched | None = None,
        bounds: Bounded | None = None,
        breakpoints: Tensor | Sequence[float] | None = None,
        jumps: Jumps | None = None,
        through: Tensor | Sequence[float] | None = None,
        params: Iterable[Tensor] = (),
        adjoint: Discrete | None = None,
        newton: Newton | None = None,
        options: Mapping[str, object] | None = None,
        compile: bool = False,
        callback: Callback | None = None,
        max_seconds: float | None = None,
        progress: bool = False,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in DEFAULTS}
        super().__init__()
        if not callable(func):
            raise TypeError(f"func must be callable as func(t, y), not {described(func)}")
        self.func = func
        self.register_buffer("t", t if isinstance(t, Tensor) else times("t", t), persistent=False)
        self.arguments = {name: value for name, value in given.items() if value is not DEFAULTS[name]}
        if "params" in self.arguments:
            # An iterator would serve one forward only.
            self.arguments["params"] = collected(self.arguments["params"])
            self._register(self.arguments["params"])
        if isinstance(steps, KeptSteps):
            self.kept_steps = Keeper(steps)

    def _register(self, params: tuple[Tensor, ...]) -> None:
        known = {id(parameter) for parameter in self.parameters()}
        holder = nn.Module()
        for number, tensor in enumerate(params):
            if isinstance(tensor, nn.Parameter) and id(tensor) not in known:
                holder.register_parameter(str(number), tensor)
        if holder._parameters:
            self.params = holder

    def __deepcopy__(self, memo: dict[int, Any]) -> ODEBlock:
        held = reached(self.func)
        memo |= {id(tensor): tensor for tensor in held.tensors.values() if id(tensor) in held.shared}
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    @outside_of_graphs
    def forward(self, y0: State) -> State:
        given = self.arguments.get("params", ())
        held = self.params._parameters if isinstance(getattr(self, "params", None), nn.Module) else {}
        if any(given[int(number)] is not tensor for number, tensor in held.items()):
            raise ValueError(
                "params: others stand in for parameters of this block that its func reads by itself, as with "
                "torch.func.functional_call, and would have no effect; make func a module that has them"
            )
        return odeint(self.func, y0, self.t, **self.arguments)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
