"""The discretization in time: equations of a step, trajectories of steps, and outputs between step ends."""
