"""Training a stiff neural ODE by implicit and by explicit methods."""

from stiffml.experiments.experiment import Experiment
from stiffml.experiments.implicit_explicit.pictures import draw
from stiffml.experiments.implicit_explicit.study import run

EXPERIMENT = Experiment(
    title="Implicit against explicit methods in the training of a stiff neural ODE",
    question="What becomes of an explicit method's cost, and of its gradients, while a network learns to be "
    "stiff? Does training fail with it, and what does the optimizer matter beside the method?",
    source="H. Zhang & W. Zhao, PNODE, arXiv 2206.01298, section on Robertson's equations",
    run=run,
    draw=draw,
    requires=("torchdiffeq", "casadi"),
)
