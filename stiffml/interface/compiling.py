"""``compile``: a function compiled before it is solved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from stiffml.checks import described
from stiffml.interface.initial_state import checked_layout
from stiffml.parameters.passed import collected
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.function.batching import Func
from stiffml.system.function.span import Span
from stiffml.system.split import Split
from stiffml.system.state import State
from stiffml.system.system import System


class CompiledModule(nn.Module):
    """A function that solves take in compiled form; called as ``module(t, y)`` it is the function itself."""

    def __init__(self, func: Func) -> None:
        super().__init__()
        self.func: Any = func

    def forward(self, t: Tensor, y: State) -> State:
        return self.func(t, y)


def compile(
    func: Func,
    y0: State,
    *,
    t: tuple[float, float] = (0.0, 1.0),
    params: Iterable[Tensor] = (),
    batch_dims: int = 0,
) -> CompiledModule:
    """Compile a function to C before it is solved.

    The result is a module that can stand for ``func`` everywhere: solves take its values, Jacobian and first
    derivatives from compiled code, as with ``compile=True``; called in torch it is ``func`` itself, with its
    gradients. Tensors that require gradients are arguments of the code, so training does not compile again.
    Other numbers and tensors that ``func`` reads are constants in it. It is compiled anew when they have
    changed, or for a state of another shape. Code is kept on disk, in the folder of the environment variable
    STIFFML_CACHE or ``~/.cache/stiffml``. When it is made, its values and derivatives are compared with those
    of torch, and its values near the start of a first solve and beside the end of each solve.

    With a dense Jacobian of up to 64 components a sample, PETSc's steps are taken in C, all of them in one
    call, unless there is an event, ``bounds``, a ``callback`` or ``options``, or checkpoints are few or on
    disk. Where ``func`` is not compiled, C calls it; of explicit methods only compiled ones are taken in C.
    ``Solution.stats.in_c`` counts these steps. They are the steps that Python would take. If such a run fails
    it is taken again from Python, from the start, and ``Solution.stats.given_up`` says why.

    Samples with times of their own, t of shape (batch, n), are runs by themselves in C, without PETSc, on
    ``torch.get_num_threads()`` threads: by BDF, and by all methods whose steps and error estimates start from
    one state; not of a ``Split``. So are their gradients, but those by times. A sample has the same numbers
    whatever else is in the batch, and on any number of threads. A sample that C cannot treat, as with a
    Jacobian that is not finite, is taken from Python.

    Networks and mechanisms of up to about 100 000 scalar operations are compiled, in double precision on the
    CPU. What branches on values of the state is not, nor are most other kinds of layers than dense ones.

    Parameters
    ----------
    func : callable or nn.Module
        func(t, y) -> dy/dt, as for :func:`solve`; or a ``Split``, of which both parts are compiled.
    y0 : Tensor or tuple of Tensor
        A state like the initial ones, float64.
    t : (float, float)
        Between these times ``func`` is compared with its compiled form. Default (0, 1).
    params : iterable of Tensor
        As for :func:`solve`.
    batch_dims : int
        How many leading dimensions of y are independent samples. Default 0. One sample is compiled then.

    Raises
    ------
    TypeError, ValueError
        For a wrong argument; if casadi is not installed; if ``func`` cannot be compiled, with the reason and
        the line.

    Examples
    --------
    >>> fast = stiffml.compile(func, y0)
    >>> sol = stiffml.solve(fast, y0, t)
    >>> sol.y[-1, 0], sol.stats.in_c > 0
    (tensor(0.3679, dtype=torch.float64), True)
    """
    if not callable(func):
        raise TypeError(f"func must be callable as func(t, y), not {described(func)}")
    if isinstance(func, CompiledModule):
        func = func.func
    layout = checked_layout(y0, batch_dims)
    begin, end = float(t[0]), float(t[1])
    direction = 1 if end >= begin else -1
    span = Span(direction * begin, direction * end, direction, layout.dtype)
    with torch.inference_mode(False), torch.no_grad():
        u = layout.flatten(y0).detach().double().cpu().numpy()
        for part in (func.implicit, func.explicit) if isinstance(func, Split) else (func,):
            System(Dynamics(part, layout, direction, collected(params), span=span)).compile(u, required=True)
    return CompiledModule(func)
