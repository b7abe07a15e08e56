"""Training: the data to learn from, fits that survive interruptions, comparisons."""

from stiffml.training.band import Band
from stiffml.training.collocation import Collocation, collocate
from stiffml.training.comparing.compare import compare
from stiffml.training.comparing.comparison import Comparison
from stiffml.training.data import Run, Runs, from_pandas, from_xarray, read_csv, read_netcdf
from stiffml.training.descent.settings import FirstOrder
from stiffml.training.fit import fit, least_squares
from stiffml.training.lm.covariance import Covariance
from stiffml.training.lm.ladder import FullSpace, GrowingHorizon, MultipleShooting, Strategy, Whole
from stiffml.training.lm.levenberg_marquardt import LevenbergMarquardt
from stiffml.training.lm.profile import Profile
from stiffml.training.preparable import Preparable
from stiffml.training.resolving import Report
from stiffml.training.result import Result
from stiffml.training.trouble import TrainingError

__all__ = [
    "Band",
    "Collocation",
    "Comparison",
    "Covariance",
    "FirstOrder",
    "FullSpace",
    "GrowingHorizon",
    "LevenbergMarquardt",
    "MultipleShooting",
    "Preparable",
    "Profile",
    "Report",
    "Result",
    "Run",
    "Runs",
    "Strategy",
    "TrainingError",
    "Whole",
    "collocate",
    "compare",
    "fit",
    "from_pandas",
    "from_xarray",
    "least_squares",
    "read_csv",
    "read_netcdf",
]
