"""Data to learn from: runs with times of their own and gaps; splitting, windows, batches, scaling."""

from stiffml.training.data.batches import Batch, Minibatches
from stiffml.training.data.reading import from_xarray, read_netcdf
from stiffml.training.data.run import Forcing, Run
from stiffml.training.data.runs import Runs
from stiffml.training.data.scalers import ASinh, Chain, Log, MinMax, Range, Scaler, Standard
from stiffml.training.data.scaling import Scaled, Scaling
from stiffml.training.data.tables import from_pandas, read_csv

__all__ = [
    "ASinh",
    "Batch",
    "Chain",
    "Forcing",
    "Log",
    "MinMax",
    "Minibatches",
    "Range",
    "Run",
    "Runs",
    "Scaled",
    "Scaler",
    "Scaling",
    "Standard",
    "from_pandas",
    "from_xarray",
    "read_csv",
    "read_netcdf",
]
