"""``Classifier`` with augmentation and workers."""

from __future__ import annotations

import numpy as np
import pytest

from gpucnn import Classifier
from gpucnn.errors import UsageError


def test_augmentation_as_on_the_command_line_whatever_the_workers() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 12, 12), np.uint8), np.arange(40) % 2
    options = {"epochs": 2, "batch_size": 8, "device": "cpu", "model": "conv_mlp"}
    plain, moved, helped = (
        Classifier(**options, augment=augment, workers=workers).fit(x, y)
        for augment, workers in ((None, None), ("shift=2,noise=0.1", 0), ("shift=2,noise=0.1", 3))
    )
    assert moved.history[-1]["loss"] == helped.history[-1]["loss"]
    assert moved.history[-1]["loss"] != plain.history[-1]["loss"]
    np.testing.assert_array_equal(moved.predict_proba(x), helped.predict_proba(x))
    for wrong in ("shfit=2", 3):
        with pytest.raises(UsageError):
            Classifier(**options, augment=wrong).fit(x, y)  # type: ignore[arg-type]
