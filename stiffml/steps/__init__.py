"""Which time steps a solve takes.

Steps known beforehand (:class:`Fixed`, :class:`Grid`, :class:`Recorded`) are stored as fractions of the
output interval they lie in. If an output time moves, the steps around it stretch; so the gradient with
respect to output times is well defined. Output intervals lie between neighbours among the outputs and the
times in ``through`` and ``breakpoints``.
"""

from stiffml.steps.kinds import Adaptive, Fixed, Fractions, Grid, Recorded, Steps
from stiffml.steps.landings import CLOSE, RESOLVED, ends_of_steps, landings
from stiffml.steps.ramps import GROWTH, with_ramps

__all__ = [
    "CLOSE",
    "GROWTH",
    "RESOLVED",
    "Adaptive",
    "Fixed",
    "Fractions",
    "Grid",
    "Recorded",
    "Steps",
    "ends_of_steps",
    "landings",
    "with_ramps",
]
