"""Training that begins with the weights of a file or a run, with frozen parameters, or a new last layer."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Raises, drawn, gpucnn, numbers, resumed, small_settings, small_splits, trainer, weights, write_npz
from safetensors.numpy import save_file

from gpucnn import Classifier, models, nn
from gpucnn.errors import CheckpointError, GpucnnError, UsageError
from gpucnn.training import InterruptedTraining, RunFolder, Trainer
from gpucnn.training.fine_tuning import freeze, start_from

NARROW = "lenet:hidden=8"


def other_net(classes: int = 10) -> nn.Module:
    """Return a network whose weights a new one does not have."""
    net = models.build(NARROW, classes=classes)
    net.load_state_dict({name: np.full_like(array, 0.25) for name, array in net.state_dict().items()})
    return net


def as_safetensors(path: Path, net: nn.Module) -> Path:
    models.save(net, path / "net.safetensors")
    return path / "net.safetensors"


def as_npz(path: Path, net: nn.Module) -> Path:
    np.savez(path / "net.npz", **net.state_dict())
    return path / "net.npz"


def as_parallel(path: Path, net: nn.Module) -> Path:
    save_file({f"module.{name}": array for name, array in net.state_dict().items()}, path / "net.safetensors")
    return path / "net.safetensors"


@pytest.mark.parametrize("write", [as_safetensors, as_npz, as_parallel])
def test_weights_of_a_file(tmp_path: Path, write: Callable[[Path, nn.Module], Path]) -> None:
    path, net = write(tmp_path, other_net()), models.build(NARROW)
    start_from(str(path), net)
    assert all((array == 0.25).all() for array in net.state_dict().values())


def test_weights_of_a_run_are_those_of_its_best_checkpoint(tmp_path: Path) -> None:
    trainer(tmp_path / "run", model=NARROW).train()
    net = models.build(NARROW)
    start_from(str(tmp_path / "run"), net)
    folder = RunFolder.open(tmp_path / "run")
    for name, array in folder.load("best").model.items():
        np.testing.assert_array_equal(net.state_dict()[name], array)


def test_the_last_layer_is_new_where_the_classes_differ(tmp_path: Path) -> None:
    path, net = as_safetensors(tmp_path, other_net(3)), models.build(NARROW)
    before = net.state_dict()
    with pytest.warns(UserWarning, match="3 classes, here 10: the last layer, 11, is new"):
        start_from(str(path), net)
    for name, array in net.state_dict().items():
        if name.startswith("11."):
            np.testing.assert_array_equal(array, before[name])
        else:
            assert (array == 0.25).all(), name


def test_a_file_without_the_last_layer_serves(tmp_path: Path) -> None:
    state = {name: array for name, array in other_net().state_dict().items() if not name.startswith("11.")}
    save_file(state, tmp_path / "backbone.safetensors")
    net = models.build(NARROW)
    with pytest.warns(UserWarning, match="no classes, here 10"):
        start_from(str(tmp_path / "backbone.safetensors"), net)
    assert (net.state_dict()["0.weight"] == 0.25).all()


def with_nan(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"3.weight": np.full_like(state["3.weight"], np.nan)}


def with_another_shape(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"3.weight": state["3.weight"][:, :, :4]}


def without_a_layer(state: dict[str, Any]) -> dict[str, Any]:
    return {name: array for name, array in state.items() if not name.startswith("3.")}


def with_more(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"aux.weight": np.zeros(3, np.float32)}


def with_another_head(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"11.weight": state["11.weight"][:, :5].copy()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_nan, "3.weight: expected finite numbers"),
        (with_another_shape, r"3.weight: expected shape \(16, 6, 5, 5\), got \(16, 6, 4, 5\)"),
        (without_a_layer, "none too many, 3.weight, 3.bias missing.*--model"),
        (with_more, "aux.weight too many, none missing"),
        (with_another_head, "11.weight: expected shape"),
        (lambda state: {"a": np.zeros(1, np.float32)}, "a too many, 0.weight"),
        (lambda state: {}, "none too many, 0.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], words: str
) -> None:
    path = tmp_path / "net.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in change(other_net().state_dict()).items()}, path)
    net = models.build(NARROW)
    before = net.state_dict()
    with pytest.raises(CheckpointError, match=words) as caught:
        start_from(str(path), net)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("net.pth", b"\x80\x02", "is a pickle, as torch.save.*save_file"),
        ("net.safetensors", b"no header", "is not a complete safetensors file"),
        ("net.npz", b"PK\x03\x04", "is no readable .npz"),
        ("net.onnx", b"\x08\x07", r"gpucnn\.onnx\.load"),
        ("net.txt", b"hello", "safetensors"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        start_from(str(tmp_path / name), models.build(NARROW))


def test_objects_in_an_npz_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", weight=np.array([{}], object))
    with pytest.raises(CheckpointError, match="readable"):
        start_from(str(tmp_path / "net.npz"), models.build(NARROW))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a file or a run folder"):
        start_from(str(tmp_path / "nowhere"), models.build(NARROW))
    with pytest.raises(UsageError, match="a run with a config"):
        start_from(str(tmp_path), models.build(NARROW))


# --- freezing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ("0.*", {"3.weight", "3.bias", "11.weight", "11.bias", "7.weight", "7.bias", "9.weight", "9.bias"}),
        ("*, !11.*", {"11.weight", "11.bias"}),
        ("*.weight,*.bias,!9.?ias", {"9.bias"}),
    ],
)
def test_patterns(patterns: str, left: set[str]) -> None:
    net = models.build(NARROW)
    freeze(net, patterns)
    assert {name for name, parameter in net.named_parameters() if parameter.requires_grad} == left


@pytest.mark.parametrize(
    ("patterns", "words"),
    [("*", "left to train"), ("features.*", "matches a parameter.*0.weight"), ("0.*,,", "''"), ("", "''")],
)
def test_patterns_that_leave_or_match_nothing(patterns: str, words: str) -> None:
    net = models.build(NARROW)
    with pytest.raises(UsageError, match=f"freeze: pattern.*{words}"):
        freeze(net, patterns)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_frozen_parameters_and_their_statistics_stay(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", model="resnet18:width=2", freeze="*,!layer4.*,!fc.*", precision="float32")
    before = run.net.state_dict()
    run.train()
    moved = {name for name, array in run.net.state_dict().items() if array.tobytes() != before[name].tobytes()}
    assert {name.partition(".")[0] for name in moved} == {"layer4", "fc"}
    assert "layer4.0.bn1.running_mean" in moved
    assert 'freeze = "*,!layer4.*,!fc.*"' in (tmp_path / "run" / "config.toml").read_text()
    saved = RunFolder.open(tmp_path / "run").load().optimizer
    assert saved
    assert not any("layer1" in name for name in saved), "what is frozen has no moments"


@pytest.mark.bits
def test_fine_tuning_interrupted_and_resumed_ends_the_same_without_the_file(tmp_path: Path) -> None:
    source = as_safetensors(tmp_path, other_net(7))
    net = models.build(NARROW, classes=7)
    net.load_state_dict({k: v * 0.01 for k, v in other_net(7).state_dict().items()})
    models.save(net, source)
    changes = {"model": NARROW, "init_from": str(source), "freeze": "0.*,3.*"}
    with pytest.warns(UserWarning, match="is new"):
        trainer(tmp_path / "whole", **changes).train()
    with pytest.warns(UserWarning, match="is new"), pytest.raises(InterruptedTraining):
        trainer(tmp_path / "run", Raises(7, signal.SIGINT), **changes).train()
    source.unlink()
    resumed(tmp_path / "run", **changes).train()
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
    with pytest.raises(UsageError, match="freeze"):
        resumed(tmp_path / "run", **changes | {"freeze": "0.*"})


def test_a_run_that_replaces_one_begins_with_the_file_too(tmp_path: Path) -> None:
    path = tmp_path / "run"
    trainer(path, model=NARROW).train()
    source = as_safetensors(tmp_path, other_net())
    settings = small_settings(model=NARROW, init_from=str(source))
    begun = Trainer(settings, small_splits(), RunFolder.new(path, "small", overwrite=True))
    assert all((array == 0.25).all() for array in begun.net.state_dict().values())


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of ten digits learns three of them, and its own model is taken from the run."""
    monkeypatch.chdir(tmp_path)
    options = ("--epochs", 1, "--device", "cpu", "--validation", 20)
    first = gpucnn("train", "--data", write_npz(tmp_path / "ten.npz"), "--model", NARROW, "--out", "ten", *options)
    assert first.code == 0, first.err
    (x, y), (x_test, y_test) = drawn(640, 0), drawn(200, 1)
    few, few_test = y < 3, y_test < 3
    np.savez("three.npz", x_train=x[few], y_train=y[few], x_test=x_test[few_test], y_test=y_test[few_test])
    tuned = gpucnn(
        "train", "--data", "three.npz", "--init-from", "ten", "--freeze", "0.*,3.*", "--out", "three", *options
    )
    assert tuned.code == 0, tuned.err
    assert "10 classes, here 3: the last layer, 11, is new" in tuned.err
    config = (tmp_path / "three" / "config.toml").read_text()
    assert f'model = "{NARROW}"' in config
    assert f'init_from = "{tmp_path / "ten"}"' in config
    ten, three = (RunFolder.open(name).load("best").model for name in ("ten", "three"))
    np.testing.assert_array_equal(three["0.weight"], ten["0.weight"])
    assert three["11.weight"].shape == (3, 84)
    again = gpucnn("evaluate", "three", "--json", "--device", "cpu")
    assert again.code == 0, again.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--init-from", "nowhere"), "init_from"),
        (("--freeze", "nothing*"), "freeze: pattern"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_or_two_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_npz(tmp_path / "few.npz", 60, 20)
    failed = gpucnn("train", "--data", data, "--out", "run", "--epochs", 1, "--device", "cpu", *options)
    assert failed.code == 2
    assert words in failed.err
    assert len(failed.err.splitlines()) <= 3
    assert not (tmp_path / "run").exists()


# --- the classifier --------------------------------------------------------------------------------------------------


def test_a_classifier_begins_with_weights_and_freezes(tmp_path: Path) -> None:
    x, y = drawn(640, 0)
    source = as_safetensors(tmp_path, models.build(NARROW, classes=4))
    chosen = y < 3
    classifier = Classifier(NARROW, epochs=1, device="cpu", init_from=str(source), freeze="*,!11.*")
    with pytest.warns(UserWarning, match="4 classes, here 3"):
        classifier.fit(x[chosen], y[chosen])
    given = models.load(source).state_dict()
    for name, array in classifier.net_.state_dict().items():
        if name.startswith("11."):
            assert array.shape[0] == 3
        else:
            np.testing.assert_array_equal(array, given[name])
    classifier.save(tmp_path / "classifier.safetensors")
    again = Classifier.load(tmp_path / "classifier.safetensors", device="cpu")
    np.testing.assert_array_equal(again.predict(x), classifier.predict(x))
    assert again.freeze == "*,!11.*"


def test_a_classifier_refuses_what_does_not_fit(tmp_path: Path) -> None:
    x, y = drawn(64, 0)
    with pytest.raises(GpucnnError, match="init_from"):
        Classifier(NARROW, device="cpu", init_from=str(tmp_path / "nowhere")).fit(x, y)
    with pytest.raises(GpucnnError, match="freeze"):
        Classifier(NARROW, device="cpu", freeze="x").fit(x, y)
    with pytest.raises(GpucnnError, match="freeze"):
        Classifier(NARROW, device="cpu", freeze=3).fit(x, y)  # type: ignore[arg-type]
