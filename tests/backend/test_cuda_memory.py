"""Memory that runs out on CUDA, choosing by timing, warming up; on the stand-in for CuPy and on a GPU."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from cuda_operations import RNG, arrays, hold

import gpucnn
from gpucnn import nn
from gpucnn.backend import Backend, Window, get_backend
from gpucnn.backend.cuda import blas, columns
from gpucnn.backend.cuda.launch import FAMILIES, HALF, IN_TILES, OPTIONS, STORING, TF32
from gpucnn.errors import OutOfMemoryError

# --- memory, choice by timing, warming up --------------------------------------------------------------------------------


@pytest.fixture
def little_memory(standin: Backend, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that lets the device refuse every array of more than so many bytes."""
    empty, error = standin.xp.empty, standin.xp.cuda.memory.OutOfMemoryError
    cleaned: list[bool] = []

    def limit(most: int) -> list[bool]:
        def refusing(shape: Any, dtype: Any = float) -> Any:
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            if size > most:
                raise error(size, 0, 0)
            return empty(shape, dtype)

        monkeypatch.setattr(standin.xp, "empty", refusing)
        pool = type(standin.xp.get_default_memory_pool())
        monkeypatch.setattr(pool, "free_all_blocks", lambda self, stream=None: cleaned.append(True))
        return cleaned

    return limit


def test_without_memory_the_batch_is_worked_on_in_halves(
    standin: Backend, little_memory: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(columns, "pay", lambda *arguments, **named: True)
    monkeypatch.setattr(blas, "WORKSPACE_HOPPER", 1024)
    shape, window = (7, 4, 8, 8), Window((3, 3), (1, 1), (1, 1, 1, 1))
    x, w = RNG(0).standard_normal(shape), RNG(1).standard_normal((3, 4, 3, 3))
    dy = RNG(2).standard_normal((7, 3, 8, 8))
    cleaned = little_memory(2 * 8 * 8 * 36 * 4)  # the columns of two images
    with caplog.at_level(logging.WARNING, "gpucnn"):
        hold(standin, "conv2d", x, w, None, window)
        hold(standin, "conv2d_weight_gradient", x, dy, w.shape, window)
    assert cleaned
    assert standin.ran["conv2d.halved"] > 0
    assert "conv2d: not enough memory on cuda:0 for 7 images at once: working in halves" in caplog.text
    little_memory(8 * 8 * 36 * 4 - 1)  # not even of one
    with pytest.raises(
        OutOfMemoryError, match=r"im2col: 9,216 bytes asked on cuda:0\. [\d,]+ of [\d,]+ bytes are free\. Use smaller"
    ):
        standin.conv2d(*arrays(standin, x, w), None, window)


def test_without_memory_the_error_names_the_layer(standin: Backend, little_memory: Any) -> None:
    layer, x = nn.Conv2d(1, 8, 3), np.zeros((4, 1, 9, 9), np.float32)
    little_memory(1000)
    with pytest.raises(OutOfMemoryError, match=r"conv2d: 6,272 bytes asked .*\(in layer Conv2d\(1, 8") as caught:
        layer.to("cuda")(gpucnn.tensor(x, device="cuda"))
    assert isinstance(caught.value, MemoryError)
    assert caught.value.exit_code == 4


def test_without_memory_for_what_cupy_does_itself(standin: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(x: Any) -> Any:
        raise standin.xp.cuda.memory.OutOfMemoryError(4096, 100, 0)

    monkeypatch.setattr(standin.xp, "exp", refusing)
    x = gpucnn.tensor([1.0], device="cuda")
    with pytest.raises(
        OutOfMemoryError, match=r"cuda:0: OutOfMemoryError: .*4,096 bytes.* bytes are free\. Use smaller"
    ):
        x.exp()


def test_memory_that_a_clean_up_frees_is_used(standin: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, error, refused = standin.xp.empty, standin.xp.cuda.memory.OutOfMemoryError, []

    def refusing_once(shape: Any, dtype: Any = float) -> Any:
        if not refused:
            refused.append(True)
            raise error(8, 0, 0)
        return empty(shape, dtype)

    monkeypatch.setattr(standin.xp, "empty", refusing_once)
    assert standin.to_host(standin.relu(arrays(standin, np.array([-1.0, 2.0]))[0])).tolist() == [0, 2]
    assert refused


def test_autotuning_times_once_and_reports(monkeypatch: pytest.MonkeyPatch, standin: Backend) -> None:
    from gpucnn.backend.cuda import CudaDevice

    monkeypatch.setenv("GPUCNN_AUTOTUNE", "1")
    backend = CudaDevice()
    shape, window = (2, 3, 6, 6), Window((3, 3))
    x, w = RNG(0).standard_normal(shape), RNG(1).standard_normal((4, 3, 3, 3))
    hold(backend, "conv2d", x, w, None, window)
    launches = standin.xp.standin.launches
    with launches.counted() as first:
        hold(backend, "conv2d", x, w, None, window)
    assert sum(count for name, count in first.items() if name in ("conv_forward_8", "im2col")) == 1
    (report,) = backend.describe()["algorithms"].items()
    assert report[0].startswith("('conv2d', (2, 3, 6, 6)")
    assert report[1] in ("conv", "columns")
    assert "algorithms" not in standin.describe()


def test_warming_up_compiles(standin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[str, ...]] = []
    monkeypatch.setattr(standin.xp.RawModule, "compile", lambda self: compiled.append(self.options))
    get_backend("cuda").warm_up()  # type: ignore[attr-defined]
    half = [(*(TF32 if family in IN_TILES else OPTIONS), HALF) for family in STORING]
    assert compiled == [OPTIONS] * len(FAMILIES) + [TF32] * len(IN_TILES) + half
