"""The system M y' = f + g of a solve, from func, its parameters and the mass matrix."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stiffml.checks import described, with_numbers
from stiffml.interface.arguments import Arguments
from stiffml.linear.given_jacobian import GivenJacobian
from stiffml.methods import METHODS, Method
from stiffml.parameters.passed import collected, module_of
from stiffml.system.derivatives.dynamics import Dynamics
from stiffml.system.function.batching import Func
from stiffml.system.function.span import Span
from stiffml.system.mass import Mass
from stiffml.system.space import HasSpace, Space
from stiffml.system.split import Split
from stiffml.system.state import Layout
from stiffml.system.system import System


def system_of(arguments: Arguments, method: Method, layout: Layout, direction: int, span: Span) -> System:
    """The system in solver time, which is ``direction`` times the time of func.

    Raises
    ------
    TypeError, ValueError
        For wrong parameters or a wrong mass matrix, or if the method cannot take func or the mass matrix.
    """
    func, mass = arguments.func, arguments.mass
    parameters = parameters_of(func, arguments.params)
    matrix = None if mass is None else _mass(mass, layout, method)
    space = space_of(func)
    if method.exponential and not isinstance(func, Split):
        raise ValueError(
            f"method: {method} needs Split(implicit, explicit, linear=True), with an implicit part that is "
            "linear in y; for others use arkimex-3"
        )
    if isinstance(func, Split) and method.split:
        if mass is not None:
            raise ValueError(
                f"mass: {method} with Split needs an identity mass matrix; solve M y' = f + g for y', or "
                "pass the sum as one function, which is then implicit as a whole"
            )
        parts = (func.implicit, func.explicit)
        f, g = (Dynamics(part, layout, direction, parameters, space, span) for part in parts)
        return System(_with_jacobian(f, arguments), g, constant_jacobian=func.linear or method.exponential)
    if not method.whole:
        able = ", ".join(name for name, other in METHODS.items() if other.split and other.whole)
        raise ValueError(
            f"method: {method} is not stiffly accurate and needs Split(implicit, explicit); for a right-hand "
            f"side that is implicit as a whole use one of {able}"
        )
    f = Dynamics(func, layout, direction, parameters, space, span)
    return System(_with_jacobian(f, arguments), mass=matrix)


def _with_jacobian(f: Dynamics, arguments: Arguments) -> Dynamics:
    """f, with the Jacobian that the caller gives as a function, if so."""
    return GivenJacobian(f, arguments.jacobian) if callable(arguments.jacobian) else f


def space_of(func: Func) -> Space:
    """The processes that hold the state: those of the field that func, or a part of it, belongs to."""
    parts: Iterable[object] = func.modules() if isinstance(func, nn.Module) else [func]
    fields = (getattr(part, "field", None) for part in parts)
    # Most have none, of which an instance check with a protocol would take longest to say so.
    return next(
        (field.space for field in fields if field is not None and isinstance(field, HasSpace)), Space()
    )


def parameters_of(func: Func, params: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The parameters of a module, and those passed, each once."""
    module = module_of(func)
    own = () if module is None else tuple(module.parameters())
    return tuple({id(p): p for p in (*own, *collected(params))}.values())


def _mass(mass: Tensor, layout: Layout, method: Method) -> Mass:
    if not isinstance(mass, Tensor):
        raise TypeError(f"mass must be a tensor, not {described(mass)}")
    mass = with_numbers("mass", mass)
    if mass.is_complex() or mass.dtype is torch.bool:
        raise TypeError(
            f"mass must hold real numbers, not {mass.dtype}: pass its real and imaginary parts as "
            "blocks of a real matrix, and the state likewise"
        )
    if not method.mass:
        able = ", ".join(name for name, other in METHODS.items() if other.mass)
        raise ValueError(f"mass: {method} takes no mass matrix; use one of {able}")
    matrix = Mass(mass, layout)
    if matrix.singular:
        if not method.dae:
            able = ", ".join(name for name, other in METHODS.items() if other.dae)
            raise ValueError(
                f"mass is singular, and {method} does not integrate such problems; use one of {able}"
            )
        if method.explicit_first_stage and not matrix.has_zero_rows:
            raise ValueError(
                f"mass: {method} begins with an explicit stage, for which every algebraic equation must be a "
                "zero row of the mass matrix, and its column zero too; combine equations so, or use a method "
                "such as bdf"
            )
    return matrix
