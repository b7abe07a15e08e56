"""``solve`` and ``odeint``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from stiffml.interface.arguments import Arguments, Bounded, named_arguments
from stiffml.interface.graphs import outside_of_graphs
from stiffml.interface.integrate import solved
from stiffml.interface.jumps import Jumps
from stiffml.interface.solution import Solution
from stiffml.interface.tolerances import Tolerance
from stiffml.linear import LU, JacobianFunc, Krylov, Sparsity
from stiffml.methods import Method
from stiffml.run.crossings import Watched
from stiffml.run.watching import Callback
from stiffml.settings import Discrete, Newton
from stiffml.steps import KeptSteps, Recorded, Steps
from stiffml.system.function.batching import Func
from stiffml.system.state import State


@outside_of_graphs
def solve(
    func: Func,
    y0: State,
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
    throw: bool = True,
) -> Solution:
    """Integrate y' = func(t, y) from y0 at t[0] and return the states at all times of t.

    The result is differentiable with respect to ``y0``, the parameters and ``t``. The gradient is the exact
    discrete adjoint of the steps taken. The backward pass holds their sizes fixed.

    Parameters
    ----------
    func : callable or nn.Module
        func(t, y) -> dy/dt in the form of y, by operations of torch on y. t is a 0-d tensor; it may
        leave torch, to look into a table, say. Gradients reach the parameters of a module, and all other
        tensors that require them and that func uses at y0. func is only called for times from t[0] to t[-1]:
        methods with stages beyond their step (not ``Method.within_step``) extrapolate it in time. It is
        called a few times near y0 before the solve begins, to try out what the solve relies on. Solves that
        may be differentiated, and those of implicit methods, remember that for the same ``func`` for up to 32
        of them, as long as its modules, their modes, its attributes and the operations in its graph are the
        same, and Newton's iteration all at once, or else a look at the last state, confirms its Jacobian. A
        function or partial made anew is the same if its code, its defaults, and the objects and numbers in
        its closure are.
    y0 : Tensor, array, or tensors in a tuple, named tuple, list or dictionary, which may be nested
        Initial state, any shape, float64, float32, complex128 or complex64. func, events and results have its
        structure, with tensors for arrays. A complex state is solved as pairs of reals: real and imaginary
        parts each have their own error control. Its gradients follow torch's convention.
    t : Tensor
        (n,) output times, increasing or decreasing; t[0] is the initial time. Numbers in another sequence
        are taken in double precision. The span must lie between 1e-40 and 1e40, and hold at least 64 numbers
        of double precision. A time may repeat the one before: its output does too, and the gradient of both
        goes to the first.

        The last may be infinite (``math.inf``, or ``-math.inf``) if an event ends the solve. Steps are then
        adaptive; a solve to which no event comes, though its steps have grown to 1e30, is an error.

        (batch, n), with ``batch_dims=1`` (or with more batch dimensions): every sample has output times of
        its own, and steps of its own. ``t.expand(batch, n)`` gives samples steps of their own where times
        are shared. See below.
    method : str or Method
        A name of ``stiffml.METHODS`` or a method object. Default, also for None: ``"bdf"``.
    rtol, atol : float, or numbers that broadcast to y0
        Tolerances of adaptive steps, for all components or by component: a tensor, an array or a list, and
        for a y0 of several tensors such numbers in its structure. Default 1e-6 and 1e-9 (float32: 1e-4 and
        1e-6). An rtol that float32 does not resolve is raised to 1.2e-6, after one warning.
    steps : Adaptive, Fixed, Grid, Recorded or KeptSteps
        Default ``Adaptive()``; ``Grid()``, one step for each output interval, for explicit methods without an
        error estimate. ``KeptSteps()``, in a training: steps chosen by one solve serve many. More
        steps than fit into memory are an error; ``adjoint`` can keep fewer states. If every sample has times
        of its own also a sequence of ``Recorded``, one for each.
    stepping : str
        ``"auto"`` (default): known steps (``Fixed``, ``Grid``, ``Recorded``) of methods with a Newton
        iteration are solved for all at once, by one Newton iteration on the equations of many steps, where
        samples have a dense Jacobian and up to 16 components, or 32 with a guess. It is the same solution.
        Where the iteration does not converge, fewer steps are taken together, and in the end one by one;
        ``stats.at_once`` counts. Those of a compiled function of one state are taken one by one in C, which
        is as fast. ``"all-at-once"``: for any method, or an error that says why not.
        ``"sequential"``: one by one.
    guess : Solution
        Where that iteration starts: a solution with other parameters or another initial state, such as that
        of the training iteration before. Default: the initial state. If it has the same steps, its Jacobians
        serve for the first iterations. The result does not depend on it beyond Newton's tolerance.
    outputs : str
        ``"steps"``: steps end on every time of t. ``"interpolate"``: steps end on the first and the last time
        only, and the states between are interpolated (see :meth:`Solution.interpolate`). Many outputs then
        cost no steps. ``"auto"`` (default): ``"interpolate"`` for adaptive steps of ``bosh3``, ``dopri5`` and
        ``tsit5``, whose interpolants are as accurate as their steps; ``"steps"`` for all others. Steps
        recorded from such a solve are repeated likewise.
    linear : str, LU, GMRES or Krylov
        How linear systems are solved: by factors of the Jacobian, or by a Krylov method with a
        preconditioner. ``"auto"`` (default): LU for up to 256 components a sample; for more it depends on the
        structure found. ``stats.linear`` says what was chosen.
    jacobian : str, Sparsity or callable
        ``"auto"`` (default). ``"dense"``: one block a sample if ``batch_dims`` is given. ``"coloured"``: a
        sparse matrix, whose pattern is found by trying func, or given as ``Sparsity(pattern)``.
        ``"matrix-free"``: only its products.

        A function: jacobian(t, y) -> ∂func/∂y at one state, taken in place of torch's in forward steps and in
        the linear systems of the backward pass. Products with parameters and second derivatives still come
        from torch, so that gradients stay exact. For w numbers in a sample it returns a tensor (w, w), or a
        block for each sample, (samples, w, w) in the batch's shape; where y is one tensor also as
        ``torch.func.jacfwd`` has it. Or a sparse matrix of torch or scipy over the whole flat state, which is
        then factorised, or given to a Krylov method. If the method splits a ``Split`` it is that of the
        implicit part. A product near the start and one near the end are compared with torch's; a difference
        is an error that names row and entry. Not with ``compile=True``, explicit methods, complex states,
        times of every sample's own, and transforms of torch.
    batch_dims : int
        How many leading dimensions of y are independent samples. Default 0. Samples that depend on each other
        are an error.
    mass : Tensor
        M of M y' = func(t, y), for the w components of a sample. Diagonal: (w,), or a sample's shape. Full:
        (w, w). If it differs between samples, the batch dimensions come first. For w samples (w, w) has two
        meanings: pass (1, w, w), or (w, w, w). It may be singular (an index-1 DAE), and gets a gradient if it
        requires one. Default: the identity.
    make_consistent : bool
        Whether the algebraic variables of y0 are first changed so that they satisfy the algebraic equations
        of a singular mass matrix; the gradient includes this. Default False: inconsistent values are an
        error.
    event : callable, Crossing, or a list of these
        event(t, y) -> tensor of one element, a real number and not a condition. The solve ends where this
        first changes its sign. ``Solution.event`` has the time and the state there, with exact gradients; the
        outputs are those before it. The sign is checked at the end of each step and at four times within it,
        so two roots within a fifth of a step may be missed. A root at t[0], up to rounding, does not count,
        so that a solve can go on from an event. NaN has no sign.

        Of a list the first event ends the solve; ``Solution.event.number`` says which. ``Crossing(function,
        direction="rising", terminal=False)`` counts one direction only, and does not end the solve:
        ``Solution.events`` then has all times and states at which it was zero, on the interpolant of the
        steps, with exact gradients. What a jump passes over is no event.
    bounds : (low, high)
        Where the state is to stay. Each is None, a number, or like y0 (tensors broadcast; tuples for a tuple
        state). Default: anywhere. Only steps are cut; states are not changed, so gradients stay exact. An
        adaptive step is cut if it ends outside by more than ``atol``. If it begins inside and ends outside by
        less, it is cut up to 10 times, which may take many more steps. Other steps are halved if they end
        outside by more than 1e-9 (float32: 1e-6). Stages within a step and interpolated outputs may lie
        outside. If func leads out of the bounds, the solve stops with an error that says so. Bounds get no
        gradient.
    breakpoints : sequence of float or Tensor
        Times at which func jumps. Steps end there, no step evaluates func on both sides, and methods start
        afresh. With a singular mass matrix they start from algebraic variables that satisfy the algebraic
        equations after the jump; an output there holds the values before it. A tensor gets gradients.
        ``steps`` refers to the intervals between outputs and breakpoints.
    jumps : sequence of (time, function)
        Jumps of the state, such as doses and resets: at each time, function(t, y) -> the state after it, in
        the form of y0, by operations of torch. Methods start afresh there. An output at that time is after
        the jump, and ``Solution.interpolate`` gives the state before it. Jumps at one time are applied in the
        order given; one at t[0] changes y0, one at t[-1] the last output, and those outside of t are left
        out. Gradients reach what functions use, and a time that is a tensor. Where such a time equals an
        output, a breakpoint or another jump, its gradient is that of a slightly earlier jump, and of jumps in
        the order given. With a singular mass matrix the algebraic variables are made consistent after a jump.
    through : sequence of float or Tensor
        Further times that steps end on, so that nothing there is stepped over: the corners of tabulated data,
        the start of a pulse. They are no outputs. Unlike at ``breakpoints``, methods do not start afresh.
        Times outside of t are ignored. A tensor gets gradients. ``steps`` refers to the intervals between
        outputs and these times.
    params : iterable of Tensor
        Tensors that need gradients, besides the parameters of a module. None may be computed from another.
        Needed for tensors that func uses later but not at the start of the solve; without it their use is an
        error.
    adjoint : Discrete
        What the forward run keeps for the backward pass. Default ``Discrete()``.
    newton : Newton
        When Newton's iteration stops. By default tied to the step tolerance of each component; for steps
        without error control tight, and relative to each component.
    options : mapping
        PETSc options under this solve's own prefix, such as ``{"ts_adapt_safety": 0.8}``. They must not
        change the equations of a step or their solution. Options that print take True.
    compile : bool
        Whether func is compiled to C first, by casadi (``pip install '.[compile]'``) and a C compiler.
        Small functions then cost microseconds. Default False. See :func:`stiffml.compile`. A function that
        cannot be compiled is evaluated by torch, after one warning that says why. With times of every
        sample's own each sample is then a run by itself in C, on ``torch.get_num_threads()`` threads.
    callback : callable
        callback(t, y, h) after every step, with the time and the state that it came to and its size (negative
        if time decreases). Where it returns True the solve ends, without an error: the status is
        ``Status.STOPPED``, and the solution holds the outputs reached. False or None: it goes on. Steps are
        then taken one by one, from Python. Gradients do not flow through it.
    max_seconds : float
        Wall time after which the solve stops with an error that holds the outputs reached. Default: none. It
        counts from the first step, without checks and compilation before and backward passes after, and is
        looked at after each step, each group of steps solved together, and every 50 ms of a run in C.
    progress : bool
        Whether to show how far the solve has come: a bar on a terminal or in a notebook, and a line
        every 10 s elsewhere, on the standard error. Default False.
    throw : bool
        Whether a solve that stops early raises. Default True. False: it returns the outputs reached.

    Returns
    -------
    Solution

    Notes
    -----
    Times of every sample's own, t of shape (batch, n): y[j, i] is sample i at t[i, j]; pad shorter series by
    repeating their last time. stiffml then steps all samples side by side, each with its own step size,
    Newton iteration and error control, and calls func for those that are still under way, all at once. func
    gets their times as (k,), or as (k, 1, …), where its values agree with those for single samples;
    otherwise a 0-d t under ``torch.vmap``, or one sample at a time. What differs between samples goes into
    the state, as components whose derivative is zero. A sample does not depend on which others are in the
    batch: the operations on it are the same, so results differ by no more than what func rounds differently
    in batches of another size. All rows of t must run in one direction. A sample that fails stops alone; the
    error names it, and with ``throw=False`` its later outputs are NaN. ``sol.steps`` has the steps of each
    sample, ``sol.stats`` counts over all. All states are kept: memory is the sum of the steps of all samples.
    Known steps of all samples are solved for all at once, as ``stepping`` says, and what does not converge so
    is taken sample by sample as before. The iteration ends when it has converged for all samples: there a
    sample depends on the others by less than Newton's tolerance. ``guess`` is then a solution of as many
    samples with times of their own. With ``compile=True`` each sample runs by itself in C unless
    ``stepping="all-at-once"`` asks for the other.
    Not with event, bounds, breakpoints, jumps, through, options, callback, max_seconds, progress, Krylov
    methods, sparse Jacobians, a number of checkpoints or such on disk, a mass matrix for each sample, or
    methods with stages beyond their step.

    Within ``torch.vmap``, the transforms of ``torch.func`` and forward-mode differentiation the outputs and
    an event are those of an operation of torch. A batch is solved sample by sample, with steps of its own for
    each; ``stats`` and ``steps`` are those of the last solve, and ``interpolate`` is not available. Tensors
    of a transform that func uses later but not at the start must be named as ``params``.

    Raises
    ------
    ValueError, TypeError
        Before anything is solved: for a wrong argument, by name; for options that would change the equations
        of a step, or that PETSc does not use. For a ``func`` that has two values at one state, complex values
        for a real state, layers that keep statistics in training mode, or a derivative that is needed and
        that torch does not see. For samples that depend on each other.
    SolveError
        If the solve stops early and ``throw`` is true; its ``solution`` holds the outputs reached.
    Exception
        Whatever ``func`` raises, unchanged.

    Examples
    --------
    >>> k = torch.tensor([1.0, 1000.0], dtype=torch.float64, requires_grad=True)
    >>> sol = stiffml.solve(lambda t, y: -k * y, y0, t, rtol=1e-8)
    >>> sol.y[-1, 0]
    tensor(0.3679, dtype=torch.float64, grad_fn=<SelectBackward0>)
    >>> sol.y[-1, 0].backward()
    >>> k.grad[0]  # −exp(−1)
    tensor(-0.3679, dtype=torch.float64)

    Two samples with times of their own; the shorter one repeats its last time.

    >>> own = torch.tensor([[0.0, 0.1, 0.3], [0.0, 2.0, 2.0]], dtype=torch.float64)
    >>> stiffml.solve(lambda t, y: -y, torch.ones(2, 1).double(), own, batch_dims=1).y[:, :, 0].T
    tensor([[1.0000, 0.9048, 0.7408],
            [1.0000, 0.1353, 0.1353]], dtype=torch.float64)
    """
    return solved(Arguments.of(locals()))  # the only local variables are the arguments


@named_arguments(throw="odeint always raises if it cannot reach the last time; use solve for throw=False")
def odeint(
    func: Func,
    y0: State,
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
) -> State:
    """The states at the times of t, (n, \\*y0.shape), differentiable: ``solve(...).y``.

    The arguments are those of :func:`solve` except ``throw``; a solve that stops early raises.

    Examples
    --------
    >>> stiffml.odeint(func, y0, t, rtol=1e-8)[:, 0]  # 1, exp(-1)
    tensor([1.0000, 0.3679], dtype=torch.float64)
    """
    return solved(Arguments.of(locals())).y  # the only local variables are the arguments
