"""``gpucnn bench``."""

from __future__ import annotations

from typing import Any

import click

from gpucnn import benchmark
from gpucnn.cli.models import FROM_DATA
from gpucnn.cli.options import check_a_number, complete_described, device_option
from gpucnn.cli.summary import read_shape
from gpucnn.cli.terminal import say, say_json, say_lines
from gpucnn.models import MODELS
from gpucnn.training import Settings


@click.command(short_help="Measure speed and memory.")
@click.argument(
    "model",
    metavar="[NAME[:OPTION=VALUE,...]]",
    default=Settings.model,
    shell_complete=complete_described(MODELS, FROM_DATA),
)
@click.option(
    "--input-shape", default="1,28,28", show_default=True, callback=read_shape, metavar="C,H,W",
    help="Channels, height and width of an image.",
)  # fmt: skip
@click.option(
    "--batch-size", "batch_sizes", multiple=True, type=click.IntRange(1, 2**16), default=[1, 64, 256, 1024],
    show_default=True, help="Images per batch. May be given several times.",
)  # fmt: skip
@click.option(
    "--mode", "modes", multiple=True, type=click.Choice(["train", "infer"]), default=["train", "infer"],
    show_default=True, help="Measure training steps or inference. May be given several times.",
)  # fmt: skip
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Measurements per row; the median is reported.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.001, 60),
    callback=check_a_number,
    default=0.5,
    show_default=True,
    help="Seconds per measurement.",
)
@click.option("--memory", is_flag=True, help="Also measure the peak memory of training on the CPU, in bytes.")
@device_option("auto")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: machine, speed, memory.")
def command(
    model: str,
    input_shape: tuple[int, int, int],
    batch_sizes: tuple[int, ...],
    modes: tuple[str, ...],
    rounds: int,
    seconds: float,
    memory: bool,
    device: str,
    as_json: bool,
) -> None:
    """Measure training and inference of a named network (lenet by default) or of one layer, such as
    Conv2d:in_channels=64,out_channels=64,kernel_size=3,padding=1 with --input-shape 64,32,32.

    The timed loop is the one that a user would write by hand. scripts/bench.py compares with PyTorch.
    """
    report: dict[str, Any] = {"model": model, "input_shape": list(input_shape), "machine": benchmark.machine(device)}
    report["speed"] = benchmark.measure(model, input_shape, batch_sizes, modes, rounds, seconds, device)
    if memory:
        report["memory"] = [
            {"batch_size": size, "peak_bytes": benchmark.memory_of(model, input_shape, size)} for size in batch_sizes
        ]
    if as_json:
        say_json(report)
        return
    about = report["machine"]
    say(f"{model} on {about['device']['device']} ({about['processor']}, {about['cores']} cores)")
    say_lines(["", *benchmark.table(report["speed"]).splitlines()])
    if memory:
        title = "Peak memory of training above a warm start:"
        say_lines(["", title, *benchmark.table(report["memory"]).splitlines()])
