"""How much code a convolution passes: a newcomer reads it along docs/life-of-a-conv2d.md."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

import gpucnn
import gpucnn.functional as F
from gpucnn.backend.cpu import CpuDevice


def entered(implementation: str) -> Counter[CodeType]:
    """Return how often one convolution, forward and backward, enters each function of ours; on one thread."""
    rng = np.random.default_rng(0)
    with gpucnn.use(CpuDevice(threads=1)):
        x, w, b = (
            gpucnn.tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True)
            for shape in ((32, 8, 16, 16), (16, 8, 3, 3), (16,))
        )
        dy = F.conv2d(x, w, b, padding=1, implementation=implementation).detach()
        root, found = str(Path(gpucnn.__file__).parent), Counter[CodeType]()

        def count(frame: FrameType, event: str, argument: Any) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(root):
                found[frame.f_code] += 1

        F.conv2d(x, w, b, padding=1, implementation=implementation).backward(dy)  # what is made once is made
        x.grad = w.grad = b.grad = None
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            F.conv2d(x, w, b, padding=1, implementation=implementation).backward(dy)
        finally:
            sys.setprofile(before)
    return found


@pytest.mark.parametrize(
    ("implementation", "most_files", "most_lines", "most_calls"), [("auto", 8, 550, 115), ("im2col", 7, 550, 110)]
)
def test_one_convolution_enters_few_files(
    implementation: str, most_files: int, most_lines: int, most_calls: int
) -> None:
    """Version 0.1.0 entered 13 files in 253 calls, by the reference 8 in 138. Lines are those of the functions entered."""
    found = entered(implementation)
    files = {Path(code.co_filename).name for code in found}
    whole = [code for code in found if "<locals>" not in code.co_qualname]
    lines = sum(len(inspect.getsourcelines(code)[0]) for code in whole)
    assert len({code.co_filename for code in found}) <= most_files, sorted(files)
    assert lines <= most_lines
    assert sum(found.values()) <= most_calls, found.most_common()
