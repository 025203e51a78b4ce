"""The package as an index shows it, as its source distribution holds it, and built from that with and without a compiler."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest
from runs import ROOT, write_npz

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


def test_package_data_names_every_file_that_is_no_python() -> None:
    import tomllib

    project = tomllib.loads(Path(ROOT, "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = project["package-data"]["gpucnn"] + [
        "backend/native/*.[ch]"
    ]  # the latter is for the source distribution
    package = ROOT / "gpucnn"
    known = {path for pattern in patterns for path in package.glob(pattern)}
    made = {".py", ".so", ".pyc", ".pyd"}
    there = {path for path in package.rglob("*") if path.is_file() and path.suffix not in made}
    assert len(there) > 20
    assert there - known == set()


def test_classifiers_exist() -> None:
    trove = pytest.importorskip("trove_classifiers", reason="trove-classifiers is not installed")
    import tomllib

    project = tomllib.loads(Path(ROOT, "pyproject.toml").read_text())["project"]
    assert set(project["classifiers"]) <= trove.classifiers


# Built from the source distribution.


def built_wheel(archive: tarfile.TarFile, folder: Path, **variables: str) -> Path:
    """Return a folder that holds the contents of a wheel, which lies beside it."""
    archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    code = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(folder)], cwd=source, env={**os.environ, **variables},
        capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    wheel = folder / built.stdout.splitlines()[-1]
    with zipfile.ZipFile(wheel) as contents:
        contents.extractall(folder / "installed")
    return wheel


def said(folder: Path, *command: str) -> str:
    """Return what Python says, run with the package in ``folder`` and without a compiler, or any other program."""
    env = {**os.environ, "PYTHONPATH": str(folder), "PATH": "", "GPUCNN_DEVICE": "cpu", "GPUCNN_NATIVE": ""}
    done = subprocess.run([sys.executable, *command], cwd=folder.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(folder: Path) -> None:
    data = write_npz(folder.parent / "small.npz", 200, 100)
    said(folder, "-m", "gpucnn", "train", "--data", str(data), "--epochs", "1", "--out", "run")


def test_without_a_compiler_it_installs_and_the_doctor_says_what_is_missing(
    archive: tarfile.TarFile, tmp_path: Path
) -> None:
    wheel = built_wheel(archive, tmp_path, CC="/nonexistent")
    folder = tmp_path / "installed"
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "_kernels" in name and name.endswith(".so")]
    assert f"{'compiled':<15}not built: reinstall gpucnn where a C compiler and Python's headers are\n" in said(
        folder, "-m", "gpucnn", "doctor"
    )
    assert str(folder) in said(folder, "-c", "import gpucnn; print(gpucnn.__file__)")
    train(folder)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["kernels"].startswith("not built")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="no C compiler")
def test_a_wheel_serves_every_later_python_and_needs_no_compiler_where_it_runs(
    archive: tarfile.TarFile, tmp_path: Path
) -> None:
    wheel = built_wheel(archive, tmp_path)
    assert re.fullmatch(r"gpucnn-[\w.]+-cp311-abi3-\w+\.whl", wheel.name)
    held = [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("gpucnn/backend/native/")]
    assert sorted(Path(name).suffix for name in held) == [".py", ".so"], (
        "the kernels, and not what they were compiled from"
    )
    folder = tmp_path / "installed"
    found = json.loads(said(folder, "-m", "gpucnn", "doctor", "--json"))
    assert found["compiled"] in ("avx512", "avx2", "sse2", "neon", "generic")
    code = "from gpucnn.backend import native; print(native.library().__file__)"
    assert said(folder, "-c", code).startswith(str(folder))
    train(folder)


def test_wheels_of_a_release_are_for_systems_that_the_kernels_compile_on() -> None:
    import tomllib

    settings = tomllib.loads(Path(ROOT, "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    assert settings["build"] == "cp311-*"
    assert "*-win*" in settings["skip"]
    assert (settings["linux"]["archs"], settings["macos"]["archs"]) == (["x86_64", "aarch64"], ["x86_64", "arm64"])
