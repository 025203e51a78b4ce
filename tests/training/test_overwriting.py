"""A run in place of another: the old one is lost only when the new one stands."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from kept_runs import KilledError, make_run, overwrite, overwriting, refuse, snapshot
from runs import Raises, resumed, trainer

from gpucnn import checkpoint, disk
from gpucnn.errors import DivergedError, RunFolderError
from gpucnn.training import InterruptedTraining, RunFolder

# --- --overwrite ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["mkdir", "rename", "write_synced"])
def test_overwriting_what_cannot_be_written_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    before = snapshot(tmp_path / "run")
    with monkeypatch.context() as patch:
        new = overwriting(tmp_path / "run", seed=3)
        patch.setattr(disk if place == "write_synced" else os, place, refuse)
        with pytest.raises(RunFolderError, match="No space left"):
            new.train()
    assert snapshot(tmp_path / "run") == before
    resumed(tmp_path / "run", epochs=2).train()


def test_overwriting_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    before = snapshot(tmp_path / "run")
    (tmp_path / "run").chmod(0o500)
    try:
        if os.access(tmp_path / "run", os.W_OK):
            pytest.skip("root may write anywhere")
        with pytest.raises(RunFolderError, match="Permission denied"):
            overwriting(tmp_path / "run", seed=3).train()
    finally:
        (tmp_path / "run").chmod(0o700)
    assert snapshot(tmp_path / "run") == before


def test_a_run_that_fails_before_its_first_checkpoint_gives_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    before = snapshot(tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of the numbers that overflow
        with pytest.raises(DivergedError):
            overwriting(tmp_path / "run", lr=1e30).train()
    assert snapshot(tmp_path / "run") == before
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", refuse)
        with pytest.raises(RunFolderError, match=r"cannot save step 10.*previous run is kept.*repeat the command"):
            overwriting(tmp_path / "run", seed=3).train()
    assert snapshot(tmp_path / "run") == before
    with pytest.raises(InterruptedTraining):
        overwriting(tmp_path / "run", Raises(3, signal.SIGINT), seed=3).train()
    assert RunFolder.open(tmp_path / "run").load().state["step"] == 3, "the interrupted run saved: it is the run now"
    assert not (tmp_path / "run" / ".replaced").exists()


def test_overwriting_killed_at_any_moment_leaves_one_whole_run(tmp_path: Path, kill_at: Callable[[int], None]) -> None:
    old: dict[str, bytes] = {}
    outcomes = set()
    for moment in range(1, 200):
        path = tmp_path / str(moment)
        kill_at(0)
        make_run(path, 1)
        old = old or snapshot(path)
        kill_at(moment)
        try:
            overwrite(path)
            done = True
        except KilledError:
            done = False
            kill_at(0)
            (path / ".lock").unlink(missing_ok=True)  # the system lets go of the locks of the dead
        for again in (0, 1, 3, 6, 0):  # what mends it may be killed too
            kill_at(again)
            try:
                folder = RunFolder.open(path)
                folder.claim()
                folder.release()
            except KilledError:
                kill_at(0)
                (path / ".lock").unlink(missing_ok=True)  # the system lets go of the locks of the dead
        config = (path / "config.toml").read_text()
        outcomes.add((config, done))
        if config == "1":
            assert not done
            assert snapshot(path) == old
        elif folder.has_checkpoint():
            assert folder.load().state["step"] == 7
            assert sorted(os.listdir(path)) == ["checkpoints", "config.toml", "environment.json"]
        else:  # begun: the old run is there until the new one has a checkpoint
            assert snapshot(path / ".replaced") == old
            overwrite(path)
            assert folder.load().state["step"] == 7
            assert not (path / ".replaced").exists()
        if done:
            break
    assert outcomes == {("1", False), ("2", False), ("2", True)}
