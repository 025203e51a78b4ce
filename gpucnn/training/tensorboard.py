"""A run's figures as TensorBoard event files, in addition to ``metrics.jsonl`` (needs the ``tensorboard`` extra)."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from typing import Any

from gpucnn.errors import GpucnnError, how_to_add
from gpucnn.training.reporters import Reporter
from gpucnn.training.trainer import Trainer

FOLDER = "tensorboard"
"""The folder in the run folder that ``tensorboard --logdir`` is given."""

TAGS = {f"{split}_{what}": f"{what}/{split}" for what in ("loss", "accuracy") for split in ("train", "val", "test")} | {
    "loss": "loss/step",
    "lr": "lr",
    "images_per_second": "images_per_second",
}
"""Key in ``metrics.jsonl`` -> name in TensorBoard, which groups names by the part before the slash."""


class TensorBoard(Reporter):
    """Writes everything in ``metrics.jsonl`` to ``tensorboard/`` in the run folder too, by step.

    GpucnnError if the extra is missing. If writing fails, it stops with a warning, and the run continues.
    """

    def __init__(self) -> None:
        try:
            from tensorboardX import RecordWriter
            from tensorboardX.proto import event_pb2
        except ImportError:
            raise GpucnnError(
                f"TensorBoard files need tensorboardX. Install it: {how_to_add('tensorboard')}."
            ) from None
        self._record_writer, self._events = RecordWriter, event_pb2
        self._writer: Any = None

    def start(self, trainer: Trainer) -> None:
        # Not tensorboardX's SummaryWriter: its queue blocks for ever once its thread has met a full disk.
        try:
            folder = trainer.folder.place(FOLDER, "").absolute()
            folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{time.time():.0f}.{os.getpid()}.{trainer.step}"
            self._writer = self._record_writer(str(folder / name))
            self._write(file_version="brain.Event:2")
            if trainer.step:  # what an earlier process noted after the checkpoint is void
                begin = self._events.SessionLog(status=self._events.SessionLog.START)
                self._write(step=trainer.step + 1, session_log=begin)
            self._writer.flush()
        except OSError as error:
            self._stop(error)

    def log(self, trainer: Trainer, values: dict[str, Any]) -> None:
        self._add(values)

    def epoch(self, trainer: Trainer, values: dict[str, Any]) -> None:
        self._add(values)
        self._flush()

    def test(self, trainer: Trainer, values: dict[str, Any]) -> None:
        self._add({key: value for key, value in values.items() if key.startswith("test_") or key == "step"})

    def finish(self, trainer: Trainer) -> None:
        self._flush()
        self._close()

    def _add(self, values: dict[str, Any]) -> None:
        if self._writer is None:
            return
        summary = self._events.Event().summary
        for key, tag in TAGS.items():
            if values.get(key) is not None:
                summary.value.add(tag=tag, simple_value=values[key])
        try:
            self._write(step=values["step"], summary=summary)
        except OSError as error:
            self._stop(error)

    def _write(self, **content: Any) -> None:
        self._writer.write(self._events.Event(wall_time=time.time(), **content).SerializeToString())

    def _flush(self) -> None:
        if self._writer is not None:
            try:
                self._writer.flush()
            except OSError as error:
                self._stop(error)

    def _close(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):  # what the disk refused was told
                self._writer.close()
            self._writer = None

    def _stop(self, error: OSError) -> None:
        self._close()
        warnings.warn(f"no more TensorBoard files: they cannot be written ({error.strerror or error})", stacklevel=3)
