"""``solve`` and ``odeint``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from stiffml.interface.arguments import Arguments, Bounded, named_arguments
from stiffml.interface.integrate import solved
from stiffml.interface.solution import Solution
from stiffml.linear import LU, Krylov, Sparsity
from stiffml.methods import Method
from stiffml.run.events import EventFunc
from stiffml.settings import Discrete, Newton
from stiffml.steps import Steps
from stiffml.system.function.batching import Func
from stiffml.system.state import State


def solve(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    method: str | Method = "bdf",
    rtol: float | None = None,
    atol: float | Tensor | None = None,
    steps: Steps | None = None,
    outputs: str = "steps",
    linear: LU | Krylov | str = "auto",
    jacobian: str | Sparsity = "auto",
    batch_dims: int = 0,
    mass: Tensor | None = None,
    make_consistent: bool = False,
    event: EventFunc | None = None,
    bounds: Bounded | None = None,
    breakpoints: Tensor | Sequence[float] | None = None,
    through: Tensor | Sequence[float] | None = None,
    params: Iterable[Tensor] = (),
    adjoint: Discrete | None = None,
    newton: Newton | None = None,
    options: Mapping[str, object] | None = None,
    throw: bool = True,
) -> Solution:
    """Integrate y' = func(t, y) from y0 at t[0] and return the states at all times of t.

    The result is differentiable with respect to ``y0``, the parameters and ``t``; its gradient is
    the exact discrete adjoint of the steps taken, which the backward pass holds fixed.

    Parameters
    ----------
    func : callable or nn.Module
        func(t, y) -> dy/dt in the shape of y, real, by operations of torch on y; t is a 0-d tensor, from t[0]
        to t[-1] also where a method has stages beyond its step (``Method.within_step``): there func is
        extrapolated in time. t may leave torch (to look into a table, say). Parameters of a module get
        gradients, and so do all other tensors that func uses at y0 and that require them. It is called a few
        times near y0 before the solve begins.
    y0 : Tensor or tuple of Tensor
        Initial state, any shape, float64 or float32.
    t : Tensor
        (n,) output times, strictly increasing or decreasing; t[0] is the initial time. Numbers in another
        sequence count in double precision. The span must lie between 1e-40 and 1e40, and hold at least 64
        numbers of double precision.
    method : str or Method
        Default ``"bdf"``. A name of ``stiffml.METHODS`` or a method object.
    rtol, atol : float, or for atol a Tensor shaped like y0
        Tolerances of adaptive steps. Default 1e-6 and 1e-9 (float32: 1e-4 and 1e-6).
    steps : Adaptive, Fixed, Grid or Recorded
        Default ``Adaptive()``. More steps than fit into memory are refused, unless fewer states of them are
        kept (``adjoint``).
    outputs : str
        ``"steps"`` (default): steps end on every time of t. ``"interpolate"``: only on the first and the
        last; the states between are interpolated (see :meth:`Solution.interpolate`), so that many outputs
        cost no steps.
    linear : str, LU, GMRES or Krylov
        How linear systems are solved: by factors of the Jacobian, or by a Krylov method with a
        preconditioner. ``"auto"`` (default): LU up to 256 components a sample; beyond that by the structure
        found. ``stats.linear`` says what was chosen.
    jacobian : str or Sparsity
        ``"auto"`` (default); ``"dense"``, one block a sample where ``batch_dims`` is given; ``"coloured"``, a
        sparse one whose pattern is found by trying func, or given as ``Sparsity(pattern)``;
        ``"matrix-free"``, only products of it.
    batch_dims : int
        How many leading dimensions of y are independent samples. Default 0. Samples that depend on each other
        are an error.
    mass : Tensor
        M of M y' = func(t, y): for the w components of a sample (w,), or in a sample's shape, if it is
        diagonal, or (w, w); with the batch dimensions in front if it differs between samples. For w samples
        (w, w) has two meanings: pass (1, w, w), or (w, w, w). It may be singular (an index-1 DAE), and gets
        a gradient if it requires one. Default: the identity.
    make_consistent : bool
        Whether the algebraic variables of y0 are first changed so that the algebraic equations of a singular
        mass matrix hold; the gradient includes this. Default False: inconsistent values are an error.
    event : callable
        event(t, y) -> tensor of one element, a real number and not a condition. The solve ends where it first
        changes its sign, looked at where steps end and at four times between; ``Solution.event`` has the time
        and the state there, with exact gradients, and the outputs are those before it. Two roots within a
        fifth of a step may go unnoticed. One at t[0], or there but for rounding, does not count, so that a
        solve can go on from an event. Where it is NaN it has no sign.
    bounds : (low, high)
        Where the state is to stay: each None, a number, or like y0 (tensors broadcast; tuples for a tuple
        state). Default: anywhere. An adaptive step that ends outside by more than ``atol`` is cut, and so
        is, up to 10 times, one that begins inside and ends outside by less, which may take many more steps.
        Of other steps those are halved that end outside by more than 1e-9 (float32: 1e-6). Only steps are
        cut, and states are not changed, so that gradients stay exact. Stages within a step and interpolated
        outputs may lie outside. Where func leads out, the solve stops with an error that says so. Bounds get
        no gradient.
    breakpoints : sequence of float or Tensor
        Times at which func jumps. Steps end there, func is evaluated on either side only, and methods
        start afresh; with a singular mass matrix from algebraic variables that satisfy the algebraic
        equations behind the jump (an output there holds the values before it). A tensor gets gradients.
        ``steps`` refers to the intervals between outputs and breakpoints.
    through : sequence of float or Tensor
        Times that steps end on besides those of t, so that nothing between them is stepped over: the corners
        of tabulated data, the begin of a pulse. Nothing is returned there, and methods go on as they do after
        an output, unlike at ``breakpoints``; those outside of t do not count. A tensor gets gradients.
        ``steps`` refers to the intervals between outputs and these times.
    params : iterable of Tensor
        Tensors besides a module's parameters that need gradients; none that is computed from another. Needed
        for those that func does not use at the start of the solve: that they are used later is an error.
    adjoint : Discrete
        What the forward run keeps for the backward pass.
    newton : Newton
        By default tied to the step tolerance of each component; tight, and relative to each component, for
        steps without error control.
    options : mapping
        PETSc options under this solve's own prefix, such as ``{"ts_adapt_safety": 0.8}``: those that leave
        the equations of a step, and their solution, as they are. What prints takes True.
    throw : bool
        Whether a solve that stops early raises; otherwise the outputs reached are returned.

    Raises
    ------
    ValueError, TypeError
        For a wrong argument, by name and before anything is solved; for options that would change the
        equations of a step, or that PETSc makes no use of; within ``torch.func`` and ``torch.vmap``. For a
        ``func`` that has two values at one state, layers that keep statistics in training mode, or complex
        values, or whose derivative torch does not see, if it is needed; for samples that depend on each
        other.
    SolveError
        If the solve stops early and ``throw`` is true; its ``solution`` holds the outputs reached.
    Exception
        Whatever ``func`` raises, unchanged.
    """
    return solved(Arguments(**locals()))  # nothing but the arguments is local yet


@named_arguments(throw="odeint always raises if it cannot reach the last time; use solve for throw=False")
def odeint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    method: str | Method = "bdf",
    rtol: float | None = None,
    atol: float | Tensor | None = None,
    steps: Steps | None = None,
    outputs: str = "steps",
    linear: LU | Krylov | str = "auto",
    jacobian: str | Sparsity = "auto",
    batch_dims: int = 0,
    mass: Tensor | None = None,
    make_consistent: bool = False,
    event: EventFunc | None = None,
    bounds: Bounded | None = None,
    breakpoints: Tensor | Sequence[float] | None = None,
    through: Tensor | Sequence[float] | None = None,
    params: Iterable[Tensor] = (),
    adjoint: Discrete | None = None,
    newton: Newton | None = None,
    options: Mapping[str, object] | None = None,
) -> State:
    """The states at the times of t, (len(t), *y0.shape), differentiable: ``solve(...).y``.

    The arguments are those of :func:`solve` except ``throw``; a solve that stops early raises.
    """
    return solved(Arguments(**locals())).y  # nothing but the arguments is local yet
