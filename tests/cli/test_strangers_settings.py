"""Settings of strangers and of the environment run no code and end in one clear line, whatever they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import assert_refused, environment, gpucnn, python

from gpucnn.errors import ParameterError, UsageError
from gpucnn.training import RunFolder, SavedModel, Settings, read_toml

NET = """
from pathlib import Path
from gpucnn import nn
Path(__file__).with_suffix(".ran").touch()
class Own(nn.Module):
    def __init__(self, classes, in_channels, image_size):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size * image_size, classes))
    def forward(self, x):
        return self.net(x)
"""
HUGE = "1" + "0" * 400


@pytest.fixture
def config(data: Path) -> Path:
    Path("net.py").write_text(NET)
    Path("c.toml").write_text(f"model = 'net.py:Own'\ndata = '{data}'\nepochs = 1\ndevice = 'cpu'\n")
    return Path("c.toml")


def ran() -> bool:
    found = Path("net.ran").exists()
    Path("net.ran").unlink(missing_ok=True)
    return found


def test_settings_run_no_file_that_they_name(config: Path) -> None:
    assert_refused(gpucnn("train", "--config", config), 2, "c.toml: the network comes from a Python file", "--trust")
    Path("c.toml").write_text(config.read_text().replace("net.py", str(Path("net.py").resolve())))
    assert_refused(gpucnn("train", "--config", config), 2, "--model", "net.py:Own")
    assert not ran()
    assert not Path("runs").exists()


@pytest.mark.parametrize("options", [["--trust"], ["--model", "net.py:Own"]])
def test_named_or_trusted_it_is_run(config: Path, options: list[str]) -> None:
    result = gpucnn("train", "--config", config, *options, "--out", "r")
    assert result.code == 0, result.err
    assert ran()
    for words in (("evaluate", "r", "--device", "cpu"), ("train", "--resume", "r", "--epochs", 2)):
        assert_refused(gpucnn(*words), 2, "--trust")
        assert not ran()
        result = gpucnn(*words, "--trust")
        assert result.code == 0, result.err
        assert ran()
    with pytest.raises(UsageError, match="Python file"):
        SavedModel.load(RunFolder.open("r"), "cpu")
    assert SavedModel.load(RunFolder.open("r"), "cpu", trust=True).image_shape == (1, 28, 28)


@pytest.mark.parametrize(
    "options",
    [
        ["--model", f"lenet:classes={HUGE}"], ["--model", f"lenet:classes={'9' * 5000}"],
        ["--model", "lenet:classes=4611686018427387904"], ["--optimizer", f"adam:eps={HUGE}"],
        ["--optimizer", f"sgd:dampening=-{HUGE}"], ["--schedule", f"cosine:warmup={HUGE}"],
        ["--schedule", f"multi-step:at=1+{HUGE}"], ["--augment", f"shift={HUGE}"], ["--augment", f"noise={HUGE}"],
        ["--epochs", HUGE], ["--batch-size", HUGE], ["--lr", HUGE], ["--weight-decay", HUGE], ["--limit", HUGE],
        ["--image-size", HUGE], ["--validation", HUGE],
    ],
)  # fmt: skip
def test_numbers_beyond_all_bounds(data: Path, options: list[str]) -> None:
    assert_refused(gpucnn("train", "--data", data, "--device", "cpu", *options), 2)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "text",
    [
        f"epochs = {HUGE}", f"lr = {HUGE}", f"seed = {HUGE}", f"momentum = -{HUGE}", f"lr = {'9' * 5000}",
        "model = " + "[" * 100_000, "model = " + "{a = " * 5000, "a." * 20_000 + "b = 1",
    ],
)  # fmt: skip
def test_toml_beyond_all_bounds(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        Settings(**read_toml(path)).resolved()
    assert len(str(caught.value)) < 1000 + len(str(path))


@pytest.mark.parametrize("key", ["epochs", "batch_size", "seed", "momentum", "model", "data", "optimizer", "schedule"])
def test_none_is_no_setting(key: str) -> None:
    with pytest.raises(UsageError, match=f"settings: {key}: expected"):
        Settings(**{key: None}).resolved()  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["~nosuchuser/mnist", "~nosuchuser"])
def test_an_unknown_home(data: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(gpucnn("train", "--data", source, "--device", "cpu"), 1, "nosuchuser", "no such user")
    monkeypatch.setenv("GPUCNN_DATA", source)
    assert_refused(gpucnn("train", "--data", "mnist", "--device", "cpu"), 1, "nosuchuser", "no such user")


@pytest.mark.parametrize("variable", ["GPUCNN_THREADS", "GPUCNN_BLAS_THREADS", "GPUCNN_WORKSPACE"])
@pytest.mark.parametrize("value", ["9" * 5000, "1" * 10, "0", "two", "²"])
def test_variables_beyond_all_bounds(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpucnn.backend.cpu import threads, workspace

    monkeypatch.setenv(variable, value)
    read = {
        "GPUCNN_THREADS": threads.available_threads,
        "GPUCNN_BLAS_THREADS": threads.blas_threads,
        "GPUCNN_WORKSPACE": workspace.limit_from_environment,
    }[variable]
    with pytest.raises(ParameterError, match=f"{variable}: value: expected a positive whole number") as caught:
        read()
    assert len(str(caught.value)) < 200


def test_a_variable_of_5000_digits_is_no_traceback(data: Path) -> None:
    result = python("-m", "gpucnn", "summary", "lenet", env=environment(GPUCNN_THREADS="9" * 5000))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: GPUCNN_THREADS: value: expected a positive whole number, got '9999")
