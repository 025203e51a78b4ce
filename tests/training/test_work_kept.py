"""What a run has done is never lost: not by --overwrite, a kill at any moment, links that a user wrote, or damaged lines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_runs import KilledError, overwriting, refuse
from runs import Raises, checkpoint_of, numbers, resumed, trainer, weights

from gpucnn import checkpoint
from gpucnn.checkpoint import Checkpoint
from gpucnn.errors import CheckpointError, RunFolderError, UsageError
from gpucnn.training import InterruptedTraining, Reporter, RunFolder, environment, replaced

# --- links and copies of the user's ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["absolute", "dotted", "absolute, behind a link"])
@pytest.mark.parametrize("link", ["best", "last"])
def test_links_written_otherwise_keep_what_they_point_at(tmp_path: Path, how: str, link: str) -> None:
    folder = tmp_path / "checkpoints"
    if how.endswith("link"):
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    path = checkpoint.save(folder, 1, Checkpoint({}, {}, {"number": 1}), best=True)
    (folder / link).unlink()
    (folder / link).symlink_to(f"../{folder.name}/{path.name}" if how == "dotted" else path.resolve())
    if link == "best":
        checkpoint.save(folder, 2, Checkpoint({}, {}, {}))
        assert checkpoint.load(checkpoint.find(folder, "best")).state["number"] == 1  # type: ignore[arg-type]
    checkpoint.save(folder, 3, Checkpoint({}, {}, {}), best=True)
    assert sorted(os.listdir(folder)) == ["best", "last", "step-000003"], (
        "what the run wrote goes when it is not needed"
    )


@pytest.mark.parametrize("linked", [False, True])
def test_copies_of_the_users_stay(tmp_path: Path, linked: bool) -> None:
    folder = tmp_path / "checkpoints"
    if linked:
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    first = checkpoint.save(folder, 1, Checkpoint({}, {}, {}), best=True)
    copies = ["step-000001-mine", "step-000001-9", "step-000777", "step-000003", "step-best"]
    for copy in copies:
        shutil.copytree(first, folder / copy)
    for step in (2, 3, 3, 4):
        checkpoint.save(folder, step, Checkpoint({}, {}, {}), best=step == 3)
    assert {*copies} <= {*os.listdir(folder)}
    assert {*os.listdir(folder)} == {*copies, "best", "last", "step-000003-3", "step-000004"}
    for copy in copies:
        assert checkpoint.load(folder / copy).state["step"] == 1


def test_a_link_that_leads_to_the_users_copy_keeps_it(tmp_path: Path) -> None:
    first = checkpoint.save(tmp_path, 1, Checkpoint({}, {}, {}), best=True)
    shutil.copytree(first, tmp_path / "step-000050")
    (tmp_path / "best").unlink()
    (tmp_path / "best").symlink_to("step-000050")
    checkpoint.save(tmp_path, 2, Checkpoint({}, {}, {}), best=True)
    assert sorted(os.listdir(tmp_path)) == ["best", "last", "step-000002", "step-000050"]


def test_hidden_files_of_the_users_stay(tmp_path: Path) -> None:
    (tmp_path / ".mine.tmp").write_text("")
    (tmp_path / ".notes.txt.5.tmp").write_text("")
    checkpoint.save(tmp_path, 1, Checkpoint({}, {}, {}))
    assert {".mine.tmp", ".notes.txt.5.tmp"} <= {*os.listdir(tmp_path)}


# --- killed at the beginning and at the end ----------------------------------------------------------------------------


@pytest.mark.posix
def test_killed_while_the_first_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / ".config.toml.123.tmp").write_text("epo")
    (path / ".lock").write_text("")
    with pytest.raises(UsageError, match="--out"):
        RunFolder.open(path)
    trainer(path, epochs=1).train()
    assert not [name for name in os.listdir(path) if name.startswith(".")]


def test_temporary_files_of_the_killed_are_cleared(tmp_path: Path) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    left = [".metrics.jsonl.77.tmp", ".report.html.8.tmp", "checkpoints/.last.9.tmp", "checkpoints/.step-000020.9.tmp"]
    for name in left:
        (tmp_path / "run" / name).write_text("half")
    mine = tmp_path / "run" / ".mine.5.tmp"
    mine.write_text("")
    resumed(tmp_path / "run", epochs=2).train()
    assert [path for path in (tmp_path / "run").rglob("*") if path.name.endswith(".tmp")] == [mine]


def test_a_checkpoint_that_no_link_came_to_point_at_goes(tmp_path: Path, kill_at: Callable[[int], None]) -> None:
    for moment in range(1, 40):
        kill_at(0)
        folder = tmp_path / str(moment)
        checkpoint.save(folder, 1, Checkpoint({}, {}, {}), best=True)
        kill_at(moment)
        try:
            checkpoint.save(folder, 2, Checkpoint({}, {}, {}), best=True)
            done = True
        except KilledError:
            done = False
        kill_at(0)
        checkpoint.clear(folder)
        checkpoint.save(folder, 4, Checkpoint({}, {}, {}), best=True)
        assert sorted(os.listdir(folder)) == ["best", "last", "step-000004"]
        if done:
            break
    assert done


def test_stopped_before_the_first_checkpoint_it_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer(tmp_path / "whole").train()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", refuse)
        with pytest.raises(RunFolderError, match=r"Nothing was saved before; .* gpucnn train --resume .*run"):
            trainer(tmp_path / "run").train()
    with pytest.warns(UserWarning, match="there is no checkpoint yet: the run begins again"):
        again = resumed(tmp_path / "run")
    again.train()
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")


def test_checkpoints_that_are_gone_are_not_begun_again(tmp_path: Path) -> None:
    trainer(tmp_path / "run").train()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="no checkpoint 'last'"):
        resumed(tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


class Seen(Reporter):
    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []
        self.finished: list[dict[str, Any]] = []

    def epoch(self, trainer: Any, values: dict[str, Any]) -> None:
        self.epochs.append(values)

    def finish(self, trainer: Any) -> None:
        self.finished.append(dict(trainer.measured))


def test_a_run_killed_before_its_report_is_finished(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "run").train()
    before = weights(tmp_path / "run"), numbers(tmp_path / "run")
    seen = Seen()
    with pytest.warns(UserWarning, match="all 2 epochs are done.*--epochs"):
        again = resumed(tmp_path / "run", seen)
    assert again.train() == whole
    assert seen.epochs == [again.history[-1]]
    assert [sorted(measured) for measured in seen.finished] == [["test", "val"]]
    assert seen.finished[0]["test"].accuracy == whole["test_accuracy"]
    assert (weights(tmp_path / "run"), numbers(tmp_path / "run")) == before


def test_finished_though_the_line_of_the_last_epoch_is_damaged(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "run").train()
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.warns(UserWarning, match="are done"):
        last = resumed(tmp_path / "run").train()
    assert {key: last[key] for key in ("epoch", "test_loss")} == {key: whole[key] for key in ("epoch", "test_loss")}


# --- damage -----------------------------------------------------------------------------------------------------------


def test_one_damaged_line_loses_only_itself(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in range(1, 6):
        folder.add_metrics({"step": step})
    path = tmp_path / "metrics.jsonl"
    content = bytearray(path.read_bytes())
    content[content.index(b"2")] = 0xFF
    path.write_bytes(bytes(content) + b'{"step": 6, "lo')
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: left out damaged lines: 1"):
        folder.keep_metrics_until(4)
    assert [values["step"] for values in folder.metrics()] == [1, 3, 4]


@pytest.mark.parametrize(
    "line", [b'{"step": 2, "x": NaN}', b'{"step": true}', b"[" * 100_000, b'{"step": ' + b"9" * 5000]
)
def test_lines_of_other_kinds_are_left_out(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    assert RunFolder(tmp_path).metrics() == [{"step": 1}, {"step": 3}]


def test_every_flipped_bit_of_the_state_is_found(tmp_path: Path) -> None:
    state = {"task": {"mean": [0.13], "std": [0.3]}, "name": "é" + "0" * 64}
    path = checkpoint.save(tmp_path, 1, Checkpoint({"w": np.zeros(1, np.float32)}, {}, state)) / "state.json"
    assert checkpoint.load(path.parent).state.items() >= state.items()
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 7
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            checkpoint.load(path.parent)


def test_a_checkpoint_of_the_first_version_is_read(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, Checkpoint({}, {}, {"threads": 2})) / "state.json"
    state = json.loads(path.read_text())
    del state["sha256"]["state.json"]
    path.write_text(json.dumps(state))
    assert checkpoint.load(path.parent).state["threads"] == 2
    path.write_text(json.dumps({**state, "seconds": float("nan")}))
    with pytest.raises(CheckpointError, match="NaN"):
        checkpoint.load(path.parent)


# --- where it runs ------------------------------------------------------------------------------------------------------


def test_environment_is_the_latest_starts(tmp_path: Path) -> None:
    with pytest.raises(InterruptedTraining):
        trainer(tmp_path / "run", Raises(1, signal.SIGINT)).train()
    texts = [(tmp_path / "run" / "environment.json").read_bytes()]
    for step in (2, 3):
        with pytest.raises(InterruptedTraining):
            resumed(tmp_path / "run", Raises(step, signal.SIGINT)).train()
        texts.append((tmp_path / "run" / "environment.json").read_bytes())
    assert [(tmp_path / "run" / f"environment-{k}.json").read_bytes() for k in (1, 2)] == texts[:2]
    about = json.loads(texts[-1])
    assert {"versions", "processor", "blas", "threads", "seed", "command", "date", "data"} <= about.keys()
    overwriting(tmp_path / "run", seed=3).train()
    assert not list((tmp_path / "run").glob("environment-*")), "they go with the run"


@pytest.mark.parametrize(
    ("key", "value"), [("blas", "openblas 0.3 Haswell"), ("numpy", "1.0"), ("processor", "Z80"), ("gpucnn", "0.0.1")]
)
def test_another_machine_is_noted(tmp_path: Path, key: str, value: str) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    path = checkpoint_of(tmp_path / "run") / "state.json"
    state = json.loads(path.read_text())
    assert key in state
    del state["sha256"]["state.json"]
    path.write_text(json.dumps(state | {key: value}))
    with pytest.warns(UserWarning, match=f"resumed with {key} {value} -> .*last bits"):
        resumed(tmp_path / "run")
    del state[key]  # an older version did not note it
    path.write_text(json.dumps(state))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed(tmp_path / "run")


def test_the_kernel_of_the_blas_is_among_what_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpucnn.backend import get_backend

    backend = get_backend("cpu")
    now = environment.decides_bits(backend)
    monkeypatch.setattr(backend.blas, "names", lambda: ["openblas 0.3.27 Haswell"])  # type: ignore[attr-defined]
    assert environment.decides_bits(backend) == {**now, "blas": "openblas 0.3.27 Haswell"}


def test_own_names_are_told_from_the_users() -> None:
    assert all(map(replaced.is_own, ("config.toml", "environment-12.json", "checkpoints")))
    assert not any(map(replaced.is_own, ("environment-x.json", "notes.txt", "config.toml.bak")))


def test_a_run_folder_is_opened_by_text_too(tmp_path: Path) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    assert RunFolder.open(str(tmp_path / "run")).load().state["step"] == 10
