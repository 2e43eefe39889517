"""Build the Go library, then the extension that is linked against it; the rest is pyproject.toml.

    pip install .              both files go into the wheel, side by side
    pip install -e .           both go into src/tailnet; edits of Python need no rebuild
    python setup.py build_ext --inplace      the same, without installing (`make build`)

build_go.py builds the library, build_ffi.py describes the extension.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

# Not every way to run this file puts its directory on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
import build_go


class BuildExt(build_ext):
    """build_ext with the Go library built first, into the directory the extension goes to."""

    directory: Path

    def run(self) -> None:
        """Build both."""
        build_go.check_machine()
        # Decided here: while it compiles, setuptools sets `inplace` to False, and copies later.
        assembled = Path(self.build_lib, "tailnet").resolve()
        self.directory = build_go.PACKAGE_DIR if self.inplace else assembled
        build_go.build_library(self.directory)
        use_a_compiler_that_exists()
        super().run()

    def build_extensions(self) -> None:
        """Link against the library just built, and record no place to look but beside it.

        Some Pythons (pyenv's) add their own directory to every extension's search path, which would
        then come before ours, and leak the build machine's paths into the wheel.
        """
        own_rpath = ("-Wl,-rpath", "-Wl,-R")
        for name in ("linker_so", "linker_so_cxx"):
            linker = getattr(self.compiler, name, None)
            if linker:
                setattr(self.compiler, name, [a for a in linker if not a.startswith(own_rpath)])
        for extension in self.extensions:
            extension.library_dirs.insert(0, str(self.directory))
        super().build_extensions()

    def get_outputs(self) -> list[str]:
        """Name the library too, or the wheel's record would lack it."""
        return [*super().get_outputs(), str(Path(self.build_lib, "tailnet", build_go.LIBRARY))]


def use_a_compiler_that_exists() -> None:
    """Set CC where the compiler Python itself was built with is not on this machine."""
    built_with = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
    if "CC" not in os.environ and not shutil.which(built_with):
        os.environ["CC"] = build_go.find_compiler()


# One wheel for every CPython >= 3.10. A free-threaded build has no limited API before 3.15.
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

setup(
    cffi_modules=["build_ffi.py:ffi"],
    cmdclass={"build_ext": BuildExt},
    options={} if free_threaded else {"bdist_wheel": {"py_limited_api": "cp310"}},
)
