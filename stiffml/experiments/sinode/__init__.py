"""Semi-implicit neural ODEs of two partial differential equations."""
