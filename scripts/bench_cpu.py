"""Measure all that docs/performance.md and benchmarks/README.md say of the CPU, in one run: some fifteen minutes.

python scripts/bench_cpu.py --json benchmarks/cpu.json
python scripts/bench_cpu.py --part kernels

speed: LeNet, resnet, vgg and a convolution of 64 channels beside PyTorch, in turns, as scripts/bench.py measures one.
threads: from one thread to all, of both. numpy: NumPy alone, without compiled kernels, beside PyTorch, one thread each.
busy: all threads against one where every core has another program to run. kernels: the rates of the kernels beside those of
the machine, its largest product for convolutions and its copies for the rest.

The file is written after each part, so that what was measured stays if the run ends early.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for Python's -P, which leaves this folder out
import bench

from gpucnn import benchmark
from gpucnn.backend import Window, ops
from gpucnn.backend.cpu import CpuDevice
from gpucnn.backend.cpu.threads import available_threads

CORES = available_threads()
Shape = tuple[int, int, int]
NETWORKS: dict[str, tuple[str, Shape, tuple[int, ...], tuple[int, ...]]] = {  # batch sizes of training, of inference
    "LeNet": ("lenet", (1, 28, 28), (1, 64, 256, 1000), (1, 64, 256, 1000)),
    "resnet": ("resnet", (3, 32, 32), (64,), (64,)),
    "vgg": ("vgg", (3, 32, 32), (64,), (64,)),
    "64 channels": (
        "Conv2d:in_channels=64,out_channels=64,kernel_size=3,padding=1", (64, 32, 32), (32,), (32,),
    ),
}  # fmt: skip
CONVOLUTIONS = (  # N, C, F, kernel, image
    (64, 1, 6, 5, 28), (64, 6, 16, 5, 14), (64, 16, 16, 3, 32), (64, 32, 32, 3, 16), (64, 64, 64, 3, 8), (32, 64, 64, 3, 32),
    (64, 128, 128, 3, 16), (32, 64, 64, 1, 32),
)  # fmt: skip
STREAMS = (  # a layer of 64 channels on 32x32 pixels, batch 32; arrays of that size that pass, forward and in both ways
    ("ReLU", 2, 5), ("BatchNorm2d:num_features=64", 2, 5), ("MaxPool2d:kernel_size=2", 1.3, 2.8),
    ("AvgPool2d:kernel_size=2", 1.3, 2.5),
)  # fmt: skip
BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
"""A program that keeps a core busy and ends when this one does, even if it is killed."""
Side = tuple[Callable[[np.ndarray], None], Callable[[], None]]
"""A step, and what is to be set before it runs."""


def in_turns(sides: dict[str, Side], size: int, count: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the images a second of each side, in each round."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (step, prepare) in sides.items():
            prepare()
            rates[name].append(benchmark.images_per_second(step, size, seconds, None, count))
    return rates


def compared(rates: dict[str, list[float]], ours: str, theirs: str, name: str) -> dict[str, Any]:
    """Return the median, smallest and largest ratio of a round."""
    ratios = [a / b for a, b in zip(rates[ours], rates[theirs], strict=True)]
    return {name: round(statistics.median(ratios), 2), "min": round(min(ratios), 2), "max": round(max(ratios), 2)}


def nothing() -> None:
    pass


def torch_sides(what: str, shape: Shape, mode: str, least: int) -> dict[int, Side]:
    """Return PyTorch's step with one thread and with all, in the format that is usually faster; nothing without PyTorch."""
    if not bench.has_torch():
        return {}
    import torch

    kind = "contiguous" if what == "lenet" else "channels-last"
    step = bench.torch_steps(what, shape, kind, "cpu", least)[mode]
    return {threads: (step, lambda threads=threads: torch.set_num_threads(threads)) for threads in {1, CORES}}  # type: ignore[misc]


def wide_rows(chosen: tuple[str, ...]) -> list[tuple[str, str, Shape, str, int]]:
    """Return name, network or layer, shape, mode and batch size of every row of more than one image."""
    return [
        (name, what, shape, mode, size)
        for name, (what, shape, *sizes) in NETWORKS.items()
        if name in chosen
        for mode, some in zip(("train", "infer"), sizes, strict=True)
        for size in some
        if size > 1
    ]


def speed(chosen: tuple[str, ...], rounds: int, seconds: float) -> list[dict[str, Any]]:
    rows = []
    for name in chosen:
        what, shape, *sizes = NETWORKS[name]
        for mode, some in zip(("train", "infer"), sizes, strict=True):
            found = bench.compare(what, shape, "cpu", (mode,), some, rounds, seconds)
            rows += [{"what": name, **row} for row in found]
    return rows


def threads(chosen: tuple[str, ...], rounds: int, seconds: float) -> list[dict[str, Any]]:
    rows = []
    for name, what, shape, mode, size in wide_rows(chosen):
        sides: dict[str, Side] = {}
        for count in (1, CORES):
            sides[f"gpucnn {count}"] = benchmark.steps_of(what, shape, CpuDevice(count), size)[mode], nothing
        for count, side in torch_sides(what, shape, mode, size).items():
            sides[f"torch {count}"] = side
        rates = in_turns(sides, size, benchmark.image_count(shape, size), rounds, seconds)
        row: dict[str, Any] = {"what": name, "mode": mode, "batch": size}
        row |= {name: statistics.median(values) for name, values in rates.items()}
        row |= compared(rates, f"gpucnn {CORES}", "gpucnn 1", "gain")
        if "torch 1" in rates:
            row |= {"torch gain": compared(rates, f"torch {CORES}", "torch 1", "gain")["gain"]}
            row |= {"one thread each": compared(rates, "gpucnn 1", "torch 1", "ratio")["ratio"]}
        rows.append(row)
        click.echo(f"threads: {name} {mode} {size}", err=True)
    return rows


def numpy_alone(chosen: tuple[str, ...], rounds: int, seconds: float) -> list[dict[str, Any]]:
    rows = []
    for name, what, shape, mode, size in wide_rows(chosen):
        step = benchmark.steps_of(what, shape, CpuDevice(1, compiled=False), size)[mode]
        sides: dict[str, Side] = {"NumPy alone": (step, nothing)}
        peers = torch_sides(what, shape, mode, size)
        sides |= {"torch": peers[1]} if peers else {}
        rates = in_turns(sides, size, benchmark.image_count(shape, size), rounds, seconds)
        row: dict[str, Any] = {"what": name, "mode": mode, "batch": size}
        row |= {name: statistics.median(values) for name, values in rates.items()}
        rows.append(row | (compared(rates, "NumPy alone", "torch", "ratio") if "torch" in rates else {}))
        click.echo(f"numpy: {name} {mode} {size}", err=True)
    return rows


def busy(chosen: tuple[str, ...], rounds: int, seconds: float) -> list[dict[str, Any]]:
    rows = []
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(CORES)]
    try:
        for name, what, shape, mode, size in wide_rows(chosen):
            if size <= 64:
                sides: dict[str, Side] = {
                    f"gpucnn {count}": (benchmark.steps_of(what, shape, CpuDevice(count), size)[mode], nothing)
                    for count in (1, CORES)
                }
                rates = in_turns(sides, size, benchmark.image_count(shape, size), rounds, 2 * seconds)
                row: dict[str, Any] = {"what": name, "mode": mode, "batch": size}
                row |= {name: statistics.median(values) for name, values in rates.items()}
                rows.append(row | compared(rates, f"gpucnn {CORES}", "gpucnn 1", "gain"))
                click.echo(f"busy: {name} {mode} {size}", err=True)
    finally:
        for other in others:
            other.kill()
            other.wait()
    return rows


def kernels(chosen: tuple[str, ...], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return GFLOP/s or GB/s of each kernel with one thread and with all, and its share of the machine's rate."""
    devices = {count: CpuDevice(count) for count in sorted({1, CORES})}
    machine = {count: benchmark.rates(device) for count, device in devices.items()}
    rows = []

    def add(kernel: str, unit: str, amount: float, peak: str, works: dict[int, Callable[[], Any]]) -> None:
        row: dict[str, Any] = {"kernel": kernel, "unit": unit}
        rates = in_turns({str(n): (lambda _, w=w: w(), nothing) for n, w in works.items()}, 1, 1, rounds, seconds / 4)  # type: ignore[misc]
        for count in works:
            best = max(rates[str(count)]) * amount / 1e9
            row |= {f"{count} threads": round(best, 1), f"share {count}": round(best / machine[count][peak], 2)}
        rows.append(row)

    for N, C, F, K, size in CONVOLUTIONS:
        window, x, w, dy = convolution(N, C, F, K, size)
        amount = 2 * N * F * size * size * C * K * K
        for kind, call in (
            ("forward", lambda d, x=x, w=w, dy=dy, window=window: ops.conv2d(d, x, w, None, window)),
            ("input", lambda d, x=x, w=w, dy=dy, window=window: ops.conv2d_input_gradient(d, dy, w, x.shape, window)),
            (
                "weights",
                lambda d, x=x, w=w, dy=dy, window=window: ops.conv2d_weight_gradient(d, x, dy, w.shape, window),
            ),
        ):
            works = {count: (lambda d=d, call=call: call(d)) for count, d in devices.items()}  # type: ignore[misc]
            name = f"{C} to {F} {K}x{K} on {size}x{size}, batch {N}: {kind}"
            add(name, "GFLOP/s", amount, "product of 1024x1024, GFLOP/s", works)
    for M, N, K in ((120, 64, 400), (400, 256, 120), (128, 64, 2048)):
        a, b = np.ones((M, K), np.float32), np.ones((K, N), np.float32)
        works = {count: (lambda d=d, a=a, b=b: ops.matmul(d, a, b)) for count, d in devices.items()}  # type: ignore[misc]
        add(f"product {M}x{K} by {K}x{N}", "GFLOP/s", 2 * M * N * K, "product of 1024x1024, GFLOP/s", works)
    for layer, forward, both in STREAMS:
        for mode, passes in (("infer", forward), ("train", both)):
            works = {}
            for count, device in devices.items():
                step, chosen = benchmark.steps_of(layer, (64, 32, 32), device, 32)[mode], np.arange(32)
                works[count] = lambda step=step, chosen=chosen: step(chosen)  # type: ignore[misc]
            name = f"{layer.partition(':')[0]}, {'forward' if mode == 'infer' else 'both ways'}"
            add(name, "GB/s", passes * 4 * 32 * 64 * 32 * 32, "copy of 64 MB, GB/s", works)
    return [{"kernel": "the machine: " + name.rpartition(", ")[0], "unit": name.rpartition(", ")[2],
             **{f"{n} threads": machine[n][name] for n in machine}, **{f"share {n}": 1.0 for n in machine}}
            for name in machine[1]] + rows  # fmt: skip


def convolution(N: int, C: int, F: int, K: int, size: int) -> tuple[Window, np.ndarray, np.ndarray, np.ndarray]:
    """Return a convolution that keeps the size of the image: window, images, filters and dL/dy, batch-last."""
    rng, pad = np.random.default_rng(0), K // 2
    x, dy = (rng.standard_normal((c, size, size, N), np.float32).transpose(3, 0, 1, 2) for c in (C, F))
    return Window((K, K), (1, 1), (pad, pad, pad, pad)), x, rng.standard_normal((F, C, K, K), np.float32), dy


PARTS: dict[str, Callable[[tuple[str, ...], int, float], list[dict[str, Any]]]] = {
    "speed": speed, "threads": threads, "numpy": numpy_alone, "busy": busy, "kernels": kernels,
}  # fmt: skip


@click.command(help=__doc__)
@click.option(
    "--part", "parts", multiple=True, type=click.Choice(list(PARTS)), default=list(PARTS), help="By default all."
)
@click.option(
    "--network",
    "chosen",
    multiple=True,
    type=click.Choice(list(NETWORKS)),
    default=list(NETWORKS),
    help="By default all.",
)
@click.option("--rounds", default=7, show_default=True, help="Alternating rounds.")
@click.option("--seconds", default=0.5, show_default=True, help="Length of each measurement.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the results here as well.")
def main(parts: tuple[str, ...], chosen: tuple[str, ...], rounds: int, seconds: float, json_file: Path | None) -> None:
    report: dict[str, Any] = {"machine": benchmark.machine("cpu"), "rates": benchmark.rates("cpu")}
    if bench.has_torch():
        report["machine"]["versions"]["torch"] = sys.modules["torch"].__version__
    click.echo("; ".join(f"{name.replace(', ', ': ')}: {rate:,}" for name, rate in report["rates"].items()))
    for part in parts:
        report[part] = PARTS[part](chosen, rounds, seconds)
        click.echo(f"\n{part}\n{benchmark.table(report[part])}")
        if json_file is not None:
            benchmark.write_json(json_file, report)


if __name__ == "__main__":
    main()
