"""``gpucnn summary``."""

from __future__ import annotations

import re

import click
from click.core import ParameterSource

from gpucnn.backend import get_backend
from gpucnn.cli.models import FROM_DATA
from gpucnn.cli.options import complete_described
from gpucnn.cli.terminal import say_json, say_lines
from gpucnn.inspect import summary
from gpucnn.models import MODELS
from gpucnn.training import build_model


def read_shape(context: click.Context, option: click.Parameter, value: str) -> tuple[int, int, int]:
    """Return "C,H,W" as three ints; BadParameter for anything else."""
    if not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5}){2}", value):
        raise click.BadParameter(f"expected C,H,W such as 1,28,28, got {value!r}.")
    C, H, W = map(int, value.split(","))
    return C, H, W


@click.command(short_help="Show the shape, cost and receptive field of each layer of a network.")
@click.argument(
    "model", metavar="NAME[:OPTION=VALUE,...]|MODEL.onnx", shell_complete=complete_described(MODELS, FROM_DATA)
)
@click.option(
    "--input-shape", default="1,28,28", show_default=True, callback=read_shape, metavar="C,H,W",
    help="Channels, height and width of an image.",
)  # fmt: skip
@click.option("--classes", type=click.IntRange(1), default=10, show_default=True, help="Number of classes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: model, layers, totals.")
def command(model: str, input_shape: tuple[int, int, int], classes: int, as_json: bool) -> None:
    """Print a table of the layers of a network, such as lenet:pooling=avg, for a batch of one image. An ONNX file,
    whose name ends with .onnx, is shown node by node; its own input shape is the default.

    Columns: output shape, parameters, multiply-adds, bytes of the output and of the im2col matrix, and receptive field
    (the pixels of the image that one output depends on). `gpucnn models` lists the networks.
    """
    if model.endswith(".onnx"):
        from gpucnn.onnx.loading import load
        from gpucnn.onnx.summary import summary_of

        given = click.get_current_context().get_parameter_source("input_shape") != ParameterSource.DEFAULT
        result = summary_of(load(model, "cpu"), input_shape if given else None)
    else:
        result = summary(build_model(model, input_shape, classes, "float32", get_backend("cpu")), input_shape)
    if as_json:
        say_json(result.to_dict())
    else:
        say_lines(str(result).splitlines())
