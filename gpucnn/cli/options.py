"""What the options of several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from gpucnn import limits
from gpucnn.cli.terminal import say
from gpucnn.data import parse_image_size
from gpucnn.errors import DataError
from gpucnn.training import SavedModel
from gpucnn.training.config import DEVICE

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def check_device(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Refuse a device that is none of cpu, cuda, cuda:N and auto."""
    if value is not None and not re.fullmatch(DEVICE, value):
        raise click.BadParameter(f"expected cpu, cuda, cuda:N or auto, got {value!r}.")
    return value


def device_option(default: str) -> Decorator:
    """Return the option of a command that reads a run; ``GPUCNN_DEVICE`` stands in where it is not given."""
    return click.option(
        "--device", default=default, show_default=True, envvar="GPUCNN_DEVICE", show_envvar=True, callback=check_device,
        metavar="DEVICE", help="cpu, cuda, cuda:N, or auto: the GPU if one works.",
    )  # fmt: skip


checkpoint_option: Decorator = click.option(
    "--checkpoint", type=click.Choice(["last", "best"]),
    help="Which weights: those of the last save, or of the best validation accuracy.  [best, where there is one]",
)  # fmt: skip

model_option: Decorator = click.option(
    "--model", metavar="FILE.py:NAME",
    help="Where the network comes from a Python file, this or --trust is needed: the file is run.",
)  # fmt: skip
trust_option: Decorator = click.option(
    "--trust", is_flag=True, help="Run the Python file that the run, or the settings, name as their network."
)


class _ImageSize(click.ParamType):  # type: ignore[type-arg]  # generic in some versions of click only
    """S or HxW; for S = H = W a whole number, else text, as ``config.toml`` has it."""

    name = "image size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        try:
            H, W = parse_image_size(value)
        except DataError:
            self.fail(f"expected pixels of a side, or HxW such as 20x32, got {value!r}.", param, ctx)
        return H if H == W else f"{H}x{W}"


image_size_option: Decorator = click.option(
    "--image-size", type=_ImageSize(), metavar="S|HxW",
    help="Pixels that pictures are scaled to: of a side, or rows x columns.  [their own, at most 64, square]",
)  # fmt: skip


def _lift_limits(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        context.with_resource(limits.applied(False))


no_limits_option: Decorator = click.option(
    "--no-limits", is_flag=True, expose_value=False, is_eager=True, callback=_lift_limits,
    help="Lift the bounds on memory and time that keep a stranger's file from filling the machine.",
)  # fmt: skip


def note_on_floats(saved: SavedModel) -> None:
    """Say that nothing is known of the range of numbers that a network was trained on, where that is so."""
    if saved.pixels != "uint8":
        say("Note: this network was trained on floats; pictures are given to it as 0 to 1.", err=True)
