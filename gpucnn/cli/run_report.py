"""The files of a run folder for people: ``summary.txt``, ``report.html``, plots. A failure to draw is only a warning."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from gpucnn import functional as F
from gpucnn import inspect, nn
from gpucnn.analysis.profile import Profile, profile
from gpucnn.autograd import no_grad
from gpucnn.checkpoint import packed, read_packed
from gpucnn.cli.terminal import say
from gpucnn.cli.training_images import MOST_EXAMPLES, balance_of
from gpucnn.data import Dataset
from gpucnn.errors import ParameterError
from gpucnn.nn.module import evaluating
from gpucnn.report.html import flattened
from gpucnn.report.images import overlaid
from gpucnn.report.outcome import calibrated, confusions
from gpucnn.report.pictures import check_drawer
from gpucnn.report.training_images import Balance
from gpucnn.training import Evaluation, Loader, Reporter, RunFolder, Trainer

FILTERS = "first-filters.safetensors"
"""The filters of the first convolution as they were initialised."""

PLAYGROUND_FILE, PLAYGROUND_LINK = "playground.html", "Playground: draw, and see how this network sees"

RELOAD = 5
"""Seconds between reloads of a live report in the browser."""

OF_THE_BEST = "; confusion matrix, mistakes and filters are those of the best checkpoint"
"""Appended to the state where the best checkpoint is not the last."""

MOST_MISTAKES = 36
MOST_EXPLAINED = 12
"""Mistakes of which the report shows what the network looked at: each takes a pass through the network and back."""
TIMED = 64
"""Most images in the batch whose time per layer is shown."""
TOP = 3
"""Most probable classes that are told of a mistake."""


class ReportWriter(Reporter):
    """Keeps the first filters and ``summary.txt`` when a run begins, and draws the report when it ends.

    live: the report is also drawn after each epoch and reloads itself. quiet: print nothing on standard output. png: its
    pictures are written as PNG files too; GpucnnError where what draws them is missing.
    """

    def __init__(self, live: bool = False, quiet: bool = False, png: bool = False) -> None:
        if png:
            check_drawer()
        self._live, self._quiet, self._png = live, quiet, png
        self._summary: inspect.Summary | None = None
        self._balance: Balance | None = None
        self._begun = 0

    def start(self, trainer: Trainer) -> None:
        self._begun = trainer.epoch
        with only_noted("summary"):
            self._summary = inspect.summary(trainer.net, trainer.splits.train.image_shape)
            trainer.folder.write("summary.txt", f"{self._summary}\n")
        with only_noted("training images in the report"):
            self._balance = balance_of(trainer.train_loader, trainer.normalisation, trainer.settings)
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
        done = trainer.tested is not None
        if run is not None and done:
            say(f"Report: {trainer.folder.path / 'report.html'}", self._quiet)
            if self._png:
                draw_pictures(trainer.folder, run)

    def _write(self, trainer: Trainer, refresh: int | None = None) -> inspect.Run | None:
        with only_noted("report"):
            settings = trainer.settings
            halted = f"{'stopped early,' if trainer.stopped else 'stopped'} at step {trainer.step}"
            state = state_of(trainer.epoch, settings.epochs, "running" if refresh else halted)
            measured = trainer.measured.get("test")
            if trainer.tested is not None and trainer.tested["step"] != trainer.step:
                state += OF_THE_BEST
            names, net = trainer.splits.train.class_names, trainer.tested_net or trainer.net
            run = gather(
                trainer.folder,
                f"{settings.model} on {trainer.splits.name}",
                state,
                asdict(settings),
                net,
                self._summary,
                None
                if measured is None
                else outcome_of(net, trainer.test_loader, measured, trainer.splits.test, names, trainer.splits.name),
                self._balance,
                None if refresh else times_of(net, trainer.train_loader),
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
    balance: Balance | None,
    times: Profile | None = None,
) -> inspect.Run:
    """Return everything that the report shows of a run; the numbers are those of the folder's files."""
    environment: dict[str, Any] = {}
    with only_noted("environment in the report"):
        environment = dict(flattened(json.loads((folder.path / "environment.json").read_bytes())))
    given = {key: value for key, value in settings.items() if value is not None}
    return inspect.Run(
        title, state, given, environment, folder.metrics(), summary, kept_first_filters(folder), first_filters(net),
        outcome, balance, times, links_in(folder),
    )  # fmt: skip


def times_of(net: nn.Module, loader: Loader) -> Profile | None:
    """Return how long each layer takes for some training images; None, with a warning, where that cannot be measured."""
    with only_noted("time per layer in the report"):
        x, _ = loader.batch(np.arange(min(len(loader), TIMED)), (0, 0))
        return profile(net, x, repeats=2)
    return None


def links_in(folder: RunFolder) -> dict[str, str]:
    """Return the other pages about a run that are in its folder, {text: address}."""
    return {PLAYGROUND_LINK: PLAYGROUND_FILE} if (folder.path / PLAYGROUND_FILE).is_file() else {}


def outcome_of(
    net: nn.Module, loader: Loader, measured: Evaluation, data: Dataset, class_names: list[str], source: str
) -> inspect.Outcome:
    """Return the evaluation of a network on a data set: counts, confused images, and the worst mistakes explained.

    loader: the batches of ``data`` that were measured.
    """
    confusion = measured.confusion(len(class_names))
    right = measured.labels == measured.predictions
    found = inspect.Outcome(source, class_names, confusion, calibration=calibrated(measured.confidences, right))
    examples = {}
    for i, j in confusions(found):
        places = np.flatnonzero((measured.labels == i) & (measured.predictions == j))[:MOST_EXAMPLES]
        examples[i, j] = list(data[places][0])
    return replace(found, mistakes=tuple(_mistakes(net, loader, measured, data)), examples=examples)


def _mistakes(net: nn.Module, loader: Loader, measured: Evaluation, data: Dataset) -> Iterator[inspect.Mistake]:
    worst = measured.worst(MOST_MISTAKES)
    if not len(worst):
        return
    x, _ = loader.batch(worst)
    with evaluating(net), no_grad():
        probabilities = F.softmax(net(x)).numpy().astype(np.float32)
    files = getattr(data, "files", None)
    for place, (i, image) in enumerate(zip(worst, data[worst][0], strict=True)):
        top = np.argsort(-probabilities[place], kind="stable")[:TOP]
        answer, seen = int(measured.predictions[i]), None
        if place < MOST_EXPLAINED:
            with suppress(ParameterError):  # a network without convolutions
                seen = overlaid(image, inspect.grad_cam(net, x[place : place + 1], answer))
        yield inspect.Mistake(
            image, int(measured.labels[i]), answer, float(measured.confidences[i]),
            [(int(k), float(probabilities[place, k])) for k in top], None if files is None else files[i], seen,
        )  # fmt: skip


def draw_pictures(folder: RunFolder, run: inspect.Run) -> None:
    """Write the report's pictures as PNG files; a failure to draw is only a warning."""
    with only_noted("pictures"):
        for name, content in inspect.plots(run):
            folder.write(name, content)


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
