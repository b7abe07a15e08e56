"""Drawing a combination of method, problem and options from a seed, and what of it must be refused."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace

from stiffml import METHODS
from stiffml.methods import Method

AXES: dict[str, tuple] = {
    "method": tuple(METHODS),
    "problem": ("forced", "kinetics", "pendulum", "scalar", "algebraic", "field"),
    "form": ("whole", "split", "split linear"),
    "style": ("rows", "single", "branching", "numpy time"),
    "given": ("module", "params", "untold"),
    "state": ("tensor", "tuple"),
    "equal_start": (False, True),
    "batch": ((), (1,), (3,), (2, 2)),
    "dtype": ("float64", "float32"),
    "time_dtype": ("float64", "float32"),
    "reversed": (False, True),
    "offset": (0.0, -2.0, 1000.0),
    "outputs": ("steps", "interpolate"),
    "spacing": ("even", "uneven", "close", "ends"),
    "steps": ("adaptive", "bounded", "fixed", "grid", "recorded"),
    "precision": ("coarse", "fine"),
    "atol": ("number", "tensor"),
    "mass": ("none", "diagonal", "dense"),
    "mass_rows": ("zero rows", "mixed rows"),
    "mass_batch": (False, True),
    "consistent": (True, False),
    "event": (False, True),
    "breakpoints": (0, 1, 2),
    "break_on_output": (False, True),
    "checkpoints": ("stages", "solutions", 1, 7, "disk"),
    "linear": ("auto", "lu", "gmres", "bcgs"),
    "jacobian": ("auto", "dense", "coloured", "sparsity", "matrix-free", "given", "given sparse"),
    "preconditioner": ("none", "ilu", "lu", "jacobi of a part", "points", "own"),
    "newton": ("tight", "default"),
    "entry": ("solve", "odeint", "block"),
    "grad": ("plain", "two forwards", "no_grad first"),
    "afterwards": (False, True),
    "bounds": (False, True),
    "through": (False, True),
    "stepping": ("auto", "sequential"),
}
"""Every choice with all its values. ``METHODS`` brings new methods in by itself."""

ARGUMENTS = {
    "func": "problem, form, style and given",
    "y0": "state, equal_start, batch and dtype",
    "t": "time_dtype, reversed, offset and spacing",
    "method": "method",
    "rtol": "precision",
    "atol": "atol",
    "steps": "steps",
    "stepping": "stepping",
    "guess": "left out: it changes what is done, not what is found; tests/all_at_once has it",
    "outputs": "outputs",
    "linear": "linear and preconditioner",
    "jacobian": "jacobian",
    "batch_dims": "batch",
    "mass": "mass, mass_rows and mass_batch",
    "make_consistent": "consistent",
    "event": "event",
    "breakpoints": "breakpoints and break_on_output",
    "jumps": "left out: they change the problem; tests/interface/test_jumps.py",
    "params": "given",
    "adjoint": "checkpoints",
    "newton": "newton",
    "bounds": "bounds",
    "through": "through",
    "callback": "left out: it looks on; tests/interface/test_watching.py",
    "max_seconds": "left out: it ends a solve; tests/interface/test_watching.py",
    "progress": "left out: it shows; tests/interface/test_watching.py",
    "compile": "left out: tests/compiled compares it with torch for every method",
    "options": "left out: they change what PETSc does, and test_solve.py has them",
    "throw": "left out: a drawn solve must not fail",
}
"""Which choices the arguments of ``solve`` come from. One that is missing here fails a test."""

OFTEN = {
    "form": (4, 2, 1),
    "style": (8, 4, 2, 1),
    "given": (8, 2, 1),
    "state": (3, 1),
    "equal_start": (4, 1),
    "batch": (4, 1, 2, 1),
    "dtype": (5, 1),
    "time_dtype": (5, 1),
    "reversed": (3, 1),
    "offset": (3, 1, 1),
    "outputs": (2, 1),
    "spacing": (2, 3, 1, 1),
    "steps": (4, 1, 2, 2, 1),
    "precision": (2, 1),
    "atol": (3, 1),
    "mass": (3, 1, 1),
    "consistent": (2, 1),
    "event": (3, 1),
    "breakpoints": (3, 1, 1),
    "break_on_output": (2, 1),
    "checkpoints": (4, 1, 1, 1, 1),
    "linear": (4, 1, 1, 1),
    "jacobian": (4, 1, 1, 1, 1, 1, 1),
    "newton": (2, 1),
    "entry": (3, 1, 1),
    "afterwards": (2, 1),
    "bounds": (3, 1),
    "through": (3, 1),
    "stepping": (3, 1),
}
"""Weights of the values, where some shall come more often than others."""

UNSUITED = 0.08
"""How often a combination is left as it was drawn, whether or not the method takes it."""


@dataclass(frozen=True)
class Combination:
    """One value of every choice in ``AXES``, by its name, and the seed of the numbers."""

    seed: int
    method: str
    problem: str
    form: str
    style: str
    given: str
    state: str
    equal_start: bool
    batch: tuple[int, ...]
    dtype: str
    time_dtype: str
    reversed: bool
    offset: float
    outputs: str
    spacing: str
    steps: str
    precision: str
    atol: str
    mass: str
    mass_rows: str
    mass_batch: bool
    consistent: bool
    event: bool
    breakpoints: int
    break_on_output: bool
    checkpoints: str | int
    linear: str
    jacobian: str
    preconditioner: str
    newton: str
    entry: str
    grad: str
    afterwards: bool
    bounds: bool
    through: bool
    stepping: str

    def __str__(self) -> str:
        """What differs from the first value of each choice."""
        differs = [
            f"{name}={value!r}"
            for name, values in AXES.items()
            if (value := getattr(self, name)) != values[0] and name not in ("method", "problem")
        ]
        return f"seed {self.seed}: {self.method}, {self.problem}, " + ", ".join(differs)

    @property
    def kind(self) -> Method:
        """The method's row of the capability table."""
        return METHODS[self.method]

    @property
    def adaptive(self) -> bool:
        return self.steps in ("adaptive", "bounded")

    @property
    def rtol(self) -> float:
        """Of adaptive steps: such that a run takes some ten to hundred, which goes by the order."""
        rtol = 10.0 ** -(1 + min(self.kind.order, 4) * (1.0 if self.precision == "coarse" else 1.25))
        return max(rtol, 1e-4) if self.dtype == "float32" else rtol

    @property
    def single(self) -> bool:
        """Whether anything is in single precision."""
        return "float32" in (self.dtype, self.time_dtype)

    @property
    def is_split(self) -> bool:
        """Whether the method takes the two parts each in its own way."""
        return self.form != "whole" and self.kind.split

    @property
    def is_dae(self) -> bool:
        return self.problem == "algebraic"

    @property
    def has_mass(self) -> bool:
        return self.mass != "none"

    @property
    def krylov(self) -> bool:
        return self.linear in ("gmres", "bcgs") or self.jacobian == "matrix-free"

    @property
    def mixes_rows(self) -> bool:
        """Whether the algebraic equation is spread over all rows of a dense singular mass matrix."""
        return self.is_dae and self.mass == "dense" and self.mass_rows == "mixed rows"

    def refusal(self) -> str | None:
        """What ``solve`` must answer with a ValueError, as a pattern; None where it must solve.

        From the capability table and from how the documentation says options go together.
        """
        kind = self.kind
        if self.adaptive and not kind.adaptive:
            return "no error estimate"
        if not kind.implicit:
            if self.linear != "auto":
                return "linear has no effect"
            if self.jacobian != "auto":
                return "jacobian has no effect"
        if self.has_mass and not kind.mass:
            return "takes no mass matrix"
        if self.has_mass and self.is_split:
            return "needs an identity mass matrix"
        if not (self.is_split or kind.whole):
            return "needs Split"
        if kind.exponential and self.form == "split":
            return "not linear in y|depends on t"
        if self.is_dae and not kind.dae:
            return "singular, and .* does not integrate"
        if self.mixes_rows and kind.explicit_first_stage:
            return "begins with an explicit stage"
        if self.is_dae and self.adaptive and not kind.adaptive_dae:
            return "steps: mass is singular"
        if self.linear == "lu" and self.jacobian == "matrix-free":
            return "leaves LU\\(\\) nothing to factorise"
        if self.krylov and self.jacobian == "dense":
            return "goes with linear=LU"
        if kind.exponential and (self.krylov or self.jacobian not in ("auto", "dense")):
            return "takes dense matrix exponentials"
        if self.krylov and self.jacobian == "given":
            return "Krylov methods do not form"
        return None


def draw(seed: int) -> Combination:
    """The combination of a seed. Choices that make no sense together are put right; choices that the method
    does not take are put right as well, but for a few, which must be refused."""
    generator = random.Random(seed)
    drawn = {
        name: generator.choices(values, OFTEN.get(name))[0] if name != "method" else generator.choice(values)
        for name, values in AXES.items()
    }
    combination = _sensible(Combination(seed, **drawn))
    return combination if generator.random() < UNSUITED else _sensible(_suited(combination))


def _sensible(c: Combination) -> Combination:
    """Without choices that contradict one another, or that nothing could be compared with."""
    new: dict[str, object] = {}
    if c.is_dae:
        new |= {"form": "whole", "mass": "diagonal" if c.mass == "none" else c.mass}
    else:
        new |= {"consistent": True, "mass_rows": "zero rows"}
    if c.problem in ("pendulum", "scalar") and c.form == "split linear":
        new["form"] = "split"  # no part of theirs is linear
    if c.problem == "kinetics" and c.form == "split linear":
        new["form"] = "split"
    if c.kind.exponential and c.problem in ("forced", "field") and c.form == "split":
        new["form"] = "split linear"  # as it would be taken
    if c.problem == "field":
        new |= {"equal_start": False}
        if c.style == "single":
            new["style"] = "rows"
    if not c.batch:
        new["mass_batch"] = False
    elif c.style in ("single", "branching"):
        new["style"] = "rows"  # such a function takes one sample
    if c.batch == (3,) and (c.has_mass or c.is_dae):
        new["batch"] = (4,)  # as many samples as components would give the mass matrix two meanings
    if c.form != "whole":
        new["given"] = "module" if c.given == "params" else c.given
    if c.single:
        # Two times that differ by rounding are one time in single precision; so is what lies near 1000.
        new |= {"offset": 0.0 if c.offset > 100 else c.offset, "newton": "default"}
        if c.spacing == "close":
            new["spacing"] = "uneven"
    if c.offset > 100 and c.spacing == "close":
        new["spacing"] = "uneven"
    if c.spacing == "close":
        new |= {"event": False, "outputs": "steps"}
    if c.time_dtype == "float32" and c.style == "numpy time":
        new["style"] = "rows"
    if not c.breakpoints or (c.breakpoints > 1 and c.spacing == "ends"):
        new["break_on_output"] = False
    if not c.krylov:
        new["preconditioner"] = "none"
    elif c.preconditioner == "points" and (c.state == "tuple" or c.problem != "field"):
        new["preconditioner"] = "own"
    if c.event:
        new |= {"entry": "solve", "grad": "plain"}
    if c.entry != "solve":
        new["afterwards"] = False
    if not c.adaptive:
        new |= {"atol": "number", "through": False}
    if c.state == "tuple":
        new["atol"] = "number"
    return replace(c, **new)


def _suited(c: Combination) -> Combination:
    """With choices that the method takes instead of those it does not."""
    kind, new = c.kind, {}
    if c.adaptive and not kind.adaptive:
        new["steps"] = "grid"
    if not kind.implicit:
        new |= {"linear": "auto", "jacobian": "auto", "preconditioner": "none"}
    if c.linear == "lu" and c.jacobian == "matrix-free":
        new["linear"] = "auto"
    if c.linear in ("gmres", "bcgs") and c.jacobian in ("dense", "given"):
        new["jacobian"] = "auto"
    if c.is_dae:
        if not kind.dae:
            new |= {"problem": "forced", "mass": "none", "consistent": True}
        elif kind.explicit_first_stage:
            new["mass_rows"] = "zero rows"
        if kind.dae and not kind.adaptive_dae and c.adaptive:
            new["steps"] = "grid"
    elif c.has_mass and (not kind.mass or c.is_split):
        new["mass"] = "none"
    if kind.exponential:
        problem = c.problem if c.problem in ("forced", "field") else "forced"  # others have no linear part
        new |= {"form": "split linear", "problem": problem, "mass": "none", "preconditioner": "none"}
        new |= {"linear": "auto" if c.krylov else c.linear}
        new |= {"jacobian": "auto" if c.jacobian not in ("auto", "dense") else c.jacobian}
    elif c.form == "whole" and not kind.whole:
        new |= {"form": "split", "mass": "none", "problem": "forced" if c.is_dae else c.problem}
    return replace(c, **new)


assert [f.name for f in fields(Combination)] == ["seed", *AXES]
