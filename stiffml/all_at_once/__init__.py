"""Known steps solved all at once: one Newton iteration on the equations of many steps, and its transpose."""
