"""The command line: ``gpucnn COMMAND``. Commands are imported on demand; errors become one or two lines."""

from __future__ import annotations

import difflib
import importlib
import sys
import warnings
from typing import Any

import click

from gpucnn.cli.terminal import open_standard_streams, say, say_error
from gpucnn.errors import GpucnnError, did_you_mean
from gpucnn.version import __version__

GROUPS = {
    "Before training": {
        "data": "List, show, download and convert data sets.",
        "models": "List the networks known by name, with their options.",
        "summary": "Show the shape, cost and receptive field of each layer of a network.",
    },
    "Train and use": {
        "train": "Train a network and keep the run in a folder.",
        "evaluate": "Evaluate a trained network on a data set.",
        "predict": "Classify image files.",
    },
    "Look at what came out": {
        "visualize": "Draw the report of a run, or explain the prediction for one image.",
        "playground": "Write a page that runs the network in the browser.",
        "runs": "List run folders with their best figures.",
        "compare": "Compare runs: settings that differ, figures, curves.",
    },
    "Hand on and measure": {
        "export": "Write a trained network to an ONNX file.",
        "profile": "Time each layer of a network, forward and backward.",
        "bench": "Measure speed and memory.",
        "doctor": "Report what this machine has and what is missing.",
    },
}
"""The commands in the order of use."""
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}


class Group(click.Group):
    """A group of commands that suggests the nearest name for an unknown one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            hint = did_you_mean(repr(args[0]), map(repr, known)).capitalize()
            raise click.UsageError(f"No such command {args[0]!r}. {hint}".rstrip(), ctx)
        return super().resolve_command(ctx, args)


class Commands(Group):
    """A group whose commands are imported only when needed, so that --help answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"gpucnn.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, COMMANDS))
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), text) for name, text in group.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gpucnn")
def cli() -> None:
    """Train, evaluate and inspect convolutional networks on NumPy or CuPy.

    Start with `gpucnn train`, which trains LeNet on the built-in digits in half a minute on two cores.

    \b
    Exit codes: 0 done; 1 failure; 2 wrong usage; 3 target accuracy missed or training diverged;
    4 device unavailable or out of memory; 130 interrupted; 143 terminated;
    129 the terminal closed.
    """


def main() -> None:
    """Run the command line and exit with its code; a user's mistake never shows a traceback."""
    open_standard_streams()
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # its other arguments are not used
    try:
        code = cli.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        say("Interrupted. Files saved so far are kept.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and error.possibilities:
            nearest = difflib.get_close_matches(error.option_name, error.possibilities, 1)
            error = click.NoSuchOption(error.option_name, None, nearest, error.ctx)
        if type(error).__name__ == "NoArgsIsHelpError":  # of click 8.2 and later
            error.show()
            sys.exit(error.exit_code)
        context = getattr(error, "ctx", None)
        see = f" See: {context.command_path} --help" if context is not None else ""
        fail(error.format_message() + see, error.exit_code)
    except GpucnnError as error:
        if error.exit_code >= 128:  # stopped by a signal: not an error
            say(str(error), err=True)
            sys.exit(error.exit_code)
        fail(str(error), error.exit_code)
    except MemoryError:
        fail("Out of memory. Try a smaller --batch-size or --limit.", 4)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}." if error.filename else str(error), 1)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    if not issubclass(category, RuntimeWarning):  # NumPy's overflow warnings: the loss shows them
        say(f"Note: {message}", err=True)


def fail(message: str, code: int) -> None:
    """Print an error and exit."""
    say_error(message)
    sys.exit(code)
