"""The run that ``--overwrite`` replaces: set aside, and deleted only when the new one has its first checkpoint.

Meanwhile it is in ``.replaced`` in the run's folder. Its ``config.toml`` moves there last, and back first: while it is not
there, everything in the folder belongs to the old run. So a kill at any moment can be repaired.
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
    """Return the names of the files that the run in ``folder`` wrote, ``config.toml`` last."""
    return sorted(filter(is_own, os.listdir(folder)), key=lambda name: (name == CONFIG, name))


def delete(folder: Path) -> None:
    """Delete what the run in ``folder`` wrote, but nothing that a user may have added."""
    for name in reversed(own_names(folder)):
        disk.remove(folder / name)


def set_aside(folder: Path) -> None:
    """Move the run in ``folder`` out of the way of a new one; OSError, with nothing lost, if that fails."""
    aside = folder / ASIDE
    aside.mkdir(exist_ok=True)
    try:
        for name in own_names(folder):
            os.rename(folder / name, aside / name)
    except OSError:
        put_back(folder)
        raise


def settle(folder: Path) -> None:
    """Finish what a kill interrupted: restore the old run unless the new one had begun."""
    aside = folder / ASIDE
    if aside.is_dir() and not ((folder / CONFIG).exists() and (aside / CONFIG).exists()):
        put_back(folder)


def put_back(folder: Path) -> None:
    """Delete the new run and restore the old one, if one was set aside."""
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
    """Delete the old run, after a rename, so that no part of it can be restored."""
    aside = folder / ASIDE
    if aside.is_dir():
        doomed = disk.temporary_name(aside)
        os.rename(aside, doomed)
        disk.remove(doomed)
