"""Ways to train a model of van der Pol's stiff oscillator, and how each of them ends."""

from stiffml.experiments.experiment import Experiment
from stiffml.experiments.van_der_pol.pictures import draw
from stiffml.experiments.van_der_pol.study import run

EXPERIMENT = Experiment(
    title="Van der Pol's stiff oscillator: which trainings fail, and which succeed",
    question="Training by implicit methods was reported to fail on it. Is it the steps that fail, or the "
    "optimizer, or the trajectory that is fitted to?",
    source="C. Fronk & L. Petzold, arXiv 2410.05592 (implicit methods) and 2412.01181 (exponential ones)",
    run=run,
    draw=draw,
    requires=("torchdiffeq",),
)
