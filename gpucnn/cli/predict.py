"""``gpucnn predict``."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from gpucnn import functional as F
from gpucnn.autograd import no_grad
from gpucnn.data import ArrayDataset
from gpucnn.data.pictures import read_picture
from gpucnn.training import RunFolder, SavedModel


@click.command(short_help="Say what picture files show.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("pictures", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="cpu, cuda, cuda:N or auto.")
@click.option(
    "--checkpoint", type=click.Choice(["last", "best"]), default="last", show_default=True, help="Which weights."
)
@click.option("--top", type=click.IntRange(1), default=1, show_default=True, help="Answers for each picture.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per picture: file, answers.")
def command(run: Path, pictures: tuple[Path, ...], device: str, checkpoint: str, top: int, as_json: bool) -> None:
    """Print the class and its probability for each picture file, by the network in folder RUN.

    Pictures are made grey or colour and scaled as the network was trained. A grey drawing may be dark on light or light on
    dark, of any size: it is centred as the digits of MNIST are. Needs the images extra: pip install 'gpucnn[images]'.
    """
    saved = SavedModel.load(RunFolder.open(run), device, checkpoint)
    images = np.stack([read_picture(path, saved.image_shape) for path in pictures])
    feed = saved.feed(ArrayDataset(images, np.zeros(len(images), int), saved.class_names))
    with no_grad():
        x, _ = feed.batch(np.arange(len(images)))
        probabilities = F.softmax(saved.net(x)).numpy()
    for path, row in zip(pictures, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[:top]
        answers = [{"class": saved.class_names[i], "probability": float(row[i])} for i in best]
        if as_json:
            click.echo(json.dumps({"file": str(path), "answers": answers}))
        else:
            click.echo(f"{path}: " + ", ".join(f"{a['class']} ({a['probability']:.1%})" for a in answers))
