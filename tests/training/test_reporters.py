"""Several reporters at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import trainer

from gpucnn.training import EachEpoch, Reporter, Reporters, Trainer


class Noting(Reporter):
    def __init__(self, name: str, notes: list[str], fails: bool = False) -> None:
        self.name, self.notes, self.fails = name, notes, fails

    def start(self, trainer: Trainer) -> None:
        self.notes.append(f"{self.name} start")

    def step(self, trainer: Trainer, images: int) -> None:
        self.notes.append(f"{self.name} step {images}")

    def epoch(self, trainer: Trainer, values: dict[str, Any]) -> None:
        self.notes.append(f"{self.name} epoch {values['epoch']}")

    def finish(self, trainer: Trainer) -> None:
        self.notes.append(f"{self.name} finish")
        if self.fails:
            raise RuntimeError(self.name)


def test_all_are_told_in_their_order(tmp_path: Path) -> None:
    notes: list[str] = []
    seen: list[dict[str, Any]] = []
    both = Reporters(Noting("a", notes), Noting("b", notes), EachEpoch(seen.append))
    run = trainer(tmp_path / "run", both)
    run.train()
    steps = ["a step 50", "b step 50"] * 10
    epochs = [part for n in (1, 2) for part in (*steps, f"a epoch {n}", f"b epoch {n}")]
    assert notes == ["a start", "b start", *epochs, "a finish", "b finish"]
    assert seen == run.history


def test_each_is_told_of_the_finish_whatever_the_others_do(tmp_path: Path) -> None:
    notes: list[str] = []
    failing = Reporters(Noting("a", notes, fails=True), Noting("b", notes), Noting("c", notes, fails=True))
    with pytest.raises(RuntimeError, match="c"):
        trainer(tmp_path / "run", failing, epochs=1).train()
    assert notes[-3:] == ["a finish", "b finish", "c finish"]
