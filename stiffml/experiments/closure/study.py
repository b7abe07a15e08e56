"""How well closures take the place of what is missing, and where they no longer do."""

from __future__ import annotations

from collections.abc import Mapping

import xarray

from stiffml.experiments.closure import pressures, starts
from stiffml.experiments.closure.pictures import draw
from stiffml.experiments.experiment import Experiment, Form, Outcome, Report

SIZES: Mapping[Form, tuple[starts.Size, pressures.Size]] = {
    "quick": (
        starts.Size(setups=1, runs=5, unseen=1, spreads=(), iterations=1),
        pressures.Size(
            laws=1,
            seeds=1,
            fitted=(1133.0,),
            unseen=(1250.0,),
            outside=(),
            points=100,
            pressures=(1.0,),
            iterations=2,
        ),
    ),
    "medium": (
        starts.Size(setups=1, spreads=(3.0,), iterations=5),
        pressures.Size(laws=1, seeds=1, outside=(), pressures=(1.0, 2.0)),
    ),
    "full": (starts.Size(), pressures.Size()),
}


def run(form: Form, report: Report) -> Outcome:
    of_pollu, of_hydrogen = SIZES[form]
    parts = 1 + of_pollu.setups + of_hydrogen.laws * of_hydrogen.seeds + len(of_hydrogen.pressures)
    done = 0

    def tell(what: str) -> None:
        nonlocal done
        done += 1
        report(done, parts, what)

    parts_found = [starts.learned(of_pollu, tell), pressures.learned(of_hydrogen, tell)]
    data = xarray.merge(parts_found, combine_attrs="no_conflicts")
    full = form == "full"
    return Outcome(data, (*starts.findings(data, full), *pressures.findings(data, full)))


EXPERIMENT = Experiment(
    title="Reactions that a mechanism lacks, learned by a closure",
    question="Does a mechanism with learned rates in place of its missing reactions hold at starts and "
    "temperatures that it has not seen, with its sums conserved; and further away, or at another pressure?",
    source="J. G. Verwer, SIAM J. Sci. Comput. 15 (1994) 1243 (POLLU); h2o2.yaml of Cantera",
    run=run,
    draw=draw,
    requires=("casadi", "cantera"),
)
