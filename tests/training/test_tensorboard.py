"""TensorBoard's event files, read by the published description of the format, say what ``metrics.jsonl`` says."""

from __future__ import annotations

import errno
import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import resumed, trainer

from gpucnn.errors import GpucnnError
from gpucnn.training import Reporter, Reporters, TensorBoard
from gpucnn.training import loop as loop_module

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="needs tensorboardX")


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "LOG_EVERY", 4)


def crc32c(content: bytes) -> int:
    """Castagnoli's checksum, bit by bit."""
    value = 0xFFFFFFFF
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def masked(content: bytes) -> int:
    value = crc32c(content)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[Any]:
    """Yield the events of a TFRecord file, whose checksums must be right."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12]) == (masked(content[:8]),)
        assert struct.unpack("<I", content[12 + length : 16 + length]) == (masked(content[12 : 12 + length]),)
        yield event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def shown(run: Path) -> dict[tuple[str, int], float]:
    """Return {(tag, step): value} as TensorBoard shows it: a restart voids what was noted from its step on."""
    values: dict[tuple[str, int], float] = {}
    for path in sorted((run / "tensorboard").iterdir(), key=lambda p: int(p.suffix[1:])):
        events = list(records(path))
        assert events[0].file_version == "brain.Event:2"
        for event in events[1:]:
            if event.HasField("session_log"):
                values = {key: value for key, value in values.items() if key[1] < event.step}
            for value in event.summary.value:
                values[value.tag, event.step] = value.simple_value
    return values


def noted(run: Path) -> dict[tuple[str, int], float]:
    """Return the same from ``metrics.jsonl``."""
    tags = {"loss": "loss/step", "lr": "lr", "images_per_second": "images_per_second"}
    tags |= {
        f"{split}_{what}": f"{what}/{split}" for split in ("train", "val", "test") for what in ("loss", "accuracy")
    }
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        (tags[key], line["step"]): struct.unpack("f", struct.pack("f", value))[0]
        for line in lines
        for key, value in line.items()
        if key in tags and value is not None
    }


@pytest.mark.parametrize("validation", [0, 140])
def test_the_numbers_are_those_of_the_metrics(tmp_path: Path, validation: int) -> None:
    trainer(tmp_path / "run", TensorBoard(), validation=validation).train()
    values = shown(tmp_path / "run")
    assert values == noted(tmp_path / "run")
    assert ("loss/step", 4) in values
    assert (("loss/val", 10) in values) is bool(validation)


class FailAt(Reporter):
    def __init__(self, step: int) -> None:
        self.left = step

    def step(self, trainer: Any, images: int) -> None:
        self.left -= 1
        if not self.left:
            raise RuntimeError("power failure")


def test_a_resumed_run_voids_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power failure"):
        trainer(tmp_path / "run", Reporters(TensorBoard(), FailAt(19))).train()
    assert ("loss/step", 18) in shown(tmp_path / "run")
    resumed(tmp_path / "run", TensorBoard(), epochs=3).train()
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 2
    assert shown(tmp_path / "run") == noted(tmp_path / "run")


def test_a_disk_that_refuses_stops_the_writing_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = TensorBoard()
    run = trainer(tmp_path / "run", board)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tensorboardX.RecordWriter.flush", full)
    with pytest.warns(UserWarning, match="no more TensorBoard files: they cannot be written .No space left"):
        last = run.train()
    assert last["epoch"] == 2


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(GpucnnError, match=r"pip install 'gpucnn\[tensorboard\]'") as caught:
        TensorBoard()
    assert caught.value.exit_code == 1
