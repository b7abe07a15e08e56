"""Which methods the tests try: all that can do something by the table of methods, and a few of each kind."""

from __future__ import annotations

from collections.abc import Callable

from stiffml import METHODS, Split

# By what the table says.

WHOLE = [name for name, method in METHODS.items() if method.whole]
"""Methods that take a right-hand side as a whole; the others need it in two parts."""

ADAPTIVE = [name for name, method in METHODS.items() if method.adaptive]
ADAPTIVE_WHOLE = [name for name in ADAPTIVE if METHODS[name].whole]
ADAPTIVE_SPLIT = [name for name in ADAPTIVE if METHODS[name].split]
ADAPTIVE_EXPLICIT = [name for name in ADAPTIVE if not METHODS[name].implicit]
ADAPTIVE_ON_DAES = [name for name, method in METHODS.items() if method.adaptive_dae]
NOT_ADAPTIVE_ON_DAES = [name for name in ADAPTIVE if METHODS[name].dae and not METHODS[name].adaptive_dae]
"""Methods whose error estimate does not see what a step leaves of an algebraic equation."""

EXPLICIT = [name for name, method in METHODS.items() if not method.implicit]

DAE = [name for name, method in METHODS.items() if method.dae]
DAE_FIRST_EXPLICIT = [name for name in DAE if METHODS[name].explicit_first_stage]
NEWTON_WHOLE = [name for name in WHOLE if METHODS[name].newton]
CARRY_TIME = [name for name, method in METHODS.items() if method.time_is_state]
"""Methods that need ∂f/∂t: time is one more component of the state."""

BEYOND_THE_STEP = [name for name, method in METHODS.items() if not method.within_step]
"""Methods that have stages before or beyond their step."""

CLASSES = {type(method).__name__: name for name, method in METHODS.items()}
"""One method of each class, by the name of the class."""

CLASSES_WHOLE = {kind: name if METHODS[name].whole else "arkimex-3" for kind, name in CLASSES.items()}
"""The same, of methods that take a right-hand side as a whole."""

WHOLE_OR_SPLIT = next(name for name, method in METHODS.items() if method.split and method.whole)
"""A method that takes both."""

# A few of each kind: orders and tableaux differ within a family, equations do not.

IMPLICIT_KINDS = ("cn", "bdf3", "rosw-ra34pw2", "arkimex-3", "dirk-es213sal")
EVERY_KIND = ("dopri5", *IMPLICIT_KINDS)
EVERY_KIND_AND_ORDER_1 = ("beuler", "cn", "bdf3", "rosw-ra34pw2", "arkimex-3", "dirk-s212", "dopri5", "rk4")
STIFFLY_ACCURATE_KINDS = ("cn", "bdf3", "arkimex-3", "rosw-ra34pw2", "dirk-es324sal", "dopri5")
WITH_RODAS3 = ("cn", "bdf3", "rosw-rodas3", "dirk-es213sal", "arkimex-3", "dopri5")
"""What is tried at every change of gradients; the other methods take part in the sweep."""

DAE_KINDS = ("cn", "bdf3", "rosw-rodas3", "dirk-es213sal")
DAE_KINDS_AND_HIGH_ORDERS = (*DAE_KINDS, "rosw-r3prl2", "arkimex-4", "dirk-es648sa")
NEWTON_KINDS = ("bdf2", "bdf3", "cn", "dirk-es213sal", "dirk-es324sal", "arkimex-3")
NEWTON_MATRIX_FREE = ("cn", "beuler", "bdf3", "arkimex-3", "dirk-es213sal")
RUNGE_KUTTA_KINDS = ("rosw-ra34pw2", "dirk-es213sal", "arkimex-3")
WITH_STEPS_BETWEEN = ("cn", "bdf3", "rosw-ra34pw2", "arkimex-3", "dopri5")
WITH_EVENTS = ("cn", "bdf1", "bdf3", "rosw-ra34pw2", "dirk-es213sal", "dirk-s212", "dopri5")
WITH_INTERPOLATION = ("beuler", "cn", "bdf2", "bdf", "rosw-ra34pw2", "dirk-es325sal", "dopri5")
WITH_RAGGED_TIMES = (
    "beuler",
    "cn",
    "bdf",
    "bdf2",
    "rosw-ra34pw2",
    "arkimex-3",
    "dirk-es325sal",
    "dopri5",
    "rk4",
)
WITH_SECOND_DERIVATIVES = (
    "beuler",
    "cn",
    "bdf3",
    "rosw-ra34pw2",
    "dirk-es213sal",
    "dirk-s212",
    "arkimex-3",
    "rk4",
)
WITH_HESSIAN_PRODUCTS = [*CLASSES.values(), "bdf2", "cn", "rosw-rodas3"]
WITH_CHECKED_SPANS = [*BEYOND_THE_STEP, "bdf3", "rosw-rodaspr", "arkimex-5"]


EXPONENTIAL = [name for name, method in METHODS.items() if method.exponential]
"""Methods that need a linear part."""


def as_taken(name: str, func: Callable) -> Callable | Split:
    """A function as a method takes it: whole, as the implicit part beside 0.1 y, or beside a linear part."""
    if METHODS[name].exponential:
        return Split(lambda t, y: -0.1 * y, func, linear=True)
    return func if METHODS[name].whole else Split(func, lambda t, y: 0.1 * y)
