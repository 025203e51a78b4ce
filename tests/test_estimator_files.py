"""Classifiers that are copied, pickled, saved, loaded and damaged."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bars import X_TEST, X, Y, quick, small

import gpucnn
from gpucnn import Classifier, nn
from gpucnn.checkpoint import packed, read_packed
from gpucnn.errors import (
    CheckpointError,
    DTypeError,
)
from gpucnn.estimator import NotFittedError


@pytest.fixture(scope="module")
def fitted() -> Classifier:
    return quick().fit(X, Y)


class Doubling(nn.Module):
    """A layer that no table of layers has."""

    def forward(self, x: Any) -> Any:
        return x * 2


@pytest.mark.bits
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copied_classifier_answers_as_the_original(fitted: Classifier, copied: Any) -> None:
    twin = copied(fitted)
    np.testing.assert_array_equal(twin.predict_proba(X_TEST), fitted.predict_proba(X_TEST))
    assert (twin.history, twin.classes_.tolist()) == (fitted.history, fitted.classes_.tolist())
    again = copied(twin).fit(X, Y)
    np.testing.assert_array_equal(again.predict_proba(X_TEST), fitted.predict_proba(X_TEST))
    with pytest.raises(NotFittedError):
        copied(quick()).predict(X_TEST)


def test_joblib_and_processes_of_scikit_learn(fitted: Classifier, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    import joblib
    from sklearn.model_selection import cross_validate

    joblib.dump(fitted, tmp_path / "classifier.joblib")
    twin = joblib.load(tmp_path / "classifier.joblib", mmap_mode="r")
    np.testing.assert_array_equal(twin.predict_proba(X_TEST), fitted.predict_proba(X_TEST))
    flat, one = X.reshape(200, -1), quick(model=small(2, 1, 6))
    found = cross_validate(one, flat, Y, cv=2, n_jobs=2, return_estimator=True)
    assert (found["test_score"] > 0.8).all()
    alone = cross_validate(one, flat, Y, cv=2, return_estimator=True)
    for one, other in zip(found["estimator"], alone["estimator"], strict=True):
        np.testing.assert_array_equal(one.predict_proba(X_TEST), other.predict_proba(X_TEST))


@pytest.mark.bits
@pytest.mark.parametrize(
    ("model", "labels"),
    [
        (small, Y),
        (small(2, 1, 6), np.where(Y == "row", 7, -2)),
        ("conv_mlp:channels=2", Y == "row"),
        (small, np.where(Y == "row", 0.5, -1.5)),
        (small, Y.astype(object)),
    ],
)
def test_a_saved_classifier_is_loaded_as_it_was(tmp_path: Path, model: Any, labels: Any) -> None:
    file = tmp_path / "classifier.safetensors"
    before = quick(model=model, epochs=np.int64(2), validation=20).fit(X, labels)
    before.save(file)
    after = Classifier.load(file, "cpu")
    np.testing.assert_array_equal(after.predict_proba(X_TEST), before.predict_proba(X_TEST))
    answers = after.predict(X_TEST)
    assert answers.tolist() == before.predict(X_TEST).tolist()
    assert answers.dtype.kind == before.classes_.dtype.kind
    assert (after.history, after.image_shape_, after.epochs) == (before.history, before.image_shape_, 2)
    assert not after.net_.training
    with pytest.raises(DTypeError, match="uint8 pixels, as in fit"):
        after.predict(X_TEST / 255)
    assert len(after.fit(X, labels).history) == 2, "what is loaded can learn anew"
    assert gpucnn.models.load(file).state_dict().keys() == before.net_.state_dict().keys()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.bits
def test_a_saved_classifier_with_a_layer_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "classifier.safetensors"
    net = nn.Sequential(Doubling(), nn.Flatten(), nn.Linear(36, 2))
    before = quick(model=net).fit(X, Y)
    before.save(file)
    with pytest.raises(CheckpointError, match="expected a structure"):
        Classifier.load(file)
    after = Classifier.load(file, "cpu", model=nn.Sequential(Doubling(), nn.Flatten(), nn.Linear(36, 2)))
    np.testing.assert_array_equal(after.predict_proba(X_TEST), before.predict_proba(X_TEST))


def damaged(file: Path, change: Any) -> None:
    """Change what a classifier's file says of itself."""
    arrays, texts = read_packed(file)
    learnt = json.loads(texts["gpucnn.classifier"])
    change(learnt)
    file.write_bytes(packed(arrays, {**texts, "gpucnn.classifier": json.dumps(learnt)}))


DAMAGES: dict[str, tuple[Any, str]] = {
    "a newer format": (lambda learnt: learnt.update(format=2), "at most 1, got 2. Update gpucnn"),
    "no classes": (lambda learnt: learnt.pop("classes"), "damaged"),
    "too few classes": (lambda learnt: learnt["classes"]["values"].pop(), "outputs: expected one for each of 1"),
    "classes in classes": (lambda learnt: learnt["classes"].update(dtype="|O", values=[[1], [2]]), "damaged"),
    "records as classes": (lambda learnt: learnt["classes"].update(dtype="f8,f8"), "damaged"),
    "another size": (lambda learnt: learnt.update(image_shape=[1, 7, 7]), "classifier.safetensors"),
    "a size of nothing": (lambda learnt: learnt.update(image_shape=[1, 0, 7]), "damaged"),
    "a size without end": (lambda learnt: learnt.update(image_shape=[1, 10**9, 10**9]), "damaged"),
    "an infinite size": (lambda learnt: learnt.update(image_shape=[1, float("inf"), 1]), "damaged"),
    "a mean too many": (lambda learnt: learnt.update(mean=[0, 0]), "damaged"),
    "text as mean": (lambda learnt: learnt.update(mean=["a"]), "damaged"),
    "unknown parameters": (lambda learnt: learnt["parameters"].update(banana=1), "damaged"),
    "a model of a file": (lambda learnt: learnt["parameters"].update(model="evil.py:Net"), "damaged"),
    "another kind of pixels": (lambda learnt: learnt.update(pixels="c"), "damaged"),
    "a list": (lambda learnt: learnt.update(history=3), "damaged"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_classifier_is_refused(tmp_path: Path, fitted: Classifier, name: str) -> None:
    change, words = DAMAGES[name]
    fitted.save(tmp_path / "classifier.safetensors")
    damaged(tmp_path / "classifier.safetensors", change)
    with pytest.raises(CheckpointError, match=words):
        Classifier.load(tmp_path / "classifier.safetensors")


def test_what_is_no_saved_classifier(tmp_path: Path, fitted: Classifier) -> None:
    gpucnn.models.save(fitted.net_, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"a saved Classifier, got other weights\. Use models.load"):
        Classifier.load(tmp_path / "net.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        Classifier.load(tmp_path / "text.safetensors")
    with pytest.raises(NotFittedError):
        quick().save(tmp_path / "new.safetensors")
    with pytest.raises(CheckpointError, match="cannot be written"):
        fitted.save(tmp_path / "nowhere" / "new.safetensors")
    dated = copy.copy(fitted)
    dated.classes_ = np.array(["2024-01-01", "2024-01-02"], "datetime64[D]")
    with pytest.raises(DTypeError, match="numbers or text"):
        dated.save(tmp_path / "dated.safetensors")


def test_warm_start_goes_on_from_the_weights(tmp_path: Path) -> None:
    classifier = quick(epochs=1, schedule="constant", optimizer="sgd", lr=1e-12, warm_start=True)
    before = classifier.fit(X, Y).net_.state_dict()
    after = classifier.fit(X, Y).net_.state_dict()
    name = next(iter(before))
    np.testing.assert_allclose(after[name], before[name], atol=1e-6)
    cold = classifier.set_params(warm_start=False, seed=1).fit(X, Y).net_.state_dict()
    assert not np.allclose(cold[name], before[name], atol=1e-3)
    classifier.save(tmp_path / "c.safetensors")
    again = Classifier.load(tmp_path / "c.safetensors", "cpu").set_params(warm_start=True).fit(X, Y)
    np.testing.assert_allclose(again.net_.state_dict()[name], cold[name], atol=1e-6)
