"""A trained network from its run folder, ready to predict."""

from __future__ import annotations

import math
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn import limits as bounds
from gpucnn import nn
from gpucnn.backend import Backend, get_backend
from gpucnn.data import ArrayDataset, Dataset, load_test
from gpucnn.data.dataset import FRAMINGS, SAMPLE, check_scale
from gpucnn.data.pictures import read_picture
from gpucnn.errors import CheckpointError, DataError, UsageError, shortened
from gpucnn.training.config import PRECISIONS, check_trusted
from gpucnn.training.factory import build_model, rebuild_model
from gpucnn.training.loader import Loader, Normalisation
from gpucnn.training.run_folder import RunFolder

LARGEST_IMAGE = 2**25
"""Most numbers in an image, far above any real one: a run folder may be untrusted."""


@dataclass
class SavedModel:
    """A network in evaluation mode, and what it needs to read images: shape, normalisation, class names."""

    net: nn.Module
    backend: Backend
    class_names: list[str]
    image_shape: tuple[int, int, int]
    normalisation: Normalisation
    precision: str
    data: str
    pixels: str
    framing: str

    @classmethod
    def load(
        cls,
        folder: RunFolder,
        device: str = "auto",
        which: str | None = None,
        model: str | None = None,
        trust: bool = False,
        limits: bool = True,
    ) -> SavedModel:
        """Return the network of a run's checkpoint; CheckpointError if there is none, or it is damaged.

        which: "best" or "last"; by default the best if there is one, else the last.
        The network is rebuilt from the structure in the checkpoint. One with a user's own layers is built as in training;
        if that takes a Python file, which is executed, ``model`` must name it again or ``trust`` be True (otherwise
        UsageError). Unless ``limits`` is False, the cost of its images and the number of its weights are bounded.
        """
        with bounds.applied(limits):
            return cls._load(folder, device, which, model, trust)

    @classmethod
    def _load(cls, folder: RunFolder, device: str, which: str | None, model: str | None, trust: bool) -> SavedModel:
        checkpoint = folder.load(which or folder.default_checkpoint())
        try:
            task: dict[str, Any] = checkpoint.state["task"]
            C, H, W = (int(size) for size in task["image_shape"])
            normalisation = Normalisation(tuple(map(float, task["mean"])), tuple(map(float, task["std"])))
            names = [str(name) for name in task["class_names"]]
            precision, described, data, pixels = (str(task[key]) for key in ("precision", "model", "data", "pixels"))
            framing = str(task.get("framing", "centred"))
            if not len(normalisation.mean) == len(normalisation.std) == C or precision not in PRECISIONS:
                raise ValueError("a mean and std for each channel, and a known precision")
            if bounds.on() and C * H * W > LARGEST_IMAGE:
                raise ValueError(f"an image of at most {LARGEST_IMAGE} numbers, not {C}x{H}x{W}; see --no-limits")
            if not all(map(math.isfinite, (*normalisation.mean, *normalisation.std))):
                raise ValueError("a finite mean and std")
            if min(H, W) < 1 or framing not in FRAMINGS:
                raise ValueError(f"a size and a known framing, not {H}x{W} and {framing!r}")
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{folder.path}: state.json lacks what a network needs ({shortened(error)})."
            ) from None
        structure = task.get("structure") if model is None else None
        if structure is None:
            check_trusted(described, model, str(folder.path), trust)
        backend = get_backend(device)
        try:
            if structure is None:
                net = build_model(described, (C, H, W), len(names), precision, backend)
            else:
                net = rebuild_model(structure, checkpoint.model, (C, H, W), len(names), precision, backend)
        except (UsageError, DataError, TypeError) as error:
            raise CheckpointError(f"{folder.path}: state.json describes no network: {error}") from None
        net.load_state_dict(checkpoint.model)
        return cls(net.eval(), backend, names, (C, H, W), normalisation, precision, data, pixels, framing)

    def test_set(self, source: str | None = None) -> tuple[str, Dataset]:
        """Return the name and the test images of the data set ``source``, by default that of the run.

        Images are preprocessed for this network. Without test images it is all images; of the run's own data those held out.
        """
        return load_test(self.data if source is None else source, self.image_shape, self.framing, trained_on=self.data)

    def read_picture(self, path: Path) -> NDArray[np.uint8]:
        """Return an image file as an image (C, H, W) preprocessed as in training."""
        return read_picture(path, self.image_shape, self.framing)

    def feed(self, data: Dataset) -> Loader:
        """Return batches of ``data``, normalised for this network; DataError if images or classes do not fit."""
        if data.image_shape != self.image_shape:
            raise DataError.expected("data", "images", f"shape {self.image_shape}, as in training", data.image_shape)
        if data.classes > len(self.class_names):
            raise DataError.expected("data", "classes", f"at most {len(self.class_names)}", data.classes)
        if data.class_names != self.class_names:
            if set(data.class_names) <= set(self.class_names):
                data = data.relabelled(self.class_names)  # the order of names is not that of every data set
            elif _are_numbers(data.class_names) or _are_numbers(self.class_names):
                ours, theirs = _in_short(self.class_names), _in_short(data.class_names)
                warnings.warn(
                    f"classes are matched by their order: {ours} of the network, {theirs} of the data", stacklevel=2
                )
            else:
                raise DataError.expected(
                    "data",
                    "classes",
                    f"those of the training, {_in_short(self.class_names)}",
                    _in_short(data.class_names),
                )
        self._check_scale(data)
        return Loader(data, self.backend, self.normalisation, PRECISIONS[self.precision])

    def _check_scale(self, data: Dataset) -> None:
        """DataError if pixels in memory have another scale than those of the training."""
        if type(data) is ArrayDataset and not data.images.dtype == self.pixels == "uint8":
            sample = data.images[:: max(len(data) // SAMPLE, 1)]
            mean, std = np.array(self.normalisation.mean), np.array(self.normalisation.std)
            trained = f"pixels of the training's scale ({self.pixels}, mean {mean.mean():.3g})"
            check_scale("data", "images", sample, self.pixels, float(np.sqrt((mean**2 + std**2).mean())), trained)

    def as_trained(self) -> AbstractContextManager[None]:
        """Return a context in which this thread computes as in training: in TF32, if the device has it."""
        return self.backend.tf32(self.precision == "tf32" and self.backend.has_tf32)


def _are_numbers(names: list[str]) -> bool:
    return names == [str(number) for number in range(len(names))]


def _in_short(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
