"""``Classifier`` on data sets that are read by index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpucnn import Classifier, data
from gpucnn.data import ArrayDataset, Dataset, draw_digits
from gpucnn.errors import DataError, ParameterError, ShapeError


class Made(Dataset):
    """Images that are made when they are asked for: a bright row says the class."""

    def __init__(self, count: int = 120, names: Any = ("top", "middle", "bottom"), size: int = 12) -> None:
        self.count, self.class_names, self.size = count, list(names), size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: Any) -> tuple[Any, Any]:
        labels = np.asarray(indices, np.int64) % len(self.class_names)
        images = np.zeros((len(labels), 1, self.size, self.size), np.uint8)
        images[np.arange(len(labels)), 0, 2 + 3 * labels] = 200 + np.asarray(indices)[:, None] % 50
        return images, labels


def classifier(**more: Any) -> Classifier:
    return Classifier(model="lenet", device="cpu", epochs=3, batch_size=20, validation=20, seed=1, **more)


def test_a_data_set_is_learnt_and_answered() -> None:
    model = Classifier(model="lenet", device="cpu", epochs=6, batch_size=20, validation=20)
    model.fit(Made())
    assert model.classes_.tolist() == ["top", "middle", "bottom"]
    assert model.score(Made(30)) == 1
    assert model.predict(Made(4)).tolist() == ["top", "middle", "bottom", "top"]
    images, labels = Made(9)[np.arange(9)]
    assert model.score(images, model.classes_[labels]) == 1
    assert model.predict_proba(Made(0)).shape == (0, 3)


def test_the_same_network_as_from_arrays() -> None:
    images, labels = draw_digits(120, 0)
    from_arrays, from_data = classifier(), classifier()
    from_arrays.fit(images, labels)
    from_data.fit(ArrayDataset(images, labels))
    assert from_data.classes_.tolist() == [str(one) for one in range(10)]
    for name, array in from_arrays.net_.state_dict().items():
        assert np.array_equal(array, from_data.net_.state_dict()[name]), name


def test_a_folder_of_pictures_read_as_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(24):
        folder = tmp_path / ("train" if number < 16 else "test") / ("dark", "light")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number % 2 * 150 + number,) * 3).save(folder / f"{number}.png")
    monkeypatch.setenv("GPUCNN_DATA_MEMORY", "4k")
    with pytest.warns(UserWarning, match="read from their files"):
        found = data.load(str(tmp_path), image_size=16)
    assert found.train.decodes
    model = Classifier(model="lenet", device="cpu", epochs=1, batch_size=8, validation=0).fit(found.train)
    assert model.classes_.tolist() == ["dark", "light"]
    assert 0 <= model.score(found.test) <= 1


def test_more_of_the_same_classes() -> None:
    model = classifier(warm_start=True).fit(Made())
    model.fit(Made(60))
    model.partial_fit(Made(60), None)
    with pytest.raises(DataError, match="a data set with the classes"):
        model.fit(Made(names=("a", "b", "c")))


def test_what_does_not_fit() -> None:
    with pytest.raises(ParameterError, match=r"y: expected none beside a data\.Dataset"):
        classifier().fit(Made(), [0] * 120)
    with pytest.raises(ParameterError, match="y: expected labels"):
        classifier().fit(np.zeros((4, 12, 12), np.uint8))
    with pytest.raises(DataError, match="at least one image"):
        classifier().fit(Made(0))
    with pytest.raises(AttributeError, match="fit"):
        classifier().predict(Made())
    model = classifier().fit(Made())
    with pytest.raises(ShapeError, match="as before"):
        model.predict(Made(size=14))
    with pytest.raises(DataError, match="a data set with the classes"):
        model.score(Made(names=("a", "b", "c")))
