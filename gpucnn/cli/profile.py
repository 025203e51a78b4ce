"""``gpucnn profile``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpucnn.backend import get_backend
from gpucnn.cli.models import FROM_DATA
from gpucnn.cli.options import complete_described, device_option, trust_option
from gpucnn.cli.summary import read_shape
from gpucnn.cli.tables import text_table
from gpucnn.cli.terminal import say, say_json, say_lines
from gpucnn.formats import ABSENT, percent
from gpucnn.models import MODELS
from gpucnn.training import RunFolder, SavedModel, Settings, build_model


@click.command(short_help="Time each layer of a network, forward and backward.")
@click.argument("model", metavar="NAME[:OPTION=VALUE,...]|RUN", shell_complete=complete_described(MODELS, FROM_DATA))
@click.option(
    "--batch-size", type=click.IntRange(1, 2**16), default=Settings.batch_size, show_default=True,
    help="Images in the batch.",
)  # fmt: skip
@click.option(
    "--input-shape", default="1,28,28", show_default=True, callback=read_shape, metavar="C,H,W",
    help="Channels, height and width of an image; a run knows its own.",
)  # fmt: skip
@click.option(
    "--classes", type=click.IntRange(1), default=10, show_default=True, help="Number of classes; a run knows its own."
)
@click.option("--repeats", type=click.IntRange(1, 1000), default=5, show_default=True, help="Passes that are timed.")
@device_option("auto")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: the layers, with seconds, and the step.")
def command(
    model: str,
    batch_size: int,
    input_shape: tuple[int, int, int],
    classes: int,
    repeats: int,
    device: str,
    trust: bool,
    as_json: bool,
) -> None:
    """Time each layer of a network, forward and backward, for one batch in training mode.

    The network is a named one, such as resnet:width=8, or that of the run in folder RUN. Layers are timed one by one. A
    whole step, in which neighbouring layers are fused as usual, is timed too and can be shorter than their sum.
    """
    from gpucnn.analysis.profile import profile

    if Path(model).is_dir():
        saved = SavedModel.load(RunFolder.open(Path(model)), device, trust=trust)
        net, input_shape, backend = saved.net, saved.image_shape, saved.backend
    else:
        backend = get_backend(device)
        net = build_model(model, input_shape, classes, "float32", backend)
    x = images(batch_size, input_shape, backend)
    found = profile(net, x, repeats)
    if as_json:
        say_json(found.to_dict())
        return
    total = sum(layer.forward + layer.backward for layer in found.layers) or 1.0
    rows = []
    for layer in found.layers:
        took = layer.forward + layer.backward
        rate = 6 * layer.multiply_adds / took / 1e9 if took and layer.multiply_adds else None
        rows.append(
            [
                layer.title, layer.kind, "x".join(map(str, layer.output_shape[1:])), _milliseconds(layer.forward),
                _milliseconds(layer.backward), percent(took / total, 1),
                f"{layer.multiply_adds:,}" if layer.multiply_adds else ABSENT,
                ABSENT if rate is None else f"{rate:.1f}",
            ]
        )  # fmt: skip
    say_lines(text_table(HEAD, rows, names=2))
    say(
        f"One step, as it usually runs: {_milliseconds(found.step)} ms, {batch_size / max(found.step, 1e-9):,.0f} images/s "
        f"on {found.device}; layers one by one: {_milliseconds(total)} ms."
    )


HEAD = ["layer", "class", "output", "forward ms", "backward ms", "share", "multiply-adds", "GFLOP/s"]
"""Of the rate: forward and backward are three times the multiply-adds of forward, and each is two operations."""


def images(count: int, shape: tuple[int, int, int], backend: Any) -> Any:
    """Return a batch of normal noise: zeros would be faster than real images on some machines."""
    import numpy as np

    from gpucnn import tensor

    return tensor(np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32), device=backend)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"
