"""The compiled kernels of the CPU, left out where they do not compile, and the page on PyPI; the rest: pyproject.toml."""

import re
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("gpucnn/backend/native")


def page() -> str:
    """Return the README as a package index shows it: links to files become their names in the source distribution."""
    text = Path("README.md").read_text(encoding="utf-8")
    text = re.sub(r"<!--.*?-->\n", "", text)
    text = re.sub(r"!\[[^\]]*\]\((?!https?://)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^\]]+)\]\((?!https?://)([^)\s]+)\)", r"\1 (`\2`)", text)


setup(
    long_description=page(),
    long_description_content_type="text/markdown",
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # one wheel for this Python and every later one
    ext_modules=[
        Extension(
            "gpucnn.backend.native._kernels",
            sources=sorted(str(path) for path in NATIVE.glob("*.c")),
            depends=sorted(str(path) for path in NATIVE.glob("*.h")),
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            # Sums keep their order and NaN its meaning: no -ffast-math. sqrt sets no errno, comparisons raise no signal.
            extra_compile_args=[
                "-O3",
                "-g0",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fvisibility=hidden",
                "-Wno-psabi",
            ],
            py_limited_api=True,
            optional=True,
        )
    ],
)
