"""The error of a fit that cannot go on, and what to try then."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """A fit could not go on; the message says where, why, and what to try."""


FIRST_ORDER_ADVICE = (
    "Try: a smaller learning rate, or a schedule that begins with one; FirstOrder(clip=1.0); "
    "strategy=MultipleShooting() or GrowingHorizon(), which begin with what can be solved; optimizer='lm'; "
    "an L-stable method and steps=Grid(2); scaled data (stiffml.training.data.Scaled)"
)

ADVICE = (
    "Try: attempts=8 with a model that can begin anew; strategy=MultipleShooting(), which begins with what "
    "is always solvable; scaled data (stiffml.training.data.Scaled); an L-stable method and steps=Grid(2); a "
    "network whose output stays tame away from the data"
)
