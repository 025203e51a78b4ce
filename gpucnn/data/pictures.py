"""Reading image files, as uint8 images for a network."""

from __future__ import annotations

import io
import logging
import re
import stat
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn import limits
from gpucnn.data.dataset import ArrayDataset
from gpucnn.errors import DataError, shortened

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it finds in a file is told by our own errors

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")
"""Formats that are read. Pillow knows more, some of which start other programs."""

PIECE = 1024
"""Bytes of a JPEG that are decoded between two checks of the clock: a few scans of a hostile file."""

MARKED = 64
"""Brightness (of 255) from which a pixel counts as ink."""

THINNEST, USUAL = 0.06, 0.1
"""Stroke width, as a fraction of the drawing, below which strokes are thickened to it: that of MNIST."""

FINE = 160
"""Side in pixels at which strokes are thickened: eight times the final size of a digit."""

FAINTEST = 16
"""Smallest difference in brightness (of 255) between ink and paper; less is noise."""


FROM_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_counting, _reading = threading.Lock(), 0
"""How many threads are reading a file."""


@dataclass(frozen=True)
class Decoded:
    """An image file after preprocessing.

    pixels: uint8 (C, H, W); size: (rows, columns) of the image in the file; cut: whether its sides were cut off.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    cut: bool


def read_picture(path: Path, shape: tuple[int, int, int], framing: str = "centred") -> NDArray[np.uint8]:
    """Return the pixels of ``decode_picture``, with a warning if the image's sides are cut off."""
    decoded = decode_picture(path, shape, framing)
    if decoded.cut:
        kind = "square" if shape[1] == shape[2] else f"of the shape {shape[1]}x{shape[2]}"
        warnings.warn(f"an image is not {kind}: its middle is taken", stacklevel=2)
    return decoded.pixels


def decode_picture(path: Path, shape: tuple[int, int, int], framing: str = "centred") -> Decoded:
    """Return an image file as uint8 (C, H, W) of ``shape``, preprocessed as the training images were (see ``Splits``).

    "centred", one channel: converted to light on dark, the ink scaled into the middle 20/28 and centred by its mass, as
    MNIST was made (LeCun et al. 1998). "cropped", or three channels: the middle of the image, scaled.
    DataError for a file that is no image, is too large (``gpucnn.limits``) or blank.
    """
    C, H, W = shape
    if C not in (1, 3):
        raise DataError.expected(str(path), "network", "one that reads grey or RGB images", f"{C} channels")
    mode = "RGB" if C == 3 else "L"
    if C == 1 and framing == "centred":
        grey, size = _open(path, mode)
        ink = _ink(np.asarray(grey, np.float32))
        if ink.max() < FAINTEST:
            raise DataError(f"{path}: shows nothing: all of it is of about one brightness.")
        ink *= 255 / ink.max()
        return Decoded(_centre(ink, H, W)[None], size, cut=False)
    picture, size = _open(path, mode, near=max(H, W))
    pixels = _fitted(picture, H, W)
    return Decoded(pixels.transpose(2, 0, 1) if C == 3 else pixels[None], size, size[0] * W != size[1] * H)


def is_grey(path: Path) -> bool:
    """Whether an image file is grey, by its header. DataError as for ``picture_size``."""
    mode, _ = _open(path, None)
    return str(mode).partition(";")[0] in ("1", "L", "LA", "I", "F")


def picture_size(path: Path) -> tuple[int, int]:
    """Return (rows, columns) of an image file, from its header. DataError for a file that is no image or too large."""
    return _open(path, None)[1]


def original_pixels(path: Path, side: int) -> NDArray[np.uint8]:
    """Return an image file as it is displayed, upright, scaled down to at most ``side`` pixels: (H, W, 3) uint8.

    DataError as for ``decode_picture``.
    """
    from PIL import Image

    picture, _ = _open(path, "RGB", near=side)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _fitted(picture: Any, H: int, W: int) -> NDArray[np.uint8]:
    """Return the middle of an image, as large as fits the shape, as uint8 (H, W) or (H, W, channels)."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(picture, (W, H), Image.Resampling.BICUBIC))


def _open(path: Path, mode: str | None, near: int | None = None) -> tuple[Any, tuple[int, int]]:
    """Return an image file as a Pillow image of ``mode`` (L or RGB), upright, on white where it is transparent; its size.

    near: the side in pixels that it will be scaled to, for which a large JPEG is decoded at an eighth, a quarter or half of
    its size. Without a mode, nothing is decoded, and the file's mode is returned.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.init()  # registers every format, so that it can be asked for by name
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{path}: is a folder. Name the image files in it.")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: is no file, but a pipe or a device.")
        limits.check(str(path), "bytes", status.st_size, limits.PICTURE_BYTES)
        # Pillow warns that an image is large, or of odd metadata: what matters is checked here.
        with _quiet(), _Timed(path) as file, Image.open(file, formats=FORMATS) as picture:
            W, H = picture.size
            limits.check(str(path), "pixels", W * H, limits.PICTURE_PIXELS)
            size = (W, H) if _lies_on_its_side(picture) else (H, W)
            if mode is None:
                return picture.mode, size
            if near is not None:
                picture.draft(None, (2 * near, 2 * near))
            if picture.format in ("JPEG", "MPO"):
                picture.decodermaxblock = PIECE
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            plain = _on_white(_eight_bits(picture))
            return plain if plain.mode == mode else plain.convert(mode), size
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers have a dozen kinds for a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
        why = "cannot be identified" if isinstance(error, UnidentifiedImageError) else error or type(error).__name__
        raise DataError(f"{path}: is no readable image of {', '.join(FORMATS)} ({shortened(why)}).") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings, in any number of threads: ``warnings.catch_warnings`` is for one."""
    global _reading
    with _counting:
        _reading += 1
        if _reading == 1:
            warnings.filterwarnings("ignore", module=FROM_PILLOW[3].pattern)
    try:
        yield
    finally:
        with _counting:
            _reading -= 1
            if not _reading:
                with suppress(ValueError):  # filters of a context that has ended meanwhile
                    warnings.filters.remove(FROM_PILLOW)  # type: ignore[attr-defined]


class _Timed(io.BufferedReader):
    """An image file that returns no more bytes once decoding has taken too long."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._path, self._begun = path, time.thread_time()

    def read(self, size: int | None = -1, /) -> bytes:
        limits.check(
            str(self._path), "seconds of decoding", round(time.thread_time() - self._begun, 1), limits.PICTURE_SECONDS
        )
        return super().read(size)


def _lies_on_its_side(picture: Any) -> bool:
    """Whether rows are displayed as columns; for a TIFF, Pillow reports the displayed size."""
    if picture.format == "TIFF" or "exif" not in picture.info:
        return False
    return picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)


def _eight_bits(picture: Any) -> Any:
    """Return an image of 16 or 32 bits per pixel scaled to 8: Pillow would clip values above 255. LAB becomes RGB."""
    from PIL import Image, ImageCms

    if picture.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, *profiles, outputMode="RGB")
    if picture.mode[0] == "I":  # 0 to 65535
        return Image.fromarray((np.clip(np.asarray(picture), 0, 65535) // 257).astype(np.uint8))
    if picture.mode[0] == "F":
        values = np.nan_to_num(np.asarray(picture))
        low, high = float(values.min()), float(values.max())
        values -= low
        values *= 255 / max(high - low, 1e-30)
        return Image.fromarray(values.clip(0, 255, out=values).astype(np.uint8))
    return picture


def _on_white(picture: Any) -> Any:
    """Return the image on white paper where it is transparent."""
    from PIL import Image

    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)


def _ink(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distance of each pixel from the background colour, taken from the border: light ink on dark."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    grey -= np.float32(np.median(border))
    return np.abs(grey, out=grey)


def _thickened(ink: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return strokes much thinner than MNIST's thickened to its width; other strokes unchanged.

    A hairline on a large page would fade away when it is scaled down.
    """
    from PIL import Image, ImageFilter

    H, W = ink.shape
    side = min(max(H, W), FINE)
    size = max(round(W * side / max(H, W)), 1), max(round(H * side / max(H, W)), 1)
    page = np.asarray(Image.fromarray(ink.astype(np.uint8)).resize(size, Image.Resampling.BOX), np.float32)
    page *= 255 / max(float(page.max()), 1.0)
    marked = np.pad(page > MARKED, 1)
    inner = marked[:-2, 1:-1] & marked[2:, 1:-1] & marked[1:-1, :-2] & marked[1:-1, 2:] & marked[1:-1, 1:-1]
    width = 2 * marked.sum() / max(int(marked.sum() - inner.sum()), 1)  # a stroke has two edges
    if width >= THINNEST * side:
        return ink
    steps = round((USUAL * side - width) / 2)
    page = np.minimum(
        page * (255 / np.median(page[page > MARKED])), 255
    )  # where lines cross is no brighter than they are
    picture = Image.fromarray(np.pad(page, steps).astype(np.uint8))
    for _ in range(steps):
        picture = picture.filter(ImageFilter.MaxFilter(3))
    return np.asarray(picture, np.float32)


def _centre(ink: NDArray[np.float32], H: int, W: int) -> NDArray[np.uint8]:
    """Return (H, W): the ink in a box of 20/28 of the size, its centre of mass in the middle."""
    from PIL import Image

    marked = ink > MARKED
    rows, columns = np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))
    ink = _thickened(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = 20 / 28 * min(H, W) / max(ink.shape)
    size = max(round(ink.shape[1] * scale), 1), max(round(ink.shape[0] * scale), 1)
    small = np.asarray(Image.fromarray(ink.astype(np.uint8)).resize(size, Image.Resampling.LANCZOS), np.float32)
    mass = max(float(small.sum()), 1.0)
    centre_row = float((small.sum(1) * np.arange(small.shape[0])).sum()) / mass
    centre_column = float((small.sum(0) * np.arange(small.shape[1])).sum()) / mass
    top = min(max(round(H / 2 - 0.5 - centre_row), 0), H - small.shape[0])
    left = min(max(round(W / 2 - 0.5 - centre_column), 0), W - small.shape[1])
    page = np.zeros((H, W), np.uint8)
    page[top : top + small.shape[0], left : left + small.shape[1]] = small
    return page


def contact_sheet(data: ArrayDataset, across: int = 10, classes: int = 50) -> bytes:
    """Return a PNG with a row for each of the first ``classes`` classes: its name and its first ``across`` images."""
    from PIL import Image, ImageDraw

    C, H, W = data.image_shape
    images = data.images
    if images.dtype != np.uint8:
        low, high = float(images.min()), float(images.max())
        images = ((images - low) * (255 / max(high - low, 1e-30))).astype(np.uint8)
    names = data.class_names[:classes]
    zoom = max(1, 56 // max(H, W))
    margin, step = 90, max(H, W) * zoom + 2
    sheet = Image.new("RGB", (margin + across * step, len(names) * step), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        draw.text((4, row * step + step // 2 - 6), name[:13], fill="black")
        for column, place in enumerate(np.flatnonzero(data.labels == row)[:across]):
            pixels = images[place].transpose(1, 2, 0) if C == 3 else images[place, 0]
            picture = Image.fromarray(np.ascontiguousarray(pixels)).resize(
                (W * zoom, H * zoom), Image.Resampling.NEAREST
            )
            sheet.paste(picture, (margin + column * step, row * step))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
