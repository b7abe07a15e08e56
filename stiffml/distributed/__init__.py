"""Several processes: a batch of solves shared among them, or one field spread over them."""

from stiffml.distributed.collective import EnsembleError
from stiffml.distributed.ensemble import Ensemble
from stiffml.distributed.field import Field

__all__ = ["Ensemble", "EnsembleError", "Field"]
