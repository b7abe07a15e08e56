"""Training: the data to learn from, and a loop that survives interruptions."""

from stiffml.training.collocation import Collocation, collocate
from stiffml.training.data import Run, Runs, from_pandas, from_xarray, read_csv, read_netcdf
from stiffml.training.trainer import STATE, History, Trainer, TrainingError

__all__ = [
    "STATE",
    "Collocation",
    "History",
    "Run",
    "Runs",
    "Trainer",
    "TrainingError",
    "collocate",
    "from_pandas",
    "from_xarray",
    "read_csv",
    "read_netcdf",
]
