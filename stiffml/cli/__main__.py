from stiffml.cli import app

app()
