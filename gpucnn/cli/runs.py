"""``gpucnn runs``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gpucnn.cli.tables import text_table
from gpucnn.cli.terminal import say, say_json, say_lines
from gpucnn.formats import ABSENT, date_text, duration, percent
from gpucnn.training.runs import RunRecord, find_runs

USUAL = Path("runs")
"""Where ``gpucnn train`` puts runs."""

ORDERS: dict[str, Callable[[RunRecord], Any]] = {
    "date": lambda record: record.date,
    "val": lambda record: record.val_accuracy,
    "test": lambda record: record.test_accuracy,
    "time": lambda record: record.seconds or None,
}
"""By what runs are sorted, the largest first; runs without it come last."""


@click.command(short_help="List run folders with their best figures.")
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@click.option(
    "--sort", "order", type=click.Choice([*ORDERS, "name"]), default="date", show_default=True,
    help="Newest, highest validation or test accuracy, or longest time first; or by name.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per run.")
def command(folders: tuple[Path, ...], order: str, as_json: bool) -> None:
    """List the runs in each FOLDER, by default in runs: model, data, epochs done, and best figures.

    A run is a folder with a config.toml; folders are searched three levels deep. The validation accuracy is that of the best
    epoch, the test accuracy that of the checkpoint which `gpucnn evaluate` takes.
    """
    if not folders and not USUAL.is_dir():
        say("No runs yet: `gpucnn train` makes the first one in the folder runs.", err=True)
        return
    records = sorted_runs([RunRecord.read(path) for path in find_runs(folders or (USUAL,))], order)
    if as_json:
        for record in records:
            say_json(record.figures())
    elif records:
        say_lines(text_table(HEAD, [row_of(record) for record in records], names=3))
    else:
        say(f"No runs in {', '.join(map(str, folders or (USUAL,)))}.", err=True)


def sorted_runs(records: list[RunRecord], order: str) -> list[RunRecord]:
    """Return runs sorted by one of ``ORDERS``, or by "name"."""
    if order == "name":
        return records
    key = ORDERS[order]
    known = [record for record in records if key(record) is not None]
    return sorted(known, key=key, reverse=True) + [record for record in records if key(record) is None]


HEAD = ["run", "model", "data", "state", "epoch", "validation", "test", "time", "started"]


def row_of(record: RunRecord) -> list[str]:
    """Return the cells of a run in the table."""
    model, data = (ABSENT, ABSENT) if record.settings is None else (record.settings.model, record.settings.data)
    best = ABSENT if record.best_epoch is None else str(record.best_epoch)
    accuracies = (percent(record.val_accuracy), percent(record.test_accuracy))
    time = duration(record.seconds) if record.done else ABSENT
    return [str(record.path), model, Path(data).name, record.state, best, *accuracies, time, date_text(record.date)]
