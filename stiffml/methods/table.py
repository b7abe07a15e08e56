"""The capability table: every method by name. Checks, errors, tests and documentation use it."""

from __future__ import annotations

from stiffml.checks import described
from stiffml.methods import tableaux
from stiffml.methods.arkimex import ARKIMEX
from stiffml.methods.base import Method
from stiffml.methods.bdf import BDF
from stiffml.methods.dirk import DIRK
from stiffml.methods.etd import ETD
from stiffml.methods.names import unknown
from stiffml.methods.rk import RungeKutta
from stiffml.methods.rosenbrock import VARYING, Rosenbrock, constant_gamma
from stiffml.methods.sdirk import SDIRK3
from stiffml.methods.theta import BackwardEuler, CrankNicolson, Theta

METHODS: dict[str, Method] = {
    "beuler": BackwardEuler(),
    "cn": CrankNicolson(),
    "theta": Theta(0.55),
    "bdf": BDF(),
    **{f"bdf{order}": BDF(order) for order in range(1, 7)},
    **{f"rosw-{name}": Rosenbrock(name) for name in constant_gamma()},
    **{f"arkimex-{name}": ARKIMEX(name) for name in tableaux.ARKIMEX},
    **{f"dirk-{name}": DIRK(name) for name in tableaux.DIRK},
    "sdirk3": SDIRK3(),
    **{f"etd{order}": ETD(order) for order in (2, 3)},
    **{name: RungeKutta(name) for name in tableaux.EXPLICIT},
}
"""All methods by name. The attributes of :class:`Method` say what each can do: ``order``, ``adaptive``,
``split``, ``mass``, ``dae``, ``stepper`` and so on.

``theta`` has θ = 0.55, which is nearly of second order but damps the stiffest modes. ``Theta(θ)`` gives other
values. ``bdf`` has the default order of :class:`BDF`.
"""


def resolve(method: str | Method | None) -> Method:
    """The method with this name, in whatever case, for None ``"bdf"``; a method object is returned as it is.

    Raises
    ------
    ValueError
        For an unknown name, with the nearest that is known, and the families.
    TypeError
        For anything but a name or a method object.
    """
    if isinstance(method, Method):
        return method
    if method is None:
        return METHODS["bdf"]
    if not isinstance(method, str):
        raise TypeError(f"method must be a name or a method object such as BDF(3), not {described(method)}")
    name = method.lower()
    if name.removeprefix("rosw-") in VARYING:
        Rosenbrock(name.removeprefix("rosw-"))  # raises the error that explains why it cannot be used
    if name not in METHODS:
        raise ValueError(unknown(method, METHODS))
    return METHODS[name]
