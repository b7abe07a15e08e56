"""A right-hand side in two parts."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from stiffml.checks import flag
from stiffml.system.state import State


class Split(nn.Module):
    """y' = implicit(t, y) + explicit(t, y): the stiff part and the rest, for ``arkimex-…`` and ``etd…``.

    Any other method takes the sum.

    Parameters
    ----------
    implicit, explicit : callable or nn.Module
        Functions of (t, y) in the shape of y. Modules become submodules, and may share parameters.
    linear : bool
        Whether ``implicit`` is linear in y (its Jacobian does not depend on t or y). The system is then
        factorised once for each step size, forward and transposed; with ``batch_dims`` once for all samples
        whose Jacobian is the same. ``etd…`` methods take it to be so, and try it out. Default False.

    Raises
    ------
    TypeError
        For a part that cannot be called.

    Examples
    --------
    >>> split = stiffml.Split(implicit=lambda t, y: -1e3 * y, explicit=lambda t, y: y.sin(), linear=True)
    >>> bool(stiffml.odeint(split, y0, t, method="arkimex-3")[-1].abs().max() < 1e-6)
    True
    """

    def __init__(
        self,
        implicit: Callable[[Tensor, State], State],
        explicit: Callable[[Tensor, State], State],
        *,
        linear: bool = False,
    ) -> None:
        super().__init__()
        for name, part in (("implicit", implicit), ("explicit", explicit)):
            if not callable(part):
                raise TypeError(f"Split: {name} must be callable as {name}(t, y), not {type(part).__name__}")
        self.implicit = implicit
        self.explicit = explicit
        self.linear = flag("Split: linear", linear)

    def forward(self, t: Tensor, y: State) -> State:
        implicit, explicit = self.implicit(t, y), self.explicit(t, y)
        if isinstance(implicit, tuple | list):
            return tuple(a + b for a, b in zip(implicit, explicit, strict=True))
        assert isinstance(explicit, Tensor)
        return implicit + explicit

    def extra_repr(self) -> str:
        return f"linear={self.linear}"
