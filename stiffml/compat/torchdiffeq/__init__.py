"""torchdiffeq's interface: one line of a program changes.

    from stiffml.compat.torchdiffeq import odeint_adjoint as odeint

Names, arguments, methods and options are those of torchdiffeq 0.2.5. What differs:

- Gradients are those of the steps taken, for ``odeint`` and ``odeint_adjoint`` alike, and reach all tensors
  that ``func`` uses. There is no second differential equation to solve backwards. So ``adjoint_rtol``,
  ``adjoint_atol``, ``adjoint_method`` and ``adjoint_options`` have no effect, which a warning says;
  ``adjoint_params`` are parameters that get a gradient, zero if they have no influence.
- Adaptive steps are chosen by stiffml's controllers, and end on the last time. With a ``norm``, callbacks,
  ``safety``, ``ifactor``, ``dfactor`` or ``min_step`` they are chosen as torchdiffeq chooses them, which
  takes each of them twice.
- ``callback_step`` of a fixed grid is called once the solve has ended, for each step in order. Callbacks of
  the adjoint are called for the same steps from the last to the first, with the end of the step and the state
  there.
- The time of an event is found to rounding, not to ``atol``.
- ``explicit_adams``, ``implicit_adams`` and ``fixed_adams`` take the same steps by ``dopri5``; methods with
  coupled stages of later versions, ``radauIIA3``, ``gl4``, ``radauIIA5`` and ``gl6``, by a diagonally
  implicit one of the same order. A warning says which.
- ``scipy_solver`` has gradients with ``odeint_adjoint``, as there: those of the adjoint equation, for y0, t
  and the parameters, solved with ``adjoint_rtol``, ``adjoint_atol``, ``adjoint_method``, ``adjoint_options``.
- stiffml's own methods are there too: ``method="bdf"`` for a stiff problem.
"""

from stiffml.compat.torchdiffeq.interface import odeint, odeint_adjoint, odeint_dense, odeint_event

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
