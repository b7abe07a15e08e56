"""The same training with several methods, optimizers and seeds: trainings, their records, tables, figures."""
