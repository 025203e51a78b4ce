"""``gpucnn evaluate``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import numpy as np

from gpucnn.cli.options import (
    checkpoint_option,
    complete_source,
    device_option,
    model_option,
    no_limits_option,
    trust_option,
)
from gpucnn.cli.processes import check_processes, run_processes
from gpucnn.cli.terminal import say, say_json, say_lines, shortened, width
from gpucnn.cli.together import one_speaks, speak_to_the_parents_terminal
from gpucnn.distributed import init
from gpucnn.distributed.launch import launched_processes
from gpucnn.errors import CheckpointError, DivergedError
from gpucnn.training import RunFolder, SavedModel, evaluate
from gpucnn.training.config import MOST_SHARDS
from gpucnn.training.evaluation import BATCH


@click.command(short_help="Evaluate a trained network on a data set.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data",
    "source",
    metavar="SOURCE",
    shell_complete=complete_source,
    help="Data set whose test images are evaluated.  [default: that of the run]",
)
@device_option("auto")
@checkpoint_option
@model_option
@trust_option
@click.option("--batch-size", type=click.IntRange(1), default=BATCH, show_default=True, help="Images per batch.")
@click.option(
    "--processes", type=click.IntRange(1, MOST_SHARDS), metavar="N",
    help="Divide the images among N processes on this machine, a power of two (extra mpi).",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: loss, accuracy, confusion.")
@no_limits_option
def command(
    run: Path,
    source: str | None,
    device: str,
    checkpoint: str | None,
    model: str | None,
    trust: bool,
    batch_size: int,
    processes: int | None,
    as_json: bool,
) -> int:
    """Print accuracy, loss, confusion matrix, and recall and precision per class of the network in folder RUN.

    If the matrix is wider than the terminal, each class has a line with the class it is most often mistaken for.
    """
    saved = SavedModel.load(RunFolder.open(run), device, checkpoint, model, trust)
    name, test = saved.test_set(source)
    if processes is not None and processes > launched_processes():
        check_processes(processes, processes)
        return run_processes(processes)
    try:
        with one_speaks(init(saved.backend.kind)) as (comm, _), saved.as_trained():
            result = evaluate(saved.net, saved.feed(test), batch_size, comm)
    except DivergedError as error:
        raise CheckpointError(f"{run}: {error}") from None
    if comm.rank:
        return 0
    speak_to_the_parents_terminal()
    confusion = result.confusion(len(saved.class_names))
    if as_json:
        loss = result.loss if math.isfinite(result.loss) else None  # JSON has no NaN
        say_json({"loss": loss, "accuracy": result.accuracy, "confusion": confusion.tolist()})
        return 0
    say(f"{name}: {len(test):,} test images, loss {result.loss:.4f}, accuracy {result.accuracy:.4f}")
    say("")
    names = [shortened(name) for name in saved.class_names]
    say_lines(widest_fitting(confusion, names, width()))
    return 0


def widest_fitting(confusion: Any, names: list[str], columns: int) -> list[str]:
    """Return the fullest table whose lines have at most ``columns`` characters."""
    for numbered in (False, True):
        lines = matrix(confusion, names, numbered)
        if len(lines[0]) <= columns:
            return lines
    return per_class(confusion, names, columns)


def matrix(confusion: Any, names: list[str], numbered: bool = False) -> list[str]:
    """Return the counts, one row per true class and one column per predicted class, with recall and precision of each class.

    numbered: columns are headed by class numbers, which are shorter than names.
    """
    titles = [str(i) for i in range(len(names))] if numbered else names
    labels = [f"{i} {name}" for i, name in enumerate(names)] if numbered else names
    most = len(str(confusion.max(initial=0)))
    column = max(most, *map(len, titles)) + 1
    first = max(len("true \\ answer"), *map(len, labels))
    lines = ["true \\ answer".ljust(first) + "".join(title.rjust(column) for title in titles) + "  recall  precision"]
    for i, label in enumerate(labels):
        counts = "".join(str(count).rjust(column) for count in confusion[i])
        recall, precision = shares(confusion, i)
        lines.append(label.ljust(first) + counts + recall.rjust(8) + precision.rjust(11))
    return lines


def per_class(confusion: Any, names: list[str], columns: int) -> list[str]:
    """Return one line per class: images, recall, precision, and the class it is most often mistaken for."""
    figures = "  images  recall  precision"
    most = max((columns - len(figures) - len("  mistaken for ") - 8) // 2, 8)
    names = [shortened(name, most) for name in names]
    first = max(len("class"), *map(len, names))
    lines = ["class".ljust(first) + figures + "  mistaken for"]
    for i, name in enumerate(names):
        wrong = np.where(np.arange(len(names)) == i, 0, confusion[i])
        answer = int(wrong.argmax())
        mistaken = f"  {names[answer]} ({wrong[answer]:,})" if wrong[answer] else "  -"
        recall, precision = shares(confusion, i)
        lines.append(f"{name.ljust(first)}{confusion[i].sum():>8,}{recall:>8}{precision:>11}{mistaken}")
    return lines


def shares(confusion: Any, i: int) -> tuple[str, str]:
    """Return recall and precision of a class, or "-" where one is undefined."""
    row, answered = confusion[i].sum(), confusion[:, i].sum()
    return (
        f"{confusion[i, i] / row:.4f}" if row else "-",
        f"{confusion[i, i] / answered:.4f}" if answered else "-",
    )
