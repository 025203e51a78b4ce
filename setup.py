"""The compiled kernels of the CPU, left out where they do not compile; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("gpucnn/backend/native")

setup(
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
