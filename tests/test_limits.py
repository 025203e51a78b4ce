"""The switch that lifts the bounds on strangers' files: in Python and on the command line."""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor

import click
import pytest
from click.testing import CliRunner

from gpucnn import limits
from gpucnn.cli.options import no_limits_option
from gpucnn.errors import CheckpointError, DataError


def test_at_the_bound_and_beyond() -> None:
    limits.check("file", "bytes", 5, 5)
    with pytest.raises(
        DataError, match=r"^file: expected at most 5 bytes, got 6\. If you trust the file, .*--no-limits"
    ):
        limits.check("file", "bytes", 6, 5)
    with pytest.raises(CheckpointError):
        limits.check("file", "bytes", 6, 5, CheckpointError)


def test_lifted_within_the_block_only() -> None:
    with limits.applied(False):
        limits.check("file", "bytes", 6, 5)
        with limits.applied(True):  # what is called with its default does not put them back
            assert not limits.on()
    assert limits.on()
    with pytest.raises(KeyError), limits.applied(False):
        raise KeyError
    assert limits.on()


def test_of_one_context_only() -> None:
    with ThreadPoolExecutor(1) as pool, limits.applied(False):
        assert pool.submit(limits.on).result()
        assert not pool.submit(contextvars.copy_context().run, limits.on).result()


def test_the_option_lifts_them_while_the_command_runs() -> None:
    @click.command()
    @no_limits_option
    def command() -> None:
        click.echo(limits.on())

    runner = CliRunner()
    assert runner.invoke(command).output == "True\n"
    assert runner.invoke(command, ["--no-limits"]).output == "False\n"
    assert limits.on()
