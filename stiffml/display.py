"""How objects look at a prompt: at most a screen, whatever they hold."""

from __future__ import annotations

import dataclasses
import html
import reprlib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

WIDTH, HEIGHT = 100, 25
"""Of a screen, in characters and lines."""

FEW = 4
"""Numbers of an array that are shown; of more its shape is."""

SHORT = 72
"""Characters of one value."""

Table = tuple[Sequence[str], Iterable[Sequence[str]]]
"""Header and rows."""

Kind = TypeVar("Kind", bound=type)


def with_units(name: str, units: str) -> str:
    """``name [units]``; the name alone for a number without units, ``"1"``."""
    return name if units == "1" else f"{name} [{units}]"


def short(value: object) -> str:
    """A value in a few words: numbers of small arrays, the shape of others, texts cut."""
    if isinstance(value, Tensor | np.ndarray):
        size = value.numel() if isinstance(value, Tensor) else value.size
        name = "tensor" if isinstance(value, Tensor) else "array"
        if size <= FEW and value.ndim <= 1 and not getattr(value, "is_meta", False):
            numbers = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
            inside = np.array2string(numbers, precision=6, separator=", ") if size else "[]"
            return f"{name}({inside})"
        kind = str(value.dtype).removeprefix("torch.")
        return f"{name} {tuple(value.shape)} {kind}".replace(",)", ")")
    if isinstance(value, nn.Module):
        count = sum(parameter.numel() for parameter in value.parameters())
        return f"{type(value).__name__} with {count} parameters"
    if isinstance(value, Mapping) and not isinstance(value, str):
        return _listed(
            [f"{key}: {short(one)}" for key, one in list(value.items())[: FEW + 1]], len(value), "{}"
        )
    if isinstance(value, list | tuple):
        return _listed([short(one) for one in value[: FEW + 1]], len(value), "[]")
    if type(value).__module__.startswith("xarray"):
        sizes = ", ".join(f"{name}: {size}" for name, size in value.sizes.items())  # type: ignore[attr-defined]
        return f"{type(value).__name__} ({sizes})"
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__.replace("<locals>.", "")
    text = value if isinstance(value, str) else reprlib.repr(value)
    return cut(repr(text) if isinstance(value, str) else text, SHORT)


def _listed(shown: list[str], count: int, brackets: str) -> str:
    text = ", ".join(shown[:FEW]) + (", …" if count > FEW else "")
    if len(text) > SHORT:
        return f"{brackets[0]}{count} entries{brackets[1]}"
    return f"{brackets[0]}{text}{brackets[1]}"


def cut(text: str, width: int = WIDTH) -> str:
    """A text in one line, cut at ``width`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A title, and rows of names and values below it, on a screen."""
    rows = list(rows)
    more = len(rows) - (HEIGHT - 2)
    shown = rows if more <= 1 else rows[: HEIGHT - 2]
    width = max((len(name) for name, _ in shown), default=0)
    lines = [title, *(f"  {name:<{width}}  {' '.join(value.split())}" for name, value in shown)]
    if more > 1:
        lines.append(f"  … {more} more")
    return "\n".join(line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines)


def screen(text: str) -> str:
    """A text whose lines may be too long and too many, on a screen."""
    lines = [
        line
        for one in text.splitlines()
        for line in textwrap.wrap(one, WIDTH, subsequent_indent="  ") or [""]
    ]
    if len(lines) > HEIGHT:
        lines = [*lines[: HEIGHT - 1], f"… {len(lines) - HEIGHT + 1} more lines: print(…) has all"]
    return "\n".join(lines)


def fields(value: Any) -> list[tuple[str, str]]:
    """The fields of a dataclass that it shows, with their values in a few words; without those left empty."""
    found = []
    for one in dataclasses.fields(value):
        content = getattr(value, one.name)
        empty = content is None or (isinstance(content, str | tuple | list | dict) and not len(content))
        if one.repr and not empty:
            found.append((one.name, short(content)))
    return found


def readable(kind: Kind) -> Kind:
    """A dataclass whose ``repr`` fits a screen: in one line if it does, else a table of its fields."""

    def _repr(self: Any) -> str:
        pairs = fields(self)
        line = f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in pairs)})"
        return line if len(line) <= WIDTH and "\n" not in line else table(type(self).__name__, pairs)

    setattr(kind, "__repr__", _repr)  # noqa: B010
    return kind


def html_table(rows: Iterable[Sequence[str]], header: Sequence[str] = (), title: str = "") -> str:
    """A table of HTML, for ``_repr_html_``."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(f'<{tag} style="text-align:left">{html.escape(one)}</{tag}>' for one in row)

    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    head = f"<thead><tr>{cells(header, 'th')}</tr></thead>" if header else ""
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table>{caption}{head}<tbody>{body}</tbody></table>"


def printed(kind: Kind) -> Kind:
    """A class whose ``repr`` is what it prints as, on a screen; in a notebook its ``_table`` if it has one.

    ``_table()`` gives the header and the rows of a table.
    """

    def _repr(self: Any) -> str:
        return screen(str(self))

    def _repr_html(self: Any) -> str:
        if hasattr(self, "_table"):
            header, rows = self._table()
            return html_table(rows, header)
        return f"<pre>{html.escape(str(self))}</pre>"

    setattr(kind, "__repr__", _repr)  # noqa: B010
    setattr(kind, "_repr_html_", _repr_html)  # noqa: B010
    return kind
