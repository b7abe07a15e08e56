"""The version, and what files say of where they come from."""

__version__ = "0.1.0"

CONVENTIONS = "CF-1.8"


def made_by() -> dict[str, str]:
    """Attributes of all files: the conventions they follow, and the version of stiffml."""
    return {"Conventions": CONVENTIONS, "stiffml_version": __version__}
