"""The reverse sweep of explicit methods: one backward pass of func for each stage gives all that is needed.

With x̄ and f̄ the cotangents of a column x and of f there, from the last row of a step to the first:

    x̄_c += f̄_c ∂f/∂u,  dL/dθ += f̄_c ∂f/∂θ     for the unknown x_c of the row, once f̄_c is complete,
    w = x̄_c / α,   x̄_j −= α_j w,   f̄_j += β_j w     for the other columns of the row.

Where f at the end of a step is evaluated, it is f at the start of the next one. So its cotangent waits until
both are reversed.
Graphs of func that the forward pass has kept are used up; without them each stage is evaluated once.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor

from stiffml.discretization.equations import Block, Equations
from stiffml.discretization.numbering import output_state
from stiffml.discretization.trajectory import Segment
from stiffml.gradients.sweep import Pending
from stiffml.gradients.times import AtNodes, TimeGradient
from stiffml.native.replay import Replay
from stiffml.run.same_function import F_RTOL, Values, state_rtol
from stiffml.system.derivatives.joint import Graphed, Joint, KeptGraphs


class ExplicitSweep:
    """Reverses the segments of a run by an explicit method, from the last to the first.

    Parameters
    ----------
    replay : Replay
    pending : Pending
        dL/du of the states.
    times : TimeGradient or None
        Takes the gradient by times, if that is wanted.
    before : Values or None
        f at the start of the run, to be compared with what it is now.
    graphs : KeptGraphs or None
        Those that the run has kept. They do not lead to times.

    Attributes
    ----------
    parameters : list of Tensor or None
        dL/dθ so far.
    is_as_it_was : bool
        Whether f has had the values of the run wherever it was evaluated again.
    """

    def __init__(
        self,
        replay: Replay,
        pending: Pending,
        times: TimeGradient | None,
        before: Values | None,
        graphs: KeptGraphs | None = None,
    ) -> None:
        self._replay, self._f, self._pending, self._times = replay, replay.system.f, pending, times
        self._graphs = graphs if times is None else None
        self.parameters: list[Tensor | None] = [None] * len(self._f.parameters)
        self.is_as_it_was, self._before = True, before
        # By the number of a state: f there, and its cotangent, until the step that ends there is reversed.
        self._at_states: dict[int, tuple[Graphed, np.ndarray]] = {}

    def reverse(self, segment: Segment) -> None:
        """Reverse the steps of a segment, which are followed by those of the last one."""
        for block in reversed(self._replay.blocks(segment)):
            by_times = None if self._times is None else _ByTimes(block, segment)
            steps = _Steps(block, segment, by_times)
            for k in reversed(range(block.steps)):
                self._reverse_step(steps, k)
            if self._times is not None and by_times is not None:
                by_times.add_to(self._times, self._replay)

    def finish(self) -> None:
        """Reverse f at the states with which trajectories start."""
        for state in list(self._at_states):
            cotangent = self._through_state(state, None, None)
            if cotangent is not None:
                self._pending.add(state, cotangent)

    def _reverse_step(self, steps: _Steps, k: int) -> None:
        pattern, n = steps.block.pattern, int(steps.block.which[k])
        base, new = pattern.base, pattern.new
        outputs, cotangent = self._of_outputs(steps.block, k), self._pending.pop(n + 1, None)
        if cotangent is None and outputs is None and n + 1 not in self._at_states:
            return  # nothing that is wanted depends on this step
        at = self._forwards(steps, k)
        alpha, beta = steps.alpha[k], steps.beta[k]
        of_x: list[np.ndarray | None] = [None] * (new + 1)
        of_f: list[np.ndarray | None] = [None] * (new + 1)
        of_x[new] = cotangent
        if outputs is not None:
            rows = slice(len(pattern.step_rows), None)
            for c in range(new + 1):
                if alpha[rows, c].any():
                    _add(of_x, c, -(alpha[rows, c] @ outputs))
                if beta[rows, c].any():
                    _add(of_f, c, beta[rows, c] @ outputs)
        for row in reversed(pattern.step_rows):
            c = row.column
            if c == new:
                _add(of_x, c, self._through_state(n + 1, at.get(c), of_f[c]))
            elif c in at:  # else it serves the estimate of the error alone
                _add(of_x, c, self._through_stage(at.pop(c), of_f[c], steps, k, c))
            total = of_x[c]
            if total is None:
                continue
            # Where a factor is one there is no need of one more vector, which may be large.
            w = total if alpha[row.index, c] == 1 else total / alpha[row.index, c]
            if steps.by_times is not None:
                steps.by_times.multipliers[row.index, k] = w
            for other in row.alpha:
                _add(of_x, other, w if alpha[row.index, other] == -1 else -alpha[row.index, other] * w)
            for other in row.beta:
                held, weighed = of_f[other], beta[row.index, other] * w
                if held is None:
                    of_f[other] = weighed
                else:
                    held += weighed
        first, slope = of_x[base], of_f[base]
        if first is not None:
            self._pending.add(n, first)
        if slope is not None:
            self._at_states[n] = at[base], slope
            if not pattern.evaluates_f[new]:  # the step before has no use for f there: its graph can go
                found = self._through_state(n, None, None)
                if found is not None:
                    self._pending.add(n, found)
        if steps.by_times is not None and outputs is not None:
            steps.by_times.multipliers[len(pattern.step_rows) :, k] = outputs

    def _of_outputs(self, block: Block, k: int) -> np.ndarray | None:
        """(outputs, size) dL/d(outputs inside a step); None if there are none."""
        found = [self._pending.pop(state, None) for state in output_state(block.outputs[k]).tolist()]
        there = next((value for value in found if value is not None), None)
        if there is None:
            return None
        return np.stack([np.zeros_like(there) if value is None else value for value in found])

    def _forwards(self, steps: _Steps, k: int) -> dict[int, Graphed]:
        """f and its graph at the columns of a step where it is evaluated, by column."""
        pattern, wrt_time, n = steps.block.pattern, self._times is not None, int(steps.block.which[k])
        base, new = pattern.base, pattern.new
        start, end = steps.segment.states_at(np.array([n, n + 1]))
        begins, ends = steps.segment.times_at(np.array([n, n + 1])).tolist()
        kept = None if self._graphs is None else self._graphs.take(n)
        if kept is not None:
            at = dict(enumerate(kept))
            if pattern.evaluates_f[new]:
                later = self._at_states.get(n + 1)
                at[new] = Graphed(self._f, ends, end) if later is None else later[0]
            return at
        at = {base: Graphed(self._f, begins, start, wrt_time)}
        if self._before is not None and begins == self._before.s:
            self._note(self._before.still_hold([at[base].slope], self._replay.system, start))
        x = [start]
        for row in pattern.step_rows:
            alpha, beta = steps.alpha[k, row.index], steps.beta[k, row.index]
            column = sum(beta[c] * at[c].slope for c in row.beta) - sum(alpha[c] * x[c] for c in row.alpha)
            x.append(column / alpha[row.column])
            if row.column == new:
                slope = max(abs(ends - begins) * np.abs(at[c].slope).max() for c in row.beta)
                allowed = F_RTOL * slope + state_rtol(self._f) * np.abs(end).max()
                self._note(bool(np.abs(x.pop() - end).max() <= allowed))
                x.append(end)
            if not pattern.evaluates_f[row.column]:
                continue
            if row.column == new and n + 1 in self._at_states:
                at[new] = self._at_states[n + 1][0]
            else:
                time = ends if row.column == new else float(steps.s[k, row.column])
                at[row.column] = Graphed(self._f, time, x[-1], wrt_time)
        if steps.by_times is not None:
            steps.by_times.keep(k, x, {c: graphed.slope for c, graphed in at.items()})
        return at

    def _through_stage(
        self, at: Graphed, cotangent: np.ndarray | None, steps: _Steps, k: int, c: int
    ) -> np.ndarray | None:
        """dL/dx of a stage through f there."""
        if cotangent is None:
            return None
        found = self._products(at, cotangent)
        if steps.by_times is not None:
            steps.by_times.wrt_s[k, c] = found.s
        return found.u

    def _through_state(
        self, state: int, at: Graphed | None, cotangent: np.ndarray | None
    ) -> np.ndarray | None:
        """The same for a state, through f of the step that ends there and of the one that starts there."""
        later = self._at_states.pop(state, None)
        if later is not None:
            at, cotangent = later[0], later[1] if cotangent is None else later[1] + cotangent
        if at is None or cotangent is None:
            return None
        found = self._products(at, cotangent)
        if self._times is not None:
            self._times.add(np.array([state]), np.array([found.s]))
        used = self._replay.system.used
        if self._before is not None and state == 0 and used is not None:
            self._note(all(found.parameters[position] is not None for position in used[0]))
        return found.u

    def _products(self, at: Graphed, cotangent: np.ndarray) -> Joint:
        found = at.products(self._f, cotangent)
        for position, part in enumerate(found.parameters):
            held = self.parameters[position]
            if part is not None:
                # What torch returns may be a part of something else, and is not to be written to.
                self.parameters[position] = part.clone() if held is None else held.add_(part)
        if self._times is not None and found.ends is not None:
            self._times.ends += found.ends
        return found

    def _note(self, is_same: bool) -> None:
        self.is_as_it_was = self.is_as_it_was and is_same


class _Steps:
    """The steps of a block with their coefficients as arrays, and what their gradient by times needs."""

    def __init__(self, block: Block, segment: Segment, by_times: _ByTimes | None) -> None:
        self.block, self.segment, self.by_times = block, segment, by_times
        numbers = block.numbers
        self.alpha, self.beta, self.s = (v.numpy() for v in (numbers.alpha, numbers.beta, numbers.s_f))


class _ByTimes:
    """What the gradient by times needs of the steps of a block: stages, slopes, multipliers.

    Attributes
    ----------
    multipliers : ndarray
        (rows, steps, size) w of the rows.
    wrt_s : ndarray
        (steps, columns without outputs) dL/d(times of the stages).
    """

    def __init__(self, block: Block, segment: Segment) -> None:
        pattern, size = block.pattern, segment.states.shape[1]
        self._block, self._segment = block, segment
        self.multipliers = np.zeros((len(pattern.rows), block.steps, size))
        self.wrt_s = np.zeros((block.steps, pattern.new + 1))
        self._stages = np.zeros((segment.last - segment.first, len(pattern.stages), size))
        self._slopes = np.zeros((pattern.new + 1, block.steps, size))

    def keep(self, k: int, x: list[np.ndarray], slopes: dict[int, np.ndarray]) -> None:
        """Keep the columns of a step, and f where it was evaluated, by column."""
        stages = self._block.pattern.stages
        for number, c in enumerate(stages):
            self._stages[self._block.which[k] - self._segment.first, number] = x[c]
        for c, slope in slopes.items():
            self._slopes[c, k] = slope

    def add_to(self, times: TimeGradient, replay: Replay) -> None:
        """Add the gradient through the coefficients of the steps, and the times of their stages."""
        segment = dataclasses.replace(self._segment, stages=self._stages)
        equations = Equations(segment, [self._block])
        nodes = equations.f_nodes
        slopes, wrt_s = np.zeros(nodes.u.shape), np.zeros(len(nodes.s))
        for c, where in nodes.index[0].items():
            # f at a state may be that of the step that ends there, or of the one that starts there.
            seen = self._slopes[c].any(axis=1)
            slopes[where[seen]], wrt_s[where] = self._slopes[c][seen], self.wrt_s[:, c]
        at = AtNodes(nodes, slopes, wrt_s)
        times.add_block(equations, 0, replay.system, self.multipliers, at, None, None)


def _add(to: list[np.ndarray | None], c: int, value: np.ndarray | None) -> None:
    held = to[c]
    if value is not None:
        to[c] = value if held is None else held + value
