"""The report of a run: one page with its verdict, curves, classes, confusions, mistakes, filters, layers and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucnn.analysis.profile import Profile
from gpucnn.analysis.summary import Summary
from gpucnn.formats import date_text, duration, loss_text, percent
from gpucnn.report.charts import chart
from gpucnn.report.curves import SPLITS, best_epoch, epochs_of, rates_of, series_of, steps_of
from gpucnn.report.html import breakable, colour_bar, exactly, facts, folded, page, picture, table, text
from gpucnn.report.images import SIGNED, filter_pixels, sheet, shown_filters
from gpucnn.report.outcome import Outcome, classes_part, confusion_part, mistakes_part
from gpucnn.report.training_images import Balance, balance_part

MOST_FILTERS = 64
"""Most filters that are drawn; the others are counted."""

MOST_LAYERS = 30
"""Most layers whose table is open at first."""

GAP = 0.08
"""The gap between training and validation accuracy from which the report says that a network overfits."""

CHANCE = 0.05
"""How much better than chance a network has to answer to be said to have learnt something."""


@dataclass(frozen=True)
class Run:
    """The content of a run's report; what is None or empty is left out.

    state: the progress of the run in a few words. settings and environment: names and values. metrics: the objects of
    ``metrics.jsonl``. filters_before, filters_after: of the first convolution (F, C, KH, KW), as initialised and now.
    outcome: on the test images. balance: of the training images. profile: the layers' times. links: other pages about the
    run, {text: address}.

    >>> Run("lenet on digits", "1 epoch done").outcome is None
    True
    """

    title: str
    state: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    summary: Summary | None = None
    filters_before: Any = None
    filters_after: Any = None
    outcome: Outcome | None = None
    balance: Balance | None = None
    profile: Profile | None = None
    links: Mapping[str, str] = field(default_factory=dict)


PLAYGROUND = (
    '<p class="quiet">gpucnn playground RUN writes a page that runs this network: draw, and watch its feature maps.</p>'
)
"""The text in place of the link to the playground before there is one."""


def report(run: Run, refresh: int | None = None) -> str:
    """Return the report as HTML: one file that needs no other. refresh: seconds until the page reloads itself.

    >>> html = report(Run("lenet on <digits>", "finished"))
    >>> "<h1>lenet on &lt;digits&gt;</h1>" in html, "<script" in html
    (True, False)
    """
    parts = []
    if epochs_of(run.metrics):
        parts.append(("Curves", _curves(run)))
    if run.outcome is not None:
        parts.append(("Classes", classes_part(run.outcome)))
        parts.append(("Confusion matrix", confusion_part(run.outcome)))
        parts.append(("Worst mistakes", mistakes_part(run.outcome)))
    if run.balance is not None:
        parts.append(("Training images", balance_part(run.balance)))
    if run.filters_after is not None:
        parts.append(("Filters of the first convolution", _filters(run.filters_before, run.filters_after)))
    if run.summary is not None:
        parts.append(("Layers", _layers(run.summary)))
    if run.profile is not None and run.profile.layers:
        parts.append(("Time per layer", _times(run.profile)))
    for title, caption, values in (
        ("Configuration", "Every setting, as resolved; also in config.toml", run.settings),
        ("Environment", "What the run ran on; also in environment.json", run.environment),
    ):
        if values:
            parts.append((title, facts(caption, values)))
    return page(run.title, _head(run, refresh), parts, refresh)


def _head(run: Run, refresh: int | None) -> str:
    again = "" if refresh is None else f" This page loads itself again every {refresh} seconds until the run ends."
    classes = next((len(part.class_names) for part in (run.balance, run.outcome) if part is not None), None)
    kind, words = verdict(run.metrics, classes)
    judged = f'<p class="verdict"><b class="{kind}">{text(words)}</b></p>' if words else ""
    epochs = epochs_of(run.metrics)
    lines = {
        "Started": date_text(run.environment.get("date")) if run.environment.get("date") else None,
        "Training took": duration(sum(values.get("seconds") or 0 for values in epochs)) if epochs else None,
        "Command": run.environment.get("command"),
        "Commit": run.environment.get("commit"),
    }
    known = "".join(
        f"<dt>{what}</dt><dd>{f'<code>{text(value)}</code>' if what in ('Command', 'Commit') else text(value)}</dd>"
        for what, value in lines.items()
        if value
    )
    links = " ".join(f'<a href="{text(address)}">{text(words)}</a>' for words, address in run.links.items())
    return (
        f'<h1>{breakable(run.title)}</h1><p class="quiet">{text(run.state)}.{again}</p>{judged}'
        + (f'<dl class="head">{known}</dl>' if known else "")
        + (f"<p>{links}</p>" if links else PLAYGROUND if run.settings else "")
        + _cards(run)
    )


def verdict(metrics: Sequence[Mapping[str, Any]], classes: int | None = None) -> tuple[str, str]:
    """Return a verdict on the training: "good", "warn" or "bad", and a sentence; empty before the first epoch.

    classes: how many there are; without it, a network no better than chance is not told apart.

    >>> verdict([{"epoch": 1, "step": 9, "train_loss": 0.1, "train_accuracy": 0.98, "val_accuracy": 0.48}])
    ('bad', 'Training 98 %, validation 48 %: overfitting.')
    """
    epochs = epochs_of(metrics)
    if not epochs or epochs[-1].get("train_accuracy") is None:
        return "", ""
    last, best = epochs[-1], best_epoch(metrics)
    train, val = last["train_accuracy"], last.get("val_accuracy")
    said = f"Training {percent(train, 0)}" + ("" if val is None else f", validation {percent(val, 0)}")
    if val is None:
        return "warn", f"{said}. Without a validation split nothing tells whether it overfits."
    first = epochs[0]["train_loss"]
    if len(epochs) > 1 and last["train_loss"] > 0.95 * first and train < 0.5:
        return "bad", f"{said}: it has hardly learnt. Try another learning rate."
    if classes and (train + val) / 2 < min(2 / classes, 1 / classes + CHANCE):
        return "bad", f"{said}: little better than chance, which would give {percent(1 / classes, 0)}."
    if train - val > GAP:
        kind = "bad" if train - val > 3 * GAP else "warn"
        return kind, f"{said}: overfitting{'' if kind == 'bad' else ' has begun'}."
    if best is not None and best <= last["epoch"] - 3:
        return "warn", f"{said}: the best epoch was {best} of {last['epoch']}; the later ones did not help."
    if len(epochs) > 1 and best == last["epoch"] and val - epochs[-2].get("val_accuracy", val) > 0.005:
        return "good", f"{said}: it was still getting better; more epochs may help."
    return "good", f"{said}: no sign of overfitting."


def _cards(run: Run) -> str:
    epochs = epochs_of(run.metrics)
    cards = []
    if epochs:
        last = epochs[-1]
        if run.outcome is not None:
            cards.append(("Test accuracy", exactly(run.outcome.accuracy, percent)))
        elif last.get("test_accuracy") is not None:
            cards.append(("Test accuracy", exactly(last["test_accuracy"], percent)))
        for key, words in (("val", "Validation"), ("train", "Training")):
            if last.get(f"{key}_accuracy") is not None:
                cards.append((f"{words} accuracy", exactly(last[f"{key}_accuracy"], percent)))
        cards.append(("Epochs", str(last["epoch"])))
        if (best := best_epoch(run.metrics)) is not None:
            cards.append(("Best epoch", str(best)))
        cards.append(("Images per second", f"{last.get('images_per_second') or 0:,.0f}"))
    if run.summary is not None:
        cards.append(("Parameters", f"{run.summary.parameters:,}"))
    return f'<dl class="cards">{"".join(f"<div><dt>{what}</dt><dd>{value}</dd></div>" for what, value in cards)}</dl>'


def _curves(run: Run) -> str:
    steps, best = steps_of(run.metrics), best_epoch(run.metrics)
    ends: dict[str, tuple[float | None, float | None]] = {"loss": (0, None), "accuracy": (None, 1)}
    drawn = ((what, series_of(run.metrics, what)) for what in ends)
    charts = [chart(what.capitalize(), series, what, ends[what], steps, best) for what, series in drawn if series]
    if rates := rates_of(run.metrics):
        charts.append(chart("Learning rate", rates, "learning rate", (0, None), steps))
    heads = [(f"{words} {what}", f"{key}_{what}") for key, words in SPLITS for what in ("loss", "accuracy")]
    forms: dict[str, Callable[[Any], str]] = {"loss": loss_text, "accuracy": percent}
    rows = (
        [str(v["epoch"]), f"{v['step']:,}", *(exactly(v.get(key), forms[key.partition("_")[2]]) for _, key in heads),
         duration(v.get("seconds") or 0)]
        for v in epochs_of(run.metrics)
    )  # fmt: skip
    numbers = table("One row per epoch", ["epoch", "step", *(words for words, _ in heads), "time"], rows)
    return f'<div class="charts">{"".join(charts)}</div>{folded("All numbers", numbers)}'


def _times(profile: Profile) -> str:
    longest = max(layer.forward + layer.backward for layer in profile.layers) or 1.0
    rows = (
        [
            text(layer.title),
            f"{1000 * layer.forward:.2f}",
            f"{1000 * layer.backward:.2f}",
            f'<span class="bar" style="--share: {(layer.forward + layer.backward) / longest:.4f}"></span>',
        ]
        for layer in profile.layers
    )
    N = profile.input_shape[0]
    caption = f"Milliseconds for a batch of {N} on {profile.device}, one layer at a time; see gpucnn profile"
    return table(caption, ["layer", "forward", "backward", ""], rows, "bars")


def _filters(before: Any, after: Any) -> str:
    shown = [("after training", after)]
    if before is not None and before.shape == after.shape:
        shown.insert(0, ("before training", before))
    largest = max(float(np.abs(shown_filters(stack)).max()) for _, stack in shown)
    F, C, KH, KW = after.shape
    about = f"{F} filters of {KH}x{KW} pixels" + (f", the first {MOST_FILTERS} shown" if F > MOST_FILTERS else "")
    if C == 3:
        about += f"; red, green and blue are the three channels, grey is 0, black {-largest:.2f}, white {largest:.2f}."
        bar = ""
    else:
        about += (", the mean of their channels" if C > 1 else "") + ", on one scale."
        bar = colour_bar(SIGNED, f"{-largest:.3g}", f"{largest:.3g}", "Colours of the filters, 0 in the middle")
    figures = [
        picture(sheet(filter_pixels(stack[:MOST_FILTERS], largest)), f"Filters of the first convolution {when}", when)
        for when, stack in shown
    ]
    return f'<p>{about}</p>{bar}<div class="row">{"".join(figures)}</div>'


def _layers(summary: Summary) -> str:
    head = ["layer", "class", "output", "parameters", "multiply-adds", "sees (pixels)"]
    rows = (
        [
            text(row.name or "-"),
            text(row.kind),
            "x".join(map(str, row.output_shape[1:])),
            f"{row.parameters:,}",
            f"{row.multiply_adds:,}",
            "-" if row.receptive_field is None else "x".join(map(str, row.receptive_field)),
        ]
        for row in summary.rows
    )
    size = "x".join(map(str, summary.input_shape))
    caption = (
        f"{summary.model} on one image of {size}, {summary.dtype}: {summary.parameters:,} parameters, "
        f"{summary.multiply_adds:,} multiply-adds; more in summary.txt"
    )
    layers = table(caption, head, rows, "words")
    few = len(summary.rows) <= MOST_LAYERS
    return layers if few else folded(f"All {len(summary.rows)} layers", layers)
