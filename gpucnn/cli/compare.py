"""``gpucnn compare``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from gpucnn.cli.runs import USUAL
from gpucnn.cli.tables import text_table
from gpucnn.cli.terminal import say, say_json, say_lines
from gpucnn.disk import write_atomically
from gpucnn.errors import GpucnnError, UsageError
from gpucnn.formats import ABSENT, duration, percent, setting_text
from gpucnn.training.runs import RunRecord, find_runs


@click.command(short_help="Compare runs: settings that differ, figures, curves.")
@click.argument("runs", nargs=-1, metavar="RUN RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.html",
    help="Also write a page with the curves of all runs in the same charts.",
)  # fmt: skip
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per run: figures and the settings that differ."
)
def command(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Compare the runs in folders RUN: the settings in which they differ, and their best figures.

    A folder of runs stands for all runs in it; the default is the folder runs. --out writes a page with the curves of all
    runs in the same charts: one file, which opens anywhere.
    """
    if not runs and not USUAL.is_dir():
        raise UsageError("compare: expected two runs or more, and there is no folder runs. Name the runs' folders.")
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UsageError.expected("compare", "--out", "a file name that ends in .html", out.name)
    records = [RunRecord.read(path) for path in find_runs(runs or (USUAL,))]
    unreadable = next((record for record in records if record.problem is not None), None)
    if unreadable is not None:
        raise UsageError(str(unreadable.problem))
    if len(records) < 2:
        named = ", ".join(map(str, runs or (USUAL,)))
        raise UsageError.expected("compare", named, "two runs or more", f"{len(records)}", "see `gpucnn runs`")
    show(records, as_json)
    if out is not None:
        write_page(records, out)
        say(f"Written: {out}", err=as_json)
    elif not as_json:
        say("To see the curves: add --out compare.html")


def show(records: list[RunRecord], as_json: bool) -> None:
    """Print the runs, with the settings in which they differ."""
    from gpucnn.report.comparison import differing

    settings = differing([{} if record.settings is None else asdict(record.settings) for record in records])
    if as_json:
        for i, record in enumerate(records):
            say_json(record.figures() | {"differs": {key: values[i] for key, values in settings.items()}})
        return
    head = ["run", *settings, "epoch", "validation accuracy", "test accuracy", "time"]
    rows = [
        [
            str(record.path),
            *(setting_text(values[i]) for values in settings.values()),
            ABSENT if record.best_epoch is None else str(record.best_epoch),
            percent(record.val_accuracy),
            percent(record.test_accuracy),
            duration(record.seconds) if record.done else ABSENT,
        ]
        for i, record in enumerate(records)
    ]
    say_lines(text_table(head, rows, names=1 + len(settings)))
    if not settings:
        say("No setting differs.")
    if len({str(record.environment.get("data")) for record in records}) > 1:
        say("Note: the images differ too, by their SHA-256 in environment.json.", err=True)


def write_page(records: list[RunRecord], out: Path) -> None:
    """Write the page; GpucnnError where the file cannot be written."""
    from gpucnn.report.comparison import Compared, comparison_page
    from gpucnn.report.html import flattened

    compared = [
        Compared(
            str(record.path), record.metrics, {} if record.settings is None else asdict(record.settings),
            dict(flattened(record.environment)),
        )
        for record in records
    ]  # fmt: skip
    try:
        write_atomically(out, comparison_page(compared).encode())
    except OSError as error:
        raise GpucnnError(f"{out}: cannot be written ({error.strerror}).") from None
