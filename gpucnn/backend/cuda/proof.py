"""The kernels prove themselves: before a device is used, each family runs small cases against the references on NumPy.

A family is a module of this package. One that does not compile, cannot be launched or gives a wrong answer is switched off
on this device, with one warning, and the references serve instead. What was proved is remembered beside CuPy's kernel
cache, under the hash of the kernels' source, the GPU, and the versions of driver and CuPy.
``GPUCNN_KERNELS=0`` switches all off.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda import blas
from gpucnn.backend.cuda.conv import transpose_pages
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.launch import FAMILIES, source
from gpucnn.backend.device import Device
from gpucnn.backend.dispatch import OPERATIONS, Operation
from gpucnn.backend.geometry import Window
from gpucnn.backend.random import Generator
from gpucnn.disk import write_atomically

PLAIN = {"graph", "indexing", "prefetch", "tuned"}
"""Modules without kernels, which are no families."""
LATER = "wide_conv"
"""The family whose kernels are compiled, and held against the references, when a convolution first asks for them."""
CLOSE, CLOSE_TF32 = 1e-4, 1e-2
"""The largest difference from the reference, relative to the largest value of the answer."""


WIDE = (
    ((2, 16, 6, 9), 16, Window((3, 3), (1, 1), (1, 1, 1, 1))), ((2, 32, 7, 6), 32, Window((3, 3), (1, 1), (1, 1, 1, 1))),
    ((2, 80, 4, 5), 64, Window((3, 3), (1, 1), (1, 1, 1, 1))), ((2, 48, 7, 8), 80, Window((3, 3), (2, 2), (1, 1, 1, 1))),
)  # fmt: skip
"""Shapes, filters and windows of convolutions that together launch every wide kernel."""


class _Host(Device):
    """The references on NumPy."""

    xp = np


@dataclass
class Case:
    """One call of an operation, on host arrays."""

    operation: Operation[..., Any]
    arguments: Sequence[Any]
    named: dict[str, Any] = field(default_factory=dict)


def family_of(function: Callable[..., Any]) -> str:
    return function.__module__.rpartition(".")[2]


def families() -> list[str]:
    """Return the families of kernels."""
    found = {family_of(f) for operation in OPERATIONS.values() for _, f in operation.implementations.get("cuda", ())}
    return sorted(found - PLAIN)


def cases(seed: int = 0) -> list[Case]:
    """Return cases that together launch every kernel."""
    rng = np.random.default_rng(seed)

    def some(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    def positive(*shape: int) -> Any:
        return (rng.random(shape) + 0.5).astype(np.float32)

    found: list[Case] = []

    def add(operation: Any, *arguments: Any, **named: Any) -> None:
        found.append(Case(operation, arguments, named))

    host = _Host()
    for F, groups, window in (
        (5, 1, Window((3, 3), (1, 1), (1, 1, 1, 1))), (20, 2, Window((3, 2), (2, 1))), (40, 1, Window((1, 3))),
    ):  # fmt: skip
        shape, w = (2, F if F > 5 else 4, 8, 9), some(F, (F if F > 5 else 4) // groups, *window.kernel)
        x, b, dy = some(*shape), some(F), some(2, F, *window.output_size(8, 9))
        add(ops.conv2d, x, w, b, window, groups)
        add(ops.conv2d_input_gradient, dy, w, shape, window, groups)
        add(ops.conv2d_weight_gradient, x, dy, w.shape, window, groups)
        add(ops.conv2d_relu_max_pool2d, x, w, b, window, groups)
        pooled, indices = ops.conv2d_relu_max_pool2d(host, x, w, b, window, groups)
        indices = indices.astype(np.uint8)  # type: ignore[union-attr]
        add(ops.conv2d_relu_max_pool2d_gradients, x, w, some(*pooled.shape), indices, window, groups, (True, True))
    for shape, F, window in WIDE:
        x, w, b, dy = (
            some(*shape),
            some(F, shape[1], *window.kernel),
            some(F),
            some(2, F, *window.output_size(*shape[2:])),
        )
        add(ops.conv2d, x, w, b, window)
        add(ops.conv2d_input_gradient, dy, w, shape, window)
        add(ops.conv2d_weight_gradient, x, dy, w.shape, window)
        add(ops.conv2d_relu_max_pool2d, x, w, b, window, 1)
        pooled, indices = ops.conv2d_relu_max_pool2d(host, x, w, b, window, 1)
        indices = indices.astype(np.uint8)  # type: ignore[union-attr]
        add(ops.conv2d_relu_max_pool2d_gradients, x, w, some(*pooled.shape), indices, window, 1, (True, True))
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    columns = ops.im2col(host, some(2, 3, 6, 6), window)
    add(ops.im2col, some(2, 3, 6, 6), window)
    add(ops.col2im, some(*columns.shape), (2, 3, 6, 6), window)
    for window in (Window((2, 3), (2, 1)), Window((16, 16), (16, 16))):
        x = some(2, 3, 17, 17)
        y, indices = ops.max_pool2d(host, x, window)
        indices = indices.astype(np.uint8 if window.kernel == (2, 3) else np.int32)  # type: ignore[union-attr]
        add(ops.max_pool2d, x, window)
        add(ops.max_pool2d_gradient, some(*y.shape), indices, x.shape, window)
        add(ops.avg_pool2d, x, window, float(np.prod(window.kernel)))
        add(ops.avg_pool2d_gradient, some(*y.shape), x.shape, window, float(np.prod(window.kernel)))
    for M, N in ((7, 10), (64 * 12, 64 * 11), (128 * 12, 128 * 11)):
        x, w, dy = some(M, 9), some(N, 9), some(M, N)
        add(ops.linear, x, w, some(N))
        add(ops.linear_parameter_gradients, some(5, N), some(5, M))
        add(ops.matmul, x, some(9, N))
    add(ops.matmul, some(3, 5, 9), some(3, 7, 9).swapaxes(1, 2))
    add(ops.matmul, some(5, 9).astype(np.float64).T, some(5, 7).astype(np.float64))
    x, y, weight, bias, mean, var = some(3, 4, 5, 6), some(3, 4, 5, 6), some(4), some(4), some(4), positive(4)
    add(ops.batch_norm, x, weight, bias, y, 1e-5, True)
    add(ops.batch_norm_inference, x, mean, var, weight, bias, None, 1e-5, False)
    add(ops.batch_norm_gradients, some(3, 4, 5, 6), x, y, weight, mean, positive(4), True)
    add(ops.batch_norm_gradients, some(3, 4, 5, 6), x, None, weight, mean, positive(4), False)
    add(ops.update_running_statistics, some(4), positive(4), mean, var, 90, 0.1)
    add(ops.relu, some(700))
    add(ops.relu_gradient, some(700), some(700))
    add(ops.cross_entropy, some(6, 40), rng.integers(0, 40, 6), True)
    add(ops.mean_loss, some(300), 300.0)
    add(ops.scale, some(300), np.array(0.7, np.float32), 3.0)
    add(ops.set_numbers, np.zeros(2), (0.1, 0.9))
    add(ops.copy_all, [(np.zeros(n, np.float32), some(n)) for n in range(1, 15)])
    sgd = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    add(ops.sgd_update, some(300), some(300), some(300), **sgd)
    adam = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01, "step": np.array([3.0])}
    add(ops.adam_update, some(300), some(300), some(300), positive(300), **adam, where=np.array(True))
    images, scale, shift = rng.integers(0, 255, (9, 2, 3, 3)).astype(np.uint8), positive(2), some(2)
    add(ops.gather, images, np.array([3, 8, 0, 3]), scale, shift, np.float32)
    labels, order = rng.integers(0, 5, 9), rng.permutation(9)
    add(ops.gather_next, images, labels, order, np.array([2.0]), 4, scale, shift, np.float32)
    add(ops.update_metrics, np.zeros(4), np.array(0.3, np.float32), some(9, 5), labels)
    return found


def prove(device: CudaDevice, thorough: bool = False) -> dict[str, str]:
    """Check every family on ``device``, switch off those that fail, with one warning, and return why, by family.

    thorough: on many random cases, and whatever was remembered; otherwise on one set, if this has not passed before.
    """
    if os.environ.get("GPUCNN_KERNELS") == "0":
        switch_off(device, families())
        return {}
    note = None if thorough else _note(device)
    if note is not None and note.exists():
        return {}
    before = device.ran.copy()
    device.proving = True
    try:
        faults, certain = _faults(device, thorough)
    finally:
        device.proving = False
    device.ran.clear()
    device.ran.update(before)
    if faults:
        distrust(device, faults)
    elif note is not None and certain:
        _remember(note)
    return faults


def distrust(device: CudaDevice, faults: dict[str, str]) -> None:
    """Switch families off, with one warning that says why."""
    switch_off(device, sorted(faults))
    warnings.warn(
        f"{device.name}: kernels switched off: {'; '.join(f'{name} ({why})' for name, why in faults.items())}. Other "
        f"implementations serve instead, which is slower. Please report this with the output of: gpucnn doctor --verify",
        stacklevel=5,
    )


def _faults(device: CudaDevice, thorough: bool) -> tuple[dict[str, str], bool]:
    """Return what is wrong with which family, and whether every case could be tried."""
    seeds, tf32 = range(20 if thorough else 1), thorough and device.has_tf32
    faults: dict[str, str] = {}
    certain = True
    for precise in (True, False) if tf32 else (True,):
        with device.tf32(enabled=not precise):
            for seed in seeds:
                for family, check in _checks(device, seed, CLOSE if precise else CLOSE_TF32):
                    if family in faults or (family == LATER and not thorough):
                        continue
                    try:
                        why = check()
                    except MemoryError:  # other programs have it all: nothing is known about the kernels
                        certain = False
                    except Exception as error:  # whatever CuPy, the compiler or the driver raise
                        faults[family] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                    else:
                        if why:
                            faults[family] = why
    return faults, certain


def _checks(device: CudaDevice, seed: int, tolerance: float) -> Iterator[tuple[str, Callable[[], str | None]]]:
    for case in cases(seed):
        for serves, function in case.operation.implementations["cuda"]:
            if serves is None or serves(device, *case.arguments, **case.named):
                yield family_of(function), partial(differs, device, case, function, tolerance)
    yield "activation", lambda: _dropoutdiffers(device, seed)
    yield "conv", lambda: _transposediffers(device, seed)


def differs(device: CudaDevice, case: Case, function: Any, tolerance: float) -> str | None:
    """Run one case on the device and by the reference; return what is wrong, if results or arguments afterwards differ."""
    ours = _mapped((case.arguments, case.named), lambda array: device.asarray(array))
    theirs = _mapped((case.arguments, case.named), lambda array: array.copy())
    with device.active():
        got = function(device, *ours[0], **ours[1])
    expected = case.operation.reference(_Host(), *theirs[0], **theirs[1])
    pairs = zip(_arrays((got, ours)), _arrays((expected, theirs)), strict=True)
    for on_device, wanted in pairs:
        if not agree(device.to_host(on_device), np.asarray(wanted), tolerance):
            return f"{case.operation.name} gives a wrong answer"
    return None


def agree(got: Any, wanted: Any, tolerance: float) -> bool:
    """Whether two host arrays are equal, within ``tolerance`` of the largest value where they are floating."""
    if got.shape != wanted.shape or not got.size:
        return bool(got.shape == wanted.shape)
    if wanted.dtype.kind != "f":  # in TF32 another of two close values may be the largest
        return bool((got != wanted).mean() <= (0.05 if tolerance > CLOSE else 0))
    return bool(np.abs(got.astype(np.float64) - wanted).max() <= tolerance * max(np.abs(wanted).max(), 1))  # NaN: False


def _dropoutdiffers(device: CudaDevice, seed: int) -> str | None:
    generator, count = Generator(seed + 5), 1001
    got = device.to_host(ops.dropout_mask(device, (count,), 0.3, np.float32, generator))
    words = philox(np.arange(-(-count // 4)), draw=0, seed=seed + 5).reshape(-1)[:count]
    expected = np.where((words >> 8) / 2**24 >= np.float32(0.3), np.float32(1 / 0.7), np.float32(0))
    return None if agree(got, expected, 1e-6) else "dropout_mask gives a wrong answer"


def _transposediffers(device: CudaDevice, seed: int) -> str | None:
    rng = np.random.default_rng(seed)
    x, bias = rng.random((2, 35, 33), np.float32), rng.random(33, np.float32)
    y = device.asarray(np.zeros((2, 33, 35), np.float32))
    with device.active():
        transpose_pages(device, device.asarray(x), y, device.asarray(bias))
    same = agree(device.to_host(y), x.transpose(0, 2, 1) + bias[:, None], 0)
    return None if same else "transpose_pages gives a wrong answer"


def philox(counters: Any, draw: int, seed: int) -> Any:
    """Return the four words (n, 4) of Philox 4x32-10 for counters (n,), as the kernels draw them (Salmon et al. 2011)."""
    mask = np.uint64(0xFFFFFFFF)
    c = [counters.astype(np.uint64), np.zeros(len(counters), np.uint64)]
    c += [np.full(len(counters), part, np.uint64) for part in (draw & 0xFFFFFFFF, draw >> 32)]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        first, second = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (second >> np.uint64(32)) ^ c[1] ^ np.uint64(key[0]), second & mask,
            (first >> np.uint64(32)) ^ c[3] ^ np.uint64(key[1]), first & mask,
        ]  # fmt: skip
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, axis=1)


def _mapped(found: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(found, np.ndarray):
        return change(found)
    if isinstance(found, dict):
        return {key: _mapped(value, change) for key, value in found.items()}
    if type(found) in (tuple, list):
        return type(found)(_mapped(value, change) for value in found)
    return found


def _arrays(found: Any) -> Iterator[Any]:
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, (tuple, list)):
        for one in found:
            yield from _arrays(one)
    elif hasattr(found, "shape") and not isinstance(found, type):
        yield found


def switch_off(device: CudaDevice, names: Sequence[str]) -> None:
    """Let the references serve on ``device`` instead of these families, and of those switched off before."""
    if not names:
        return
    before = device.kind
    device.kind = f"{device.name} without" if before == "cuda" else f"{before},"
    device.kind += f" {', '.join(names)}"
    for operation in OPERATIONS.values():
        kept = [one for one in operation.implementations.get(before, ()) if family_of(one[1]) not in names]
        if kept:
            operation.implementations[device.kind] = kept


# --- what was proved before -------------------------------------------------------------------------------------------


def _note(device: CudaDevice) -> Path | None:
    """Return the file whose existence says that these kernels passed on this GPU; None without a home or cuBLAS."""
    runtime = device.xp.cuda.runtime
    try:
        products = blas.version()
    except Exception:  # whatever the loader raises; the proof says it
        return None
    gpu = runtime.getDeviceProperties(device.index)["name"].decode()
    about = [
        *map(source, FAMILIES),
        products,
        gpu,
        runtime.driverGetVersion(),
        runtime.runtimeGetVersion(),
        device.xp.__version__,
    ]
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    try:
        home = Path(os.environ.get("CUPY_CACHE_DIR") or Path("~/.cupy/kernel_cache").expanduser())
    except RuntimeError:
        return None
    return home / f"gpucnn-{name}.proved"


def _remember(note: Path) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(note, b"")
    except OSError:
        pass  # proved again by the next process
