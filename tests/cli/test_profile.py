"""``gpucnn profile``: a network by name and that of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import assert_refused, gpucnn, write_npz


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_network_by_name() -> None:
    quick = ("--batch-size", 4, "--repeats", 1, "--device", "cpu")
    lines = gpucnn("profile", "lenet", *quick).out.splitlines()
    assert lines[0].split()[:3] == ["layer", "class", "output"]
    assert [line.split()[0] for line in lines[1:4]] == ["conv1", "relu1", "maxpool1"]
    assert "One step, as it usually runs:" in lines[-1]
    found = json.loads(gpucnn("profile", "resnet:width=4,blocks=1", "--input-shape", "3,16,16", *quick, "--json").out)
    assert found["input_shape"] == [4, 3, 16, 16]
    assert {layer["kind"] for layer in found["layers"]} >= {"Conv2d", "BatchNorm2d", "Residual", "Linear"}
    assert all(layer["forward"] >= 0 and layer["backward"] >= 0 for layer in found["layers"])
    assert_refused(gpucnn("profile", "lenett"), 2, "lenet")
    assert_refused(gpucnn("profile", "lenet", "--batch-size", 0), 2, "0")
    Path("empty").mkdir()
    assert_refused(gpucnn("profile", "empty"), 2, "a run with a config.toml")


def test_a_run_knows_its_network() -> None:
    data = write_npz(Path("small.npz"))
    assert gpucnn("train", "--data", data, "--epochs", 1, "--out", "run", "--device", "cpu").code == 0
    found = json.loads(gpucnn("profile", "run", "--batch-size", 2, "--repeats", 1, "--device", "cpu", "--json").out)
    assert found["input_shape"] == [2, 1, 28, 28]
    assert "Time per layer" in Path("run/report.html").read_text()
