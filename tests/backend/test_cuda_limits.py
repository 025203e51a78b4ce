"""Limits of a launch, of 32-bit numbers and of the order of sums: what small arrays never reach."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn.backend import Backend, Window, ops
from gpucnn.backend.cuda import conv
from gpucnn.backend.cuda.launch import FAMILIES, Kernels, source

MOST_BLOCKS = (2**31 - 1, 65_535, 65_535)


@pytest.fixture
def grids(standin: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...]]]:
    """The grid of each launch, which is not done."""
    found: list[tuple[str, tuple[int, ...]]] = []
    monkeypatch.setattr(Kernels, "launch", lambda self, name, grid, block, *arguments: found.append((name, grid)))
    return found


def assert_launchable(grids: list[tuple[str, tuple[int, ...]]]) -> None:
    assert grids
    for name, grid in grids:
        assert all(1 <= n <= most for n, most in zip(grid, MOST_BLOCKS, strict=False)), (name, grid)


@pytest.mark.parametrize(("M", "N"), [(4_194_241, 1), (1, 4_194_241), (8_400_000, 2)])
def test_a_product_of_millions_of_rows_or_columns(standin: Backend, grids: Any, M: int, N: int) -> None:
    a, b = standin.xp.empty((M, 1), np.float32), standin.xp.empty((1, N), np.float32)
    ops.matmul(standin, a, b)
    ((name, grid),) = grids
    side = int(name.rpartition("_")[2])
    assert np.prod(grid) == -(-M // side) * -(-N // side)
    assert_launchable(grids)


def test_a_transposed_page_of_millions_of_rows(standin: Backend, grids: Any) -> None:
    pixels = 2_097_153
    x, y = (standin.xp.empty(shape, np.float32) for shape in ((1, pixels, 1), (1, 1, pixels)))
    conv.transpose_pages(standin, x, y)  # type: ignore[arg-type]
    assert_launchable(grids)


@pytest.mark.parametrize("way", ["channels", "filters"])
def test_a_convolution_of_millions_of_channels_or_filters(standin: Backend, grids: Any, way: str) -> None:
    many = 65_535 * 64 + 1
    F, C = (1, many) if way == "channels" else (many, 1)
    window = Window((1, 1))
    assert not conv.fits((1, C, 1, 1), (F, C, 1, 1), window, 1)
    assert conv.fits((1, C - (C > 1), 1, 1), (F - (F > 1), C - (C > 1), 1, 1), window, 1)


def test_counts_of_elements_are_computed_in_64_bits() -> None:
    """A product of ints overflows before it is widened: the first factor has to be a long long."""
    text = re.sub(r"//.*", "", "".join(map(source, FAMILIES))).replace("POOL_SIZES) {", "long long P) {")
    found = re.findall(r"extern \"C\" __global__ void (?:__launch_bounds__\(\d+\) ?)?\w+\((.*?)\n\}", text, re.DOTALL)
    counts = [(body, count) for body in found for count in re.findall(r"FOR_EACH\(\w+, (.+)\) ?(?:\{|\w)", body)]
    assert len(counts) > 10
    for body, count in counts:
        if "*" in count:
            first = count.split("*")[0].strip()
            assert first.startswith("(long long)") or f"long long {first}" in body, count


# --- the order of sums -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_the_gradient_of_an_index_has_the_same_bits_every_time(standin: Backend, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    key = rng.integers(-7, 7, 500)
    dy = (rng.standard_normal((500, 3)) * 10.0 ** rng.integers(-3, 3, (500, 1))).astype(dtype)
    expected = np.zeros((7, 3))
    for i, row in zip(key, dy.astype(np.float64), strict=True):
        expected[i] += row
    found = []
    with gpucnn.use(standin):
        for _ in range(3):
            on_device = (standin.asarray(key), slice(None))
            found.append(standin.to_host(ops.index_gradient(standin, standin.asarray(dy), (7, 3), on_device, True)))
    assert found[0].dtype == dtype
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
    np.testing.assert_allclose(found[0], expected, rtol=2e-2 if dtype == np.float16 else 1e-4)


def test_the_gradient_of_an_index_on_two_axes_and_of_none(standin: Backend) -> None:
    rows, columns = np.array([[0, 1], [0, 0]]), np.array([2, 2])
    dy = np.array([[1, 2], [4, 8]], np.float32)
    key = (standin.asarray(rows), standin.asarray(columns))
    got = standin.to_host(ops.index_gradient(standin, standin.asarray(dy), (2, 3), key, True))
    assert got.tolist() == [[0, 0, 13], [0, 0, 2]]  # (0, 2) twice in the first column's pair and once more below
    nothing = standin.asarray(np.zeros(0, np.int64))
    got = standin.to_host(
        ops.index_gradient(standin, standin.asarray(np.zeros((0, 3), np.float32)), (2, 3), nothing, True)
    )
    assert got.tolist() == [[0, 0, 0], [0, 0, 0]]
