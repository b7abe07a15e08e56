"""YAML files read by the rules of YAML 1.2, as Cantera reads them."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from problems.chemistry.errors import MechanismError
from stiffml.extras import to_install

# The core schema of YAML 1.2 (section 10.3.2): name of the tag, what it matches, the first characters.
# PyYAML by itself follows YAML 1.1, where the species NO is a false and 1e5 a string.
_CORE_SCHEMA = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)


def load(path: Path) -> dict[Any, Any]:
    """The mapping that a YAML file holds. The file is data: no tag in it can build an object.

    Raises
    ------
    ImportError
        Without PyYAML.
    MechanismError
        For a file that is not YAML, has a key twice, or holds something other than a mapping.
    """
    loader = _loader()
    import yaml

    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, Loader=loader)  # a subclass of the safe loader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MechanismError(f"{path} is not a YAML file that can be read: {error}") from error
    if not isinstance(content, dict):
        raise MechanismError(f"{path} must hold a mapping with sections such as 'phases' and 'species'")
    return content


@functools.cache
def _loader() -> Any:
    """A safe loader class with the core schema, made when first used: only reading files needs PyYAML."""
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"mechanism files need PyYAML: {to_install('chemistry')}") from error

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """PyYAML's safe loader with other rules for plain scalars, and with keys that must differ."""

        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - its own, not the parent's

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        content = loader.construct_mapping(node, deep=True)
        if len(content) != len(node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "a key appears twice in this mapping", node.start_mark
            )
        return content

    def integer(loader: Any, node: Any) -> int:
        text = loader.construct_scalar(node)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))

    for tag, pattern, first in _CORE_SCHEMA:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), list(first))
    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    Loader.add_constructor("tag:yaml.org,2002:int", integer)
    return Loader
