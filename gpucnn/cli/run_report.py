"""The files of a run folder for people: ``summary.txt``, ``report.html``, plots. A failure to draw is only a warning."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from gpucnn import inspect, nn
from gpucnn.checkpoint import packed, read_packed
from gpucnn.cli.terminal import say
from gpucnn.data import Dataset
from gpucnn.data.cache import cache_home
from gpucnn.errors import GpucnnError, ParameterError
from gpucnn.report.html import flattened
from gpucnn.training import Evaluation, Reporter, RunFolder, Trainer

FILTERS = "first-filters.safetensors"
"""The filters of the first convolution as they were initialised."""

RELOAD = 5
"""Seconds between reloads of a live report in the browser."""

OF_THE_BEST = "; confusion matrix, mistakes and filters are those of the best checkpoint"
"""Appended to the state where the best checkpoint is not the last."""

MOST_MISTAKES = 36


class ReportWriter(Reporter):
    """Keeps the first filters and ``summary.txt`` when a run begins, and draws the report when it ends.

    live: the report is also drawn after each epoch and reloads itself. quiet: print nothing on standard output.
    """

    def __init__(self, live: bool = False, quiet: bool = False) -> None:
        self._live, self._quiet = live, quiet
        self._summary: inspect.Summary | None = None
        self._begun = 0

    def start(self, trainer: Trainer) -> None:
        self._begun = trainer.epoch
        with only_noted("summary"):
            self._summary = inspect.summary(trainer.net, trainer.splits.train.image_shape)
            trainer.folder.write("summary.txt", f"{self._summary}\n")
        if not trainer.step:
            with only_noted("first filters"):
                keep_first_filters(trainer.folder, trainer.net)
        if self._live:
            self._write(trainer, RELOAD)
            say(f"Live report: {trainer.folder.path / 'report.html'}", self._quiet)

    def epoch(self, trainer: Trainer, values: dict[str, Any]) -> None:
        if self._live and trainer.epoch < trainer.settings.epochs:
            self._write(trainer, RELOAD)

    def finish(self, trainer: Trainer) -> None:
        if trainer.epoch == self._begun > 0 and not trainer.measured and not self._live:
            return  # resumed and stopped within an epoch: the earlier report says more
        run = self._write(trainer)
        done = trainer.epoch >= trainer.settings.epochs
        if run is not None and done:
            say(f"Report: {trainer.folder.path / 'report.html'}", self._quiet)
            draw_pictures(trainer.folder, run, self._quiet)

    def _write(self, trainer: Trainer, refresh: int | None = None) -> inspect.Run | None:
        with only_noted("report"):
            settings = trainer.settings
            state = state_of(
                trainer.epoch, settings.epochs, "running" if refresh else f"stopped at step {trainer.step}"
            )
            measured = trainer.measured.get("test")
            if trainer.tested is not None and trainer.tested["step"] != trainer.step:
                state += OF_THE_BEST
            names = trainer.splits.train.class_names
            run = gather(
                trainer.folder,
                f"{settings.model} on {trainer.splits.name}",
                state,
                asdict(settings),
                trainer.tested_net or trainer.net,
                self._summary,
                None if measured is None else outcome_of(measured, trainer.splits.test, names, trainer.splits.name),
            )
            trainer.folder.write("report.html", inspect.report(run, refresh).encode())
            return run
        return None


@contextmanager
def only_noted(what: str) -> Iterator[None]:
    """Turn any error in the block into a warning: a failed plot must not end a run."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"no {what}: {error or type(error).__name__}", stacklevel=3)


def state_of(epoch: int, epochs: int, unfinished: str) -> str:
    """Return the progress of a run in words."""
    return (
        f"Finished after {_epochs(epochs)}" if epoch >= epochs else f"{_epochs(epoch)} of {epochs} done, {unfinished}"
    )


def _epochs(count: int) -> str:
    return f"{count} epoch" if count == 1 else f"{count} epochs"


def gather(
    folder: RunFolder,
    title: str,
    state: str,
    settings: dict[str, Any],
    net: nn.Module,
    summary: inspect.Summary | None,
    outcome: inspect.Outcome | None,
) -> inspect.Run:
    """Return everything that the report shows of a run; the numbers are those of the folder's files."""
    environment: dict[str, Any] = {}
    with only_noted("environment in the report"):
        environment = dict(flattened(json.loads((folder.path / "environment.json").read_bytes())))
    given = {key: value for key, value in settings.items() if value is not None}
    before = kept_first_filters(folder)
    return inspect.Run(title, state, given, environment, folder.metrics(), summary, before, first_filters(net), outcome)


def outcome_of(measured: Evaluation, data: Dataset, class_names: list[str], source: str) -> inspect.Outcome:
    """Return the evaluation of a network on a data set, with the images of the worst mistakes."""
    worst = measured.worst(MOST_MISTAKES)
    images: Any = data[worst][0] if len(worst) else ()
    mistakes = tuple(
        inspect.Mistake(image, int(measured.labels[i]), int(measured.predictions[i]), float(measured.confidences[i]))
        for image, i in zip(images, worst, strict=True)
    )
    return inspect.Outcome(source, class_names, measured.confusion(len(class_names)), mistakes)


def draw_pictures(folder: RunFolder, run: inspect.Run, quiet: bool = False) -> None:
    """Write the plots as files; without Matplotlib, print how to install it."""
    try:
        for name, content in inspect.plots(run):
            folder.write(name, content)
    except GpucnnError as error:
        say_once("plots", str(error), quiet)
    except Exception as error:
        warnings.warn(f"no plots: {error or type(error).__name__}", stacklevel=2)


def say_once(topic: str, message: str, quiet: bool) -> None:
    """Print a message the first time only: a file in the cache remembers it."""
    home = cache_home()
    told = None if home is None else home / "told" / topic
    if told is not None and told.exists():
        return
    say(message, quiet)
    with suppress(OSError):
        if told is not None:
            told.parent.mkdir(parents=True, exist_ok=True)
            told.touch()


def first_filters(net: nn.Module) -> Any:
    """Return the filters (F, C, KH, KW) of the first convolution, or None without one."""
    try:
        return inspect.filters(net)
    except ParameterError:
        return None


def keep_first_filters(folder: RunFolder, net: nn.Module) -> None:
    """Write the first filters to the run's folder."""
    filters = first_filters(net)
    if filters is not None:
        folder.write(FILTERS, packed({"filters": filters}))


def kept_first_filters(folder: RunFolder) -> Any:
    """Return the first filters as initialised; None where they were not kept or, with a warning, are damaged."""
    path = folder.path / FILTERS
    if not path.is_file():
        return None
    with only_noted("filters from before training"):
        filters = read_packed(path)[0]["filters"]
        if filters.ndim != 4 or filters.dtype.kind != "f":
            raise ValueError(f"{path} holds something else")
        return filters
    return None
