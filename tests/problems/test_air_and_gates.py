"""EMEP, the NAND gate and the Oregonator as a DAE: their tables and equations against others, their ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

import problems
from problems.library.emep_reactions import DEPOSITION, REACTIONS, SPECIES
from problems.library.nand import pulses
from problems.trajectories import reference_trajectory

D = torch.float64

NITROGEN = dict.fromkeys(("NO", "NO2", "HNO3", "NO3", "PAN", "MAPAN", "NITRAT"), 1)
NITROGEN |= dict.fromkeys(("ISNI", "ISONO3", "ISNO3H"), 1)
NITROGEN |= dict.fromkeys(("N2O5", "ISNIR", "ISNIRH"), 2)
SULPHUR = {"SO2": 1, "SA": 1}
UNBALANCED = {"ISONO3 + NO": -0.05, "ISNIR + NO": -1.1, "ISNI + OH": 1.0}
"""Atoms of nitrogen that the scheme makes in these: it counts nitrates of isoprene only roughly."""


def atoms(side: str, of: Mapping[str, int]) -> float:
    terms = [term.split() for term in side.split(" + ") if term.strip()]
    return sum(of.get(term[-1], 0) * (float(term[0]) if len(term) == 2 else 1) for term in terms)


def test_reactions_of_emep_conserve_nitrogen_and_sulphur() -> None:
    for rate, reaction, _ in REACTIONS:
        left, right = reaction.split("->")
        expected = UNBALANCED.get(left.strip(), 0.0)
        assert atoms(right, NITROGEN) - atoms(left, NITROGEN) == pytest.approx(expected), (rate, reaction)
        assert atoms(right, SULPHUR) == atoms(left, SULPHUR), (rate, reaction)


def test_every_species_of_emep_is_lost() -> None:
    lost = {term for _, reaction, _ in REACTIONS for term in reaction.split("->")[0].split()}
    assert set(SPECIES) <= lost | {name for names in DEPOSITION.values() for name in names}


def test_emep_at_noon_and_at_night() -> None:
    """Slopes by hand where few reactions act: ozone and NO2 in light and dark, deposition, emission."""
    problem = problems.load("emep")
    func, y = problem.func(), torch.zeros(66, dtype=D)
    at = {name: SPECIES.index(name) for name in SPECIES}
    y[at["O3"]], y[at["NO2"]] = 1e12, 1e10
    for hour, day in ((36.0, True), (48.5, False)):
        found = func(torch.tensor(hour * 3600, dtype=D), y)
        # At noon at midsummer the sun stands 50 − 23.5 degrees from the zenith.
        light = [
            a * np.exp(-b / np.cos(np.radians(26.5))) if day else 1e-40
            for a, b in ((2e-4, 1.4), (0.0145, 0.4))
        ]
        assert float(found[at["OD"]]) == pytest.approx(1e12 * light[0], rel=1e-12)
        made, burnt = 2.5e11 / 1.2e5, 1.2e-13 * np.exp(-2450 / 298) * 1e22
        assert float(found[at["NO3"]]) == pytest.approx(burnt, rel=1e-12)
        assert float(found[at["NO"]]) == pytest.approx(made + 1e10 * light[1], rel=1e-12)
        falling = (1.0 if day else 0.25) / 1.2e5
        lost = 0.2 * falling * 1e10 + burnt + 1e10 * light[1]
        assert float(found[at["NO2"]]) == pytest.approx(-lost, rel=1e-12)
        assert float(found[at["SA"]]) == pytest.approx(made / 20, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "method", "rtol"),
    [
        ("emep", "rosw-rodaspr2", 1e-4),
        ("nand", "rosw-rodaspr2", 1e-4),
        *(
            pytest.param(name, method, rtol, marks=pytest.mark.sweep)
            for name in ("emep", "nand")
            for method, rtol in (
                ("bdf", 1e-4),
                ("bdf", 1e-6),
                ("rosw-rodaspr2", 1e-6),
                ("dirk-es324sal", 1e-4),
            )
        ),
        ("orego_dae", "bdf", 1e-6),
        ("orego_dae", "rosw-rodaspr2", 1e-6),
        pytest.param("orego_dae", "rosw-rodaspr2", 1e-8, marks=pytest.mark.sweep),
    ],
)
def test_ends(name: str, method: str, rtol: float) -> None:
    problem = problems.load(name)
    t = torch.tensor([problem.t_span[0], *(r.t for r in problem.references)], dtype=D)
    with torch.no_grad():
        # As the bound below, each component by itself.
        options = {"ts_adapt_wnormtype": "infinity"}
        report = problem.check(problem.solve(t, method=method, rtol=rtol, options=options))
    assert len(report.comparisons) == len(problem.references)
    # A limit cycle, seven times round, adds its errors up.
    allowed = 1000 if name == "orego_dae" else 100
    assert max(one.error for one in report.comparisons) <= allowed * rtol, str(report)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["emep", "nand"])
def test_scipy_meets_the_published_ends(name: str) -> None:
    problem = problems.load(name)
    reference_trajectory(problem, np.array(problem.t_span))  # raises if it misses them


# The NAND gate by its parts: (node, node), and what is between

CAPACITORS = [(1, 5), (2, 5), (3, 5), (4, "VDD"), (5, 9), (5, 0), (6, "V1"), (7, "V1"), (8, 10), (10, 14)]
CAPACITORS += [(10, 0), (11, "V2"), (12, "V2"), (13, 0)]
SIZES = ["CGS", "CGD", "bulk", "bulk", "bulk", "C9", "CGS", "CGD", "bulk", "bulk", "C9", "CGS", "CGD", "bulk"]
RESISTORS = [(1, 5, 4), (2, "VDD", 4), (3, "VBB", 10), (4, "VBB", 10), (5, 7, 4), (6, 10, 4), (8, "VBB", 10)]
RESISTORS += [(9, "VBB", 10), (10, 12, 4), (11, 0, 4), (13, "VBB", 10), (14, "VBB", 10)]
DIODES = [(3, 5), (4, "VDD"), (9, 5), (8, 10), (13, 0), (14, 10)]
TRANSISTORS = [  # drain, gate, source, bulk at the source, bulk at the drain, kind
    *[(2, 5, 1, (3, 5), (4, "VDD"), "load"), (7, "V1", 6, (8, 10), (9, 5), "switch")],
    (12, "V2", 11, (13, 0), (14, 10), "switch"),
]
KINDS = {"load": (-2.43, 0.2, 1.28, 5.35e-4, 5.35e-4), "switch": (0.2, 0.035, 1.01, 1.748e-3, 1.748e-4)}


def channel(drain: float, gate: float, source: float, bulks: tuple[float, float], kind: str) -> float:
    """Shichman and Hodges, case by case."""
    vt0, gamma, phi, forth, back = KINDS[kind]
    if drain < source:
        return -channel_one_way(source - drain, gate - drain, bulks[1], vt0, gamma, phi, back)
    return channel_one_way(drain - source, gate - source, bulks[0], vt0, gamma, phi, forth)


def channel_one_way(vds, vgs, vbs, vt0, gamma, phi, beta) -> float:
    over = vgs - (vt0 + gamma * (np.sqrt(phi - vbs) - np.sqrt(phi)))
    if over <= 0:
        return 0.0
    parabola = over**2 if over <= vds else vds * (2 * over - vds)
    return beta * parabola * (1 + 0.02 * vds)


def test_the_nand_gate_is_that_of_its_parts() -> None:
    problem = problems.load("nand")
    generator = np.random.default_rng(0)
    spread = np.array([1, 1, 0.3, 0.3, 1, 1.5, 1.5, 0.3, 0.3, 1.2, 1, 1.5, 0.3, 0.3])
    seen = set()
    for t in (3.0, 7.0, 12.0, 17.5, 36.0, 55.5, 79.0):
        for _ in range(10):
            y = problem.y0 + spread * generator.standard_normal(14)
            slopes = problem.func()(torch.tensor(t, dtype=D), torch.from_numpy(y)).numpy()
            v1, d1, v2, d2 = (float(one) for one in pulses(torch.tensor(t, dtype=D)))
            u = {0: 0.0, "VDD": 5.0, "VBB": -2.5, "V1": v1, "V2": v2} | dict(enumerate(y, start=1))
            du = {0: 0.0, "VDD": 0.0, "V1": d1, "V2": d2} | dict(enumerate(slopes, start=1))
            into = dict.fromkeys(u, 0.0)
            size = dict.fromkeys(u, 0.0)

            def flows(start, end, current, into=into, size=size) -> None:
                for node, sign in ((start, -1), (end, 1)):
                    into[node] += sign * current
                    size[node] += abs(current)

            for (a, b), what in zip(CAPACITORS, SIZES, strict=True):
                v = u[a] - u[b] if (a, b) not in ((5, 9), (10, 14)) else u[b] - u[a]
                bulk = 2.4e-5 / np.sqrt(1 - v / 0.87) if v <= 0 else 2.4e-5 * (1 + v / 1.74)
                c = {"CGS": 6e-5, "CGD": 6e-5, "C9": 5e-5, "bulk": bulk}[what]
                flows(a, b, c * (du[a] - du[b]))
            for a, b, ohm in RESISTORS:
                flows(a, b, (u[a] - u[b]) / ohm)
            for a, b in DIODES:
                v = u[a] - u[b]
                flows(a, b, 1e-14 * (np.exp(v / 25.85) - 1) if v <= 0 else 0.0)
            for drain, gate, source, bulk_s, bulk_d, kind in TRANSISTORS:
                bulks = (u[bulk_s[0]] - u[bulk_s[1]], u[bulk_d[0]] - u[bulk_d[1]])
                current = channel(u[drain], u[gate], u[source], bulks, kind)
                seen.add((kind, np.sign(current)))
                flows(drain, source, current)
            for node in range(1, 15):
                assert abs(into[node]) <= 1e-12 * size[node], (
                    f"currents into node {node} at t = {t} do not add up"
                )
    assert seen >= {("load", 1.0), ("load", -1.0), ("switch", 1.0), ("switch", -1.0), ("switch", 0.0)}


def test_pulses() -> None:
    t = torch.tensor([2.0, 7.0, 12.0, 16.0, 22.0, 33.0, 38.0, 77.0], dtype=D)
    v1, d1, v2, d2 = (one.tolist() for one in pulses(t))
    assert v1 == [0, 2, 5, 4, 0, 5, 2, 3]
    assert d1 == [0, 1, 0, -1, 0, 0, -1, -1]
    assert v2 == [0, 0, 0, 1, 5, 5, 2, 3]
    assert d2 == [0, 0, 0, 1, 0, 0, -1, -1]


def test_the_oregonator_as_a_dae_is_that_with_fast_bromide() -> None:
    dae, ode = problems.load("orego_dae"), problems.load("orego")

    def fast(t: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return ode.rhs(t, y, p) * torch.tensor([1.0, 1e7, 1.0], dtype=D)

    t = torch.tensor([0.0, 5.0, 20.0, 50.0], dtype=D)
    limit = dataclasses.replace(ode, rhs=fast, y0=dae.y0).solve(t, method="rosw-rodaspr2", rtol=1e-8).y
    y = dae.solve(t, method="rosw-rodaspr2", rtol=1e-8).y
    torch.testing.assert_close(y, limit, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(y[:, 2], (1 + y[:, 0]) * y[:, 1], rtol=1e-6, atol=0.0)
