"""The environment variables of the compiled kernels: off, of another vector width, or wrong; and what the doctor says."""

from __future__ import annotations

import json

import pytest
from native_kernels import WIDTHS, available_widths
from runs import environment, python

from gpucnn.backend.native import library

CODE = """
import numpy as np
from gpucnn.backend import Window, get_backend, native, ops
device = get_backend("cpu")
x, w = np.ones((3, 2, 5, 5), np.float32), np.ones((4, 2, 3, 3), np.float32)
y = ops.conv2d(device, x, w, None, Window((3, 3)))
print(native.state(), device.kernels is None, float(y.min()), float(y.max()))
"""


def test_off() -> None:
    done = python("-c", CODE, env=environment(GPUCNN_NATIVE="0"))
    assert done.stdout == "turned off by GPUCNN_NATIVE=0 True 18.0 18.0\n", done.stderr
    told = python("-m", "gpucnn", "doctor", env=environment(GPUCNN_NATIVE="0"))
    assert "compiled       turned off by GPUCNN_NATIVE=0\n" in told.stdout


@pytest.mark.skipif(library() is None, reason="no compiled kernels")
@pytest.mark.parametrize("on", ["", "1"])
def test_on(on: str) -> None:
    widest = next(name for name in ("avx512", "avx2", "sse2", "neon", "generic") if name in list(available_widths()))
    done = python("-c", CODE, env=environment(GPUCNN_NATIVE=on, GPUCNN_CPU=""))
    assert done.stdout == f"{widest} False 18.0 18.0\n", done.stderr


@pytest.mark.parametrize("width", list(available_widths()))
def test_a_vector_width_by_name(width: str) -> None:
    done = python("-c", CODE, env=environment(GPUCNN_CPU=width))
    assert done.stdout == f"{width} False 18.0 18.0\n", done.stderr
    report = json.loads(python("-m", "gpucnn", "doctor", "--json", env=environment(GPUCNN_CPU=width)).stdout)
    assert report["compiled"] == width


@pytest.mark.skipif(library() is None, reason="no compiled kernels")
def test_mistakes_end_in_a_line_that_says_what_to_do() -> None:
    missing = next(name for name in WIDTHS if name not in list(available_widths()))
    for variables, said in (
        ({"GPUCNN_NATIVE": "off"}, "GPUCNN_NATIVE: value: expected 0 or 1, got 'off'"),
        ({"GPUCNN_CPU": "mmx"}, "GPUCNN_CPU: value: expected sse2, avx2, avx512, neon or generic, as far as"),
        ({"GPUCNN_CPU": missing}, "Unset it to take the widest."),
    ):
        done = python("-m", "gpucnn", "doctor", env=environment(**variables))
        assert done.returncode == 1, done.stderr
        assert said in done.stderr
        assert len(done.stderr.splitlines()) <= 2, done.stderr
