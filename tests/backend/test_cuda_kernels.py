"""The CUDA kernels: they compile for the GPUs they are meant for, and what they do that no other test reaches.

The kernels' arithmetic is held against loops, finite differences and PyTorch wherever a test runs on the backend
"cuda-standin": the stand-in for CuPy runs them on the CPU, between guard bytes.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import kernels_on_cpu
import numpy as np
import pytest
from kernels_on_cpu import Library, build, run_guarded

from gpucnn.backend.cuda import wide_conv
from gpucnn.backend.cuda.launch import FAMILIES, HALF, IN_TILES, OPTIONS, STORING, TF32, options_for, source
from gpucnn.backend.geometry import Window

CUPYS_OWN = ("-ftz=true", "--device-as-default-execution-space")
"""What CuPy adds to the options of a RawModule: subnormal numbers become zero."""
READ_FLOAT64 = {"set_numbers", "sgd", "begin_adam", "gather_next", "update_metrics"}
"""The kernels that touch float64: rates, counts and sums of an epoch, one number of each."""


@pytest.fixture(scope="module")
def kernels() -> Library:
    try:
        return {name: kernel for family in FAMILIES for name, kernel in build(source(family)).items()}
    except kernels_on_cpu.NoCompiler as error:
        pytest.skip(str(error))


def compiled(family: str, architecture: str, options: tuple[str, ...]) -> tuple[bytes, str, str]:
    """Return the binary, the PTX and the assembler's log of a family; skip where there is no NVRTC."""
    nvrtc = pytest.importorskip("cupy", reason="NVRTC is called through the real CuPy").cuda.nvrtc
    try:
        nvrtc.getVersion()
    except Exception as error:  # CuPy's kind of error for a missing library is its own
        pytest.skip(f"NVRTC is not installed (pip install nvidia-cuda-nvrtc nvidia-cuda-runtime): {error}"[:200])
    program = nvrtc.createProgram(source(family), f"{family}.cu", (), ())
    try:
        nvrtc.compileProgram(
            program, (f"--gpu-architecture={architecture}", *CUPYS_OWN, "--ptxas-options=-v", *options)
        )
    except Exception:
        pytest.fail(nvrtc.getProgramLog(program), pytrace=False)
    found = nvrtc.getCUBIN(program), nvrtc.getPTX(program).decode(), nvrtc.getProgramLog(program)
    nvrtc.destroyProgram(program)
    return found


OTHERS = [family for family in FAMILIES if family != "wide_conv"]


@pytest.mark.parametrize(
    ("family", "options"),
    [
        *((family, options_for(family, False, False)) for family in OTHERS),
        *((family, options_for(family, True, False)) for family in IN_TILES if family in OTHERS),
        *((family, options_for(family, True, True)) for family in STORING if family in OTHERS),
    ],
    ids=[
        *OTHERS,
        *(f"{family}-tf32" for family in IN_TILES if family in OTHERS),
        *(f"{family}-float16" for family in STORING if family in OTHERS),
    ],
)
@pytest.mark.parametrize(
    "architecture", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("sm_75", "sm_80")), "sm_90"]
)
def test_every_kernel_compiles_with_nvrtc(architecture: str, family: str, options: tuple[str, ...]) -> None:
    binary, assembly, log = compiled(family, architecture, options)
    names = re.findall(
        r"(?:PRODUCT|CONV_\w+|M\w+_POOL\w*)\((\w+), |__global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(",
        source(family),
    )
    kernels = {a or b for a, b in names} - {"NAME"}
    assert kernels
    assert {name for name in kernels if name.encode() not in binary} == set()
    parts = [part.partition("\n.func")[0] for part in re.split(r"\.entry ", assembly)[1:]]
    on_tensor_cores = {re.match(r"\w+", part)[0] for part in parts if "mma.sync" in part}  # type: ignore[index]
    others = {"conv_weight_gradient_sum", "pack_weights", "im2col", "col2im", "transpose_pages"}
    products = kernels - others if family in IN_TILES else set()
    assert on_tensor_cores == (products if TF32[-1] in options and architecture != "sm_75" else set())
    in_float64 = {re.match(r"\w+", part)[0] for part in parts if re.search(r"\w\.f64\b", part)}  # type: ignore[index]
    assert in_float64 == READ_FLOAT64 & kernels
    check_resources(kernels, log)


@pytest.mark.parametrize(
    "options",
    [OPTIONS, pytest.param(TF32, marks=pytest.mark.slow), pytest.param((*TF32, HALF), marks=pytest.mark.slow)],
    ids=["float32", "tf32", "float16"],
)
@pytest.mark.parametrize("product", wide_conv.PRODUCTS)
def test_wide_kernels_compile_and_mostly_multiply(product: str, options: tuple[str, ...]) -> None:
    sides = [(side, side) for side in wide_conv.SIDES]
    for rows, columns in sides if product == wide_conv.WEIGHT_GRADIENT else wide_conv.COLUMNS.items():
        for fused in (False, True):
            macros = wide_conv.macros(Window((3, 3)), product, rows, columns, fused)
            binary, assembly, log = compiled("wide_conv", "sm_90", (*options, *macros))
            check_resources({product}, log)
            assert ("mma.sync" in assembly) == (options != OPTIONS)
            assert not re.search(r"\w\.f64\b", assembly)
            if options == OPTIONS:
                least = 0.6 if (product, rows, fused) not in FEWER else 0.45
                assert arithmetic_share(binary) >= least, (product, rows, fused)


FEWER = {("wide_input_gradient", 16, True), ("wide_weight_gradient", 32, False), ("wide_weight_gradient", 32, True)}
"""Wide kernels that multiply in less than 60 % of the instructions of their inner loop: small tiles."""


def arithmetic_share(binary: bytes) -> float:
    """Return which part of the instructions of the innermost loop that multiplies does so, by the machine code."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nvdisasm is not installed (pip install nvidia-cuda-nvdisasm)")
    (found,) = (str(file.locate()) for file in files if file.name == "nvdisasm")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(binary + b"\0")  # CuPy leaves the last byte out
        text = subprocess.run([found, "-c", str(file)], capture_output=True, text=True, check=True).stdout
    instructions: list[str] = []
    labels: dict[str, int] = {}
    loops: list[list[str]] = []
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif one := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", line):
            instructions.append(one[1].partition(".")[0])
            target = re.search(r"\.L_x_\d+", one[2]) if instructions[-1] == "BRA" else None
            if target and target[0] in labels:
                loops.append(instructions[labels[target[0]] :])
    multiplying = [loop for loop in loops if loop.count("FFMA") >= 512]
    return max(loop.count("FFMA") / len(loop) for loop in multiplying)


def check_resources(kernels: set[str], log: str) -> None:
    """Hold what the assembler says about each kernel against what a multiprocessor has."""
    reports = re.split(r"Compiling entry function '", log)[1:]
    assert {re.match(r"\w+", report)[0] for report in reports} == kernels  # type: ignore[index]
    for report in reports:
        name = report.partition("'")[0]
        spilled = re.findall(r"(\d+) bytes spill", report)
        assert spilled  # "0" to be sure, for the kernel and for each function that it calls
        assert set(spilled) == {"0"}, f"{name} spills registers"
        registers = int(re.search(r"Used (\d+) registers", report)[1])  # type: ignore[index]
        shared = re.search(r"(\d+) bytes smem", report)
        assert registers * 256 <= 65_536, f"{name}: a block of 256 threads does not fit: {registers} registers a thread"
        assert shared is None or int(shared[1]) <= 48 << 10, f"{name}: {shared and shared[1]} bytes of shared memory"


def test_no_floating_point_atomics_and_no_fast_mathematics() -> None:
    text = "".join(map(source, FAMILIES))
    assert "atomic" not in re.sub(r"//.*", "", text)
    assert not any("fast" in option for option in OPTIONS)


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox 4x32-10 as its paper writes it, in Python's integers."""
    a, b, c, d = counter
    left, right = key
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (second >> 32) ^ b ^ left, second & 0xFFFFFFFF, (first >> 32) ^ d ^ right, first & 0xFFFFFFFF
        left, right = (left + 0x9E3779B9) & 0xFFFFFFFF, (right + 0xBB67AE85) & 0xFFFFFFFF
    return a, b, c, d


def test_the_python_philox_gives_the_published_words() -> None:
    assert philox((0,) * 4, (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    digits_of_pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert philox(*digits_of_pi) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


@pytest.mark.parametrize(("seed", "draw"), [(0, 0), (7, 3), (2**63 - 1, 2**40 + 5)])
def test_dropout_keeps_what_philox_says(kernels: Library, seed: int, draw: int) -> None:
    state, mask = np.zeros(2, np.uint64), np.full(1003, -1, np.float32)
    run_guarded(kernels["set_draw"], (1, 1, 1), (1, 1, 1), [state, np.uint64(seed), np.uint64(draw)])
    numbers = np.float32(0.3), np.float32(1 / 0.7), np.int64(mask.size)
    run_guarded(kernels["dropout_mask"], (1, 1, 1), (256, 1, 1), [state, mask, *numbers])
    key = seed & 0xFFFFFFFF, seed >> 32
    words = [philox((i, 0, draw & 0xFFFFFFFF, draw >> 32), key) for i in range(251)]
    uniform = (np.array(words, np.uint64).reshape(-1)[:1003] >> 8) / 2**24
    assert np.array_equal(mask, np.where(uniform >= np.float32(0.3), np.float32(1 / 0.7), np.float32(0)))


def test_more_elements_than_threads_and_fewer(kernels: Library) -> None:
    for count in (1, 255, 256, 257, 5000):
        x = np.random.default_rng(0).standard_normal(count).astype(np.float32)
        y = np.full(count, np.nan, np.float32)
        run_guarded(kernels["relu"], (3, 1, 1), (256, 1, 1), [x, y, np.int64(count)])
        assert np.array_equal(y, np.maximum(x, 0))


def test_pages_beyond_a_grids_depth(kernels: Library) -> None:
    x = np.random.default_rng(0).random((5, 40, 33), np.float32)
    bias, y = np.arange(33, dtype=np.float32), np.zeros((5, 33, 40), np.float32)
    sizes = [np.int32(n) for n in (5, 40, 33, 1)]
    run_guarded(kernels["transpose_pages"], (2, 2, 2), (32, 8, 1), [x, bias, y, *sizes])  # two blocks for five pages
    assert np.array_equal(y, x.transpose(0, 2, 1) + bias[:, None])
    y[:] = 0
    run_guarded(
        kernels["transpose_pages"], (2, 1, 2), (32, 8, 1), [x, bias, y, *sizes]
    )  # one block for two rows of tiles
    assert np.array_equal(y, x.transpose(0, 2, 1) + bias[:, None])


@pytest.mark.parametrize(("target", "index"), [(-1, 0), (3, 0), (2**40, 0)])
def test_a_label_that_is_none_gives_nan(kernels: Library, target: int, index: int) -> None:
    logits, losses = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
    gradient: Any = np.zeros((2, 3), np.float32)
    labels = np.array([1, target])
    run_guarded(
        kernels["cross_entropy"], (1, 1, 1), (128, 1, 1),
        [logits, labels, losses, gradient, np.int32(2), np.int32(3), np.int32(1)],
    )  # fmt: skip
    assert np.isfinite(losses).tolist() == [True, False]
    assert np.isnan(gradient[1]).all()
    assert np.allclose(gradient[0], [1 / 3, -2 / 3, 1 / 3])
