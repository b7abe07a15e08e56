"""Create .venv with everything stiffml needs, PETSc included. Standard library only.

Run by `make demo` and `make test`. PETSc and petsc4py are built once from the package registry, made
relocatable, and kept as wheels in the user's cache folder under keys made of everything that could
change them; a second environment installs those wheels, and one of another Python builds petsc4py alone.
Wheels in the folder `wheels/`, which `make wheels` leaves there, are taken before anything is built.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from builder import CONSTRAINTS, HERE, RECIPE, Builder, constrained, create, minutes, pip, python_of, say
from requirement import add_requirement

ROOT = Path(__file__).resolve().parent.parent
STAMP = "stiffml-environment"
WHEELS, ORIGIN = ROOT / "wheels", "wheels.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extras", default="", help="extras to install, such as test,develop")
    parser.add_argument("--petsc", help=f"a version of PETSc other than {RECIPE['petsc']}")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="the environment's folder")
    parser.add_argument("--wheels", type=Path, help="only leave the wheels of PETSc and petsc4py there")
    asked = parser.parse_args()
    check_machine()
    if asked.petsc:
        RECIPE["petsc"] = asked.petsc
    if asked.wheels:
        leave_wheels(asked.wheels)
    else:
        install(asked.venv, asked.extras)


def install(venv: Path, extras: str) -> None:
    base = fingerprint()
    stamp = venv / STAMP
    # What was installed from other versions or for another Python is void, not only what is missing.
    done = stamp.read_text().split() if stamp.exists() else []
    done = done if done[:1] == [base] else [base]
    if f"[{extras}]" in done and usable(venv):
        return
    began = time.monotonic()
    if not usable(venv):
        say(f"creating {venv.name}")
        create(venv)
    # mpich and torch first, so that nothing later asks the resolver for other ones.
    say("installing torch, mpich and the other dependencies")
    pip(venv, "install", "-q", f"mpich=={RECIPE['mpich']}", "torch", "numpy", "setuptools", *constrained())
    for wheel in petsc_wheels():
        say(f"installing {wheel.name}")
        pip(venv, "install", "-q", "--no-deps", "--force-reinstall", str(wheel))
    target = f"{ROOT}[{extras}]" if extras else str(ROOT)
    pip(venv, "install", "-q", "--no-build-isolation", "-e", target, *constrained())
    subprocess.run([python_of(venv), HERE / "first_use.py"], check=True, cwd=venv)
    stamp.write_text("\n".join([*done, f"[{extras}]"]) + "\n")
    say(f"environment ready after {minutes(time.monotonic() - began)}")


def fingerprint() -> str:
    """Changes with anything that this script would install differently."""
    parts = [*wheel_keys(), CONSTRAINTS.read_text(), (ROOT / "pyproject.toml").read_text(), str(ROOT)]
    return digest(*parts)


def wheel_keys() -> tuple[str, str]:
    """Name all that the wheels of PETSc and petsc4py depend on, so that a change never meets a stale one."""
    numpy_pins = [line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("numpy==")]
    compiler = subprocess.run([compiler_command(), "--version"], capture_output=True, text=True).stdout
    source = (HERE / "builder.py").read_text().splitlines()
    parts = [
        json.dumps(RECIPE, sort_keys=True),
        *(line for line in source if line.strip() and not line.lstrip().startswith("#")),
        *numpy_pins,
        sysconfig.get_platform(),
        " ".join(platform.libc_ver()),
        compiler.partition("\n")[0],
    ]
    petsc = digest(*parts)
    return petsc, digest(petsc, sys.implementation.cache_tag or "")


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def compiler_command() -> str:
    return shutil.which("cc") or shutil.which("gcc") or "cc"


def check_machine() -> None:
    problems = []
    if sys.version_info < (3, 10):  # noqa: UP036 (this script is what an older Python meets first)
        problems.append(f"Python 3.10 or newer (this is {platform.python_version()}; set PYTHON=… for make)")
    if not (shutil.which("cc") or shutil.which("gcc")):
        problems.append("a C compiler (cc)")
    if not shutil.which("make"):
        problems.append("make")
    if sys.platform != "linux":
        problems.append("Linux (elsewhere install petsc4py 3.24 to 3.26 yourself, then `pip install .`)")
    if problems:
        sys.exit("stiffml's environment needs " + ", and ".join(problems))


def usable(venv: Path) -> bool:
    """Whether ``venv`` is whole (a creation may have been interrupted) and of the Python running this."""
    if not python_of(venv).exists():
        return False
    ask = "import pip, sys; print(sys.implementation.cache_tag)"
    result = subprocess.run([str(python_of(venv)), "-c", ask], capture_output=True, text=True)
    return result.stdout.strip() == sys.implementation.cache_tag


def origin() -> dict[str, object]:
    """What wheels that somebody else has made must share with those that would be built here."""
    return {
        "recipe": RECIPE,
        "python": sys.implementation.cache_tag,
        "platform": sysconfig.get_platform(),
        "libc": list(platform.libc_ver()),
    }


def leave_wheels(folder: Path) -> None:
    """Copy the wheels of PETSc and petsc4py to ``folder``, with a note of what they are made of and for.

    That of PETSc asks for its MPI there, so that pip installs both without this script.
    """
    found = petsc_wheels()
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in found:
        partial = folder / f"{wheel.name}.partial"
        if wheel.name.startswith("petsc-"):
            add_requirement(wheel, partial, f"mpich=={RECIPE['mpich']}")
        else:
            shutil.copy(wheel, partial)
        partial.replace(folder / wheel.name)
        say(f"{folder / wheel.name}, {wheel.stat().st_size / 2**20:.0f} MB")
    (folder / ORIGIN).write_text(json.dumps(origin(), indent=2) + "\n")


def given_wheels() -> list[Path]:
    """The wheels in `wheels/`, if they serve here: of this recipe, Python and platform, and no newer libc."""
    try:
        held = json.loads((WHEELS / ORIGIN).read_text())
        library, version = held.pop("libc")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return []
    wanted = origin()
    own_library, own_version = platform.libc_ver()
    wanted.pop("libc")
    if held != wanted or library != own_library or numbers(version) > numbers(own_version):
        say(f"{WHEELS.name}/ holds wheels for another machine, which stay there")
        return []
    return sorted(WHEELS.glob(f"petsc*-{RECIPE['petsc']}-*.whl"))


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def petsc_wheels() -> list[Path]:
    """The wheels of PETSc and petsc4py: those in `wheels/`, or from the cache, or built and put there."""
    given = given_wheels()
    if len(given) == 2:
        say(f"PETSc {RECIPE['petsc']} comes from {WHEELS.name}/")
        return given
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stiffml" / "wheels"
    places = [cache / key for key in wheel_keys()]
    petsc, petsc4py = (next(place.glob("petsc*.whl"), None) for place in places)
    if petsc and petsc4py:
        say(f"PETSc {RECIPE['petsc']} comes from the wheel cache")
        return [petsc, petsc4py]
    missing = "petsc4py for this Python" if petsc else "PETSc and petsc4py"
    say(
        f"building {missing} {RECIPE['petsc']} (about {5 if petsc else 8} minutes on 2 cores, once a machine)"
    )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="stiffml-build-") as folder:
        builder = Builder(Path(folder), cache / f"{places[1].name}.log")
        petsc = petsc or kept(builder.petsc(), places[0])
        return [petsc, kept(builder.petsc4py(petsc), places[1])]


def kept(wheel: Path, place: Path) -> Path:
    """Keep ``wheel`` in ``place``. Renamed when complete: what was interrupted leaves nothing behind."""
    partial = Path(tempfile.mkdtemp(dir=place.parent))
    shutil.copy(wheel, partial)
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)
    return place / wheel.name


if __name__ == "__main__":
    main()
