"""A wheel that asks for another package, so that ``pip install`` of it alone brings what it needs."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path


def add_requirement(wheel: Path, place: Path, requirement: str) -> None:
    """Write a copy of ``wheel`` to ``place`` whose metadata ask for ``requirement`` too."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        (record,) = (name for name in names if name.endswith(".dist-info/RECORD"))
        fields, _, description = old.read(metadata).decode().partition("\n\n")
        text = f"{fields}\nRequires-Dist: {requirement}\n\n{description}".encode()
        for entry in old.infolist():
            if entry.filename == metadata:
                data = text
            elif entry.filename == record:
                data = _recorded(old.read(entry).decode(), metadata, text).encode()
            else:
                data = old.read(entry)
            new.writestr(entry, data, zipfile.ZIP_DEFLATED)


def _recorded(record: str, name: str, text: bytes) -> str:
    """A wheel's list of files, with the hash and the size of one of them renewed."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode()
    lines = record.splitlines()
    renewed = [
        f"{name},sha256={digest},{len(text)}" if line.startswith(f"{name},") else line for line in lines
    ]
    return "\n".join(renewed) + "\n"
