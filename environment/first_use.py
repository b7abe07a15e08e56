"""Make what the first use of an environment would make otherwise, in seconds that its user waits for.

These are the byte code of a package installed in place, matplotlib's list of the fonts of this machine, and
the C libraries that are the same for every function. Run by ``bootstrap.py`` with the Python of the
environment. Whatever cannot be made here is made, or refused with its reason, at the first use.
"""

from __future__ import annotations

import compileall
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("stiffml", "problems")


def main() -> None:
    for package in PACKAGES:
        compileall.compile_dir(ROOT / package, quiet=2)
    import matplotlib.font_manager  # noqa: F401 (makes the list when imported)

    from stiffml.all_at_once.in_c.library import library as library_of_known_steps
    from stiffml.compiled.factors import has_factors
    from stiffml.native.compiled_run.library import library as library_of_samples
    from stiffml.petsc.compiled_run.library import library as library_of_steps

    for make in (library_of_known_steps, has_factors, library_of_samples, library_of_steps):
        make()


if __name__ == "__main__":
    main()
