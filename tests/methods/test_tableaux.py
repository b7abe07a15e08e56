"""The tableaux: all that PETSc has, of the order it states, and where they are not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from stiffml.discretization.equations import Pattern
from stiffml.methods.published import PUBLISHED
from stiffml.methods.runge_kutta_rows import stage_scheme
from stiffml.methods.tableaux import ARKIMEX, DIRK, EXPLICIT, ROSENBROCK, Butcher, Rosenbrock, Tableau

# Types that PETSc 3.26.1 registers, as named in its petscts.h; of its explicit methods stiffml has nine.
REGISTERED = {
    "rk": "1fe 2b 3bs 4 5dp 5bs 6vr 7vr 8vr",
    "dirk": "s212 es122sal es213sal es324sal es325sal 657a es648sa 658a s659a 7510sal es7510sa 759a s7511sal "
    "8614a 8616sal es8516sal",
    "arkimex": "1bee a2 l2 ars122 2c 2d 2e prssp2 3 bpr3 ars443 4 5",
    "rosw": "2m 2p ra3pw ra34pw2 r34prw r3prl2 rodas3 rodaspr rodaspr2 sandu3 assp3p3s1c lassp3p4s2c "
    "llssp3p4s2c ark3 theta1 theta2 grk4t shamp4 veldd4 4l",
}

# Order of the dense output, uniformly in the step.
DENSE_ORDER = {
    "arkimex": {"l2": 0, "2c": 2, "2d": 2, "2e": 2, "3": 2, "4": 3, "5": 3},
    "rosw": {
        **{"2p": 1, "2m": 1, "ra3pw": 2, "sandu3": 2, "assp3p3s1c": 2},
        **{"ra34pw2": 3, "lassp3p4s2c": 3, "llssp3p4s2c": 3, "ark3": 3},
    },
}
MISSES_THE_NEW_STATE = {"l2", "2p", "2m", "ra3pw", "sandu3"}

RUNGE_KUTTA: dict[str, Tableau] = {**EXPLICIT, **DIRK, **ARKIMEX}
PARTS = {
    f"{name}-{part}": (part, getattr(tableau, part))
    for name, tableau in RUNGE_KUTTA.items()
    for part in ("implicit", "explicit")
    if getattr(tableau, part) is not None
}
TOLERANCE = 2e-14  # published to 16 digits, and up to 16 stages with coefficients up to 10

# A rooted tree with nodes of one or more colours: the colour of its root, and its subtrees.
Tree = tuple[int, tuple["Tree", ...]]


@cache
def trees(nodes: int, colours: int = 1) -> tuple[Tree, ...]:
    forests: set[tuple[Tree, ...]] = {()} if nodes == 1 else set()
    for first in range(1, nodes):
        for tree in trees(first, colours):
            for _, others in trees(nodes - first, colours):
                forests.add(tuple(sorted((tree, *others))))
    return tuple((colour, forest) for colour in range(colours) for forest in sorted(forests))


def size(tree: Tree) -> int:
    return 1 + sum(size(subtree) for subtree in tree[1])


def density(tree: Tree) -> int:
    return size(tree) * int(np.prod([density(subtree) for subtree in tree[1]], dtype=int))


def weights(tree: Tree, matrices: list[np.ndarray], lone: np.ndarray | None = None) -> np.ndarray:
    """(s,) elementary weights of the stages.

    A subtree with root of colour i goes through ``matrices[i]``; through ``lone``, if given, where it is
    the only one: so Jacobians enter Rosenbrock methods.
    """
    result = np.ones(len(matrices[0]))
    for subtree in tree[1]:
        matrix = lone if lone is not None and len(tree[1]) == 1 else matrices[subtree[0]]
        result = result * (matrix @ weights(subtree, matrices, lone))
    return result


def defect(order: int, completions: list[np.ndarray], matrices: list[np.ndarray], lone=None) -> float:
    """Largest residual of the conditions of one order: (s,) completions, or (s, p) for all τ at once."""
    worst = 0.0
    for tree in trees(order, len(matrices)):
        completion = completions[tree[0]]
        powers = completion.T @ weights(tree, matrices, lone)
        if completion.ndim == 1:
            wanted = 1 / density(tree)
        else:
            wanted = np.zeros(max(len(powers), order))
            wanted[order - 1] = 1 / density(tree)
            powers = np.pad(powers, (0, len(wanted) - len(powers)))
        worst = max(worst, float(np.abs(powers - wanted).max()))
    return worst


def parts(tableau: Tableau) -> list[Butcher]:
    return [part for part in (tableau.implicit, tableau.explicit) if part is not None]


def defects(tableau: Tableau | Rosenbrock, orders: range, dense: bool = False) -> list[float]:
    lone = None
    if isinstance(tableau, Rosenbrock):
        matrices, lone = [tableau.a], tableau.a + tableau.gamma
        completions = [tableau.interpolation if dense else tableau.b]
    else:
        matrices, completions = [part.a for part in parts(tableau)], [part.b for part in parts(tableau)]
        if dense:
            both = (tableau.interpolation.implicit, tableau.interpolation.explicit)
            completions = [values for values in both if values is not None]
    return [defect(order, completions, matrices, lone) for order in orders]


def test_all_of_petsc_is_there() -> None:
    families = {"dirk": DIRK, "arkimex": ARKIMEX, "rosw": ROSENBROCK}
    for family, tableaux in families.items():
        assert set(tableaux) == set(REGISTERED[family].split()), family
        assert all(name == tableau.petsc_name for name, tableau in tableaux.items()), family
    assert [t.petsc_name for t in EXPLICIT.values() if t.petsc_name] == REGISTERED["rk"].split()


def test_as_many_trees_as_there_are() -> None:
    assert [len(trees(nodes)) for nodes in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    assert [len(trees(nodes, 2)) for nodes in range(1, 5)] == [2, 4, 14, 52]


@pytest.mark.parametrize("name", RUNGE_KUTTA)
def test_order_of_runge_kutta(name: str) -> None:
    """All order conditions; of additive methods the coupling conditions too."""
    tableau = RUNGE_KUTTA[name]
    assert max(defects(tableau, range(1, tableau.order + 1))) < TOLERANCE
    if name in ("1bee", "bpr3"):  # PETSc states more
        assert defects(tableau, range(tableau.order + 1, tableau.order + 2))[0] > 1e-2


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tableaux_and_their_embedded_solutions(name: str) -> None:
    """To their last bit, with conditions evaluated in extended precision; and of no higher order."""
    tableau, extended = EXPLICIT[name], np.longdouble
    matrix, order = [tableau.explicit.a.astype(extended)], tableau.order
    for weights, upto in ((tableau.explicit.b, order), (tableau.embedded, order - 1)):
        completion = [weights.astype(extended)]
        assert max(defect(n, completion, matrix) for n in range(1, upto + 1)) < 1e-14
        assert defect(upto + 1, completion, matrix) > 1e-6


@pytest.mark.parametrize("name", ROSENBROCK)
def test_order_of_rosenbrock(name: str) -> None:
    """With the exact Jacobian, of problems that do not depend on time."""
    tableau = ROSENBROCK[name]
    assert max(defects(tableau, range(1, tableau.order + 1))) < TOLERANCE


@pytest.mark.parametrize("part", PARTS)
def test_structure_of_runge_kutta(part: str) -> None:
    kind, butcher = PARTS[part]
    assert butcher.a.shape == (butcher.stages, butcher.stages)
    assert butcher.a.dtype == butcher.b.dtype == butcher.c.dtype == np.float64
    assert not np.triu(butcher.a, 0 if kind == "explicit" else 1).any()
    np.testing.assert_allclose(butcher.c, butcher.a.sum(axis=1), rtol=0, atol=TOLERANCE)
    assert butcher.explicit_first_stage == (butcher.a[0, 0] == 0)


@pytest.mark.parametrize("name", ROSENBROCK)
def test_structure_of_rosenbrock(name: str) -> None:
    tableau = ROSENBROCK[name]
    assert tableau.a.shape == tableau.gamma.shape == (tableau.stages, tableau.stages)
    assert not np.triu(tableau.a).any()
    assert not np.triu(tableau.gamma, 1).any()
    assert not np.triu(tableau.at).any()
    # One step on y' = y² + J y with h = 1 and a J that is not the Jacobian, in both forms.
    u, jacobian = 0.3, -0.7
    k, y = np.zeros(tableau.stages), np.zeros(tableau.stages)
    for i in range(tableau.stages):
        own, gamma = tableau.gamma[i, i], tableau.gamma[i]
        k[i] = (u + tableau.a[i] @ k) ** 2 + jacobian * gamma[:i] @ k[:i]
        k[i] /= 1 - jacobian * own
        known = (u + tableau.at[i] @ y) ** 2 - tableau.gamma_inverse[i, :i] @ y[:i]
        if own:
            y[i] = known / (1 / own - jacobian)
        else:
            y[i] = known + jacobian * tableau.explicit_correction[i, :i] @ y[:i]
    np.testing.assert_allclose(tableau.bt @ y, tableau.b @ k, rtol=1e-13)
    if tableau.interpolation is not None:
        expected = k @ tableau.interpolation
        np.testing.assert_allclose(y @ tableau.transformed_interpolation, expected, atol=1e-13)


@pytest.mark.parametrize("name", [*DIRK, *ARKIMEX])
def test_stages_are_solved_except_the_first(name: str) -> None:
    """PETSc takes no other explicit stages for implicit equations."""
    a = RUNGE_KUTTA[name].implicit.a
    assert np.diag(a)[1:].all()


@pytest.mark.parametrize("family", [{**DIRK, **ARKIMEX}, ROSENBROCK], ids=["runge-kutta", "rosenbrock"])
def test_stability_at_infinity(family: dict) -> None:
    for name, tableau in family.items():
        rosenbrock = isinstance(tableau, Rosenbrock)
        method = tableau if rosenbrock else tableau.implicit
        a = method.a + method.gamma if rosenbrock else method.a
        z = -1e7
        at_z = 1 + z * method.b @ np.linalg.solve(np.eye(method.stages) - z * a, np.ones(method.stages))
        assert abs(at_z - method.r_infinity) < 1e-4, name


def test_explicit_methods_have_no_limit() -> None:
    assert all(tableau.explicit.r_infinity == np.inf for tableau in EXPLICIT.values())


DENSE = {
    ("rk", "dopri5"): (EXPLICIT["dopri5"], 4),
    ("rk", "tsit5"): (EXPLICIT["tsit5"], 4),
    ("rk", "dopri8"): (EXPLICIT["dopri8"], 5),
    **{("arkimex", name): (ARKIMEX[name], order) for name, order in DENSE_ORDER["arkimex"].items()},
    **{("rosw", name): (ROSENBROCK[name], order) for name, order in DENSE_ORDER["rosw"].items()},
}


def test_all_interpolations_are_known() -> None:
    families = {"rk": EXPLICIT, "dirk": DIRK, "arkimex": ARKIMEX, "rosw": ROSENBROCK}
    found = {
        (family, name)
        for family, tableaux in families.items()
        for name, tableau in tableaux.items()
        if tableau.interpolation is not None
    }
    assert found == set(DENSE)


@pytest.mark.parametrize("key", DENSE, ids="-".join)
def test_order_of_interpolation(key: tuple[str, str]) -> None:
    tableau, order = DENSE[key]
    # Weights of these are up to 120, and sums of products of them are rounded.
    tolerance = 20 * TOLERANCE if key[1] in PUBLISHED else TOLERANCE
    assert max(defects(tableau, range(1, order + 1), dense=True), default=0) < tolerance
    assert defects(tableau, range(order + 1, order + 2), dense=True)[0] > 1e-3


@pytest.mark.parametrize("key", DENSE, ids="-".join)
def test_interpolation_ends_in_the_new_state(key: tuple[str, str]) -> None:
    tableau, _ = DENSE[key]
    if isinstance(tableau, Rosenbrock):
        misses = [tableau.interpolation.sum(axis=1) - tableau.b]
    else:
        found = [tableau.interpolation.implicit, tableau.interpolation.explicit]
        given = [values for values in found if values is not None]
        misses = [values.sum(axis=1) - part.b for values, part in zip(given, parts(tableau), strict=True)]
    worst = max(np.abs(miss).max() for miss in misses)
    rounding = 1e-12 if key[1] == "dopri8" else TOLERANCE  # its weights are published so
    assert worst > 1e-2 if key[1] in MISSES_THE_NEW_STATE else worst < rounding


def test_interpolation_begins_at_the_old_state() -> None:
    """Its base is the first stage; with ``l2``, whose first stage is implicit, that is another point."""
    bases = {name: tableau.implicit.explicit_first_stage for name, tableau in ARKIMEX.items()}
    assert [name for name in DENSE_ORDER["arkimex"] if not bases[name]] == ["l2"]


@pytest.mark.parametrize("name", ["grk4t", "shamp4", "veldd4", "4l"])
def test_fourth_order_rosenbrock_looks_back(name: str) -> None:
    """PETSc's constructor takes its "not given" value, -2, for the position of the second stage."""
    assert ROSENBROCK[name].a_sum[1] == -2


@pytest.mark.parametrize("name", ["alpha", "beta", "epsilon"])
def test_rows_that_refer_to_later_ones(name: str) -> None:
    """Those of Radau IIA, say: rows are solved one after the other."""
    own = np.eye(2, 3, 1)
    forward = own.copy()
    forward[0, 2] = 1
    arrays = {"alpha": own, "beta": own, "epsilon": 0 * own} | {name: forward}
    with pytest.raises(ValueError, match=f"{name}: row 0 determines column 1 and refers to column 2"):
        Pattern(1, **arrays)
    assert len(Pattern(1, **arrays | {name: own}).rows) == 2


def test_a_full_runge_kutta_tableau_is_refused() -> None:
    radau = Butcher(
        np.array([[5 / 12, -1 / 12], [3 / 4, 1 / 4]]), np.array([3 / 4, 1 / 4]), np.array([1 / 3, 1.0])
    )
    with pytest.raises(ValueError, match="row 0 determines column 1 and refers to column 2, that of row 1"):
        stage_scheme(radau)
