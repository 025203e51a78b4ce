"""Help, versions, and how fast and how little is loaded for them."""

from __future__ import annotations

import pytest
from runs import assert_refused, gpucnn, python

import gpucnn as package
from gpucnn.cli import COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_sentence(command: str) -> None:
    import importlib

    import click

    result = gpucnn(command, "--help")
    assert result.code == 0
    options = importlib.import_module(f"gpucnn.cli.{command}").command.params
    for option in options:
        if isinstance(option, click.Option):
            assert option.help
            assert option.help.strip().endswith((".", "]")), option.name
            assert option.opts[0] in result.out


def test_help_and_version() -> None:
    result = gpucnn("--help")
    assert result.code == 0
    assert all(f"  {name} " in result.out for name in COMMANDS)
    assert "Exit codes: 0 done; 1 failure; 2 wrong usage" in result.out
    assert gpucnn("--version").out == f"gpucnn, version {package.__version__}\n"


def test_unknown_command() -> None:
    assert_refused(gpucnn("trian"), 2, "Did you mean 'train'?", "gpucnn --help")
    assert_refused(gpucnn("xyzzy"), 2, "No such command 'xyzzy'")


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import gpucnn", ["cupy", "matplotlib", "tqdm", "safetensors", "PIL", "numpy", "torch"]),
        ("import gpucnn.cli", ["numpy", "cupy", "tqdm", "safetensors"]),
        (
            "import gpucnn.training, gpucnn.data, gpucnn.models; gpucnn.tensor([1.0])",
            ["cupy", "matplotlib", "tqdm", "PIL", "safetensors"],
        ),
    ],
)
def test_nothing_is_loaded_before_it_is_needed(code: str, unwanted: list[str]) -> None:
    result = python("-c", f"{code}\nimport sys\nprint([name for name in {unwanted} if name in sys.modules])")
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


def test_help_loads_no_numpy() -> None:
    result = python("-X", "importtime", "-m", "gpucnn", "--help")
    assert result.returncode == 0
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & {"numpy", "cupy", "safetensors", "tqdm"}


def test_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    import pty_screen

    assert "\x1b[" in pty_screen.run("-m", "gpucnn", "trian")
    assert "\x1b" not in pty_screen.run("-m", "gpucnn", "trian", NO_COLOR="1")
    assert "\x1b" not in gpucnn("trian").err
