"""``gpucnn predict``."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from gpucnn import functional as F
from gpucnn.autograd import no_grad
from gpucnn.cli.options import checkpoint_option, device_option, model_option
from gpucnn.data import ArrayDataset
from gpucnn.data.pictures import read_picture
from gpucnn.errors import CheckpointError
from gpucnn.training import RunFolder, SavedModel

AT_ONCE = 1000
"""Pictures that go through the network together."""


@click.command(short_help="Say what picture files show.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("pictures", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@device_option("cpu")
@checkpoint_option
@model_option
@click.option("--top", type=click.IntRange(1), default=1, show_default=True, help="Answers for each picture.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per picture: file, answers.")
def command(
    run: Path, pictures: tuple[Path, ...], device: str, checkpoint: str, model: str | None, top: int, as_json: bool
) -> None:
    """Print the class and its probability for each picture file, by the network in folder RUN.

    Pictures are made grey or colour and scaled as the network was trained. A grey drawing may be dark on light or light on
    dark, of any size: it is centred as the digits of MNIST are. Needs the images extra: pip install 'gpucnn[images]'.
    """
    saved = SavedModel.load(RunFolder.open(run), device, checkpoint, model)
    if saved.pixels != "uint8":
        click.echo("Note: this network was trained on floats; pictures are given to it as 0 to 1.", err=True)
    images = np.stack([read_picture(path, saved.image_shape, saved.framing) for path in pictures])
    feed = saved.feed(ArrayDataset(images, np.zeros(len(images), int), saved.class_names))
    for start in range(0, len(images), AT_ONCE):
        with no_grad(), saved.as_trained():
            x, _ = feed.batch(np.arange(start, min(start + AT_ONCE, len(images))))
            probabilities = F.softmax(saved.net(x)).numpy()
        if not np.isfinite(probabilities).all():
            raise CheckpointError(f"{run}: the network's weights are damaged: its answers are not numbers.")
        for path, row in zip(pictures[start:], probabilities, strict=False):
            best = np.argsort(-row, kind="stable")[:top]
            answers = [{"class": saved.class_names[i], "probability": float(row[i])} for i in best]
            if as_json:
                click.echo(json.dumps({"file": str(path), "answers": answers}))
            else:
                click.echo(f"{path}: " + ", ".join(f"{a['class']} ({a['probability']:.1%})" for a in answers))
