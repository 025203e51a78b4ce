"""How long Python files may be: 400 lines, and 700 for those that docs/design.md lists because they read better whole."""

from __future__ import annotations

from pathlib import Path

import pytest

import gpucnn

ROOT = Path(__file__).parents[1]
USUAL, WHOLE = 400, 700
READ_WHOLE = {
    "gpucnn/autograd/tensor.py",
    "gpucnn/backend/ops/__init__.py",
    "gpucnn/estimator.py",
    "gpucnn/functional/conv.py",
    "gpucnn/functional/loss.py",
    "gpucnn/functional/pool.py",
    "gpucnn/optim/lr_scheduler.py",
    "tests/fuzz/formats.py",
    "tests/support/pytorch_samples.py",
    "tests/support/standin/array.py",
}


def test_no_file_is_too_long_to_be_read() -> None:
    if Path(gpucnn.__file__).parents[1] != ROOT:
        pytest.skip("the sources are not here: gpucnn is installed elsewhere")
    lines = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("gpucnn", "tests", "scripts", "benchmarks", "docs")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert lines
    too_long = {name: n for name, n in lines.items() if n > (WHOLE if name in READ_WHOLE else USUAL)}
    assert too_long == {}
    assert {name for name in READ_WHOLE if lines[name] <= USUAL} == set(), "no longer in need of the exception"
