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
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda import blas
from gpucnn.backend.cuda.conv import transpose_pages
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.launch import FAMILIES, source
from gpucnn.backend.cuda.proof_cases import Case, Host, cases, half_cases, mapped
from gpucnn.backend.dispatch import OPERATIONS
from gpucnn.backend.precision import is_half
from gpucnn.backend.random import Generator
from gpucnn.disk import write_atomically

PLAIN = {"graph", "indexing", "prefetch", "tuned"}
"""Modules without kernels, which are no families."""
LATER = "wide_conv"
"""The family whose kernels are compiled, and held against the references, when a convolution first asks for them."""
CLOSE, CLOSE_HALF, CLOSE_TF32 = 1e-4, 1e-3, 1e-2
"""The largest difference from the reference, relative to the largest value of the answer."""


def family_of(function: Callable[..., Any]) -> str:
    return function.__module__.rpartition(".")[2]


def families() -> list[str]:
    """Return the families of kernels."""
    found = {family_of(f) for operation in OPERATIONS.values() for _, f in operation.implementations.get("cuda", ())}
    return sorted(found - PLAIN)


def prove_half(device: CudaDevice) -> bool:
    """Return whether the kernels give correct results in float16; a warning says where not, and others serve instead."""
    if os.environ.get("GPUCNN_KERNELS") == "0":
        return False
    note = _note(device, "float16")
    if note is not None and note.exists():
        return True
    with _proving(device):
        faults, certain = _faults_of(partial(_checks, device, half_cases(), CLOSE_HALF), leave=LATER)
    if faults:
        warnings.warn(
            f"{device.name}: kernels of float16 switched off: {_said(faults)}. Its arrays become float32 for those of "
            f"float32 instead, which is slower. Please report this with the output of: gpucnn doctor --verify",
            stacklevel=5,
        )
    elif note is not None and certain:
        _remember(note)
    return not faults


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
    with _proving(device):
        faults, certain = _faults(device, thorough)
    if faults:
        distrust(device, faults)
    elif note is not None and certain:
        _remember(note)
    return faults


@contextmanager
def _proving(device: CudaDevice) -> Iterator[None]:
    """Let all kernels be tried, without counting what ran."""
    before = device.ran.copy()
    device.proving = True
    try:
        yield
    finally:
        device.proving = False
    device.ran.clear()
    device.ran.update(before)


def _said(faults: dict[str, str]) -> str:
    return "; ".join(f"{name} ({why})" for name, why in faults.items())


def distrust(device: CudaDevice, faults: dict[str, str]) -> None:
    """Switch families off, with one warning that says why."""
    switch_off(device, sorted(faults))
    warnings.warn(
        f"{device.name}: kernels switched off: {_said(faults)}. Other "
        f"implementations serve instead, which is slower. Please report this with the output of: gpucnn doctor --verify",
        stacklevel=5,
    )


def _faults(device: CudaDevice, thorough: bool) -> tuple[dict[str, str], bool]:
    """Return what is wrong with which family, and whether every case could be tried."""
    faults: dict[str, str] = {}
    certain = True
    for seed in range(20 if thorough else 1):
        for precise in (True, False) if thorough and device.has_tf32 else (True,):
            with device.tf32(enabled=not precise):
                checks = partial(_all_checks, device, seed, CLOSE if precise else CLOSE_TF32)
                found, tried = _faults_of(checks, faults, "" if thorough else LATER)
                faults, certain = faults | found, certain and tried
        if thorough:
            found, tried = _faults_of(partial(_checks, device, half_cases(seed), CLOSE_HALF), faults)
            faults, certain = faults | found, certain and tried
    return faults, certain


Checks = Iterator[tuple[str, Callable[[], str | None]]]


def _faults_of(
    checks: Callable[[], Checks], known: Container[str] = (), leave: str = ""
) -> tuple[dict[str, str], bool]:
    """Make checks of families whose faults are not known; return what is wrong, and whether every one could be made."""
    faults: dict[str, str] = {}
    certain = True
    for family, check in checks():
        if family in faults or family in known or family == leave:
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


def _all_checks(device: CudaDevice, seed: int, tolerance: float) -> Checks:
    yield from _checks(device, cases(seed), tolerance)
    yield "activation", lambda: _dropoutdiffers(device, seed)
    yield "conv", lambda: _transposediffers(device, seed)


def _checks(device: CudaDevice, some: Sequence[Case], tolerance: float) -> Checks:
    for case in some:
        widened = case.operation.widens and is_half(case.arguments[0])
        for serves, function in case.operation.implementations["cuda"]:
            if widened and function not in case.operation.reads_half:
                continue
            if serves is None or serves(device, *case.arguments, **case.named):
                yield family_of(function), partial(differs, device, case, function, tolerance)


def differs(device: CudaDevice, case: Case, function: Any, tolerance: float) -> str | None:
    """Run one case on the device and by the reference; return what is wrong, if results or arguments afterwards differ."""
    ours = mapped((case.arguments, case.named), lambda array: device.asarray(array))
    theirs = mapped((case.arguments, case.named), lambda array: array.copy())
    with device.active():
        got = function(device, *ours[0], **ours[1])
    expected = case.operation.reference(Host(), *theirs[0], **theirs[1])
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


def _note(device: CudaDevice, *more: str) -> Path | None:
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
        *more,
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
