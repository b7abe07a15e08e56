"""Published experiments; each is a script too: ``python -m stiffml.experiments.NAME``."""
