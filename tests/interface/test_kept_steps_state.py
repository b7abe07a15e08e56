"""The state of ``KeptSteps``, by itself and as part of a block's."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from kept_oscillator import START, TOLERANCES, Oscillator, T, moved, same, saved, solve

import stiffml
from stiffml import KeptSteps, ODEBlock


def test_the_state_resumes_a_training_bit_by_bit() -> None:
    func, kept = Oscillator(), KeptSteps(renew=4)
    for k in range(6):
        moved(func, k)
        solve(func, kept)
    again = KeptSteps(renew=4)
    again.load_state_dict(saved(kept))
    assert same(saved(again), saved(kept))
    for k in range(6, 12):
        moved(func, k)
        one, other = solve(func, kept), solve(func, again)
        assert torch.equal(one.y, other.y)
        assert one.stats.renewed == other.stats.renewed
    assert (
        repr(again)
        == repr(kept)
        == f"KeptSteps({kept.count} steps, 12 solves, chosen 3 times (first 1, age 2))"
    )
    for wrong in ({}, {"key": 3}, {**kept.state_dict(), "numbers": {}}, []):
        before = saved(kept)
        with pytest.raises(ValueError, match="KeptSteps: this is no state"):
            kept.load_state_dict(wrong)  # type: ignore[arg-type]
        assert same(before, saved(kept))


def test_a_copy_goes_its_own_way() -> None:
    """What a later solve changes in one does not change in the other; both go on alike."""
    func, kept = Oscillator(), KeptSteps(renew=4)
    for k in range(3):
        moved(func, k)
        solve(func, kept)
    before, twin = saved(kept), copy.copy(kept)
    for k in range(3, 7):  # chooses anew on the way
        moved(func, k)
        solve(func, kept)
    assert same(saved(twin), before), "look at __copy__ in steps/kept.py"
    for k in range(3, 7):
        moved(func, k)
        solve(func, twin)
    assert same(saved(twin), saved(kept))


def test_a_block_has_them_in_its_state() -> None:
    func = Oscillator()
    block = ODEBlock(func, T, method="bdf3", steps=KeptSteps(renew=3), **TOLERANCES)
    assert "KeptSteps(0 steps, 0 solves)" in repr(block)
    for k in range(2):
        moved(func, k)
        block(START).sum().backward()
    twin = copy.deepcopy(block)
    fresh = ODEBlock(Oscillator(), T, method="bdf3", steps=KeptSteps(renew=3), **TOLERANCES)
    file = io.BytesIO()
    torch.save(block.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    moved(func, 2)
    expected = block(START)
    for other in (twin, fresh):
        kept = other.arguments["steps"]
        assert kept is other.kept_steps.kept is not block.arguments["steps"]
        assert kept.solves == 2
        moved(other.func, 2)
        assert torch.equal(other(START), expected)
        assert kept.solves == 3
    plain = ODEBlock(func, T, method="bdf3", **TOLERANCES)
    assert set(plain.state_dict()) == {"func.p"}, "other blocks save what they did"


def test_a_training_in_two_parts_ends_with_the_same_weights() -> None:
    """A block and a solve with steps of their own; weights, optimizer and steps are what is saved."""

    def training() -> tuple[ODEBlock, KeptSteps, torch.optim.Adam]:
        block = ODEBlock(Oscillator(), T, method="bdf3", steps=KeptSteps(renew=5), **TOLERANCES)
        return block, KeptSteps(renew=4), torch.optim.Adam(block.parameters(), lr=0.05)

    def train(block: ODEBlock, kept: KeptSteps, optimizer: torch.optim.Adam, iterations: int) -> None:
        for _ in range(iterations):
            optimizer.zero_grad()
            own = stiffml.solve(
                block.func, 0.8 * START, T, method="dirk-es324sal", steps=kept, **TOLERANCES
            ).y
            ((block(START)[-1] - 0.5).pow(2).sum() + own[-1].pow(2).sum()).backward()
            optimizer.step()

    straight = training()
    train(*straight, 10)
    assert straight[1].renewals["age"] >= 2
    for done in (1, 7):
        first, second, file = training(), training(), io.BytesIO()
        train(*first, done)
        torch.save([part.state_dict() for part in first], file)
        file.seek(0)
        for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
            part.load_state_dict(state)
        train(*second, 10 - done)
        assert torch.equal(second[0].func.p, straight[0].func.p), f"interrupted after {done} iterations"
