"""``gpucnn train`` as a user types it: what it prints, where it writes, what it ends with."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import assert_refused, checkpoint_of, environment, gpucnn, numbers, weights, write_npz

from gpucnn.training import read_toml

EPOCH_KEYS = [
    "epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy", "seconds",
    "images_per_second",
    "lr",
]  # fmt: skip
TEST_KEYS = ["epoch", "step", "checkpoint", "test_loss", "test_accuracy"]


def train(data: Path, *options: object) -> tuple[object, ...]:
    return ("train", "--data", data, "--device", "cpu", "--epochs", 2, *options)


def test_plain_lines(data: Path) -> None:
    result = gpucnn(*train(data))
    lines = result.out.splitlines()
    assert (result.code, result.err) == (0, "")
    assert lines[0] == f"Reading {data} ..."
    assert lines[1] == "Training lenet on small: 512 images, 128 for validation, 200 for testing; device cpu"
    assert lines[2] == lines[-2] == "Run folder: runs/lenet-small-1"
    assert lines[-1] == "Report: runs/lenet-small-1/report.html"
    assert lines[3].split() == ["----", "train", "-----", "-----", "val", "------"]
    assert lines[4] == "epoch      loss     acc      loss     acc  seconds   images/s"
    assert [line.split()[0] for line in lines[5:7]] == ["1", "2"]
    tested = numbers(Path("runs/lenet-small-1"))[-1]
    loss, accuracy, epoch = tested["test_loss"], tested["test_accuracy"], tested["epoch"]
    assert lines[7] == f"Test accuracy {accuracy:.4f}, loss {loss:.4f}: best checkpoint, epoch {epoch}."
    assert len(lines) == 10
    assert len({len(line) for line in lines[4:7]}) == 1, "the columns stand below one another"
    assert len(lines[4]) < 80


def test_the_test_set_is_measured_each_epoch_where_asked_for(data: Path) -> None:
    result = gpucnn(*train(data, "--test-each-epoch", "--json"))
    assert result.code == 0, result.err
    first, second, tested = map(json.loads, result.out.splitlines())
    assert first["test_accuracy"] is not None
    best = first if first["val_accuracy"] >= second["val_accuracy"] else second
    assert {key: tested[key] for key in ("epoch", "test_loss", "test_accuracy")} == {
        key: best[key] for key in ("epoch", "test_loss", "test_accuracy")
    }
    assert "test_each_epoch = true" in Path("runs/lenet-small-1/config.toml").read_text()
    table = gpucnn("train", "--config", "runs/lenet-small-1/config.toml")
    assert "test" in table.out.splitlines()[3].split()


def test_json_lines_and_nothing_else(data: Path) -> None:
    result = gpucnn(*train(data, "--json", "--validation", 0))

    def no_constants(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    objects = [json.loads(line, parse_constant=no_constants) for line in result.out.splitlines()]
    assert [list(values) for values in objects] == [EPOCH_KEYS] * 2 + [TEST_KEYS]
    assert objects[1]["val_loss"] is objects[1]["test_loss"] is objects[1]["test_accuracy"] is None
    assert (objects[2]["checkpoint"], objects[2]["epoch"]) == ("last", 2)
    assert objects[2]["test_accuracy"] == json.loads(gpucnn("evaluate", "runs/lenet-small-1", "--json").out)["accuracy"]
    for values, noted in zip(objects, numbers(Path("runs/lenet-small-1")), strict=True):
        assert noted.items() <= values.items()
    assert "Run folder: runs/lenet-small-1" in result.err


@pytest.mark.bits
def test_config_of_a_run_repeats_it(data: Path) -> None:
    assert gpucnn(*train(data, "--seed", 7, "--lr", 0.003, "--model", "lenet:pooling=avg")).code == 0
    result = gpucnn("train", "--config", "runs/lenet-small-1/config.toml")
    assert result.code == 0
    assert "Run folder: runs/lenet-small-2" in result.out
    assert weights(Path("runs/lenet-small-1")) == weights(Path("runs/lenet-small-2"))
    assert numbers(Path("runs/lenet-small-1")) == numbers(Path("runs/lenet-small-2"))
    changed = gpucnn("train", "--config", "runs/lenet-small-1/config.toml", "--seed", 8, "--out", "c", "--json")
    assert (changed.code, len(changed.out.splitlines())) == (0, 3)
    assert "seed = 8" in Path("c/config.toml").read_text()


@pytest.mark.bits
def test_resume_from_another_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpucnn(*train("small.npz", "--out", "my run")).code == 0  # type: ignore[arg-type]
    (data.parent / "elsewhere").mkdir()
    monkeypatch.chdir(data.parent / "elsewhere")
    result = gpucnn("train", "--resume", "../my run", "--epochs", 3, "--json")
    assert (result.code, [json.loads(line)["epoch"] for line in result.out.splitlines()][:-1]) == (0, [3])
    result = gpucnn("train", "--resume", "../my run", "--json")  # done: only what is missing of its report is made
    assert (result.code, [json.loads(line)["epoch"] for line in result.out.splitlines()][:-1]) == (0, [3])
    assert "all 3 epochs are done; for more" in result.err
    assert_refused(
        gpucnn("train", "--resume", "../my run", "--epochs", 2), 2, "at least the 3 that are done", "--epochs"
    )


def test_environment_yields_to_the_file_with_a_note(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUCNN_DEVICE", "cpu")
    result = gpucnn("train", "--data", data, "--epochs", 1, "--out", "a")  # the environment counts: no note on `auto`
    assert (result.code, result.err) == (0, "")
    monkeypatch.setenv("GPUCNN_DEVICE", "cuda")
    result = gpucnn("train", "--config", "a/config.toml", "--out", "b", "--json")
    assert result.code == 0
    assert "Note: a/config.toml sets device cpu; GPUCNN_DEVICE=cuda is not used." in result.err
    assert len(result.out.splitlines()) == 2
    result = gpucnn("train", "--resume", "a", "--epochs", 2)
    assert result.code == 0
    assert "GPUCNN_DEVICE=cuda is not used" in result.err
    Path("c.toml").write_text(f"data = '{data}'\nepochs = 1\n")
    assert "note" not in gpucnn("train", "--config", "c.toml", "--device", "cpu").err.lower(), (
        "the option wins over both"
    )
    monkeypatch.setenv("GPUCNN_DEVICE", "quantum")
    assert_refused(gpucnn("train", "--config", "c.toml"), 2, "device", "'quantum'")


def test_existing_run_is_refused_without_resume_or_overwrite(data: Path) -> None:
    assert gpucnn(*train(data, "--out", "a")).code == 0
    before = weights(Path("a"))
    assert_refused(
        gpucnn(*train(data, "--out", "a", "--seed", 3)), 2, "already holds a run", "--resume a", "--overwrite"
    )
    assert weights(Path("a")) == before
    assert gpucnn(*train(data, "--out", "a", "--seed", 3, "--overwrite")).code == 0
    assert weights(Path("a")) != before


def test_overwriting_waits_until_the_data_is_read(data: Path) -> None:
    assert gpucnn(*train(data, "--out", "a")).code == 0
    before = weights(Path("a"))
    for options in (("--data", "nowhere"), ("--data", data, "--model", "lenet:classes=4")):
        assert gpucnn("train", "--device", "cpu", "--out", "a", "--overwrite", *options).code in (1, 2)
    assert weights(Path("a")) == before


@pytest.mark.parametrize(("target", "code"), [(0, 0), (1, 3)])
def test_target_accuracy(data: Path, target: float, code: int) -> None:
    result = gpucnn(*train(data, "--target-accuracy", target))
    assert result.code == code
    assert ("Target missed: validation accuracy" in result.err) is (code == 3)
    assert len(result.err.splitlines()) == (code == 3)


def test_diverged(data: Path) -> None:
    result = gpucnn(*train(data, "--lr", 1e30, "--json"))
    assert_refused(result, 3, "diverged", "--lr")
    assert result.out == ""


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--model", "lenett"], 2, ["Did you mean lenet?"]),
        (["--model", "lenet:pool=avg"], 2, ["'pool=avg'", "Did you mean pooling?"]),
        (["--model", "lenet:pooling=median"], 2, ["max or avg", "'median'"]),
        (["--model", "lenet:classes=0"], 2, ["positive int"]),
        (["--device", "gpu"], 2, ["cpu, cuda, cuda:N or auto", "'gpu'"]),
        (["--device", "cuda:77"], 4, []),
        (["--precision", "tf32"], 2, ["precision tf32", "expected a CUDA device", "got cpu", "--device cuda"]),
        (["--precision", "float8"], 2, ["precision", "float8", "tf32"]),
        (["--epochs", "0"], 2, ["--epochs", "train --help"]),
        (["--epochs", "many"], 2, ["--epochs"]),
        (["--lr", "nan"], 2, ["lr"]),
        (["--momentum", "1"], 2, ["momentum"]),
        (["--seed", str(2**63)], 2, ["seed"]),
        (["--optimiser", "adam"], 2, ["Did you mean '--optimizer'"]),
        (["--optimizer", "rmspro"], 2, ["sgd or adam", "Did you mean rmsprop?"]),
        (["--optimizer", "rmsprop:beta=1"], 2, ["optimizer rmsprop", "alpha"]),
        (["--schedule", "cosine:warm=1"], 2, ["schedule cosine", "Did you mean warmup?"]),
        (["--validation", "640"], 1, ["fewer than the 640 training images", "--validation"]),
        (["--validation", "0", "--target-accuracy", "0.5"], 2, ["target_accuracy"]),
        (["--data", "nowhere.npz"], 1, ["nowhere.npz: no such file"]),
        (["--data", "a" * 5000], 1, ["Check the path"]),
        (["--config", "nowhere.toml"], 2, ["nowhere.toml: no such file"]),
        (["--recipe", "fsat"], 2, ["recipe: name", "Did you mean fast?"]),
        (["--recipe", "fast", "--config", "c.toml"], 2, ["leave one out"]),
        (["--resume", "nowhere"], 2, ["nowhere", "config.toml"]),
        (["--resume", "nowhere", "--out", "a"], 2, ["leave out --out"]),
        (["--overwrite"], 2, ["--out"]),
        (["--out", "small.npz"], 2, ["small.npz", "a new or empty folder"]),
        (["--out", "small.npz/run"], 1, ["Not a directory", "--out"]),
        (["--out", "a" * 5000], 1, ["File name too long", "--out"]),
    ],
)
def test_mistakes(data: Path, options: list[str], code: int, words: list[str]) -> None:
    assert_refused(gpucnn("train", "--device", "cpu", "--data", data, "--epochs", 1, *options), code, *words)
    assert [p.name for p in data.parent.iterdir()] == ["small.npz"], "something was left behind"


def test_no_gpu(data: Path) -> None:
    from gpucnn.backend import get_backend
    from gpucnn.errors import DeviceError

    try:
        get_backend("cuda")
    except DeviceError:
        result = gpucnn("train", "--data", data, "--device", "cuda")
        assert_refused(result, 4)
        assert "gpucnn doctor" in result.err or "pip install" in result.err
        result = gpucnn("train", "--data", data, "--device", "auto", "--epochs", 1)
        assert result.code == 0
        assert 'device = "cpu"' in Path("runs/lenet-small-1/config.toml").read_text(), "the device as resolved"
    else:
        pytest.skip("here is a GPU")


def test_out_of_memory(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("gpucnn.training.loop.train_step", refuse)
    assert_refused(gpucnn(*train(data)), 4, "Out of memory", "--batch-size")


def test_disk_that_refuses(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    assert_refused(gpucnn(*train(data, "--out", "a")), 1, "No space left on device")
    assert not Path("a").exists()


def test_damaged_checkpoint(data: Path) -> None:
    assert gpucnn(*train(data, "--out", "a")).code == 0
    path = checkpoint_of(Path("a")) / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert_refused(gpucnn("train", "--resume", "a", "--epochs", 3), 1, "optimizer.safetensors is damaged", "SHA-256")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_save_and_say_where(data: Path, number: int, code: int) -> None:
    command = [sys.executable, "-m", "gpucnn", *map(str, train(data, "--epochs", 100_000, "--json", "--out", "a b"))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert [json.loads(line)["epoch"] for line in out.splitlines()] == list(range(2, len(out.splitlines()) + 2))
    assert "Continue with: gpucnn train --resume 'a b'" in err
    assert "Error" not in err
    assert "Traceback" not in err
    saved = json.loads((checkpoint_of(Path("a b")) / "state.json").read_text())
    assert f"Stopped at step {saved['step']} " in err


def test_second_ctrl_c_is_no_error_either(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpucnn.training import loop

    real = loop.train_step

    def interrupted(*arguments: object) -> object:
        signal.raise_signal(signal.SIGINT)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "train_step", interrupted)
    result = gpucnn(*train(data, "--out", "a"))
    assert result.code == 130  # the first, at the end of the step
    assert "Stopped at step 1 " in result.err
    monkeypatch.setattr(loop, "train_step", lambda *a: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
    result = gpucnn("train", "--resume", "a")
    assert result.code == 130
    assert result.err.split() == ["Interrupted.", "Files", "saved", "so", "far", "are", "kept."]


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_reader_of_the_output_leaves(data: Path, as_json: bool, both: bool) -> None:
    """As with ``| head -1``, or ``2>&1 | head -1``: training goes on to its end, quietly."""
    options = ["--json"] if as_json else []
    command = [sys.executable, "-m", "gpucnn", *map(str, train(data, "--epochs", 8, "--out", "r", *options))]
    error = subprocess.STDOUT if both else subprocess.PIPE
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=error, text=True, env=environment()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read() if process.stderr is not None else ""
    assert process.returncode == 0
    assert "rror" not in err
    assert [values["epoch"] for values in numbers(Path("r")) if "train_loss" in values] == list(range(1, 9))
    assert "Finished after 8 epochs" in Path("r/report.html").read_text()


def test_a_terminal_that_closes(data: Path) -> None:
    """The bar and every message meet a terminal that is gone; what was trained is saved."""
    fcntl, pty, termios = map(pytest.importorskip, ("fcntl", "pty", "termios"))

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "gpucnn", *map(str, train(data, "--epochs", 100_000, "--out", "r"))]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(), start_new_session=True,
        preexec_fn=take_terminal,
    )  # fmt: skip
    try:
        os.close(theirs)
        said = b""
        while b"    2  " not in said:
            said += os.read(ours, 10_000)
        os.close(ours)
        assert process.wait(60) == 129
    finally:
        process.kill()
        process.wait()
    assert json.loads((checkpoint_of(Path("r")) / "state.json").read_text())["step"] > 0


def test_under_nohup_a_closing_terminal_changes_nothing(data: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = [sys.executable, "-m", "gpucnn", *map(str, train(data, "--epochs", 3, "--json"))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=ignore
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, len(out.splitlines())) == (0, 3)


def test_no_output_at_all(data: Path) -> None:
    command = f"{sys.executable} -m gpucnn train --data {data} --device cpu --epochs 1 --out r >&- 2>&-"
    assert subprocess.run(command, shell=True, env=environment(), check=False).returncode == 0
    assert Path("r/report.html").exists()


@pytest.mark.parametrize("labels", [np.full(640, -1), np.zeros(640) + 0.5])
def test_bad_labels(data: Path, labels: np.ndarray) -> None:
    path = write_npz(data.parent / "bad.npz", y_train=labels)
    assert_refused(gpucnn(*train(path)), 1, "bad.npz: labels: expected")


def test_a_recipe_gives_the_settings_and_options_win(data: Path) -> None:
    result = gpucnn("train", "--recipe", "fast", "--data", data, "--device", "cpu", "--epochs", 1, "--out", "r")
    assert result.code == 0, result.err
    settings = read_toml(Path("r/config.toml"))
    assert (settings["epochs"], settings["batch_size"], settings["validation"]) == (1, 128, 0)
    assert settings["data"] == str(data)


@pytest.mark.slow
def test_the_fast_recipe_reads_mnist(mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scores = []
    for seed in range(5):
        result = gpucnn("train", "--recipe", "fast", "--data", mnist, "--seed", seed, "--out", f"r{seed}", "--json")
        scores.append(json.loads(result.out.splitlines()[-1])["test_accuracy"])
    assert np.mean(scores) >= 0.99
