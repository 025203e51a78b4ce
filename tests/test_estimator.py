"""Classifier: learns, answers, says what is wrong, and gets on with scikit-learn."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from bars import X_TEST, Y_TEST, X, Y, bars, dropping, quick, small

import gpucnn
from gpucnn import Classifier, nn, optim
from gpucnn.backend import Backend, default_generator
from gpucnn.data import ArrayDataset
from gpucnn.errors import (
    DataError,
    DivergedError,
    DTypeError,
    GpucnnError,
    ParameterError,
    ShapeError,
    UsageError,
)
from gpucnn.estimator import NotFittedError
from gpucnn.training import Loader, Normalisation, train_step
from gpucnn.training.factory import split_validation


@pytest.fixture(scope="module")
def fitted() -> Classifier:
    return quick().fit(X, Y)


def test_it_learns(fitted: Classifier) -> None:
    assert fitted.classes_.tolist() == ["column", "row"]
    assert fitted.score(X_TEST, Y_TEST) > 0.9
    answers, chances = fitted.predict(X_TEST), fitted.predict_proba(X_TEST)
    assert answers.dtype == Y.dtype
    assert fitted.score(X_TEST, Y_TEST) == (answers == Y_TEST).mean()
    assert (chances.shape, chances.dtype) == ((100, 2), np.float32)
    np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-5)
    assert (fitted.classes_[chances.argmax(1)] == answers).all()


def test_the_probabilities_are_those_of_the_network(fitted: Classifier) -> None:
    mean, std = X.mean(dtype=np.float64) / 255, X.std(dtype=np.float64) / 255
    with gpucnn.no_grad():
        logits = fitted.net_(gpucnn.tensor(((X_TEST / 255 - mean) / std).astype(np.float32)[:, None])).numpy()
    powers = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(
        fitted.predict_proba(X_TEST), powers / powers.sum(1, keepdims=True), rtol=1e-4, atol=1e-6
    )
    assert not fitted.net_.training


def test_it_runs_on_every_device(backend: Backend) -> None:
    classifier = quick(device=None, epochs=1).fit(X[:40], Y[:40])
    assert next(classifier.net_.parameters()).backend is backend
    assert classifier.predict(X[:3]).shape == (3,)


def test_one_hot_labels_teach_and_score_as_numbers_do() -> None:
    numbers = (Y == "row").astype(int)
    one_hot = np.eye(2, dtype=np.float32)[numbers]
    by_number, by_row = quick(epochs=1).fit(X, numbers), quick(epochs=1).fit(X, one_hot)
    assert by_row.classes_.tolist() == [0, 1]
    assert (by_row.predict(X_TEST) == by_number.predict(X_TEST)).all()
    assert by_row.score(X, one_hot) == by_row.score(X, numbers)
    for wrong in (one_hot * 2, np.ones((len(X), 2)), one_hot[:5]):
        with pytest.raises((DataError, ShapeError), match=r"Classifier\.fit: y"):
            quick().fit(X, wrong)


def test_history(fitted: Classifier) -> None:
    keys = ["epoch", "loss", "accuracy", "seconds", "images_per_second"]
    assert [list(values) for values in fitted.history] == [keys] * 6
    assert [values["epoch"] for values in fitted.history] == [1, 2, 3, 4, 5, 6]
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]
    assert fitted.history[-1]["accuracy"] > 0.9
    for values in fitted.history:
        assert values["seconds"] * values["images_per_second"] == pytest.approx(200)


def test_validation_and_a_line_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    classifier = quick(validation=50, verbose=True).fit(X, Y, epochs=2)
    lines = capsys.readouterr().out.splitlines()
    last = classifier.history[-1]
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert (
        f"loss {last['loss']:.4f}, accuracy {last['accuracy']:.4f}, validation loss {last['val_loss']:.4f}" in lines[1]
    )
    order = np.random.default_rng(0).permutation(200)[:50]
    assert last["val_accuracy"] == classifier.score(X[order], Y[order])
    assert last["seconds"] * last["images_per_second"] == pytest.approx(150)
    quick(epochs=1).fit(X[:20], Y[:20])
    assert capsys.readouterr().out == ""
    quick(epochs=1, batch_size=8, verbose=2).fit(X[:20], Y[:20])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*(f"epoch 1/1, batch {i}/3" for i in (1, 2, 3)), "epoch 1/1"]


@pytest.mark.bits
def test_the_same_seed_gives_the_same_network(fitted: Classifier) -> None:
    gpucnn.manual_seed(123)
    again = quick().fit(X, Y)
    assert (default_generator.seed, default_generator.counter) == (123, 0), (
        "what the process draws next is its own affair"
    )
    np.testing.assert_array_equal(again.predict_proba(X_TEST), fitted.predict_proba(X_TEST))
    np.testing.assert_array_equal(again.fit(X, Y).predict_proba(X_TEST), fitted.predict_proba(X_TEST))
    assert (quick(seed=1).fit(X, Y).predict_proba(X_TEST) != fitted.predict_proba(X_TEST)).any()


@pytest.mark.bits
@pytest.mark.parametrize("reshape", [lambda x: x[:, None], lambda x: x.reshape(len(x), -1), gpucnn.tensor, list])
def test_all_forms_of_images(fitted: Classifier, reshape: Any) -> None:
    np.testing.assert_array_equal(fitted.predict_proba(reshape(X_TEST)), fitted.predict_proba(X_TEST))
    one = quick(epochs=1)
    expected = one.fit(X, Y).predict_proba(X_TEST)
    np.testing.assert_array_equal(one.fit(reshape(X), list(Y)).predict_proba(X_TEST), expected)


def test_floats_and_colours() -> None:
    colours = np.stack([X, X // 2, X // 3], 1) / 255
    classifier = quick().fit(colours, np.where(Y == "row", 7, -2))
    assert classifier.classes_.tolist() == [-2, 7]
    assert classifier.image_shape_ == (3, 6, 6)
    assert classifier.score(colours, np.where(Y == "row", 7, -2)) > 0.9
    with pytest.raises(DataError, match="labels of the kind of fit's"):
        classifier.score(colours, Y)
    assert classifier.predict(colours[:0]).shape == (0,)


def test_models_of_all_kinds() -> None:
    x, y = bars(20, size=16)
    named = Classifier("lenet:activation=tanh", epochs=1, device="cpu").fit(x, y)
    assert "Tanh" in repr(named.net_)
    assert named.predict_proba(x).shape == (20, 2)
    wide = np.repeat(X, 2, 2)
    net = nn.Sequential(nn.Conv2d(None, 8, 3), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(None, 2))
    classifier = quick(model=net).fit(wide, Y)
    assert classifier.score(wide, Y) > 0.8
    assert net[0].weight is None, "the given network is copied"
    ready = small(2, 1, 6)
    before = copy.deepcopy(ready.state_dict())
    assert quick(model=ready).fit(X, Y).score(X, Y) > 0.9
    assert all((array == before[name]).all() for name, array in ready.state_dict().items())


@pytest.mark.parametrize(
    "model", ["lenet", "vgg:width=2,hidden=4", "conv_mlp:channels=2", "simple_convnet", "resnet:width=2,blocks=1"]
)
def test_images_that_are_not_square(model: str) -> None:
    x, y = bars(12, size=16)
    wide = np.repeat(x, 2, 2)
    classifier = quick(model=model).fit(wide, y, epochs=1)
    assert classifier.image_shape_ == (1, 16, 32)
    assert classifier.predict_proba(wide).shape == (12, 2)


def test_a_callable_hears_of_both_sides() -> None:
    sizes: list[Any] = []

    def make(classes: int, in_channels: int, image_size: Any) -> nn.Module:
        sizes.append(image_size)
        return nn.Sequential(nn.Flatten(), nn.Linear(None, classes))

    for x in (X, np.repeat(X, 2, 2)):
        quick(model=make).fit(x, Y, epochs=1)
    assert sizes == [6, (6, 12)]


def test_channels_last() -> None:
    colours = np.stack([X, X // 2, X // 3], 1)
    expected = quick().fit(colours, Y)
    with pytest.warns(UserWarning, match=r"taken as \(N, H, W, C\), with 3 channels"):
        classifier = quick().fit(np.moveaxis(colours, 1, 3), Y)
    assert classifier.image_shape_ == (3, 6, 6)
    for x in (colours, np.moveaxis(colours, 1, 3)):
        np.testing.assert_array_equal(classifier.predict_proba(x), expected.predict_proba(colours))
    narrow = np.repeat(colours, 2, 2)[:, :, :, :3]
    assert quick(model=nn.Sequential(nn.Flatten(), nn.Linear(None, 2))).fit(narrow, Y, epochs=1).image_shape_ == (
        3,
        12,
        3,
    )


def test_options_of_fit_win() -> None:
    rows: list[int] = []

    class Counting(nn.Flatten):
        def forward(self, x: Any) -> Any:
            rows.append(len(x))
            return super().forward(x)

    quick(model=nn.Sequential(Counting(), nn.Linear(36, 2))).fit(X, Y, epochs=1, batch_size=90)
    assert rows == [1, 90, 90, 20], "one image to try the network, then the batches"


def test_not_fitted() -> None:
    classifier = quick()
    asked = (
        lambda: classifier.predict(X), lambda: classifier.predict_proba(X), lambda: classifier.score(X, Y),
        lambda: classifier.history, lambda: classifier.classes_,
    )  # fmt: skip
    for ask in asked:
        with pytest.raises(NotFittedError, match=r"not fitted, so it has no \w+ yet. Call fit\(x, y\) first."):
            ask()
    assert not hasattr(classifier, "classes_")
    with pytest.raises(AttributeError, match="no attribute 'banana'"):
        classifier.banana  # noqa: B018


MISTAKES: list[tuple[type[GpucnnError], str, dict[str, Any], Any, Any]] = [
    (ShapeError, r"\(N, H, W\), \(N, C, H, W\) or \(N, H\*W\)", {}, X[0, 0], Y),
    (ShapeError, r"square images", {}, X.reshape(200, -1)[:, :35], Y),
    (ShapeError, "one label for each of 200", {}, X, Y[:-1]),
    (ShapeError, "one label for each of 200", {}, X, Y[:, None]),
    (ShapeError, "images of one size", {}, [[1.0], [1.0, 2.0]], ["a", "b"]),
    (ShapeError, "lists of different lengths", {}, X[:2], [["a"], ["b", "c"]]),
    (DTypeError, "uint8 .* or floating pixels, got int64", {}, X.astype(np.int64), Y),
    (DTypeError, "can be sorted", {}, X[:2], np.array([1, "a"], dtype=object)),
    (DataError, "at least two classes, got 1", {}, X, np.zeros(200)),
    (DataError, "NaN or infinity", {}, X[:2], [0.0, float("nan")]),
    (DataError, "NaN or infinity", {}, np.full((2, 6, 6), np.inf), [0, 1]),
    (DataError, "fewer than the 200 training images", {"validation": 200}, X, Y),
    (UsageError, "optimizer: expected sgd or adam", {"optimizer": "adm"}, X, Y),
    (UsageError, "epochs: expected a whole number", {"epochs": 0}, X, Y),
    (UsageError, "lr: expected a finite number", {"lr": -1.0}, X, Y),
    (UsageError, r"Did you mean lenet\?", {"model": "lennet"}, X, Y),
    (ParameterError, "a name, a Module or a callable", {"model": 3}, X, Y),
    (ParameterError, "a callable that returns a Module, got int", {"model": lambda *_: 3}, X, Y),
    (ShapeError, r"outputs of shape \(N, 2\), got \(1, 5\)", {"model": small(5, 1, 6)}, X, Y),
]


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_mistakes_in_fit(number: int) -> None:
    kind, words, parameters, x, y = MISTAKES[number]
    with pytest.raises(kind, match=words):
        quick(**parameters).fit(x, y)


def test_mistakes_in_predict(fitted: Classifier) -> None:
    with pytest.raises(ShapeError, match=r"shape \(1, 6, 6\), as in fit, got \(1, 5, 5\)"):
        fitted.predict(X[:, :5, :5])
    with pytest.raises(DTypeError, match="uint8 pixels, as in fit, got float64"):
        fitted.predict(X / 255)
    with pytest.raises(DataError, match="at least one image"):
        fitted.score(X[:0], Y[:0])
    with pytest.raises(ShapeError, match="one label for each of 3"):
        fitted.score(X[:3], Y[:2])


@pytest.mark.bits
def test_what_was_learnt_survives_a_failure(fitted: Classifier) -> None:
    classifier = quick(schedule="constant", optimizer="sgd", lr=0.01).fit(X, Y, epochs=1)
    before = classifier.predict_proba(X_TEST)
    classifier.set_params(lr=1e30)
    with pytest.raises(DivergedError, match="Try a smaller lr than 1e"), np.errstate(all="ignore"):
        classifier.fit(X, Y)
    np.testing.assert_array_equal(classifier.predict_proba(X_TEST), before)


def test_parameters() -> None:
    classifier = Classifier(epochs=3, lr=0.5)
    assert list(classifier.get_params()) == [
        "model", "epochs", "batch_size", "lr", "optimizer", "schedule", "seed", "device", "validation", "verbose", "loss",
        "metrics", "init_from", "freeze", "class_weights", "label_smoothing", "clip_norm", "ema", "early_stopping",
        "mixup", "cutmix", "warm_start", "accumulate", "augment", "workers",
    ]  # fmt: skip
    assert repr(classifier) == "Classifier(epochs=3, lr=0.5)"
    assert classifier.set_params(lr=None, seed=4) is classifier
    assert (classifier.lr, classifier.seed, classifier.epochs) == (None, 4, 3)
    with pytest.raises(ParameterError, match=r"got epoch. Did you mean epochs\?"):
        classifier.set_params(seed=9, epoch=2)
    assert classifier.seed == 4


def test_scikit_learn_accepts_it(fitted: Classifier) -> None:
    pytest.importorskip("sklearn")
    from sklearn.base import clone, is_classifier
    from sklearn.exceptions import NotFittedError as TheirNotFittedError
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.utils.validation import check_is_fitted

    assert is_classifier(fitted)
    check_is_fitted(fitted)
    twin = clone(fitted)
    assert twin.get_params() == fitted.get_params()
    with pytest.raises(TheirNotFittedError):
        check_is_fitted(twin)
    assert (cross_val_score(twin, X.reshape(200, -1), Y, cv=2) > 0.8).all()
    grid = {"epochs": np.arange(1, 3), "model": [small, small(2, 1, 6)]}
    search = GridSearchCV(quick(), grid, cv=2, error_score="raise").fit(X[:60], Y[:60])
    assert len(search.cv_results_["params"]) == 4
    assert search.predict(X_TEST[:4]).shape == (4,)
    assert search.best_params_["epochs"] in (1, 2)


@pytest.mark.bits
def test_fits_at_the_same_time_are_those_of_the_seed_alone() -> None:
    """Threads that shared the process's generator gave other networks, and left it elsewhere."""
    net = dropping()
    before = default_generator.seed, default_generator.counter
    fits = [quick(model=net, seed=seed, epochs=2) for seed in range(6)]
    alone = [one.fit(X, Y).predict_proba(X_TEST) for one in fits]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda one: copy.copy(one).fit(X, Y).predict_proba(X_TEST), fits * 2))
    for number, probabilities in enumerate(together):
        np.testing.assert_array_equal(probabilities, alone[number % 6])
    assert (default_generator.seed, default_generator.counter) == before


def test_what_is_drawn_beside_a_fit_is_not_its_business() -> None:
    def draw(values: dict[str, Any]) -> None:
        with ThreadPoolExecutor(1) as other:
            drawn.append(other.submit(lambda: nn.init.uniform_(gpucnn.tensor([0.0])).item()).result())

    gpucnn.manual_seed(5)
    expected = [nn.init.uniform_(gpucnn.tensor([0.0])).item() for _ in range(2)]
    drawn: list[float] = []
    gpucnn.manual_seed(5)
    quick(model=lambda *_: dropping()).fit(X[:40], Y[:40], epochs=2, callback=draw)
    assert drawn == expected


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_what_was_learnt_is_kept_when_the_callback_fails(stop: type[BaseException]) -> None:
    def fail(values: dict[str, Any]) -> None:
        if values["epoch"] == 2:
            raise stop

    classifier = quick(epochs=9)
    with pytest.raises(stop):
        classifier.fit(X, Y, callback=fail)
    assert [values["epoch"] for values in classifier.history] == [1, 2]
    expected = quick(epochs=2, schedule="constant").fit(X, Y)
    assert classifier.predict(X_TEST).shape == expected.predict(X_TEST).shape
    assert (classifier.classes_.tolist(), classifier.image_shape_) == (["column", "row"], (1, 6, 6))
    assert not classifier.net_.training


def test_training_ends_where_the_callback_says_so() -> None:
    classifier = quick(epochs=9, schedule="constant").fit(X, Y, callback=lambda values: values["epoch"] == 3)
    assert len(classifier.history) == 3
    expected = quick(epochs=3, schedule="constant").fit(X, Y)
    np.testing.assert_array_equal(classifier.predict_proba(X_TEST), expected.predict_proba(X_TEST))
    assert len(quick(epochs=2).fit(X[:40], Y[:40], callback=lambda values: 1).history) == 2, "only True stops"


@pytest.mark.parametrize("name", ["seed", "batch_size", "epochs"])
def test_none_where_a_number_belongs(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: expected a whole number of at least [01], got None"):
        quick(**{name: None}).fit(X, Y)


NUMBERS = (Y == "row").astype(int)


@pytest.mark.bits
def test_partial_fit_is_an_epoch_and_keeps_the_state_of_the_optimiser() -> None:
    """Two calls are two epochs of Adam by hand on the same batches; with new state the second would differ."""
    gpucnn.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    classifier = quick(model=net)
    for _ in range(2):
        classifier.partial_fit(X, NUMBERS)
    by_hand = copy.deepcopy(net)
    data, _ = split_validation(ArrayDataset(X, NUMBERS), None, 0, 0)
    loader = Loader(data, gpucnn.get_backend("cpu"), Normalisation.of(data))
    optimizer = optim.Adam(by_hand.parameters(), lr=0.01)
    for number in range(2):
        batches = loader.batches(20, number)
        for given in batches.epoch(0):
            train_step(by_hand, nn.CrossEntropyLoss(), optimizer, *batches.take(*given))
    for name, array in by_hand.state_dict().items():
        np.testing.assert_array_equal(array, classifier.net_.state_dict()[name])


def test_partial_fit_knows_its_classes() -> None:
    classifier = quick().partial_fit(X[:20], np.zeros(20, int), classes=[3, 0, 7])
    assert classifier.classes_.tolist() == [0, 3, 7]
    with pytest.raises(DataError, match=r"labels of the classes \[0, 3, 7\]"):
        classifier.partial_fit(X[:5], [1, 0, 3, 3, 0])
    with pytest.raises(DataError, match="labels of the classes"):
        classifier.partial_fit(X[:5], list("abcde"))
    with pytest.raises(ShapeError, match="as before"):
        classifier.partial_fit(X[:5, :5, :5], [0, 0, 3, 3, 0])
    other = X[:5].astype(np.float32) if X.dtype == np.uint8 else np.zeros((5, 6, 6), np.uint8)
    with pytest.raises(DTypeError, match="as before"):
        classifier.partial_fit(other, [0, 0, 3, 3, 0])
