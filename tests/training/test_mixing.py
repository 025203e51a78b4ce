"""Mixup and CutMix: by definition, drawn as they should be, and resumed to the same bits."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Raises, numbers, resumed, trainer, weights

from gpucnn import Classifier, get_backend
from gpucnn.backend import Backend
from gpucnn.data import ArrayDataset
from gpucnn.errors import ParameterError, UsageError
from gpucnn.training import InterruptedTraining, Loader, MixedBatches, Normalisation, Settings
from gpucnn.training.mixing import draw_mix

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (10, 2, 6, 5), np.uint8), RNG.integers(0, 3, 10)


def taken(batches: Any, epoch: int, start: int = 0) -> list[tuple[Any, Any]]:
    return [tuple(part.numpy() for part in batches.take(*given)) for given in batches.epoch(epoch, start)]


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, None), (None, 1.0), (0.4, 1.0)])
def test_images_and_labels_are_mixed_by_definition(backend: Backend, mixup: float | None, cutmix: float | None) -> None:
    loader = Loader(ArrayDataset(IMAGES, LABELS, ["a", "b", "c"]), backend, Normalisation((0.5, 0.5), (0.25, 0.25)))
    plain = taken(loader.batches(4, seed=3), 1)
    mixed = taken(MixedBatches(loader.batches(4, seed=3), 3, mixup, cutmix), 1)
    assert len(mixed) == 3
    for place, ((x, y), (mixed_x, mixed_y)) in enumerate(zip(plain, mixed, strict=True)):
        rng = np.random.default_rng([3, 1, place, 2])
        mask, part = draw_mix(rng, mixup, cutmix, 6, 5)
        others = rng.permutation(len(y))
        for i, other in enumerate(others):
            expected = np.zeros(3)
            expected[y[i]] += part
            expected[y[other]] += 1 - part
            np.testing.assert_allclose(mixed_y[i], expected, atol=1e-6)
            np.testing.assert_allclose(mixed_x[i], x[i] * mask + x[other] * (1 - mask), rtol=1e-5, atol=1e-5)
    later = taken(MixedBatches(loader.batches(4, seed=3), 3, mixup, cutmix), 1, start=1)
    for one, other in zip(mixed[1:], later, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_shares_have_the_moments_of_the_beta_distribution() -> None:
    rng, a = np.random.default_rng(1), 0.4
    shares = [draw_mix(rng, a, None, 2, 2)[1] for _ in range(20_000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.01)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * a + 1)), abs=0.003)


def test_a_box_is_one_rectangle_whose_area_is_the_share_of_the_label() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        mask, part = draw_mix(rng, None, 1.0, 9, 7)
        assert mask.mean() == part
        rows, columns = (mask == 0).any(1), (mask == 0).any(0)
        assert (mask == 0).sum() == rows.sum() * columns.sum()
        for line in (rows, columns):
            assert np.count_nonzero(np.diff(line)) <= 2


@pytest.mark.bits
@pytest.mark.parametrize("changes", [{"mixup": 0.3}, {"cutmix": 1.0, "loss": "bce"}, {"mixup": 0.3, "augment": "flip"}])
@pytest.mark.parametrize("step", [3, 14])
def test_resumed_to_the_same_bits(tmp_path: Path, changes: dict[str, Any], step: int) -> None:
    trainer(tmp_path / "whole", **changes).train()
    with pytest.raises(InterruptedTraining):
        trainer(tmp_path / "run", Raises(step, signal.SIGINT), **changes).train()
    resumed(tmp_path / "run", **changes).train()
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
    with pytest.raises(UsageError, match=f"resume: {next(iter(changes))}: expected"):
        resumed(tmp_path / "run", **changes | {next(iter(changes)): 0.7})


def test_a_classifier_and_the_settings() -> None:
    x, y = RNG.integers(0, 256, (40, 28, 28), np.uint8), RNG.integers(0, 2, 40)
    plain, mixed = (Classifier(epochs=1, device="cpu", mixup=m).fit(x, y).predict_proba(x) for m in (None, 0.5))
    assert not np.array_equal(plain, mixed)
    with pytest.raises(UsageError, match="settings: cutmix"):
        Settings(cutmix=-1.0).resolved()
    loader = Loader(ArrayDataset(IMAGES, LABELS), get_backend("cpu"), Normalisation((0.5, 0.5), (1, 1)))
    with pytest.raises(ParameterError, match="mixup or cutmix"):
        MixedBatches(loader.batches(4), 0)
