"""``gpucnn evaluate``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

from gpucnn import data
from gpucnn.cli.options import checkpoint_option, device_option, model_option
from gpucnn.errors import CheckpointError, DivergedError
from gpucnn.training import RunFolder, SavedModel, evaluate


@click.command(short_help="Measure a trained network on a data set.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", "source", metavar="SOURCE", help="Data set whose test images are read.  [that of the run]")
@device_option("auto")
@checkpoint_option
@model_option
@click.option("--batch-size", type=click.IntRange(1), default=1000, show_default=True, help="Images at a time.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: loss, accuracy, confusion.")
def command(
    run: Path, source: str | None, device: str, checkpoint: str, model: str | None, batch_size: int, as_json: bool
) -> None:
    """Print accuracy, loss, the confusion matrix and figures per class of the network in folder RUN."""
    saved = SavedModel.load(RunFolder.open(run), device, checkpoint, model)
    splits = data.load(source or saved.data, like=saved.image_shape, framing=saved.framing)
    try:
        with saved.as_trained():
            result = evaluate(saved.net, saved.feed(splits.test), batch_size)
    except DivergedError as error:
        raise CheckpointError(f"{run}: {error}") from None
    confusion = result.confusion(len(saved.class_names))
    if as_json:
        loss = result.loss if math.isfinite(result.loss) else None  # JSON has no NaN
        click.echo(json.dumps({"loss": loss, "accuracy": result.accuracy, "confusion": confusion.tolist()}))
        return
    click.echo(
        f"{splits.name}: {len(splits.test):,} test images, loss {result.loss:.4f}, accuracy {result.accuracy:.4f}\n"
    )
    print_confusion(confusion, saved.class_names)


def print_confusion(confusion: Any, names: list[str]) -> None:
    """Print the counts, rows the true class, columns the answer, with recall and precision of each class."""
    width = max(6, *(len(name) + 1 for name in names))
    click.echo("true \\ answer".ljust(width + 8) + "".join(name.rjust(width) for name in names) + "  recall  precision")
    for i, name in enumerate(names):
        row, column = confusion[i].sum(), confusion[:, i].sum()
        recall = f"{confusion[i, i] / row:.4f}" if row else "-"
        precision = f"{confusion[i, i] / column:.4f}" if column else "-"
        counts = "".join(str(count).rjust(width) for count in confusion[i])
        click.echo(name.ljust(width + 8) + counts + recall.rjust(8) + precision.rjust(11))
