"""The package as an index shows it and as its source distribution holds it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from email.parser import BytesParser
from pathlib import Path

import pytest
from runs import ROOT

pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 or newer builds the package")
if not (ROOT / "pyproject.toml").is_file():
    pytest.skip("no pyproject.toml: these tests run in a clone", allow_module_level=True)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tarfile.TarFile:
    """The source distribution, built from a copy without what git would not hold."""
    folder = tmp_path_factory.mktemp("package")
    made = shutil.ignore_patterns("__pycache__", "*.so")
    top = shutil.ignore_patterns(
        ".git", ".venv*", "*.egg-info", "build", "dist", "runs", ".*_cache", ".hypothesis", "site"
    )

    def leave(where: str, entries: list[str]) -> set[str]:
        return made(where, entries) | (top(where, entries) if Path(where) == ROOT else set())

    shutil.copytree(ROOT, folder / "clone", ignore=leave, symlinks=True)
    code = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(folder)], cwd=folder / "clone", capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return tarfile.open(folder / built.stdout.splitlines()[-1])


def names(archive: tarfile.TarFile) -> set[str]:
    return {member.name.partition("/")[2] for member in archive.getmembers() if not member.isdir()}


def test_the_source_distribution_is_whole(archive: tarfile.TarFile) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no clone to compare with")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    there = {name for name in listed if (ROOT / name).is_file() and not (ROOT / name).is_symlink()}
    assert len(there) > 300
    assert there - names(archive) == set()


def test_nothing_that_was_compiled_is_in_it(archive: tarfile.TarFile) -> None:
    assert [name for name in names(archive) if name.endswith((".pyc", ".so", ".pyd"))] == []


def test_the_page_on_an_index(archive: tarfile.TarFile) -> None:
    (info,) = (member for member in archive.getmembers() if re.fullmatch(r"[^/]+/PKG-INFO", member.name))
    file = archive.extractfile(info)
    assert file is not None
    message = BytesParser().parsebytes(file.read())
    assert message["Description-Content-Type"] == "text/markdown"
    page = message.get_payload()
    assert isinstance(page, str)
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    assert [link for link in links if not link.startswith(("http://", "https://"))] == [], (
        "a link that leads nowhere there"
    )
    assert "<!--" not in page
    for part in ("# gpucnn", "Getting started (`docs/start.md`)", "pytest -n auto"):
        assert part in page
    named = [name.partition("#")[0] for name in re.findall(r"\(`([\w.#-]+/[\w./#-]+)`\)", page)]
    assert len(named) > 10
    assert set(named) <= names(archive) | {name for name in named if os.path.isdir(ROOT / name)}
    assert len(message.get_all("Classifier")) > 10


def test_classifiers_exist() -> None:
    trove = pytest.importorskip("trove_classifiers", reason="trove-classifiers is not installed")
    import tomllib

    project = tomllib.loads(Path(ROOT, "pyproject.toml").read_text())["project"]
    assert set(project["classifiers"]) <= trove.classifiers
