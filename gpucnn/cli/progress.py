"""What ``gpucnn train`` shows: a bar and a table on a terminal, plain lines elsewhere, JSON lines when asked."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from gpucnn.training import Reporter, Trainer

COLUMNS = (
    ("epoch", "epoch", "{:d}"),
    ("train loss", "train_loss", "{:.4f}"),
    ("train acc", "train_accuracy", "{:.4f}"),
    ("val loss", "val_loss", "{:.4f}"),
    ("val acc", "val_accuracy", "{:.4f}"),
    ("test loss", "test_loss", "{:.4f}"),
    ("test acc", "test_accuracy", "{:.4f}"),
    ("seconds", "seconds", "{:.1f}"),
    ("images/s", "images_per_second", "{:,.0f}"),
)


def say(message: str, quiet: bool = False) -> None:
    """Print a line; on standard error where standard output is kept for JSON."""
    click.echo(message, err=quiet)


def reporter_for(as_json: bool) -> Reporter:
    """Return what suits the output: JSON when asked, a bar on a terminal, else plain lines."""
    if as_json:
        return JsonReporter()
    return BarReporter() if sys.stdout.isatty() and sys.stderr.isatty() else TableReporter()


class JsonReporter(Reporter):
    """One JSON object per epoch on standard output."""

    def epoch(self, trainer: Trainer, values: dict[str, Any]) -> None:
        click.echo(json.dumps(values))

    def finish(self, trainer: Trainer) -> None:
        say(f"Run folder: {trainer.folder.path}", quiet=True)


class TableReporter(Reporter):
    """A heading, a table line per epoch, and where the run is."""

    def start(self, trainer: Trainer) -> None:
        settings, folder = trainer.settings, trainer.folder.path
        kept = f", {len(trainer.validation_feed):,} for validation" if trainer.validation_feed is not None else ""
        say(
            f"Training {settings.model} on {trainer.splits.name}: {len(trainer.train_feed):,} images{kept}, "
            f"{len(trainer.test_feed):,} for testing; device {trainer.backend.name}"
        )
        say(f"Run folder: {folder}" + (f" (continuing at step {trainer.step})" if trainer.step else ""))
        say(" ".join(title for title, _, _ in COLUMNS))  # 79 characters: the table fits any terminal

    def epoch(self, trainer: Trainer, values: dict[str, Any]) -> None:
        say(_row(values))
        if values["epoch"] == trainer.settings.epochs:
            say(f"Test accuracy {values['test_accuracy']:.4f} after {values['epoch']} epochs.")
            say(f"Run folder: {trainer.folder.path}")


class BarReporter(TableReporter):
    """The table, and below it a bar with loss, accuracy, images/s and the time left."""

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, trainer: Trainer) -> None:
        from tqdm import tqdm

        super().start(trainer)
        images = len(trainer.train_feed)
        done = trainer.epoch * images + trainer.totals.count
        self._bar = tqdm(
            total=trainer.settings.epochs * images,
            initial=done,
            unit=" images",
            unit_scale=True,
            leave=False,
            dynamic_ncols=True,
        )
        self._show(trainer.epoch + 1, trainer, trainer.history[-1] if trainer.history else {})

    def step(self, trainer: Trainer, images: int) -> None:
        self._bar.update(images)

    def log(self, trainer: Trainer, values: dict[str, Any]) -> None:
        now = {"train_loss": trainer.totals.loss, "train_accuracy": trainer.totals.accuracy}
        self._show(values["epoch"], trainer, now)

    def epoch(self, trainer: Trainer, values: dict[str, Any]) -> None:
        if values["epoch"] == trainer.settings.epochs:
            self._bar.close()
        else:
            self._bar.clear()
        super().epoch(trainer, values)
        if values["epoch"] != trainer.settings.epochs:
            self._show(values["epoch"] + 1, trainer, values)
            self._bar.refresh()

    def _show(self, epoch: int, trainer: Trainer, values: dict[str, Any]) -> None:
        """Set the words about the bar; short epochs show the figures of the one before until they have their own."""
        self._bar.set_description(f"epoch {epoch}/{trainer.settings.epochs}", refresh=False)
        if values:
            figures = {"loss": f"{values['train_loss']:.4f}", "acc": f"{values['train_accuracy']:.4f}"}
            self._bar.set_postfix(figures, refresh=False)

    def finish(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.close()


def _row(values: dict[str, Any]) -> str:
    cells = ("-" if values[key] is None else form.format(values[key]) for _, key, form in COLUMNS)
    return " ".join(cell.rjust(len(title)) for cell, (title, _, _) in zip(cells, COLUMNS, strict=True))
