"""Speed of networks and layers and the memory of training, as ``gpucnn bench`` and scripts/bench.py measure them.

The timed loop is the one that a user writes by hand; it includes gathering batches from memory by a shuffled index.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import gpucnn
from gpucnn import nn, optim
from gpucnn.backend import Backend, get_backend, ops, use
from gpucnn.errors import GpucnnError, ParameterError, UsageError, did_you_mean
from gpucnn.functional import max_pool2d
from gpucnn.models.structure import layer_classes
from gpucnn.options import read_options
from gpucnn.training import PRECISIONS, LossScale, build_model, train_step
from gpucnn.training.environment import processor_name

Step = Callable[[np.ndarray[Any, Any]], None]
"""Processes one batch, given as indices of the images."""
Shape = tuple[int, int, int]

IMAGES = 4096
"""Images in memory; fewer where they would take more than half a gigabyte, more for a larger batch."""
WARM_UP = 3
"""Batches before the clock starts."""


def image_count(shape: Shape, least: int = 1) -> int:
    """Return how many images of ``shape`` are held in memory: at least ``least``.

    >>> image_count((3, 8, 8)), image_count((3, 512, 512))
    (4096, 170)
    """
    return max(min(IMAGES, (1 << 29) // (4 * shape[0] * shape[1] * shape[2])), least)


def images_of(shape: Shape, least: int = 1) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return images (count, C, H, W) float32 with normal pixels, and labels (count,) of ten classes: at least ``least``.

    >>> images, labels = images_of((3, 8, 8))
    >>> images.shape, labels.shape
    ((4096, 3, 8, 8), (4096,))
    """
    count = image_count(shape, least)
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, *shape), np.float32), rng.integers(0, 10, count)


def network_steps(
    net: nn.Module,
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    device: str | Backend,
    captured: bool = False,
) -> dict[str, Step]:
    """Return the steps "train" (cross-entropy, Adam) and "infer" (the class of each image) of a network on its device.

    A copy of the network in evaluation mode infers. captured: training is captured once and replayed, which only a GPU does.
    A network in float16 trains with loss scaling.

    >>> images, labels = images_of((1, 28, 28))
    >>> steps = network_steps(build_model("lenet", (1, 28, 28), 10, "float32", get_backend("cpu")), images, labels, "cpu")
    >>> steps["train"](np.arange(4))
    """
    loss_fn, optimizer = nn.CrossEntropyLoss(), optim.Adam(net.parameters(), lr=1e-3)
    all_images, all_labels = (gpucnn.tensor(array, device=device) for array in (images, labels))
    scale = LossScale(get_backend(device)) if images.dtype == np.float16 else None

    def work(x: gpucnn.Tensor, y: gpucnn.Tensor) -> gpucnn.Tensor:
        if scale is not None:
            return train_step(net, loss_fn, optimizer, x, y, scale)[0]
        optimizer.zero_grad()
        loss: gpucnn.Tensor = loss_fn(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    resting = copy.deepcopy(net).eval()
    held: list[Any] = [net, optimizer] if scale is None else [net, optimizer, scale]
    step = gpucnn.capture(work, state=held) if captured else work

    def train(chosen: np.ndarray[Any, Any]) -> None:
        step(all_images[chosen], all_labels[chosen])

    def infer(chosen: np.ndarray[Any, Any]) -> None:
        with gpucnn.no_grad():
            resting(all_images[chosen]).argmax(1)

    return {"train": train, "infer": infer}


def layer_steps(layer: nn.Module, images: np.ndarray[Any, Any], device: str | Backend) -> dict[str, Step]:
    """Return the steps "train" (forward, and backward to input and parameters) and "infer" of one layer.

    A batch is the first images: gathering is not part of a layer.

    >>> steps = layer_steps(nn.Conv2d(3, 4, 3, device="cpu"), images_of((3, 8, 8))[0], "cpu")
    >>> steps["train"](np.arange(4))
    """
    batches: dict[int, tuple[gpucnn.Tensor, gpucnn.Tensor]] = {}

    def batch(size: int) -> tuple[gpucnn.Tensor, gpucnn.Tensor]:
        if size not in batches:
            batches.clear()
            x = gpucnn.tensor(images[:size], device=device)
            x = max_pool2d(x, 1).requires_grad_()  # in the memory layout that a preceding layer would produce
            batches[size] = x, layer(x).detach()
        return batches[size]

    def train(chosen: np.ndarray[Any, Any]) -> None:
        x, gradient = batch(len(chosen))
        for tensor in (x, *layer.parameters()):
            tensor.grad = None
        layer(x).backward(gradient)

    def infer(chosen: np.ndarray[Any, Any]) -> None:
        x, _ = batch(len(chosen))
        with gpucnn.no_grad():
            layer(x)

    return {"train": train, "infer": infer}


def make(what: str, shape: Shape, device: str | Backend, precision: str = "float32") -> nn.Module:
    """Return the network or the layer that ``what`` describes: lenet:pooling=avg, or Conv2d:in_channels=3,out_channels=8,...

    UsageError for an unknown name or option, or where images of ``shape`` do not fit a network.

    >>> make("Conv2d:in_channels=3,out_channels=8,kernel_size=3", (3, 8, 8), "cpu")
    Conv2d(3, 8, kernel_size=(3, 3))
    """
    name, _, rest = what.partition(":")
    if not name[:1].isupper():
        return build_model(what, shape, 10, precision, get_backend(device))
    known = layer_classes()
    if name not in known:
        raise UsageError.expected("bench", "layer", "a layer of gpucnn.nn", repr(name), did_you_mean(name, known))
    kind: Callable[..., nn.Module] = known[name]
    try:
        with use(device):
            return kind(**read_options(rest, kind, f"layer {name}"))
    except (ParameterError, TypeError) as error:
        raise UsageError(f"layer {name}: {error}") from None


def steps_of(
    what: str,
    shape: Shape,
    device: str | Backend,
    least: int = 1,
    captured: bool = False,
    precision: str = "float32",
) -> dict[str, Step]:
    """Return "train" and "infer" of the network or the layer that ``what`` describes, with images in memory.

    precision: of a network, see ``training.PRECISIONS``; layers are measured in float32.

    >>> sorted(steps_of("ReLU", (3, 8, 8), "cpu"))
    ['infer', 'train']
    """
    gpucnn.manual_seed(0)
    module, (images, labels) = make(what, shape, device, precision), images_of(shape, least)
    if what[:1].isupper():
        return layer_steps(module, images, device)
    steps = network_steps(module, images.astype(PRECISIONS[precision]), labels, device, captured)
    return {mode: _in_precision(step, get_backend(device), precision) for mode, step in steps.items()}


def _in_precision(step: Step, backend: Backend, precision: str) -> Step:
    """Return the step as it runs in TF32 where ``precision`` says so, otherwise without; DeviceError where there is none."""
    if precision != "tf32" and not backend.has_tf32:
        return step

    def run(chosen: np.ndarray[Any, Any]) -> None:
        with backend.tf32(precision == "tf32"):
            step(chosen)

    return run


def images_per_second(
    step: Step, batch_size: int, seconds: float, backend: Backend | None = None, count: int | None = None
) -> float:
    """Return the images per second of ``step`` on shuffled batches from ``count`` images, measured for about ``seconds``.

    >>> images_per_second(lambda chosen: None, 8, seconds=0.01) > 1000
    True
    """
    order = np.random.default_rng(0).permutation(max(count or IMAGES, batch_size))
    batches = [order[i : i + batch_size] for i in range(0, len(order) - batch_size + 1, batch_size)]
    for i in range(WARM_UP):
        step(batches[i % len(batches)])
    wait = backend.synchronize if backend is not None else lambda: None
    wait()
    done, start = 0, time.perf_counter()
    while True:
        step(batches[done % len(batches)])
        done += 1
        if time.perf_counter() - start >= seconds:
            wait()
            return done * batch_size / (time.perf_counter() - start)


# --- memory ------------------------------------------------------------------------------------------------------


def peak_memory(train: Step, batch_size: int, count: int) -> int:
    """Return the peak memory of training at this batch size, in bytes above the state after five steps at batch 16.

    Call it in a process of its own: except on Linux, earlier use of memory must not have been larger.
    """
    for _ in range(5):
        train(np.arange(16) % count)
    before = _reset_peak()
    order = np.random.default_rng(0).permutation(count)
    for first in range(0, 8 * batch_size, batch_size):
        train(np.take(order, np.arange(first, first + batch_size), mode="wrap"))
    return _peak() - before


def peak_memory_apart(call: str) -> int:
    """Return the value of a Python expression (of ``peak_memory``), evaluated in a process of its own."""
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False)
    if done.returncode:
        raise GpucnnError(f"bench: measuring memory failed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return int(done.stdout.split()[-1])


def memory_of(what: str, shape: Shape, batch_size: int) -> int:
    """Return the ``peak_memory`` of a network or layer on the CPU, measured in a process of its own."""
    return peak_memory_apart(
        "from gpucnn.benchmark import peak_memory, steps_of\n"
        f"print(peak_memory(steps_of({what!r}, {shape!r}, 'cpu', {batch_size})['train'], "
        f"{batch_size}, {image_count(shape, batch_size)}))"
    )


def _reset_peak() -> int:
    """Reset the highest resident size, where the system can, and return it (Linux: the current size)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(key: str) -> int:
    """Return a size that Linux reports of this process; OSError on other systems."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


# --- reports -----------------------------------------------------------------------------------------------------


def measure(
    what: str,
    shape: Shape,
    batch_sizes: tuple[int, ...],
    modes: tuple[str, ...],
    rounds: int,
    seconds: float,
    device: str,
) -> list[dict[str, Any]]:
    """Return for each mode and batch size the median images/s of some rounds, with the slowest and the fastest.

    >>> row, = measure("ReLU", (1, 4, 4), (2,), ("infer",), rounds=1, seconds=0.01, device="cpu")
    >>> sorted(row)
    ['batch_size', 'images_per_second', 'max', 'milliseconds', 'min', 'mode']
    """
    backend, least = get_backend(device), max(batch_sizes)
    steps, count, rows = steps_of(what, shape, backend, least), image_count(shape, least), []
    for mode in modes:
        for size in batch_sizes:
            rates = [images_per_second(steps[mode], size, seconds, backend, count) for _ in range(rounds)]
            middle = statistics.median(rates)
            row: dict[str, Any] = {"mode": mode, "batch_size": size, "images_per_second": round(middle)}
            row |= {"milliseconds": round(1e3 * size / middle, 4), "min": round(min(rates)), "max": round(max(rates))}
            rows.append(row)
    return rows


def rates(device: str | Backend, seconds: float = 0.2) -> dict[str, float]:
    """Return the peak performance of the device: a large matrix product, and copies within and beyond the caches.

    >>> sorted(rates("cpu", seconds=0.001))
    ['copy of 0.5 MB, GB/s', 'copy of 64 MB, GB/s', 'product of 1024x1024, GFLOP/s']
    """
    backend = get_backend(device)

    def times_a_second(work: Callable[[], Any]) -> float:
        return images_per_second(lambda _: work(), 1, seconds, backend)

    a = ops.full(backend, (1024, 1024), 1.0, "float32")
    found = {"product of 1024x1024, GFLOP/s": times_a_second(lambda: ops.matmul(backend, a, a)) * 2 * 1024**3 / 1e9}
    for megabytes in (0.5, 64):
        source = ops.full(backend, int(megabytes * 2**18), 1.0, "float32")
        target = ops.zeros(backend, source.shape, "float32")
        rate = times_a_second(partial(ops.fill, backend, target, source))
        found[f"copy of {megabytes} MB, GB/s"] = rate * 2 * source.nbytes / 1e9
    return {name: round(rate, 1) for name, rate in found.items()}


def machine(device: str) -> dict[str, Any]:
    """Return what a report records of the machine: date, processor, cores, device, versions.

    >>> sorted(machine("cpu"))
    ['cores', 'date', 'device', 'processor', 'versions']
    """
    versions = {"gpucnn": gpucnn.__version__, "numpy": np.__version__, "python": platform.python_version()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about: dict[str, Any] = {"date": date.today().isoformat(), "processor": processor_name(), "cores": cores}
    return about | {"device": get_backend(device).describe(), "versions": versions}


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows with the same keys as aligned columns, numbers right-aligned.

    >>> print(table([{"mode": "train", "images/s": 12345.0}]))
    mode   images/s
    train    12,345
    """

    def shown(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"
        return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)

    keys = list(rows[0])
    cells = [keys, *([shown(row[key]) for key in keys] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    text = [isinstance(rows[0][key], str) for key in keys]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, text, strict=True)
        ).rstrip()
        for line in cells
    )


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report atomically: whole, or not at all."""
    from gpucnn.disk import write_atomically

    write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())
