"""The user's function as du/ds = f(s, u; θ) on one flat float64 vector, with all its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stiffml.parameters.leaves import oldest_from, origin, roots
from stiffml.system.derivatives.jacobian import NARROW, WithJacobian
from stiffml.system.derivatives.products import Derivative, added, derivative, gradient
from stiffml.system.function.batching import Batching

SMALL = 1000
"""Numbers in a state up to which calls of func cost more than its arithmetic."""


class Dynamics(WithJacobian):
    """f with its Jacobian, and products of cotangents and directions with its derivatives.

    Attributes
    ----------
    makes_leaves : bool
        Whether func is known to make tensors that require gradients anew in each call.
    is_compiled : bool
        Whether values and first derivatives come from compiled code.
    has_cheap_jacobian : bool
        Whether a Jacobian costs hardly more than a value; not if compiled code makes it column by column.
    agreed : dict
        By positions of parameters, how many Jacobians by these were right, as far as some were compared.
    """

    makes_leaves = False
    is_compiled = False
    has_cheap_jacobian = False

    @cached_property
    def agreed(self) -> dict[tuple[int, ...], int]:
        return {}

    @property
    def is_reversed_by_stages(self) -> bool:
        """Whether explicit steps are reversed stage by stage, with one backward pass of f for each.

        Of small states many are evaluated in one call, and a whole Jacobian of each.
        """
        if self.is_compiled:
            return False
        if self.layout.width > NARROW or self.space.is_distributed or self.layout.size > SMALL:
            return True
        return self.batching is Batching.LOOP

    def stepped(self, evaluations: int, jacobians: int, s: float, u: np.ndarray) -> None:
        """Count what code in C has evaluated by itself, up to a time and a state (size,)."""
        self.rhs_evals += evaluations
        self.jacobians += jacobians

    def extrapolates(self, s: float | np.ndarray) -> bool:
        """Whether f is extrapolated at one of these times, beyond the span."""
        if not self.span.degree:
            return False
        return bool(np.any(s < self.span.begin) or np.any(s > self.span.end))

    def renew(self) -> None:
        """Notice that tensors which the function reads may have other values than before."""

    def parameter_jacobian(self, positions: Sequence[int], s: Tensor, u: Tensor) -> dict[int, Tensor] | None:
        """∂f/∂θ at K states, see :func:`stiffml.system.derivatives.by_parameters.parameter_jacobian`.

        None unless compiled code has it.
        """
        return None

    def expect(self, states: int, numbers: int) -> None:
        """Hear that values will be wanted at so many states at once, and derivatives by so many parameters.

        What takes long to prepare is begun then.
        """

    def confirm(self) -> None:
        """Raise ReplayError if values did not come from the function itself and are no longer its own."""

    def is_as_it_was(self) -> bool:
        """Whether it is known, without a call of the function, that it has the derivatives of the run."""
        return False

    def knows(self, slopes: Tensor, leaves: Sequence[Tensor]) -> bool:
        """Whether ``slopes`` are seen to depend on no leaves but these and parameters; if func makes leaves,
        true.

        False if parameters are no leaves, which takes another look.
        """
        return self.makes_leaves or self.oldest_node(slopes, leaves) is not None

    def oldest_node(self, slopes: Tensor, leaves: Sequence[Tensor]) -> int | None:
        """The number of the oldest operation in the graph of ``slopes``; None if these depend on other leaves
        than these and parameters, or parameters are no leaves."""
        known = (*leaves, *self.parameters)
        return oldest_from(slopes, known) if all(one.grad_fn is None for one in known) else None

    def require_known(self, slopes: Tensor, s: Tensor, u: Tensor, leaves: Sequence[Tensor]) -> None:
        """Raise ValueError if ``slopes``, f at K states, depend on other leaves than these and parameters."""
        if self.knows(slopes, leaves):
            return
        names = {origin(tensor) for tensor in (*leaves, *self.parameters)}
        found = roots([slopes], names).leaves
        if not found:
            return
        # Leaves that func makes itself are new objects in another call.
        with torch.enable_grad():
            again = roots([self._many(s.detach(), u.detach())], names).leaves
        stable = [leaf for key, leaf in again.items() if key in found]
        if stable:
            raise ValueError(
                f"func uses a tensor of shape {tuple(stable[0].shape)} that requires a gradient, and did not "
                "use it at the start of the solve, by which it could have been found: name it, "
                "params=[tensor]"
            )
        self.makes_leaves = True

    def state_vjp(self, s: Tensor, u: Tensor, cotangents: Tensor) -> Tensor:
        """Jᵀw at K states: (K,), (K, size), (K, size) -> (K, size)."""
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            return gradient(self._many(s, leaf), leaf, cotangents)

    def pull_back(self, s: Tensor, u: Tensor, cotangents: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Jᵀw at one state, (1,), (1, size), (1, size) -> (1, size), and products with ∂f/∂θ; in one pass.

        The products are a gradient for each of ``parameters``, None where f does not depend on it.
        """
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            slopes = self._many(s, leaf)
        self.require_known(slopes, s, u, [leaf])
        if not slopes.requires_grad:
            return torch.zeros_like(u), [None] * len(self.parameters)
        grads: list[Tensor | None] = [
            *torch.autograd.grad(
                slopes, [leaf, *self.parameters], cotangents, retain_graph=True, allow_unused=True
            )  # retained, because func may keep parts of its graph between calls
        ]
        return torch.zeros_like(u) if grads[0] is None else grads[0], grads[1:]

    def vjp(
        self, s: Tensor, u: Tensor, cotangents: Tensor, wrt_time: bool
    ) -> tuple[Tensor, list[Tensor | None], Tensor, Tensor]:
        """Values of f at K states, and the products of ``cotangents`` (K, size) with ∂f/∂θ and ∂f/∂s.

        Returns f (K, size), a gradient for each of ``parameters`` (None where f does not depend on
        it), wᵀ∂f/∂s (K,), and the derivative (2,) with respect to the ends of the span, on which f
        depends at times beyond them. The last two are zero unless ``wrt_time``.
        """
        if len(s) > 1 and self.prefers_single_states:
            return self._vjp_one_by_one(s, u, cotangents, wrt_time)
        times, ends = s.detach().requires_grad_(wrt_time), self.span.ends().requires_grad_(wrt_time)
        wanted: Sequence[Tensor] = [*self.parameters, *([times, ends] if wrt_time else [])]
        with torch.enable_grad():
            slopes = self._many(times, u.detach(), ends=ends)
        self.require_known(slopes, s, u, [times, ends])
        if slopes.requires_grad and wanted:
            grads: list[Tensor | None] = [
                *torch.autograd.grad(slopes, wanted, cotangents, retain_graph=True, allow_unused=True)
            ]
        else:
            grads = [None] * len(wanted)
        own = len(self.parameters)
        wrt_s, wrt_ends = torch.zeros_like(s), torch.zeros(2, dtype=torch.float64)
        for into, part in zip((wrt_s, wrt_ends), grads[own:], strict=False):
            if part is not None:
                into.copy_(part)
        return slopes.detach(), grads[:own], wrt_s, wrt_ends

    def _vjp_one_by_one(
        self, s: Tensor, u: Tensor, cotangents: Tensor, wrt_time: bool
    ) -> tuple[Tensor, list[Tensor | None], Tensor, Tensor]:
        """The same, with the graph of one state at a time."""
        slopes, wrt_s, wrt_ends = (
            torch.empty_like(u),
            torch.zeros_like(s),
            torch.zeros(2, dtype=torch.float64),
        )
        gradients: list[list[Tensor | None]] = []
        for k in range(len(s)):
            one = slice(k, k + 1)
            slopes[one], found, wrt_s[one], at_ends = self.vjp(s[one], u[one], cotangents[one], wrt_time)
            wrt_ends += at_ends
            gradients.append(found)
        return slopes, [added(parts) for parts in zip(*gradients, strict=True)], wrt_s, wrt_ends

    def state_jvp(self, s: Tensor, u: Tensor, directions: Tensor) -> Tensor:
        """J v at K states: (K,), (K, size), (K, size) -> (K, size)."""
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            return derivative(self._many(s, leaf), [leaf], [directions]).detach()

    def jvps(self, s: Tensor, u: Tensor, directions: Sequence[Sequence[Tensor | None]]) -> Tensor:
        """∂f/∂θ along P directions, each given by parameter (None: no change): -> (P, K, size)."""
        result = torch.zeros(len(directions), *u.shape, dtype=torch.float64)
        moved = [
            any(direction[i] is not None for direction in directions) for i in range(len(self.parameters))
        ]
        inputs = [p for p, is_moved in zip(self.parameters, moved, strict=True) if is_moved]
        with torch.enable_grad():
            slopes = self._many(s, u.detach())
            along = Derivative(slopes, inputs)
            for row, direction in zip(result, directions, strict=True):
                row.copy_(along([v for v, is_moved in zip(direction, moved, strict=True) if is_moved]))
        return result

    def second_vjp(
        self, s: Tensor, u: Tensor, cotangents: Tensor, tangents: Tensor, direction: Sequence[Tensor | None]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The derivatives of Jᵀf̄ (K, size) and f_θᵀf̄ along (``tangents`` of u, ``direction`` of θ)."""
        with torch.enable_grad():
            leaf = u.detach().clone().requires_grad_()
            slopes = self._many(s, leaf)
            moved = [(leaf, tangents)]
            moved += [(p, v) for p, v in zip(self.parameters, direction, strict=True) if v is not None]
            inputs = [leaf, *self.parameters]
            if slopes.requires_grad:
                change = (derivative(slopes, *zip(*moved, strict=True)) * cotangents).sum()
            if not slopes.requires_grad or not change.requires_grad:
                return torch.zeros_like(u), [None] * len(self.parameters)
            grads: list[Tensor | None] = [
                *torch.autograd.grad(change, inputs, retain_graph=True, allow_unused=True)
            ]
        return torch.zeros_like(u) if grads[0] is None else grads[0], grads[1:]

    def time_derivative(self, s: Tensor, u: Tensor) -> Tensor:
        """∂f/∂s at K states: -> (K, size)."""
        with torch.enable_grad():
            times = s.detach().clone().requires_grad_()
            return derivative(self._many(times, u.detach()), [times], [torch.ones_like(s)]).detach()

    def directional_blocks(self, s: Tensor, u: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """∂/∂u of D = J y + τ ∂f/∂s at K states: -> (K, samples, width, width)."""
        count, (samples, width) = len(s), (self.layout.samples, self.layout.width)
        eye = torch.eye(width, dtype=torch.float64)
        loop = not self._replicates(float(s[0]), u[0].numpy())
        copies = 1 if loop else width
        with torch.enable_grad():
            leaf = u.detach().repeat_interleave(copies, dim=0).requires_grad_()
            times = s.repeat_interleave(copies).requires_grad_()
            along = [y.repeat_interleave(copies, dim=0), tau.repeat_interleave(copies)]
            slopes = derivative(self._many(times, leaf, copies=copies), [leaf, times], along)
            slopes = slopes.view(count, copies, samples, width)
            if loop:
                rows = [gradient(slopes, leaf, eye[r].expand_as(slopes), retain=True) for r in range(width)]
                grads = torch.stack(rows, dim=1)
            else:
                grads = gradient(slopes, leaf, eye[None, :, None, :].expand_as(slopes))
        return grads.view(count, width, samples, width).transpose(1, 2)

    def directional_vjp(
        self, s: Tensor, u: Tensor, y: Tensor, tau: Tensor, cotangents: Tensor, others: bool
    ) -> tuple[Tensor, list[Tensor | None], Tensor, Tensor]:
        """Products of ``cotangents`` (K, size) with the derivatives of D = J y + τ ∂f/∂s at K states.

        Returns those with respect to u (K, size), and if ``others`` to each of ``parameters`` (summed
        over the states), s (K,) and τ (K,).
        """
        with torch.enable_grad():
            leaf, times = u.detach().requires_grad_(), s.detach().clone().requires_grad_()
            tau = tau.detach().requires_grad_()
            slopes = derivative(self._many(times, leaf), [leaf, times], [y, tau])
            inputs = [leaf, *([times, tau, *self.parameters] if others else [])]
            grads: list[Tensor | None] = [None] * len(inputs)
            if slopes.requires_grad:
                grads = [
                    *torch.autograd.grad(slopes, inputs, cotangents, retain_graph=True, allow_unused=True)
                ]
        zeros = [torch.zeros_like(value) for value in (leaf, times, tau)]
        parts = [*grads[:3], *[None] * (3 - len(grads[:3]))]
        wrt_u, wrt_s, wrt_tau = (z if g is None else g for z, g in zip(zeros, parts, strict=True))
        return wrt_u.detach(), grads[3:], wrt_s.detach(), wrt_tau.detach()
