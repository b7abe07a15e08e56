"""Published experiments, each one command: ``stiffml experiment NAME``."""

from stiffml.experiments.catalogue import load, names
from stiffml.experiments.experiment import FORMS, Experiment, Finding, Form, Outcome, Report
from stiffml.experiments.running import run

__all__ = ["FORMS", "Experiment", "Finding", "Form", "Outcome", "Report", "load", "names", "run"]
