"""Decoding the images of a folder: all of them into memory, or each when it is read."""

from __future__ import annotations

import hashlib
import math
import os
import re
import statistics
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn import limits
from gpucnn.data import cache, memory
from gpucnn.data.dataset import ArrayDataset, Dataset
from gpucnn.data.image_files import ImageFiles, Kept
from gpucnn.data.parallel import cores, in_parallel
from gpucnn.data.pictures import decode_picture, is_grey, picture_size
from gpucnn.errors import DataError, shortened

LARGEST_SIDE = 64
"""Largest side in pixels if no size is given: a CPU trains on such images in minutes."""

DECODING = 1
"""Version of the preprocessing of image files, for the cache."""

ImageSize = int | tuple[int, int] | str
"""Pixels that images are scaled to: S, (H, W) or "HxW"."""


def parse_image_size(size: Any) -> tuple[int, int]:
    """Return (H, W) of an image size: S, (H, W), "S" or "HxW"; DataError for anything else.

    >>> parse_image_size(28), parse_image_size("20x32")
    ((28, 28), (20, 32))
    """
    parts: Any = size
    if isinstance(size, str):
        parts = [int(part) for part in size.lower().split("x")] if re.fullmatch(r"\d{1,6}([xX]\d{1,6})?", size) else ()
    parts = [parts] if isinstance(parts, (int, np.integer)) else parts
    whole = isinstance(parts, (list, tuple)) and all(
        isinstance(part, (int, np.integer)) and not isinstance(part, bool) and part >= 1 for part in parts
    )
    if not whole or len(parts) not in (1, 2):
        raise DataError.expected(
            "data", "image_size", "pixels of a side, or HxW such as 20x32", shortened(repr(size), 60)
        )
    return int(parts[0]), int(parts[-1])


def read_parts(
    folder: Path,
    parts: dict[str, dict[str, list[Path]]],
    names: list[str],
    image_size: ImageSize | None,
    like: tuple[int, int, int] | None,
    framing: str,
) -> tuple[dict[str, Dataset], list[str]]:
    """Return the images of each part as a data set with these class names, and the notes about them."""
    paths = {part: [path for name in names for path in classes[name]] for part, classes in parts.items()}
    labels = {
        part: np.repeat(range(len(names)), [len(classes[name]) for name in names]) for part, classes in parts.items()
    }
    files = {part: [os.path.relpath(path, folder) for path in some] for part, some in paths.items()}
    read = _read_when_asked(folder, paths, image_size, like)
    if read is not None:
        shape, room = read
        kept, kind = Kept(room // 2), framing if like else "cropped"
        lazy: dict[str, Dataset] = {
            part: ImageFiles(some, labels[part], names, shape, kind, files[part], kept) for part, some in paths.items()
        }
        size = math.prod(shape) * sum(map(len, paths.values())) / 2**20
        note = f"images are read from their files as they are needed: all of them take {size:,.0f} MB, more than fit"
        return lazy, [note]
    options = f"{DECODING} {image_size} {like} {framing if like else 'cropped'}"
    name = hashlib.sha256(os.fsencode(folder.resolve()) + options.encode()).hexdigest()[:16]
    images = cache.kept(
        f"pictures-{name}", _listing(folder, paths, options), lambda: _decode(folder, paths, image_size, like, framing)
    )
    resized, cut = images.pop("changed").tolist()
    shape = images["test"].shape[1:]
    notes = []
    kind = "square" if shape[1] == shape[2] else f"of the shape {shape[1]}x{shape[2]}"
    if like is None:
        if resized:
            crops = f" ({cut:,} are not {kind}: their middle is taken)" if cut else ""
            notes.append(f"{resized:,} images resized to {shape[1]}x{shape[2]} pixels{crops}")
    elif cut:
        notes.append(f"{cut:,} images are not {kind}: their middle is taken")
    sets: dict[str, Dataset] = {
        part: ArrayDataset(images[part], labels[part], names, str(folder), files[part]) for part in paths
    }
    return sets, notes


def _read_when_asked(
    folder: Path, paths: dict[str, list[Path]], image_size: ImageSize | None, like: tuple[int, int, int] | None
) -> tuple[tuple[int, int, int], int] | None:
    """Return the shape of all images and the bytes that some may take; None if all fit into memory together.

    Images have three channels, or one if all files are grey; a given shape ``like`` is used as it is.
    """
    every, room = [path for some in paths.values() for path in some], memory.budget()
    room = min(room, limits.DATA_BYTES) if limits.on() else room
    side = LARGEST_SIDE if image_size is None else parse_image_size(image_size)
    H, W = like[1:] if like else (side, side) if isinstance(side, int) else side
    if len(every) * (like[0] if like else 3) * H * W <= room:
        return None
    if like is None and image_size is None:
        H = W = _usual_side(paths["train"])
        if len(every) * 3 * H * W <= room:
            return None
    limits.check(str(folder), "bytes of pixels", 3 * H * W, limits.DATA_BYTES)
    return like or (1 if all(map(is_grey, every)) else 3, H, W), room


def _listing(folder: Path, paths: dict[str, list[Path]], options: str) -> str:
    """Return the SHA-256 of everything the decoded images depend on: file names, sizes and times, options, Pillow."""
    import PIL

    digest = hashlib.sha256(f"{options} {PIL.__version__}".encode())
    for part, files in paths.items():
        for path in files:
            status = path.stat()
            digest.update(b"\0%b\0%b" % (part.encode(), os.fsencode(path.relative_to(folder))))
            digest.update(b"\0%d %d" % (status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


def _decode(
    folder: Path,
    paths: dict[str, list[Path]],
    image_size: ImageSize | None,
    like: tuple[int, int, int] | None,
    framing: str,
) -> dict[str, NDArray[Any]]:
    """Return the images of each part, (N, C, H, W), and as ``changed`` how many were resized and how many cropped."""
    if like is None:
        H, W = parse_image_size(_usual_side(paths["train"]) if image_size is None else image_size)
    shape = like or (3, H, W)
    limits.check(str(folder), "bytes of pixels", math.prod(shape) * sum(map(len, paths.values())), limits.DATA_BYTES)
    images: dict[str, NDArray[Any]] = {part: np.empty((len(files), *shape), np.uint8) for part, files in paths.items()}
    changed = {part: np.zeros((len(files), 2), np.int64) for part, files in paths.items()}

    def read(at: tuple[str, int]) -> int:
        part, i = at
        decoded = decode_picture(paths[part][i], shape, framing if like else "cropped")
        images[part][i] = decoded.pixels
        changed[part][i] = decoded.size != shape[1:], decoded.cut
        return 1

    places = [(part, i) for part, files in paths.items() for i in range(len(files))]
    with warnings.catch_warnings():  # threads that silence warnings at once may leave them silenced
        in_parallel(read, places, cores(), len(places), "Reading images")
    if like is None and all(bool((part[:, :1] == part[:, 1:]).all()) for part in images.values()):
        images = {part: np.ascontiguousarray(pixels[:, :1]) for part, pixels in images.items()}  # all of them are grey
    return {**images, "changed": np.concatenate(list(changed.values())).sum(0)}


def _usual_side(paths: list[Path]) -> int:
    """Return the median of the images' shorter sides, at most ``LARGEST_SIDE``."""
    return min(int(statistics.median_low([min(picture_size(path)) for path in paths])), LARGEST_SIDE)
