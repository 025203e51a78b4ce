"""``gpucnn models``."""

from __future__ import annotations

import inspect
from typing import Any

import click

from gpucnn.cli.terminal import say, say_json
from gpucnn.models import MODELS
from gpucnn.options import options_of

FROM_DATA = ("classes", "in_channels", "image_size")
"""Options that training fills in from the data."""


def listing() -> dict[str, dict[str, Any]]:
    """Return for each named network what it is (``about``) and its options with their defaults.

    >>> listing()["resnet"]
    {'about': 'a small residual network', 'options': {'width': 16, 'blocks': 3}}
    """
    return {
        name: {
            "about": (inspect.getdoc(make) or "").partition(":")[0].removeprefix("Return "),
            "options": {key: value for key, value in options_of(make).items() if key not in FROM_DATA},
        }
        for name, make in MODELS.items()
    }


@click.command(short_help="List the networks known by name, with their options.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: description and options of each network.")
def command(as_json: bool) -> None:
    """List the networks known by name, with their options and defaults.

    Options are given after a colon, as in `gpucnn train --model lenet:activation=tanh,pooling=avg`. The number of classes,
    the channels and the image size come from the data. `gpucnn summary NAME` shows the layers.
    """
    known = listing()
    if as_json:
        say_json(known)
        return
    widest = max(map(len, known))
    for name, entry in known.items():
        say(f"{name:<{widest}}  {entry['about']}")
        say(f"{'':<{widest}}  {', '.join(f'{key}={value}' for key, value in entry['options'].items())}")
