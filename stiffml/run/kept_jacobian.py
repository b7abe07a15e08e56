"""When Newton's iteration goes on with an earlier Jacobian, and when it takes a new one.

``petsc/compiled_run/keeping.c`` has the same rules for runs in C.
"""

from __future__ import annotations

import math

from stiffml.run.stepping import Task

FAST = 0.3
"""The contraction, from one update to the next, above which a kept Jacobian is given up."""

EXACT = 1e-5
"""The error, in Newton's weights, at which an iteration with a kept Jacobian ends.

One with new Jacobians ends at updates of the size of the weights; but it converges quadratically, and what it
leaves is about this. Gradients show what is left: they are those of equations that hold.
"""

MOST_KEPT = 8
"""Iterations of one solve with the same Jacobian."""

SLOW = 4
"""A solve of so many iterations with the same Jacobian is followed by a new one."""

OLDEST = 50
"""Solves that one Jacobian serves at most."""

USELESS = 0.5
"""The share of solves, of about the last ten, in which a kept J fails, above which keeping gains nothing."""

PAUSE = 50
"""So many solves then take a new J in each iteration, before it is kept again."""


def may_keep(task: Task) -> bool:
    """Whether Newton's iterations of adaptive steps may go on with earlier Jacobians.

    Not those of known steps, which are solved to rounding: that takes few iterations with new Jacobians, and
    many with a kept one. A compiled Jacobian costs hardly more than a value, unless it is made by columns.
    """
    system = task.system
    is_other = system.constant_jacobian or system.space.is_distributed or system.f.has_cheap_jacobian
    return task.method.newton and not is_other


class KeptJacobian:
    """Decides whether an iteration uses the last Jacobian J, and judges updates made with it.

    The matrix shift·M − J follows the shift at once; J is kept while updates shrink fast. If they do not, the
    solve goes on with a new J at each iterate, from where it is. Hairer & Wanner, Solving ODEs II, section
    IV.8; Hindmarsh et al., ACM TOMS 31 (2005), section 2.1.

    Attributes
    ----------
    wants_new : bool
        Whether the next iteration takes a new J.
    is_exact : bool
        Whether the present solve takes a new J in each iteration.
    iterations : int
        Iterations of the present solve before it was exact.
    """

    def __init__(self) -> None:
        self.wants_new, self.is_exact = True, False
        self.iterations = 0
        self._is_new = True  # whether the last update was, or the next is, made with a J of its own iterate
        self._rate = 0.0  # the contraction with J
        self._solves = 0  # that J has served
        self._share = 0.0  # of the last solves, those in which a kept J has failed
        self._failed = False  # in the present solve
        self._pause = 0  # solves left without keeping J
        self._was_repeated = self._is_under_way = False

    def begins(self) -> None:
        """A solve begins. After one that has failed it takes a new J."""
        self.wants_new = self.wants_new or self._is_under_way
        self._failed = self._failed or self._is_under_way
        self._is_under_way = True
        self._pause = max(0, self._pause - 1)
        if not self._pause:
            self._share = 0.9 * self._share + 0.1 * self._failed
            if self._share > USELESS:
                self._share, self._pause = 0.0, PAUSE
        self._failed = False
        self.is_exact = self._pause > 0
        self.wants_new = self.wants_new or self.is_exact
        self.iterations, self._is_new, self._rate = 0, True, 0.0

    def is_used(self) -> None:
        """The next update is made with a J of another iterate."""
        self._is_new = False

    def is_renewed(self) -> None:
        """There is a new J, of the iterate that the next update starts from."""
        self.wants_new = self.is_exact
        self._is_new, self._rate, self._solves = True, 0.0, 0

    def judge(self, size: float, previous: float) -> bool | None:
        """Whether an update of weighted norm ``size``, after one of ``previous``, was good enough.

        None if it was made with a J of its own iterate: then the rules of such Jacobians hold.
        """
        if self.is_exact:
            return None
        self.iterations += 1
        if self._is_new:
            return None
        if previous == math.inf:
            return size <= EXACT
        contraction = size / previous
        if not contraction <= FAST or self.iterations >= MOST_KEPT:
            self.wants_new = self.is_exact = self._failed = True
            return False
        # A single quotient may be small by chance.
        self._rate = max(0.3 * self._rate, contraction)
        return self._rate < 1 and size * self._rate <= EXACT * (1 - self._rate)

    def has_converged(self) -> None:
        """A solve has ended well."""
        self._solves += 1
        # A solve that ends where it begins has taken no new J, though it may have wanted one.
        self.wants_new = self.wants_new or self.iterations >= SLOW or self._solves >= OLDEST
        self._was_repeated = self._is_under_way = False

    def may_repeat(self) -> bool:
        """Whether a solve in which f was not finite is made again, with a new J, before its step is cut."""
        if self._is_new or self._was_repeated:
            return False
        self.wants_new = self._was_repeated = True
        return True
