"""What version 0.1.0 wrote, named and accepted still works. ``fixtures/v0_1_0/make.py`` says how its files were made."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from runs import gpucnn as run_gpucnn

import gpucnn
from gpucnn import cli, models
from gpucnn.training import RunFolder

OLD = Path(__file__).parent / "fixtures" / "v0_1_0"
PUBLIC = json.loads((OLD / "public.json").read_text(encoding="utf-8"))


def contents() -> Any:
    spec = importlib.util.spec_from_file_location("contents_v0_1_0", OLD / "contents.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONTENTS = contents()


def close(value: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@pytest.mark.bits
@pytest.mark.parametrize("name", CONTENTS.NETWORKS)
def test_a_model_file_gives_the_same_answers(name: str) -> None:
    net = models.load(OLD / f"{name}.safetensors").eval()
    with np.load(OLD / "answers.npz") as answers:
        close(net(gpucnn.tensor(CONTENTS.images_for(name))).numpy(), answers[name], 1e-5)


@pytest.mark.parametrize("name", CONTENTS.NETWORKS)
def test_a_network_made_anew_has_the_structure_and_names_of_the_file(name: str) -> None:
    saved, made = models.load(OLD / f"{name}.safetensors"), CONTENTS.NETWORKS[name]()
    with gpucnn.no_grad():
        made(gpucnn.tensor(CONTENTS.images_for(name)))
    assert repr(saved) == repr(made)
    assert [*saved.state_dict()] == [*made.state_dict()]


@pytest.fixture(params=CONTENTS.OPTIMIZERS)
def old_run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a run that was stopped after one of two epochs; its data lie beside it."""
    x, y, x_test, y_test = CONTENTS.arrays()
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    shutil.copytree(OLD / "runs" / request.param, tmp_path / request.param, symlinks=True)
    config = tmp_path / request.param / "config.toml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('"data.npz"', json.dumps(os.fspath(tmp_path / "data.npz"))), encoding="utf-8")
    return tmp_path / request.param


@pytest.mark.bits
def test_a_stopped_run_goes_on_to_the_same_weights(old_run: Path) -> None:
    result = run_gpucnn("train", "--resume", old_run)
    assert result.code == 0, result.err
    saved = RunFolder.open(old_run).load("last")
    with np.load(OLD / "runs" / f"{old_run.name}-ends.npz") as expected:
        assert set(saved.model) == set(expected.files)
        for name in expected.files:
            close(saved.model[name], expected[name], 1e-4)  # another BLAS kernel sums in another order
    lines = (old_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines if "val_loss" in line] == [1, 2]


def test_a_run_is_evaluated(old_run: Path) -> None:
    result = run_gpucnn("evaluate", old_run, "--json", "--data", old_run.parent / "data.npz")
    assert result.code == 0, result.err
    assert 0 <= json.loads(result.out)["accuracy"] <= 1


@pytest.mark.bits
def test_a_config_repeats_the_run(old_run: Path, tmp_path: Path) -> None:
    result = run_gpucnn("train", "--config", old_run / "config.toml", "--out", tmp_path / "again")
    assert result.code == 0, result.err
    with np.load(OLD / "runs" / f"{old_run.name}-ends.npz") as expected:
        saved = RunFolder.open(tmp_path / "again").load("last").model
        for name in expected.files:
            close(saved[name], expected[name], 1e-4)


def found(path: str) -> Any:
    """Return what a dotted name means, importing what must be imported."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            value = getattr(value, part)
        return value
    raise AssertionError(path)


def takes(value: Any, expected: list[str]) -> None:
    """Every parameter of 0.1.0 is still accepted, the positional ones at their old places."""
    try:
        parameters = inspect.signature(value).parameters
    except (TypeError, ValueError):
        assert expected == []
        return
    kinds = inspect.Parameter
    positional = [p.name for p in parameters.values() if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    catches_all = any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())
    old = [name for name in expected if not name.startswith("*")]
    variadic = [p.name for p in parameters.values() if p.kind is kinds.VAR_POSITIONAL]
    if not variadic:
        assert positional[: len(old)] == old
    for name in (name[1:] for name in expected if name.startswith("*")):
        assert catches_all or name in parameters


@pytest.mark.parametrize("name", PUBLIC["names"])
def test_a_public_name_is_still_there_and_takes_what_it_took(name: str) -> None:
    value = found(name)
    if callable(value):
        takes(value, PUBLIC["names"][name])


@pytest.mark.parametrize("name", PUBLIC["methods"])
def test_a_method_is_still_there_and_takes_what_it_took(name: str) -> None:
    value = found(name)
    if callable(value):
        takes(value, PUBLIC["methods"][name])


def test_a_backend_still_has_its_documented_members() -> None:
    backend = gpucnn.get_backend("cpu")
    names = [
        "asarray",
        "to_host",
        "owns",
        "synchronize",
        "describe",
        "tf32",
        "in_tf32",
        "has_tf32",
        "name",
        "xp",
        "ran",
    ]
    assert [name for name in names if not hasattr(backend, name)] == []


@pytest.mark.parametrize("command", PUBLIC["options"])
def test_a_command_still_takes_its_options(command: str) -> None:
    context = click.Context(cli.cli)
    found = cli.cli.get_command(context, command)
    assert found is not None
    options = {option for parameter in found.params for option in parameter.opts}
    assert set(PUBLIC["options"][command]) - options == set()


def test_the_fixtures_hold_every_layer_that_could_be_saved() -> None:
    kinds: set[str] = set()

    def collect(structure: dict[str, Any]) -> None:
        kinds.add(structure["layer"])
        for _, child in structure.get("children", ()):
            collect(child)

    for name in CONTENTS.NETWORKS:
        collect(models.describe(models.load(OLD / f"{name}.safetensors")))
    old_layers = {name.rpartition(".")[2] for name in PUBLIC["names"] if name.startswith("gpucnn.nn.")}
    no_layers = {"Module", "Parameter", "Activation", "Lambda", "Dropout1d", "MaxUnpool2d", "init"}
    losses = {name for name in old_layers if name.endswith("Loss")}
    lower = {name for name in old_layers if not name[:1].isupper()}
    assert old_layers - kinds - no_layers - losses - lower == set()
