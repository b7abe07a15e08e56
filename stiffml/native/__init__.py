"""The equations of steps solved here, without PETSc's time steppers."""
