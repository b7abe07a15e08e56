"""Training: a loop that survives interruptions."""

from stiffml.training.trainer import STATE, History, Trainer, TrainingError

__all__ = ["STATE", "History", "Trainer", "TrainingError"]
