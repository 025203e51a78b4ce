"""Without ``fcntl`` and symbolic links, as on Windows; and no text file depends on the locale."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import environment, python

import gpucnn
from gpucnn import checkpoint, disk
from gpucnn.checkpoint import Checkpoint

TRAINED = """
import os, sys
sys.modules["fcntl"] = None
def refuse(*arguments, **options):
    raise OSError(22, "a required privilege is not held by the client")
os.symlink = refuse
import gpucnn.cli
from gpucnn import Classifier
from gpucnn.errors import RunFolderError
from gpucnn.training import RunFolder
from runs import resumed, trainer
from pathlib import Path
path = Path(sys.argv[1])
trainer(path, epochs=1).train()
resumed(path, epochs=2).train()
folder = RunFolder.open(path)
folder.claim()
try:
    RunFolder.open(path).claim()
except RunFolderError as error:
    print(error)
folder.release()
print(sorted(os.listdir(path / "checkpoints")), (path / "checkpoints" / "last").read_text())
"""


def test_without_fcntl_and_links(tmp_path: Path) -> None:
    result = python("-W", "error", "-c", TRAINED, tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert "another process is training" in result.stdout
    assert "'last', 'step-000020'" in result.stdout
    assert not list((tmp_path / "run").rglob(".*"))


@pytest.mark.posix
def test_links_of_either_kind_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", refuse)
        checkpoint.save(tmp_path, 1, Checkpoint({"w": np.zeros(1)}, {}, {}), best=True)
        checkpoint.save(tmp_path, 2, Checkpoint({"w": np.zeros(1)}, {}, {}))
    assert (tmp_path / "best").read_text() == "step-000001\n"
    assert checkpoint.find(tmp_path, "best") == tmp_path / "step-000001"
    checkpoint.save(tmp_path, 3, Checkpoint({"w": np.zeros(1)}, {}, {}), best=True)  # links again
    assert sorted(os.listdir(tmp_path)) == ["best", "last", "step-000003"]
    assert (tmp_path / "last").is_symlink()


@pytest.mark.parametrize("text", ["../evil", "/etc", "", ".", "a\\b", "C:x", "x" * 1000, "\0", "missing"])
def test_text_links_lead_to_neighbours_only(tmp_path: Path, text: str) -> None:
    (tmp_path / "evil").mkdir()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "last").write_text(text)
    assert disk.pointed_at(folder / "last") is None


def test_every_text_file_has_an_encoding() -> None:
    missing = []
    for path in Path(gpucnn.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            if called in ("read_text", "write_text") and "encoding" not in {k.arg for k in node.keywords}:  # type: ignore[attr-defined]
                missing.append(f"{path.name}:{node.lineno}")  # type: ignore[attr-defined]
    assert missing == []


def test_an_umlaut_in_the_path_without_a_locale(tmp_path: Path) -> None:
    path = tmp_path / "Übung"
    code = "import sys; from pathlib import Path; from runs import resumed, trainer\n"
    code += "trainer(Path(sys.argv[1]), epochs=1).train(); resumed(Path(sys.argv[1]), epochs=2).train()"
    result = python("-c", code, path, env=environment(LC_ALL="C"))
    assert result.returncode == 0, result.stderr
    assert (path / "checkpoints" / "step-000020").is_dir()
