"""``gpucnn predict``."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np

from gpucnn import functional as F
from gpucnn.autograd import no_grad
from gpucnn.cli.options import (
    checkpoint_option,
    device_option,
    model_option,
    no_limits_option,
    note_on_floats,
    trust_option,
)
from gpucnn.cli.terminal import printable, say, say_error, say_json
from gpucnn.data import ArrayDataset
from gpucnn.data.folder import pictures_below
from gpucnn.errors import CheckpointError, DataError, UsageError
from gpucnn.formats import percent
from gpucnn.training import RunFolder, SavedModel

AT_ONCE = 1000
"""Images per batch."""


@click.command(short_help="Classify image files.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("pictures", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@device_option("cpu")
@checkpoint_option
@model_option
@trust_option
@click.option("--top", type=click.IntRange(1), default=1, show_default=True, help="Predictions per image.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image: file, answers.")
@click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    help="Print one CSV line per image: file, class, probability. With --top N the last two are repeated.",
)
@click.option(
    "--mean",
    metavar="M[,M,M]",
    help="For an ONNX file that does not say how it reads images: subtract this from pixels (0 to 1).  [default: 0]",
)
@click.option(
    "--std",
    metavar="S[,S,S]",
    help="For such an ONNX file: divide the difference by this.  [default: 1]",
)
@click.option(
    "--image-size",
    "image_size",
    metavar="S|HxW",
    help="For an ONNX file that takes images of any size: scale them to this size.",
)
@no_limits_option
def command(
    run: Path,
    pictures: tuple[Path, ...],
    device: str,
    checkpoint: str | None,
    model: str | None,
    trust: bool,
    top: int,
    as_json: bool,
    as_csv: bool,
    mean: str | None,
    std: str | None,
    image_size: str | None,
) -> int:
    """Print the class that the network in folder RUN predicts for each image file, with its probability. IMAGE may be a
    folder: all images in it and its subfolders are read, sorted by name. RUN may be an ONNX file, whose name ends with
    .onnx.

    Images are converted to grey or colour and scaled as in training. If the training images were centred like MNIST's, a
    grey drawing may be dark on light or light on dark and of any size. A file that cannot be read is reported, the other
    files are still classified, and the exit code is 1.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other: leave one out.")
    if run.suffix == ".onnx":
        _refuse({"--checkpoint": checkpoint, "--model": model, "--trust": trust}, "for run folders, not ONNX files")
        from gpucnn.cli.onnx_file import OnnxClassifier

        network: Any = OnnxClassifier(run, device, mean, std, image_size)
    else:
        _refuse({"--mean": mean, "--std": std, "--image-size": image_size}, "for ONNX files: a run knows its own")
        network = _RunClassifier(run, SavedModel.load(RunFolder.open(run), device, checkpoint, model, trust))
    reader = _Reader(network)
    if as_csv:
        say(_csv_line(["file", *["class", "probability"] * min(top, len(network.class_names))]))
    images = reader.images(pictures)
    while batch := list(islice(images, AT_ONCE)):
        for path, row in zip(
            (path for path, _ in batch), network.probabilities(np.stack([image for _, image in batch])), strict=True
        ):
            best = np.argsort(-row, kind="stable")[:top]
            answers = [{"class": network.class_names[i], "probability": float(row[i])} for i in best]
            if as_json:
                say_json({"file": str(path), "answers": answers})
            elif as_csv:
                say(_csv_line([path, *(value for answer in answers for value in answer.values())]))
            else:
                say(f"{path}: " + ", ".join(f"{a['class']} ({percent(a['probability'], 1)})" for a in answers))
    return 1 if reader.failed else 0


def _refuse(options: dict[str, Any], why: str) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"predict: {', '.join(given)}: {why}. Leave it out.")


class _Reader:
    """Reads images one by one; an image that cannot be read is reported at once and counted."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self.failed = 0

    def images(self, paths: tuple[Path, ...]) -> Iterator[tuple[Path, Any]]:
        for given in paths:
            try:
                found = pictures_below(given) if os.path.isdir(given) else [given]
            except DataError as error:
                self._tell(error)
                continue
            for path in found:
                try:
                    yield path, self._network.read_picture(path)
                except DataError as error:
                    self._tell(error)

    def _tell(self, error: DataError) -> None:
        self.failed += 1
        say_error(str(error))


class _RunClassifier:
    """A trained network of a run folder."""

    def __init__(self, run: Path, saved: SavedModel) -> None:
        self.run, self.saved, self.class_names = run, saved, saved.class_names
        note_on_floats(saved)

    def read_picture(self, path: Path) -> Any:
        return self.saved.read_picture(path)

    def probabilities(self, images: Any) -> Any:
        saved = self.saved
        loader = saved.feed(ArrayDataset(images, np.zeros(len(images), int), saved.class_names))
        with no_grad(), saved.as_trained():
            x, _ = loader.batch(np.arange(len(images)))
            probabilities = F.softmax(saved.net(x)).numpy()
        if not np.isfinite(probabilities).all():
            raise CheckpointError(f"{self.run}: the network's weights are damaged: its outputs are not finite.")
        return probabilities


def _csv_line(cells: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([c if isinstance(c, float) else printable(c) for c in cells])
    return line.getvalue()
