"""Builds the one extension, ``gateway._framing``; everything else about the package is in pyproject.toml.

CFLAGS, CPPFLAGS and LDFLAGS are honoured by setuptools, which is how the ASan build asks for ``-fsanitize=address``. The
generated C goes to ``build/`` (or PARLEY_BUILD_DIR), so that the tree holds sources alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

BUILD_DIR = os.environ.get("PARLEY_BUILD_DIR", "build")

setup(
    ext_modules=cythonize(
        [Extension("gateway._framing", ["gateway/_framing.pyx"], extra_compile_args=["-O2"])],
        build_dir=str(Path(BUILD_DIR) / "cython"),
        compiler_directives={"language_level": 3},
    )
)
