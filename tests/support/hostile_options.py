"""Every option and argument of a command with hostile values: ``python hostile_options.py COMMAND``, in a folder of its own.

Prints one line for each call that ended otherwise than with an exit code of the documentation and an error of a line or
two. Memory is bounded, so that a value that asks for all of it fails as on a small machine.
"""

from __future__ import annotations

import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from runs import gpucnn, write_npz

from gpucnn.cli import cli

MEMORY, SECONDS = 6 << 30, 15
VALUES = [
    "9999999999", "-1", "0", "nan", "1e400", "", " ", "\U0001f4a9", "..", "/dev/null", "/dev/zero", "/", "\x1b[31mred",
    "a" * 5000, "9" * 5000, "1,2,3", "=", "x:y=z", "99999x99999", "18446744073709551616", "[", "lenet:hidden=9999999999",
]  # fmt: skip
MODELS = [
    "lenet:dense=9999999999", "vgg:width=100000", "resnet:blocks=100000", "resnet18:width=1000000", "lenet:stride1=0",
    "lenet:kernel1=1000", "lenet:pool_size1=-1", "densenet121:growth_rate=999999", "mobilenet_v2:width_mult=1e300",
    "lenet:activation=\x1b[31m", "lenet:padding=99999999",
    "Conv2d:in_channels=1,out_channels=999999999,kernel_size=3",
]  # fmt: skip
USUAL: dict[str, list[str]] = {
    "train": ["--data", "small.npz", "--epochs", "1", "--device", "cpu", "--out", "out", "--overwrite"],
    "evaluate": ["run", "--data", "small.npz"],
    "predict": ["run", "digit.png"],
    "export": ["run", "net.onnx"],
    "visualize": ["run"],
    "playground": ["run"],
    "summary": ["lenet"],
    "profile": ["lenet", "--repeats", "1", "--batch-size", "1", "--device", "cpu"],
    "runs": ["."],
    "compare": ["run", "run"],
    "bench": ["lenet", "--seconds", "0.001", "--rounds", "1", "--batch-size", "1", "--device", "cpu"],
    "data show": ["small.npz"],
    "data convert": ["small.npz", "converted.npz"],
    "data sample": ["small.npz", "sample.png"],
}


def command_of(name: str) -> click.Command:
    group, _, sub = name.partition(" ")
    command = cli.get_command(click.Context(cli), group)
    if sub and isinstance(command, click.Group):
        command = command.get_command(click.Context(command), sub)
    assert command is not None
    return command


def calls(name: str) -> Iterator[list[str]]:
    """Yield the command's arguments, one of them hostile."""
    usual = USUAL[name]
    for parameter in command_of(name).params:
        values = VALUES + (MODELS if parameter.name == "model" or name in ("summary", "profile", "bench") else [])
        if isinstance(parameter, click.Option) and not parameter.is_flag:
            yield from ([*usual, parameter.opts[0], value] for value in values)
        elif isinstance(parameter, click.Argument):
            yield from ([value, *usual[1:]] for value in values)


def wrong(arguments: list[str]) -> str:
    """Return what is wrong with how a call ends, or nothing."""
    signal.alarm(SECONDS)
    try:
        result = gpucnn(*arguments)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    said = [line for line in result.err.splitlines() if not line.startswith(("Note:", "Reading ", "Run folder: "))]
    if result.code not in (0, 1, 2, 3, 4):
        return f"exit code {result.code}"
    if "Traceback" in result.err or "\x1b[31m" in result.err + result.out:
        return "a traceback, or a sequence that controls the terminal"
    if result.code in (1, 2) and not (1 <= len(said) <= 3 and max(map(len, said)) < 1000):
        return f"{len(said)} lines of up to {max(map(len, said), default=0)} characters"
    return ""


class SlowError(BaseException):
    """Not caught by ``except Exception``."""


def too_slow(*_: Any) -> None:
    raise SlowError


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    write_npz(Path("small.npz"), 120, 40)
    assert gpucnn("data", "sample", "small.npz", "digit.png").code == 0
    assert gpucnn("train", "--data", "small.npz", "--epochs", 1, "--device", "cpu", "--out", "run").code == 0
    group, _, sub = sys.argv[1].partition(" ")
    count = 0
    for arguments in calls(sys.argv[1]):
        count += 1
        if why := wrong([group, *filter(None, [sub]), *arguments]):
            print(f"{why}: {[one[:60] for one in arguments]}")
        shutil.rmtree("out", ignore_errors=True)
    print(count, "calls")
