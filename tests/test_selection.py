"""Which tests run where: none is listed as skipped for a CuPy that is not there, and what is required fails without it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from runs import ROOT, environment

# CuPy cannot be imported in such a process, whether it is installed or not.
WITHOUT_CUPY = "import sys; sys.modules['cupy'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
TESTS = ["tests/functional/test_im2col.py", "tests/backend/test_cuda_feeding.py"]


def pytest_without_cupy(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-c", WITHOUT_CUPY, "-q", "-p", "no:cacheprovider", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    return result.returncode, result.stdout + result.stderr


def test_tests_of_a_cupy_that_is_not_there_are_left_out() -> None:
    code, said = pytest_without_cupy("--collect-only", *TESTS)
    assert code == 0, said
    assert "[cpu" in said
    assert "cuda-standin" not in said
    assert "cuda]" not in said
    assert "deselected" in said


@pytest.mark.parametrize("name", ["standin", "cuda"])
def test_what_is_required_fails_where_it_is_not(name: str) -> None:
    code, said = pytest_without_cupy(f"--require-{name}", "-x", "-m", "slow or not slow", TESTS[0])
    assert code == 1, said
    assert f"--require-{name}" in said


@pytest.mark.parametrize("name", ["standin", "cuda"])
def test_the_head_says_what_was_left_out(name: str) -> None:
    code, said = pytest_without_cupy("--collect-only", "-v", TESTS[0])
    assert code == 0, said
    assert f"left out, as --require-{name} is not given: " in said
