"""Create .venv-peers from requirements.txt, if it is missing or they have changed. Standard library only."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-peers"
REQUIREMENTS = Path(__file__).parent / "requirements.txt"
STAMP = VENV / "installed-requirements.txt"

sys.path.insert(0, str(ROOT / "environment"))

from bootstrap import create, pip, say, usable  # noqa: E402


def main() -> None:
    if sys.version_info < (3, 11):
        sys.exit(f"The peers need Python 3.11 or newer (this is {platform.python_version()}; set PYTHON=…)")
    wanted = REQUIREMENTS.read_text()
    if STAMP.exists() and STAMP.read_text() == wanted and usable(VENV):
        return
    say(f"creating {VENV.name}")
    create(VENV)
    pip(VENV, "install", "-q", "-r", str(REQUIREMENTS))
    STAMP.write_text(wanted)


if __name__ == "__main__":
    main()
