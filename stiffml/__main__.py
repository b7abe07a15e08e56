"""``python -m stiffml``: the commands of ``stiffml``."""

from stiffml.cli import app

app()
