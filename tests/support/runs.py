"""What the tests of the upper layers share: small data, short runs, the command line in this process."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import os
import signal
import struct
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import gpucnn as gpucnn_package
from gpucnn.cli import main
from gpucnn.data import ArrayDataset, Splits, draw_digits
from gpucnn.disk import pointed_at
from gpucnn.training import Reporter, RunFolder, Settings, Trainer

ROOT = Path(__file__).parents[2]
INSTALLED = Path(gpucnn_package.__file__).parents[1]
"""Where this process found gpucnn: with its compiled kernels, which a clone lacks."""


@functools.cache
def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return draw_digits(count, seed)


IDX_CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx(array: np.ndarray) -> bytes:
    """Return an array as the bytes of an IDX file, by its published description."""
    kind = array.dtype.str[1:]
    head = bytes([0, 0, IDX_CODES[kind], array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape)
    return head + array.astype(">" + kind).tobytes()


def write_idx_folder(folder: Path, suffix: str = "", dots: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (7, 5, 5), np.uint8),
        "train-labels-idx1-ubyte": np.array([0, 1, 2, 0, 1, 2, 2], np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (3, 5, 5), np.uint8),
        "t10k-labels-idx1-ubyte": np.array([2, 0, 1], np.uint8),
    }
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        content = idx(array)
        path = folder / ((name.replace("-idx", ".idx") if dots else name) + suffix)
        path.write_bytes(gzip.compress(content) if suffix == ".gz" else content)
    return arrays


def small_splits(train: int = 640, test: int = 200) -> Splits:
    return Splits("small", ArrayDataset(*drawn(train, 0)), ArrayDataset(*drawn(test, 1)))


def write_npz(path: Path, train: int = 640, test: int = 200, **other: Any) -> Path:
    (x, y), (x_test, y_test) = drawn(train, 0), drawn(test, 1)
    np.savez(path, **{"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test, **other})
    return path


def small_settings(**changes: Any) -> Settings:
    return replace(Settings(device="cpu", epochs=2, batch_size=50, validation=140, data="small"), **changes).resolved()


def trainer(path: Path, reporter: Reporter | None = None, splits: Splits | None = None, **changes: Any) -> Trainer:
    """Return a trainer for a new run of 10 steps an epoch (500 images, 50 a step)."""
    return Trainer(small_settings(**changes), splits or small_splits(), RunFolder.new(path, "small"), reporter)


def resumed(path: Path, reporter: Reporter | None = None, splits: Splits | None = None, **changes: Any) -> Trainer:
    continued = Trainer(small_settings(**changes), splits or small_splits(), RunFolder.open(path), reporter)
    continued.resume()
    return continued


class Raises(Reporter):
    """Sends this process a signal after a step, as Ctrl-C or kill would."""

    def __init__(self, step: int, *numbers: int) -> None:
        self.at, self.numbers = step, numbers

    def step(self, trainer: Any, images: int) -> None:
        if trainer.step == self.at:
            for number in self.numbers:
                signal.raise_signal(number)


def checkpoint_of(run: Path, which: str = "last") -> Path:
    """Return the folder of a run's checkpoint."""
    found = pointed_at(run / "checkpoints" / which)
    assert found is not None
    return found


def weights(path: Path) -> dict[str, bytes]:
    """Return the bytes of all arrays of a run's last checkpoint: network and optimiser."""
    saved = RunFolder.open(path).load("last")
    return {name: array.tobytes() for name, array in (saved.model | saved.optimizer).items()}


def numbers(path: Path) -> list[dict[str, Any]]:
    """Return what ``metrics.jsonl`` says, without what depends on the clock."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


@dataclass
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


def gpucnn(*arguments: Any) -> Result:
    """Run the command line in this process, as ``gpucnn ARGUMENTS`` would."""
    out, err = io.StringIO(), io.StringIO()
    code = -1
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
        mock.patch.object(sys, "argv", ["gpucnn", *map(str, arguments)]),
    ):
        warnings.simplefilter("default")
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment for another one that finds the same gpucnn."""
    folders = [INSTALLED, ROOT / "tests", ROOT / "tests" / "support"]
    path = os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Safe path: the current folder, a clone whose kernels are not compiled, does not come before the package.
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "default", **changes}


def python(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python on ``arguments`` in another process and return what it said."""
    options.setdefault("env", environment())
    command = [sys.executable, *map(str, arguments)]
    options.setdefault("timeout", 120)
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def assert_refused(result: Result, code: int, *words: str) -> None:
    """The command ended with this code and one or two lines that say these words, and no traceback."""
    said = [line for line in result.err.splitlines() if not line.startswith(("Note:", "Reading ", "Run folder: "))]
    assert result.code == code, result.err
    assert 1 <= len(said) <= 2, result.err
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err
