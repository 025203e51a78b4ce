"""A run on a GPU trains by replayed steps, to the same bits as by ordinary ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import numbers, small_splits, trainer, weights

from gpucnn.backend import Backend

ON_DEVICES = ["cuda-standin", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("backend", ON_DEVICES, indirect=True)
def test_a_run_by_replays_is_a_run_by_ordinary_steps(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"device": backend.name, "epochs": 2, "batch_size": 4, "validation": 0}
    run = trainer(tmp_path / "replayed", splits=small_splits(14, 4), **settings)
    run.train()
    assert sum(one is not None for one in run._epochs._captured._recorded.values()) >= 2  # whole batches, and the rest
    monkeypatch.setattr("gpucnn.training.epochs.capture", lambda step, *owners: step)
    trainer(tmp_path / "ordinary", splits=small_splits(14, 4), **settings).train()
    assert weights(tmp_path / "replayed") == weights(tmp_path / "ordinary")
    assert numbers(tmp_path / "replayed") == numbers(tmp_path / "ordinary")
