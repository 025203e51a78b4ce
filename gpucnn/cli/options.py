"""Options that several commands share, the defaults that help shows, and completion of values."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from gpucnn import limits
from gpucnn.cli.terminal import say
from gpucnn.data import NAMES, parse_image_size
from gpucnn.data.decoding import LARGEST_SIDE
from gpucnn.errors import DataError
from gpucnn.options import options_of
from gpucnn.training import SavedModel, Settings
from gpucnn.training.config import DEVICE, recipes

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
Complete = Callable[[click.Context, click.Parameter, str], list[Any]]

DEVICE_HELP = "Device: cpu, cuda, cuda:N, or auto, which takes the GPU if one works."


def setting_option(flag: str, text: str, default: str | None = None, **rest: Any) -> Decorator:
    """Return the option of the ``Settings`` field of the same name; its help shows the field's default, or ``default``.

    The option itself has no default, so that a config file is overruled only by what was typed.
    """
    usual = getattr(Settings, flag.removeprefix("--").replace("-", "_"))
    shown = usual if default is None else default
    return click.option(flag, help=text if shown is None or shown is False else f"{text}  [default: {shown}]", **rest)


def complete_described(makers: Mapping[str, Callable[..., Any]], given: Collection[str] = ()) -> Complete:
    """Return the shell completion of NAME[:OPTION=VALUE,...]: names of ``makers``, then the options of the one named.

    given: parameters that are no options.
    """

    def complete(context: click.Context, option: click.Parameter, incomplete: str) -> list[Any]:
        name, colon, rest = incomplete.partition(":")
        if not colon:
            return [CompletionItem(known) for known in makers if known.startswith(name)]
        if name not in makers:
            return []
        done, _, begun = rest.rpartition(",")
        head = f"{name}:{done}," if done else f"{name}:"
        options = [key for key in options_of(makers[name]) if key not in given]
        return [CompletionItem(f"{head}{key}=") for key in options if key.startswith(begun)]

    return complete


def complete_source(context: click.Context, option: click.Parameter, incomplete: str) -> list[Any]:
    """Return the data sets known by name that begin so, and leave other completion to files."""
    known = [CompletionItem(name) for name in NAMES if name.startswith(incomplete)]
    return known or [CompletionItem(incomplete, type="file")]


def check_a_number(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Refuse NaN, which is below no bound of a range and above none."""
    if value is not None and value != value:
        raise click.BadParameter("expected a number, got nan.")
    return value


def complete_recipe(context: click.Context, option: click.Parameter, incomplete: str) -> list[Any]:
    """Return the recipes whose names begin so."""
    return [CompletionItem(name) for name in recipes() if name.startswith(incomplete)]


def complete_device(context: click.Context, option: click.Parameter, incomplete: str) -> list[Any]:
    """Return the devices whose names begin so; GPUs are not looked for."""
    return [CompletionItem(name) for name in ("auto", "cpu", "cuda", "cuda:") if name.startswith(incomplete)]


def check_device(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Refuse a device other than cpu, cuda, cuda:N and auto."""
    if value is not None and not re.fullmatch(DEVICE, value):
        raise click.BadParameter(f"expected cpu, cuda, cuda:N or auto, got {value!r}.")
    return value


def device_option(default: str) -> Decorator:
    """Return --device for a command that reads a run; ``GPUCNN_DEVICE`` is used where the option is absent."""
    return click.option(
        "--device", default=default, show_default=True, envvar="GPUCNN_DEVICE", show_envvar=True, callback=check_device,
        metavar="DEVICE", help=DEVICE_HELP, shell_complete=complete_device,
    )  # fmt: skip


checkpoint_option: Decorator = click.option(
    "--checkpoint", type=click.Choice(["last", "best"]),
    help="Weights to use: those saved last, or those with the best validation accuracy.  "
    "[default: best where it exists]",
)  # fmt: skip

model_option: Decorator = click.option(
    "--model", metavar="FILE.py:NAME",
    help="Python file that defines the network of the run. The file is executed; needed unless --trust is given.",
)  # fmt: skip
trust_option: Decorator = click.option(
    "--trust", is_flag=True, help="Allow executing the Python file that the run or config names as its network."
)


class _ImageSize(click.ParamType):  # type: ignore[type-arg]  # generic in some versions of click only
    """S or HxW: an int where H = W, otherwise a string, as in ``config.toml``."""

    name = "image size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        try:
            H, W = parse_image_size(value)
        except DataError:
            self.fail(f"expected a side in pixels, or HxW such as 20x32, got {value!r}.", param, ctx)
        return H if H == W else f"{H}x{W}"


image_size_option: Decorator = click.option(
    "--image-size", type=_ImageSize(), metavar="S|HxW",
    help="Size in pixels that a folder's images are scaled to: a side, or height x width.  "
    f"[default: the median side, at most {LARGEST_SIDE}, square]",
)  # fmt: skip


def _lift_limits(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        context.with_resource(limits.applied(False))


no_limits_option: Decorator = click.option(
    "--no-limits", is_flag=True, expose_value=False, is_eager=True, callback=_lift_limits,
    help="Lift the limits on memory and time that protect against untrusted files.",
)  # fmt: skip


def note_on_floats(saved: SavedModel) -> None:
    """Print a note where the network was trained on floats, whose range is unknown."""
    if saved.pixels != "uint8":
        say("Note: this network was trained on floats; images are scaled to 0 to 1.", err=True)
