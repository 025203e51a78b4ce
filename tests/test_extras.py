"""Hints that can be followed where they appear."""

from __future__ import annotations

import re
import tomllib

import pytest
from runs import ROOT

from gpucnn.errors import how_to_add

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_pip_where_there_is_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPUCNN_IMAGE", raising=False)
    assert how_to_add("plots") == "pip install 'gpucnn[plots]'"


@pytest.mark.parametrize("extra", ["plots", "cuda13", "tensorboard"])
def test_in_the_container_the_image_is_built_with_it(monkeypatch: pytest.MonkeyPatch, extra: str) -> None:
    monkeypatch.setenv("GPUCNN_IMAGE", "1")
    argument = re.search(r"--build-arg (\w+)=(\w+)", how_to_add(extra))
    assert argument is not None
    text = (ROOT / "docker" / "Dockerfile").read_text()
    assert f"ARG {argument[1]}=" in text, "the image takes what the hint says"
    assert "GPUCNN_IMAGE=1" in text


def test_every_extra_that_is_named_exists() -> None:
    for path in (ROOT / "gpucnn").rglob("*.py"):
        for extra in re.findall(r"how_to_add\(['\"](\w+)", path.read_text()):
            assert extra in EXTRAS, path
