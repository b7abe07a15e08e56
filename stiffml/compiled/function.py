"""A function compiled to C, with its derivatives."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor

from stiffml.compiled.cache import library_of
from stiffml.compiled.code import KINDS, LANES, code_of
from stiffml.compiled.expressions import Expressions
from stiffml.compiled.library import Library
from stiffml.compiled.packing import Packing
from stiffml.compiled.processor import flags_of
from stiffml.compiled.refusal import NotCompilableError
from stiffml.compiled.trace import Flat, trace

MANY = 8 * LANES
"""States from which loops take several at once. Their code is compiled when it is first wanted."""


class CompiledFunction:
    """f(t, y; p) for states y (size,) and the numbers p of the tensors it reads, one after the other.

    Its methods take K times t (K,) and K · samples states (K · samples, size), so many for each time, all
    double precision. What only gradients need is compiled when first asked for.

    Parameters
    ----------
    function : callable
        Of (t, u), in torch; it is traced at ``t`` and ``u``, double precision on the host.
    inputs : collection of Tensor
        Tensors that shall be inputs besides parameters and those that require gradients.

    Attributes
    ----------
    lifted : tuple of Tensor
        The tensors that p is made of.
    baked : list of (Tensor, Tensor)
        Other tensors that the function reads, whose values are in the code, and copies of these values.

    Raises
    ------
    NotCompilableError
        If it cannot be compiled.
    """

    def __init__(self, function: Flat, t: Tensor, u: Tensor, inputs: Collection[Tensor] = ()) -> None:
        traced = trace(function, t, u, inputs)
        self.lifted, self.baked = tuple(traced.lifted.values()), traced.baked
        self._expressions = Expressions(traced, u.numel())
        self.size, self.parameters = self._expressions.size, self._expressions.parameters
        self.pattern = self._expressions.pattern
        self._libraries: dict[tuple[str, int], Library] = {}
        self._addresses: dict[tuple[str, int], int] = {}
        self._begun: dict[tuple[str, int], Future[Path]] = {}
        self._packing = Packing()
        self._library("forward")

    @property
    def by_columns(self) -> bool:
        """Whether the Jacobian is made of products, so that it costs many times as much as a value."""
        return self._expressions.by_columns

    def begin(self, kinds: Sequence[str], states: int) -> None:
        """Begin to compile these kinds of loops, each for one state and for so many, side by side.

        For callers that know what they will ask for. What is asked for is waited for then.
        """
        wanted = {(kind, self._lanes(count)) for kind in kinds for count in (1, states)}
        wanted = {one for one in wanted if one not in self._libraries and one not in self._begun}
        if not wanted:
            return
        threads = ThreadPoolExecutor(len(wanted))
        for kind, lanes in sorted(wanted):
            # Threads only wait for the compiler: casadi, which makes the code, is for one of them.
            code = code_of(self._expressions, kind, lanes)
            self._begun[kind, lanes] = threads.submit(library_of, code, flags_of(lanes))
        threads.shutdown(wait=False)

    def _lanes(self, states: int) -> int:
        return LANES if states >= MANY or self.by_columns else 1

    def _library(self, kind: str, states: int = 1) -> Library:
        """That of a kind of loops, for so many states.

        Functions so large that a Jacobian is made of products are computed in lanes throughout: their code
        for one number at a time is slower than that, and would take as long to compile again.
        """
        return self._with(kind, self._lanes(states))

    def _with(self, kind: str, lanes: int) -> Library:
        if (kind, lanes) not in self._libraries:
            self._libraries[kind, lanes] = self._made(kind, lanes)
        return self._libraries[kind, lanes]

    def _made(self, kind: str, lanes: int) -> Library:
        try:
            begun = self._begun.pop((kind, lanes), None)
            if begun is not None:
                path = begun.result()
            else:
                path = library_of(code_of(self._expressions, kind, lanes), flags_of(lanes))
            return Library(path, KINDS[kind].loops)
        except NotCompilableError:
            if lanes == 1:
                raise
        return self._with(kind, 1)  # a compiler that knows no vectors; the numbers are the same

    @property
    def address(self) -> int:
        """Of the C struct with pointers to f and its Jacobian (see ``code/kinds.py``)."""
        return self._with("forward", 1).address()

    def loop(self, name: str, states: int = 1) -> int:
        """The address of a loop, such as ``"values"``, best for so many states (see ``code/kinds.py``)."""
        found = self._addresses.get((name, states))
        if found is None:
            (kind,) = [kind for kind, of in KINDS.items() if name in of.loops]
            found = self._library(kind, states).loop(name)
            self._addresses[name, states] = found
        return found

    def packed(self, tensors: Sequence[Tensor]) -> np.ndarray:
        """(parameters,) p with the present values of tensors like ``lifted``."""
        return self._packing.packed(tensors)

    def values(self, t: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        """f, like y."""
        f = np.empty_like(y)
        self._library("forward", len(y)).call("values", *_counts(t, y), t, y, p, f)
        return f

    def blocks(
        self, t: np.ndarray, y: np.ndarray, p: np.ndarray, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """f, and the blocks of ∂f/∂y of ``width`` components: (K · samples · size/width, width, width)."""
        f, found = np.empty_like(y), np.empty((y.size // width, width, width))
        self._library("forward", len(y)).call("blocks", *_counts(t, y), width, t, y, p, f, found)
        return f, found

    def pull(
        self, t: np.ndarray, y: np.ndarray, p: np.ndarray, w: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """f, and w (like y) times ∂f/∂y, like y, times ∂f/∂t (K,), and times ∂f/∂p, summed over states."""
        f, wrt_y, wrt_t, wrt_p = np.empty_like(y), np.empty_like(y), np.empty(len(t)), np.empty(len(p))
        self._library("pull", len(y)).call("pull", *_counts(t, y), t, y, p, w, f, wrt_y, wrt_t, wrt_p)
        return f, wrt_y, wrt_t, wrt_p

    def pull_rows(self, t: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        """∂f/∂p, like y with one more axis (parameters,)."""
        found = np.empty((*y.shape, len(p)))
        self._library("pull", y.size).call("pull_rows", *_counts(t, y), t, y, p, found)
        return found

    def push(self, t: np.ndarray, y: np.ndarray, p: np.ndarray, s: np.ndarray, v: np.ndarray) -> np.ndarray:
        """∂f/∂t s + ∂f/∂y v, like y, for s (K,) and v like y."""
        found = np.empty_like(y)
        self._library("push", len(y)).call("push", *_counts(t, y), t, y, p, s, v, found)
        return found

    def move(self, t: np.ndarray, y: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """∂f/∂p q, like y, for q (parameters,)."""
        found = np.empty_like(y)
        self._library("push", len(y)).call("move", *_counts(t, y), t, y, p, q, found)
        return found

    def bend(
        self, t: np.ndarray, y: np.ndarray, p: np.ndarray, s: np.ndarray, v: np.ndarray, w: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The gradients of Σ w·(∂f/∂t s + ∂f/∂y v) at one t (1,) and y (size,) by y and by p.

        The sum is over R of s (R,), v and w (R, size).
        """
        wrt_y, wrt_p = np.empty_like(y), np.empty(len(p))
        self._library("bend", len(s)).call("bend", len(s), t, y, p, s, v, w, wrt_y, wrt_p)
        return wrt_y, wrt_p


def _counts(t: np.ndarray, y: np.ndarray) -> tuple[int, int]:
    return len(t), len(y) // max(len(t), 1)
