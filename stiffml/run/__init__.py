"""Forward runs: driving a stepper from output to output, events, and checkpoints of the states."""
