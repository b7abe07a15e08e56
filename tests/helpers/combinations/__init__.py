"""A random search over combinations of methods, problems and options."""
