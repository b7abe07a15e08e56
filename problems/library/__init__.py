"""One module a problem; :mod:`problems.catalogue` lists them."""
