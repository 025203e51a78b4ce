"""The run that ``--overwrite`` replaces: set aside, and deleted only when the new one has its first checkpoint.

It lies in ``.replaced`` in the run's folder meanwhile. Its ``config.toml`` moves there last, and back first: as long as it
is not there, all that lies in the folder is the old run's. So a kill at any moment can be mended.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from gpucnn import disk

CONFIG = "config.toml"
OWN = (
    "checkpoints", "tensorboard", "looks", "environment.json", "metrics.jsonl", "summary.txt", "report.html",
    "first-filters.safetensors", "curves.png", "filters.png", "confusion.png", "mistakes.png", CONFIG,
)  # fmt: skip
"""The files and folders of a run; also ``environment-1.json`` and so on."""

ASIDE = ".replaced"


def is_own(name: str) -> bool:
    """Whether a run writes a file or folder of this name."""
    return name in OWN or re.fullmatch(r"environment-\d+\.json", name) is not None


def own_names(folder: Path) -> list[str]:
    """Return the names of what the run in ``folder`` wrote, ``config.toml`` last."""
    return sorted(filter(is_own, os.listdir(folder)), key=lambda name: (name == CONFIG, name))


def delete(folder: Path) -> None:
    """Delete what the run in ``folder`` wrote, and nothing else that a user may have put beside it."""
    for name in reversed(own_names(folder)):
        disk.remove(folder / name)


def set_aside(folder: Path) -> None:
    """Move the run in ``folder`` out of the way of a new one; OSError where that cannot be, with nothing lost."""
    aside = folder / ASIDE
    aside.mkdir(exist_ok=True)
    try:
        for name in own_names(folder):
            os.rename(folder / name, aside / name)
    except OSError:
        put_back(folder)
        raise


def settle(folder: Path) -> None:
    """Finish what a kill interrupted: put the old run back unless the new one had begun."""
    aside = folder / ASIDE
    if aside.is_dir() and not ((folder / CONFIG).exists() and (aside / CONFIG).exists()):
        put_back(folder)


def put_back(folder: Path) -> None:
    """Delete the new run and put back the old one, if one was set aside."""
    aside = folder / ASIDE
    if not aside.is_dir():
        return
    if (aside / CONFIG).exists():
        delete(folder)
    for name in reversed(own_names(aside)):
        disk.remove(folder / name)
        os.rename(aside / name, folder / name)
    disk.remove(aside)


def forget(folder: Path) -> None:
    """Delete the old run: under another name first, lest a part of it is ever put back."""
    aside = folder / ASIDE
    if aside.is_dir():
        doomed = disk.temporary_name(aside)
        os.rename(aside, doomed)
        disk.remove(doomed)
