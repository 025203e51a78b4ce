"""The tables of models, optimisers and schedules say what the code says."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from runs import ROOT

from gpucnn.cli.models import FROM_DATA, listing
from gpucnn.models import MODELS
from gpucnn.training import Settings
from gpucnn.training.registry import OPTIMIZERS, SCHEDULES

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "recipes.md").read_text().splitlines()
    if line.startswith("| `")
]
ELSEWHERE = ("params", "lr", "weight_decay", "optimizer", "length")


def options(make: Callable[..., Any], leave_out: tuple[str, ...] = ELSEWHERE, **of_a_run: float) -> str:
    """Return the options that a text may give, with their defaults (in a run, where they differ) as a text gives them."""
    said = []
    for name, parameter in inspect.signature(make).parameters.items():
        if name not in leave_out:
            value = of_a_run.get(name, parameter.default)
            text = "+".join(map(str, value)) if isinstance(value, tuple) else str(value).lower().replace("e-0", "e-")
            said.append(f"`{name}={'' if value is None else text}`")
    return ", ".join(said) or "none"


def test_optimisers() -> None:
    runs = {"sgd": {"momentum": Settings().momentum}}
    wanted = [
        [f"`{name}`", str(lr), str(decay), options(make, **runs.get(name, {}))]
        for name, (make, lr, decay) in OPTIMIZERS.items()
    ]
    assert ROWS[: len(wanted)] == wanted


def test_schedules() -> None:
    said = {name: (inspect.getdoc(make) or "").replace("``", "`") for name, make in SCHEDULES.items()}
    wanted = [[f"`{name}`", said[name], options(make)] for name, make in SCHEDULES.items()]
    assert ROWS[len(OPTIMIZERS) :] == wanted


@pytest.mark.parametrize("page", ["README.md", "docs/cli.md"])
def test_models(page: str) -> None:
    known = listing()
    wanted = [
        f"| `{name}` | {known[name]['about']} | {options(make, leave_out=FROM_DATA)} |" for name, make in MODELS.items()
    ]
    lines = (ROOT / page).read_text().splitlines()
    first = lines.index("| network | what it is | options and their defaults |") + 2
    assert lines[first : first + len(wanted) + 1] == [*wanted, ""]
