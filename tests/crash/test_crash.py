"""A run that is killed, or whose disk fails, goes on to the same end: a sample of what ``scripts/long_checks`` does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from runs import environment

SAMPLE = ("exact=12", "random=9", "no-space=9")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="needs Linux and gcc")
def test_runs_that_are_disturbed_end_as_if_they_were_not() -> None:
    command = [sys.executable, "-m", "crash.campaign", *SAMPLE]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1800, check=False)
    report = json.loads(done.stdout or "{}")
    assert report, done.stderr
    for kind, about in report["kinds"].items():
        assert about["problems"] == [], kind
        assert about["cases"] == int(dict(argument.split("=") for argument in SAMPLE)[kind])
        assert about["counts"]["the same to the last bit"] == about["cases"]
    assert done.returncode == 0
    disturbed = report["kinds"]["exact"]["counts"]
    assert disturbed["first ended with -9"] == 12, "the shim killed nobody"


def test_a_disturbed_run_that_ends_otherwise_is_found(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The comparison itself: other weights, other metrics, a file too many, a file too few."""
    from runs import trainer

    from crash.campaign import outcome

    folder = tmp_path_factory.mktemp("run") / "run"
    trainer(folder, epochs=1).train()
    expected = outcome(folder)
    assert expected == outcome(folder)
    (folder / "environment-1.json").write_text("{}")
    assert expected == outcome(folder), "an earlier start leaves its environment"
    stray = folder / ".config.toml.1.tmp"
    stray.write_text("")
    assert expected["files"] != outcome(folder)["files"]
    stray.unlink()
    metrics = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(metrics.replace('"epoch": 1', '"epoch": 2'))
    assert expected["metrics"] != outcome(folder)["metrics"]
    weights = folder / "checkpoints" / "last" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert expected["last model"] != outcome(folder)["last model"]
