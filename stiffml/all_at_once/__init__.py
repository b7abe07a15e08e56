"""Many known steps solved at once: one Newton iteration on all their equations, and transposed solves."""
