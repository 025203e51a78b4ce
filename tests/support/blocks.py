"""The code blocks of the README and of the pages in docs/: where they are, what they show, and how one is run."""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from runs import ROOT, drawn, environment, idx

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("python", "sh")
SHOWN = ("text",)

# What stands for `gpucnn` on the path: the command line of this checkout, without the plots extra and with fewer digits.
COMMAND = """#!{python}
import sys

sys.modules["matplotlib"] = None
from gpucnn import data
from gpucnn.cli import main

assert data.DIGITS_TRAIN > data.DIGITS_TEST > 500
data.DIGITS_TRAIN, data.DIGITS_TEST = 2500, 500
main()
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, its lines; why it is not run; the output that the page shows for it."""

    page: str
    line: int
    language: str
    code: str
    not_run: str | None
    output: str | None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page in order; a ``text`` block right after one that runs is what that one prints."""
    lines, found, i = page.read_text().splitlines(), [], 0
    while i < len(lines):
        fence = re.fullmatch(r"(\s*)(`{3,}|~{3,}|:{3,})\s*(\S*).*", lines[i])
        if fence is None:
            i += 1
            continue
        assert not fence[1], f"{page.name}:{i + 1}: an indented block is not found by this test"
        end = next(j for j in range(i + 1, len(lines)) if lines[j] == fence[2])
        comments, above = [], i - 1
        while above >= 0 and (comment := re.fullmatch(r"<!-- (.*) -->", lines[above])):
            comments.append(comment[1])
            above -= 1
        reasons = [text.removeprefix("not run: ") for text in comments if text.startswith("not run: ")]
        code = "".join(f"{line}\n" for line in lines[i + 1 : end])
        block = Block(
            page.relative_to(ROOT).as_posix(), i + 1, fence[3], code, reasons[0] if reasons else None, output=None
        )
        after = i
        i = end + 1
        if block.language == "text" and found and found[-1].language in RUN:
            between = lines[found[-1].line + found[-1].code.count("\n") + 1 : after]
            if not any(between):
                found[-1] = Block(**{**vars(found[-1]), "output": code})
                continue
        found.append(block)
    return found


def prepare(folder: Path) -> dict[str, str]:
    """Lay out what a reader of the pages has, in an empty folder; return the environment of the commands.

    There are: ``gpucnn`` on the path, an image ``drawing.png``, and a small MNIST in ``GPUCNN_DATA``.
    """
    tools, mnist = folder / ".tools", folder / ".data" / "mnist"
    tools.mkdir()
    mnist.mkdir(parents=True)
    command = tools / "gpucnn"
    command.write_text(COMMAND.format(python=sys.executable))
    command.chmod(0o755)
    for name, count, seed in (("train", 600, 0), ("t10k", 200, 1)):
        images, labels = drawn(count, seed)
        (mnist / f"{name}-images-idx3-ubyte").write_bytes(idx(images.reshape(-1, 28, 28)))
        (mnist / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels.astype("u1")))
    images, labels = drawn(200, 1)
    Image.fromarray(images[0].reshape(28, 28)).resize((140, 140)).save(folder / "drawing.png")
    path = f"{tools}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = environment(PATH=path, GPUCNN_DATA=str(mnist.parent))
    return {key: value for key, value in env.items() if key != "GPUCNN_DEVICE"}


def run(block: Block, namespace: dict[str, Any], folder: Path, env: dict[str, str]) -> None:
    """Run a block in ``folder``, the working folder; AssertionError where it fails or prints something else than shown."""
    if block.language == "python":
        printed = io.StringIO()
        above = "\n" * block.line  # so that errors name the page's line
        with contextlib.redirect_stdout(printed):
            exec(compile(above + block.code, block.page, "exec"), namespace)
        said = printed.getvalue()
    else:
        command = ["bash", "-euo", "pipefail", "-c", block.code]
        result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, f"{block.where}: exit code {result.returncode}\n{result.stdout}{result.stderr}"
        assert "Traceback" not in result.stderr, f"{block.where}:\n{result.stderr}"
        said = result.stdout
    if block.output is not None:
        check, flags = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if not check.check_output(block.output, said, flags):
            raise AssertionError(f"{block.where} prints\n{said}\nand the page shows\n{block.output}")
