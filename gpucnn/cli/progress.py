"""What ``gpucnn train`` shows: a bar and a table on a terminal, plain lines elsewhere, JSON lines with --json."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpucnn.cli.terminal import clear_line, gone_is_no_error, is_terminal, say, say_json, say_lines, width
from gpucnn.training import Reporter, Trainer

ECHOED = 4
"""Columns kept free beside the bar for the ^C that a terminal echoes: a bar of full width would wrap."""


def loss_text(loss: float) -> str:
    """Return a loss in at most eight characters, however large it is.

    >>> loss_text(0.25), loss_text(123456.0)
    ('0.2500', '1.23e+05')
    """
    return f"{loss:.4f}" if abs(loss) < 100 or not math.isfinite(loss) else f"{loss:.2e}"


def _one_decimal(value: float) -> str:
    return f"{value:.1f}" if value < 1e6 else f"{value:.1e}"


def _thousands(value: float) -> str:
    return f"{value:,.0f}" if value < 1e7 else f"{value:.1e}"


@dataclass(frozen=True)
class Column:
    """A column of the table: its group, its title, its key in an epoch's object, its width and how values are formatted."""

    group: str
    title: str
    key: str
    width: int
    form: Callable[[Any], str]


def _pair(split: str) -> tuple[Column, Column]:
    return (
        Column(split, "loss", f"{split}_loss", 8, loss_text),
        Column(split, "acc", f"{split}_accuracy", 6, "{:.4f}".format),
    )


COLUMNS = (
    Column("", "epoch", "epoch", 5, str),
    *_pair("train"),
    *_pair("val"),
    *_pair("test"),
    Column("", "seconds", "seconds", 7, _one_decimal),
    Column("", "images/s", "images_per_second", 9, _thousands),
)
LEAVE_OUT = ("images_per_second", "seconds", "test_loss", "val_loss", "train_accuracy", "test_accuracy", "train_loss")
"""Columns to drop on a narrow terminal, in this order."""


def columns_for(columns: int) -> list[Column]:
    """Return the columns of the table that fit into ``columns`` characters side by side."""
    chosen = list(COLUMNS)
    for key in LEAVE_OUT:
        if _length(chosen) <= columns:
            break
        chosen = [column for column in chosen if column.key != key]
    return chosen


def _length(columns: Sequence[Column]) -> int:
    return sum(column.width + 2 for column in columns) - 2


def head(columns: Sequence[Column]) -> list[str]:
    """Return the two lines above the table: groups and titles.

    >>> upper, titles = head(columns_for(40))
    >>> titles
    'epoch      loss     acc     acc     acc'
    """
    groups: list[tuple[str, int]] = []
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = column.group, groups[-1][1] + 2 + column.width
        else:
            groups.append((column.group, column.width))
    upper = "  ".join(_ruled(name, columns) for name, columns in groups)
    return [upper.rstrip(), "  ".join(column.title.rjust(column.width) for column in columns)]


def _ruled(name: str, columns: int) -> str:
    return f" {name} ".center(columns, "-") if name and columns > len(name) + 3 else name[:columns].rjust(columns)


def row(columns: Sequence[Column], values: dict[str, Any]) -> str:
    """Return the table line of an epoch."""
    cells = ("-" if values[column.key] is None else column.form(values[column.key]) for column in columns)
    return "  ".join(cell.rjust(column.width) for cell, column in zip(cells, columns, strict=True))


def reporter_for(as_json: bool) -> Reporter:
    """Return the reporter for this output: JSON if asked for, a bar on a terminal, otherwise plain lines."""
    if as_json:
        return JsonReporter()
    return BarReporter() if is_terminal(sys.stdout) and is_terminal(sys.stderr) else TableReporter()


class JsonReporter(Reporter):
    """One JSON object per epoch, and one of the test, on standard output."""

    def epoch(self, trainer: Trainer, values: dict[str, Any]) -> None:
        say_json(values)

    def test(self, trainer: Trainer, values: dict[str, Any]) -> None:
        say_json(values)

    def finish(self, trainer: Trainer) -> None:
        say(f"Run folder: {trainer.folder.path}", err=True)


class TableReporter(Reporter):
    """A heading, one table line per epoch, and the path of the run."""

    def __init__(self) -> None:
        self._columns = columns_for(width())

    def start(self, trainer: Trainer) -> None:
        settings, folder = trainer.settings, trainer.folder.path
        kept = f", {len(trainer.validation_loader):,} for validation" if trainer.validation_loader is not None else ""
        say(
            f"Training {settings.model} on {trainer.splits.name}: {len(trainer.train_loader):,} images{kept}, "
            f"{len(trainer.test_loader):,} for testing; device {trainer.backend.name}"
        )
        say(f"Run folder: {folder}" + (f" (continuing at step {trainer.step})" if trainer.step else ""))
        if not settings.test_each_epoch:
            self._columns = [column for column in self._columns if not column.key.startswith("test_")]
        say_lines(head(self._columns))

    def epoch(self, trainer: Trainer, values: dict[str, Any]) -> None:
        say(row(self._columns, values))

    def test(self, trainer: Trainer, values: dict[str, Any]) -> None:
        say(
            f"Test accuracy {values['test_accuracy']:.4f}, loss {loss_text(values['test_loss'])}: "
            f"{values['checkpoint']} checkpoint, epoch {values['epoch']}."
        )
        say(f"Run folder: {trainer.folder.path}")


class BarReporter(TableReporter):
    """The table, and below it a bar with loss, accuracy, images/s and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None

    def start(self, trainer: Trainer) -> None:
        from tqdm import tqdm

        super().start(trainer)
        images = len(trainer.train_loader)
        done = trainer.epoch * images + trainer.totals.count
        self._bar = tqdm(
            total=trainer.settings.epochs * images,
            initial=done,
            unit=" images",
            unit_scale=True,
            leave=False,
            ncols=self._columns_of_bar(),
        )
        self._show(trainer.epoch + 1, trainer, trainer.history[-1] if trainer.history else {})

    def step(self, trainer: Trainer, images: int) -> None:
        with gone_is_no_error():
            self._bar.update(images)

    def log(self, trainer: Trainer, values: dict[str, Any]) -> None:
        now = {"train_loss": values["running_loss"], "train_accuracy": values["running_accuracy"]}
        self._show(values["epoch"], trainer, now)

    def epoch(self, trainer: Trainer, values: dict[str, Any]) -> None:
        last = values["epoch"] == trainer.settings.epochs
        if last:
            self._close()
        else:
            self._show(values["epoch"] + 1, trainer, values)
        super().epoch(trainer, values)

    def finish(self, trainer: Trainer) -> None:
        self._close()

    def _columns_of_bar(self) -> int:
        return max(width() - ECHOED, 1)

    def _show(self, epoch: int, trainer: Trainer, values: dict[str, Any]) -> None:
        """Set the text beside the bar; a short epoch shows the figures of the previous one until it has its own."""
        self._bar.ncols = self._columns_of_bar()  # the window may have been resized
        self._bar.set_description(f"epoch {epoch}/{trainer.settings.epochs}", refresh=False)
        if values:
            figures = {"loss": loss_text(values["train_loss"]), "acc": f"{values['train_accuracy']:.4f}"}
            self._bar.set_postfix(figures, refresh=False)

    def _close(self) -> None:
        if self._bar is not None:
            with gone_is_no_error():
                self._bar.close()
            self._bar = None
            clear_line()
