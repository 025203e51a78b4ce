"""Help, versions, and how fast and how little is loaded for them."""

from __future__ import annotations

import dataclasses
import json

import pytest
from runs import assert_refused, gpucnn, python

import gpucnn as package
from gpucnn.cli import COMMANDS, cli
from gpucnn.models import MODELS, build


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_sentence(command: str) -> None:
    import importlib

    import click

    result = gpucnn(command, "--help")
    assert result.code == 0
    options = importlib.import_module(f"gpucnn.cli.{command}").command.params
    for option in options:
        if isinstance(option, click.Option):
            assert option.help
            assert option.help.strip().endswith((".", "]")), option.name
            assert option.opts[0] in result.out


def test_help_and_version() -> None:
    result = gpucnn("--help")
    assert result.code == 0
    assert all(f"  {name} " in result.out for name in COMMANDS)
    assert "Exit codes: 0 done; 1 failure; 2 wrong usage" in result.out
    assert gpucnn("--version").out == f"gpucnn, version {package.__version__}\n"


def test_defaults_in_the_help_are_those_of_the_settings() -> None:
    import click

    from gpucnn.cli.train import command
    from gpucnn.training import Settings

    helps = {option.name: option.help or "" for option in command.params if isinstance(option, click.Option)}
    for field in dataclasses.fields(Settings):
        if field.default not in (None, False) or (field.default == 0 and field.type == "int"):
            assert helps[field.name].endswith(f"[default: {field.default}]"), field.name
    parsed = command.make_context("train", []).params
    assert {parsed[field.name] for field in dataclasses.fields(Settings)} == {None}, (
        "only what was typed overrules a file"
    )


def complete(*arguments: str) -> list[str]:
    """Return what the Tab key offers for the last word."""
    from click.shell_completion import ShellComplete

    shell = ShellComplete(cli, {}, "gpucnn", "_GPUCNN_COMPLETE")
    return [item.value for item in shell.get_completions(list(arguments[:-1]), arguments[-1])]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["train", "--model", "le"], ["lenet"]),
        (
            ["train", "--model", "lenet:p"],
            ["lenet:pooling=", "lenet:padding=", "lenet:padding2=", "lenet:pool_size1=", "lenet:pool_size2="],
        ),
        (["train", "--model", "lenet:pooling=avg,hid"], ["lenet:pooling=avg,hidden=", "lenet:pooling=avg,hidden2="]),
        (["train", "--model", "nothing:p"], []),
        (["train", "--optimizer", "ada"], ["adam", "adamw", "adagrad", "adadelta"]),
        (["train", "--optimizer", "sgd:n"], ["sgd:nesterov="]),
        (["train", "--schedule", "co"], ["constant", "cosine"]),
        (["train", "--schedule", "cosine:w"], ["cosine:warmup="]),
        (["train", "--data", "mn"], ["mnist"]),
        (["evaluate", "run", "--data", "cif"], ["cifar10"]),
        (["summary", "resnet1"], ["resnet18"]),
        (["bench", "resnet:"], ["resnet:width=", "resnet:blocks="]),
        (["train", "--recipe", ""], ["fast"]),
        (["train", "--device", "cu"], ["cuda", "cuda:"]),
        (["predict", "run", "--device", ""], ["auto", "cpu", "cuda", "cuda:"]),
        (["mo"], ["models"]),
    ],
)
def test_values_are_completed(words: list[str], offered: list[str]) -> None:
    assert complete(*words) == offered


def test_a_data_set_of_another_name_is_completed_as_a_file() -> None:
    from click.shell_completion import ShellComplete

    (item,) = ShellComplete(cli, {}, "gpucnn", "_GPUCNN_COMPLETE").get_completions(["train", "--data"], "./da")
    assert (item.value, item.type) == ("./da", "file")


def test_models_lists_every_network_with_its_options() -> None:
    lines = gpucnn("models").out.splitlines()
    assert lines[0].split() == ["lenet", "LeNet-5", "in", "its", "modern", "form"]
    assert (
        lines[1].strip().startswith("activation=relu, pooling=max, padding=2, hidden=120, init=default, filters1=6, ")
    )
    entries = json.loads(gpucnn("models", "--json").out)
    assert list(entries) == list(MODELS)
    for name, entry in entries.items():
        assert entry["about"]
        options = ",".join(f"{key}={value}" for key, value in entry["options"].items())
        assert str(MODELS[name]()) == str(build(f"{name}:{options}")), "the defaults listed are those that are used"


def test_unknown_command() -> None:
    assert_refused(gpucnn("trian"), 2, "Did you mean 'train'?", "gpucnn --help")
    assert_refused(gpucnn("xyzzy"), 2, "No such command 'xyzzy'")


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import gpucnn", ["cupy", "matplotlib", "tqdm", "safetensors", "PIL", "numpy", "torch"]),
        ("import gpucnn.cli", ["numpy", "cupy", "tqdm", "safetensors"]),
        (
            "import gpucnn.training, gpucnn.data, gpucnn.models; gpucnn.tensor([1.0])",
            ["cupy", "matplotlib", "tqdm", "PIL", "safetensors"],
        ),
    ],
)
def test_nothing_is_loaded_before_it_is_needed(code: str, unwanted: list[str]) -> None:
    result = python("-c", f"{code}\nimport sys\nprint([name for name in {unwanted} if name in sys.modules])")
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


def test_help_loads_no_numpy() -> None:
    result = python("-X", "importtime", "-m", "gpucnn", "--help")
    assert result.returncode == 0
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & {"numpy", "cupy", "safetensors", "tqdm"}


def test_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    import pty_screen

    assert "\x1b[" in pty_screen.run("-m", "gpucnn", "trian")
    assert "\x1b" not in pty_screen.run("-m", "gpucnn", "trian", NO_COLOR="1")
    assert "\x1b" not in gpucnn("trian").err
