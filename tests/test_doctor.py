"""The doctor tells what is there and what is not."""

from __future__ import annotations

import importlib.util
import json
import os
from typing import Any

import numpy as np
import pytest
from runs import gpucnn

from gpucnn.backend import get_backend
from gpucnn.doctor import EXTRAS, examine
from gpucnn.errors import DeviceError


def test_json_form() -> None:
    result = gpucnn("doctor", "--json")
    report = json.loads(result.out)
    assert (result.code, result.err, result.out.count("\n")) == (0, "", 1)
    assert list(report) == [
        "versions",
        "platform",
        "cores",
        "threads",
        "blas",
        "compiled",
        "memory_bytes",
        "cuda",
        "missing",
    ]
    assert report["versions"]["numpy"] == np.__version__
    assert report["cores"] == os.cpu_count()
    assert report["threads"] == get_backend("cpu").describe()["threads"]
    assert report["blas"]


def no_gpu(device: Any) -> Any:
    if device == "cuda":
        raise DeviceError("there is no GPU, says the test.", remedy="see: gpucnn doctor")
    return real(device)


real = get_backend


def test_without_a_gpu_it_says_why_and_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucnn.doctor.get_backend", no_gpu)
    assert examine()["cuda"] == {"works": False, "why": "there is no GPU, says the test."}, "this is the doctor"
    result = gpucnn("doctor")
    assert result.code == 0
    assert "none in use: there is no GPU, says the test." in result.out


def test_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    warmed = []

    class Works:
        def warm_up(self) -> None:
            warmed.append(True)

        def describe(self) -> dict[str, Any]:
            return {
                "device": "cuda:0",
                "gpu": "NVIDIA H200",
                "memory_bytes": 139 * 2**30,
                "cuda": "13.0",
                "driver": "13.0",
            }

    monkeypatch.setattr("gpucnn.doctor.get_backend", lambda device: Works() if device == "cuda" else real(device))
    assert examine()["cuda"]["works"] is True
    assert "NVIDIA H200, 139 GiB, CUDA 13.0, driver 13.0: works" in gpucnn("doctor").out
    assert "kernels" not in gpucnn("doctor").out
    assert not warmed
    assert "compiled, or loaded from disk, in 0.0 s" in gpucnn("doctor", "--warmup").out
    assert len(warmed) == 1
    assert examine(warmup=True)["cuda"]["warmup_seconds"] >= 0


def test_here_it_reports_what_the_switch_reports() -> None:
    try:
        get_backend("cuda")
        works = True
    except DeviceError:
        works = False
    assert examine()["cuda"]["works"] is works


@pytest.mark.parametrize("package", EXTRAS)
def test_missing_extra_comes_with_the_command_that_adds_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, extra, _ = EXTRAS[package]
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find_spec(name))
    assert f"pip install 'gpucnn[{extra}]'" in examine()["missing"][package]
    assert f"pip install 'gpucnn[{extra}]'" in gpucnn("doctor").out


def test_everything_else_is_not_called_missing() -> None:
    missing = examine()["missing"]
    assert all(importlib.util.find_spec(EXTRAS[package][0]) is None for package in missing)
