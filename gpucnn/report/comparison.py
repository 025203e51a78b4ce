"""Several runs on one page: their figures, the settings that differ, and their curves in the same charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpucnn.formats import ABSENT, cut, duration, percent, setting_text
from gpucnn.report.charts import Series, chart, colour_of, legend, sample
from gpucnn.report.curves import best_epoch, epochs_of, rates_of
from gpucnn.report.html import exactly, facts, name, page, table, text

CURVES = (
    ("Validation accuracy", "val_accuracy", (None, 1)),
    ("Validation loss", "val_loss", (0, None)),
    ("Training accuracy", "train_accuracy", (None, 1)),
    ("Training loss", "train_loss", (0, None)),
)


@dataclass(frozen=True)
class Compared:
    """A run to be compared: its name, the objects of its ``metrics.jsonl``, its settings and environment.

    >>> Compared("a", [{"test_accuracy": 0.5}]).test_accuracy
    0.5
    """

    name: str
    metrics: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def test_accuracy(self) -> float | None:
        """The last test accuracy, 0 to 1."""
        found = [values["test_accuracy"] for values in self.metrics if values.get("test_accuracy") is not None]
        return found[-1] if found else None

    @property
    def val_accuracy(self) -> float | None:
        """The highest validation accuracy, 0 to 1."""
        found = [v["val_accuracy"] for v in epochs_of(self.metrics) if v.get("val_accuracy") is not None]
        return max(found, default=None)


def differing(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the keys in which mappings differ, with the value of each; None for one without the key.

    >>> differing([{"lr": 0.1, "seed": 0}, {"lr": 0.2, "seed": 0}])
    {'lr': [0.1, 0.2]}
    """
    keys = dict.fromkeys(key for run in runs for key in run)
    values = {key: [run.get(key) for run in runs] for key in keys}
    return {key: of_runs for key, of_runs in values.items() if any(value != of_runs[0] for value in of_runs)}


def comparison_page(runs: Sequence[Compared]) -> str:
    """Return runs beside each other as HTML: one file that needs no other.

    >>> html = comparison_page([Compared("a", settings={"lr": 0.1}), Compared("b", settings={"lr": 0.2})])
    >>> "<h1>2 runs</h1>" in html
    True
    """
    settings = differing([run.settings for run in runs])
    parts = [("Figures", _figures(runs, settings))]
    if curves := _curves(runs):
        parts.append(("Curves", curves))
    surroundings = differing([run.environment for run in runs])
    shown = {key: values for key, values in surroundings.items() if key not in ("date", "command")}
    if shown:
        rows = ([text(key), *(name(setting_text(value)) for value in values)] for key, values in shown.items())
        parts.append(("Environments that differ", table("One row per entry", ["", *(run.name for run in runs)], rows)))
    same = {key: value for key, value in runs[0].settings.items() if key not in settings and value is not None}
    if same:
        parts.append(("Settings that all share", facts("As in each run's config.toml", same)))
    differ = ", ".join(settings) or "nothing"
    head = f'<h1>{len(runs)} runs</h1><p class="quiet">They differ in: {text(differ)}.</p>'
    return page(f"{len(runs)} runs", head, parts)


def _figures(runs: Sequence[Compared], settings: Mapping[str, Sequence[Any]]) -> str:
    highest = max((run.val_accuracy for run in runs if run.val_accuracy is not None), default=None)
    rows = []
    for i, run in enumerate(runs):
        epochs = epochs_of(run.metrics)
        validated = exactly(run.val_accuracy, percent)
        rows.append(
            [
                f"{sample(colour_of(i))}{name(run.name)}",
                str(best_epoch(run.metrics) or ABSENT),
                f"<b>{validated}</b>" if run.val_accuracy == highest is not None else validated,
                exactly(run.test_accuracy, percent),
                duration(sum(values.get("seconds") or 0 for values in epochs)) if epochs else ABSENT,
                *(name(setting_text(values[i])) for values in settings.values()),
            ]
        )
    head = ["run", "best epoch", "validation accuracy", "test accuracy", "time", *settings]
    return table("The highest validation accuracy in bold", head, rows, "runs")


def _curves(runs: Sequence[Compared]) -> str:
    drawn = []
    for title, key, ends in CURVES:
        series = [
            Series(run.name, colour_of(i), points)
            for i, run in enumerate(runs)
            if (points := tuple((v["epoch"], v[key]) for v in epochs_of(run.metrics) if v.get(key) is not None))
        ]
        if series:
            drawn.append(chart(title, series, title.lower(), ends, named=False, numbers=True))
    rates = [
        Series(run.name, colour_of(i), found[0].points)
        for i, run in enumerate(runs)
        if (found := rates_of(run.metrics))
    ]
    if rates:
        drawn.append(chart("Learning rate", rates, "learning rate", (0, None), named=False))
    if not drawn:
        return ""
    every = [Series(cut(run.name, 40), colour_of(i), ()) for i, run in enumerate(runs)]
    return f'{legend(every)}<div class="charts">{"".join(drawn)}</div>'
