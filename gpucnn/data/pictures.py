"""Reading picture files for a trained network (needs Pillow, the ``images`` extra)."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn.data.dataset import ArrayDataset
from gpucnn.errors import DataError

LARGEST = 50_000_000
"""Pixels above which a picture is refused: more than a camera's, less than what fills the memory."""

LARGEST_FILE = 2**27
"""Bytes above which a file is refused: more than any camera's, less than takes a minute to read."""

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")
"""What is read. Pillow knows more, of which some start other programs."""

MARKED = 64
"""Brightness (of 255) from which a pixel counts as ink."""

THINNEST, USUAL = 0.06, 0.1
"""Width of a pen, as a share of what it draws, below which it is thickened, and to which: that of MNIST's pens."""

FINE = 160
"""Pixels of a side at which a pen is thickened: eight times what a digit has in the end."""

NO_PILLOW = "pictures need Pillow. Install it: pip install 'gpucnn[images]'."

FAINTEST = 16
"""Least difference of brightness (of 255) between ink and paper: less is noise."""


def check_pillow() -> None:
    """DataError where Pillow is missing."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise DataError(NO_PILLOW) from None


def read_picture(path: Path, shape: tuple[int, int, int], framing: str = "centred") -> NDArray[np.uint8]:
    """Return a picture file as uint8 (C, H, W) of ``shape``, framed as the training images were (see ``Splits``).

    "centred", one channel: light on dark whichever way it came, the ink scaled into the middle 20/28 and centred by its
    mass, as MNIST was made (LeCun et al. 1998). "cropped", or three channels: the middle of the picture, scaled.
    DataError for what is no picture, is too large or shows nothing, and without Pillow.
    """
    C, H, W = shape
    if C not in (1, 3):
        raise DataError.expected(str(path), "network", "one that reads grey or RGB pictures", f"{C} channels")
    if C == 3:
        return square(open_picture(path, near=max(H, W)).convert("RGB"), H, W).transpose(2, 0, 1)
    if framing == "cropped":
        return square(open_picture(path, near=max(H, W)).convert("L"), H, W)[None]
    ink = _ink(np.asarray(open_picture(path).convert("L"), np.float32))
    if ink.max() < FAINTEST:
        raise DataError(f"{path}: shows nothing: all of it is of about one brightness.")
    return _centre(ink * (255 / ink.max()), H, W)[None]


def square(picture: Any, H: int, W: int) -> NDArray[np.uint8]:
    """Return the middle of a picture, as large as fits the shape, as uint8 (H, W) or (H, W, channels)."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(picture, (W, H), Image.Resampling.BICUBIC))


def open_picture(path: Path, near: int | None = None, decode: bool = True) -> Any:
    """Return a picture file as a Pillow picture of 8 bits a channel, upright, on white where it is transparent.

    near: the side in pixels that it will be scaled to, for which a large JPEG is decoded at an eighth, a quarter or half of
    its size. Without ``decode``, as the file's head describes it. DataError for what is no picture or too large.
    """
    check_pillow()
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.init()  # registers every format, so that it can be asked for by name
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DataError(
                f"{path}: has {path.stat().st_size:,} bytes, {LARGEST_FILE:,} are allowed. Scale it down first."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is large, or of odd metadata: what matters is checked here
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > LARGEST:
                    raise DataError(f"{path}: has {picture.width}x{picture.height} pixels. Scale it down first.")
                if not decode:
                    return picture
                if near is not None:
                    picture.draft(None, (2 * near, 2 * near))
                picture.load()
                return _on_white(ImageOps.exif_transpose(_eight_bits(picture)))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder. Name the picture files in it.") from None
    except DataError:
        raise
    except Exception as error:  # Pillow's readers have a dozen kinds for a damaged file
        why = "cannot be identified" if isinstance(error, UnidentifiedImageError) else error or type(error).__name__
        raise DataError(f"{path}: is no readable picture of {', '.join(FORMATS)} ({why}).") from None


def _eight_bits(picture: Any) -> Any:
    """Return a picture of 16 or 32 bits a pixel as one of 8: Pillow would cut off what is above 255."""
    from PIL import Image

    if picture.mode[0] not in "IF":
        return picture
    values = np.nan_to_num(np.asarray(picture, np.float64))
    low, high = (0.0, 65535.0) if picture.mode[0] == "I" else (values.min(), values.max())
    return Image.fromarray((np.clip((values - low) / max(high - low, 1e-30), 0, 1) * 255).astype(np.uint8))


def _on_white(picture: Any) -> Any:
    """Return the picture on white paper where it is transparent."""
    from PIL import Image

    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)


def _ink(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how far each pixel is from the background, which is what the border shows: light ink on dark."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ink: NDArray[np.float32] = np.abs(grey - np.float32(np.median(border)))
    return ink


def _thickened(ink: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the ink of a pen that is much thinner than MNIST's as if drawn by such a pen; other ink as it is.

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
    check_pillow()
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
