"""Image files as a network reads them: whichever way they come, like the images it was trained on."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpucnn.data.pictures import read_picture
from gpucnn.errors import DataError

GREY = (1, 28, 28)


def seven() -> np.ndarray:
    """Return a drawn 7, white on black, 28 x 28, not in the middle."""
    page = np.zeros((28, 28), np.uint8)
    page[3:6, 5:19] = 255
    for i in range(16):
        page[6 + i, 16 - i // 2 : 19 - i // 2] = 255
    return page


def read(tmp_path: Path, picture: Image.Image, name: str = "a.png", shape: tuple[int, int, int] = GREY) -> np.ndarray:
    picture.save(tmp_path / name)
    return read_picture(tmp_path / name, shape)


def far(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean difference of two pages, as a share of the ink."""
    return float(np.abs(a.astype(float) - b).sum() / b.astype(float).sum())


def expected(tmp_path: Path) -> np.ndarray:
    return read(tmp_path, Image.fromarray(seven()), "expected.png")


def test_ink_is_scaled_into_the_box_and_centred_by_its_mass(tmp_path: Path) -> None:
    page = expected(tmp_path)
    assert page.shape == GREY
    assert page.dtype == np.uint8
    rows, columns = np.nonzero(page[0] > 64)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    ink = page[0].astype(float)
    centre = (ink * np.arange(28)[:, None]).sum() / ink.sum(), (ink * np.arange(28)).sum() / ink.sum()
    assert np.abs(np.array(centre) - 13.5).max() <= 0.51


def as_dark_on_light() -> Image.Image:
    return Image.fromarray(255 - seven())


def as_pale_on_grey() -> Image.Image:
    return Image.fromarray((100 + seven() // 4).astype(np.uint8))


def as_large() -> Image.Image:
    return Image.fromarray(np.kron(seven(), np.ones((20, 20), np.uint8)))


def as_small_part_of_a_wide_page() -> Image.Image:
    page = np.full((90, 300), 250, np.uint8)
    page[20:48, 200:228] = 250 - (seven() // 255) * 230
    return Image.fromarray(page)


def as_blue_on_yellow() -> Image.Image:
    mask = seven()[..., None] > 0
    return Image.fromarray(np.where(mask, np.uint8([20, 20, 160]), np.uint8([250, 240, 120])).astype(np.uint8))


def as_black_on_transparent() -> Image.Image:
    return Image.fromarray(np.dstack([np.zeros((28, 28, 3), np.uint8), seven()]))


def as_grey_with_alpha() -> Image.Image:
    return Image.merge("LA", [Image.new("L", (28, 28), 0), Image.fromarray(seven())])


def as_palette_with_transparency() -> Image.Image:
    picture = Image.fromarray((seven() > 0).astype(np.uint8))
    picture.putpalette([0, 0, 0, 10, 10, 10])
    picture.info["transparency"] = 0
    return picture


def as_one_bit() -> Image.Image:
    return Image.fromarray(seven()).convert("1")


def as_sixteen_bits() -> Image.Image:
    return Image.fromarray(seven().astype(np.uint16) * 200 + 3000)


@pytest.mark.parametrize(
    "way",
    [
        as_dark_on_light, as_pale_on_grey, as_large, as_small_part_of_a_wide_page, as_blue_on_yellow,
        as_black_on_transparent, as_grey_with_alpha, as_palette_with_transparency, as_one_bit, as_sixteen_bits,
    ],
)  # fmt: skip
def test_the_same_however_it_comes(tmp_path: Path, way: object) -> None:
    assert far(read(tmp_path, way()), expected(tmp_path)) < 0.12  # type: ignore[operator]


def test_sixteen_bits_keep_their_shades(tmp_path: Path) -> None:
    ramp = np.zeros((28, 28), np.uint16)
    ramp[4:24, 4:24] = np.linspace(9000, 60000, 20)
    page = read(tmp_path, Image.fromarray(ramp))[0]
    assert len(np.unique(page[14])) > 10, "Pillow cuts 16 bits off at 255"


@pytest.mark.parametrize("name", ["a.jpg", "a.bmp", "a.gif", "a.tiff", "a.webp", "a.ppm"])
def test_formats(tmp_path: Path, name: str) -> None:
    picture = Image.fromarray(np.kron(255 - seven(), np.ones((4, 4), np.uint8)))
    assert far(read(tmp_path, picture.convert("RGB"), name), expected(tmp_path)) < 0.15


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    turned = Image.fromarray(np.kron(255 - seven(), np.ones((8, 8), np.uint8))).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    turned.save(tmp_path / "photo.jpg", exif=exif)
    assert far(read_picture(tmp_path / "photo.jpg", GREY), expected(tmp_path)) < 0.15


def test_tiny_and_thin_pictures(tmp_path: Path) -> None:
    for shape in ((1, 2), (2, 1), (3, 1000), (1000, 3)):
        page = np.zeros(shape, np.uint8)
        page[0, 0] = 255
        assert read(tmp_path, Image.fromarray(page)).shape == GREY


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 12, 12), (1, 8, 16)])
def test_other_sizes_of_network(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    page = read(tmp_path, Image.fromarray(seven()), shape=shape)
    assert page.shape == shape
    assert page.max() > 200


def test_colour_network(tmp_path: Path) -> None:
    colours = np.zeros((10, 20, 3), np.uint8)
    colours[:, :10], colours[:, 10:] = (200, 10, 30), (0, 90, 250)
    with pytest.warns(UserWarning, match="^an image is not square: its middle is taken$"):
        page = read(tmp_path, Image.fromarray(colours), shape=(3, 8, 8))
    assert page[:, 4, 1].tolist() == [200, 10, 30]
    assert page[:, 4, 6].tolist() == [0, 90, 250]
    clear = Image.new("RGBA", (8, 8), (9, 9, 9, 0))
    assert read(tmp_path, clear, shape=(3, 8, 8)).min() == 255, "what is transparent is white, not what lies beneath"


@pytest.mark.parametrize("colour", [(250, 20, 30), (20, 200, 40), (128, 128, 128), (255, 255, 255)])
def test_a_lab_tiff_is_read_in_its_colours(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.new("RGB", (8, 8), colour), *profiles, outputMode="LAB")
    assert lab is not None
    page = read(tmp_path, lab, "a.tif", (3, 8, 8))
    assert np.abs(page[:, 4, 4].astype(int) - colour).max() <= 6


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "P", "1", "LA", "RGBA", "F"])
def test_every_mode_makes_grey_and_colour(tmp_path: Path, mode: str) -> None:
    page = Image.fromarray(255 - seven())
    for shape in (GREY, (3, 28, 28)):
        assert read(tmp_path, page.convert(mode), "a.tif", shape).shape == shape


def test_network_of_other_channels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="grey or RGB images, got 4 channels"):
        read(tmp_path, Image.fromarray(seven()), shape=(4, 8, 8))


@pytest.mark.parametrize("brightness", [0, 128, 255])
@pytest.mark.parametrize("noise", [0, 5])
def test_an_empty_page_is_refused(tmp_path: Path, brightness: int, noise: int) -> None:
    page = np.clip(brightness + np.random.default_rng(0).integers(-noise, noise + 1, (40, 40)), 0, 255)
    with pytest.raises(DataError, match="shows nothing"):
        read(tmp_path, Image.fromarray(page.astype(np.uint8)))


def png_bytes() -> bytes:
    file = io.BytesIO()
    Image.fromarray(seven()).save(file, "PNG")
    return file.getvalue()


def huge_png() -> bytes:
    """Return a small file that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def large_png() -> bytes:
    return huge_png().replace(struct.pack(">II", 60_000, 60_000), struct.pack(">II", 10_000, 10_000))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        png_bytes()[:60],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg></svg>",
        b"BM" + bytes(60),
    ],
    ids=["empty", "text", "cut", "postscript", "svg", "bmp of nothing"],
)
def test_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: is no readable image of PNG, JPEG") as caught:
        read_picture(tmp_path / "a.png", GREY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [huge_png(), large_png()])
def test_too_large_a_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: (expected at most [\d,]+ pixels|is no readable image)"):
        read_picture(tmp_path / "a.png", GREY)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.png: no such file"):
        read_picture(tmp_path / "b.png", GREY)
    with pytest.raises(DataError, match="is a folder"):
        read_picture(tmp_path, GREY)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_damaged_pictures_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    rng = random.Random(kind)
    file = io.BytesIO()
    Image.fromarray(255 - seven()).convert("RGB").save(file, kind)
    refused = 0
    for _ in range(150):
        damaged = bytearray(file.getvalue())
        for _ in range(rng.choice([1, 3])):
            damaged[rng.randrange(min(len(damaged), 400))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        (tmp_path / "a").write_bytes(damaged)
        with contextlib.suppress(DataError):
            read_picture(tmp_path / "a", GREY)
            continue
        refused += 1
    assert refused > 10


@pytest.mark.parametrize("side", [100, 400, 3000])
def test_a_hairline_is_drawn_as_with_a_usual_pen(tmp_path: Path, side: int) -> None:
    thin, usual = (np.full((side, side), 255, np.uint8) for _ in range(2))
    for page, width in ((thin, 1), (usual, side // 12)):
        first, last = side // 2 - width // 2, side // 2 + (width + 1) // 2
        page[side // 10 - width // 2 : side * 9 // 10 + width // 2, first:last] = 0
        page[first:last, side // 4 - width // 2 : side * 3 // 4 + width // 2] = 0
    page, other = (read(tmp_path, Image.fromarray(drawing))[0].astype(float) for drawing in (thin, usual))
    near = min(
        far(np.roll(page, (i, j), (0, 1)), other) for i in (-1, 0, 1) for j in (-1, 0, 1)
    )  # where half a pixel is rounded to
    assert near < 0.3
    assert page[5:23].max(1).min() > 200, "the line is whole and bright"


def test_ink_of_usual_width_is_left_as_it_is(tmp_path: Path) -> None:
    from gpucnn.data.pictures import _thickened

    for width in (8, 12, 20):
        ink = np.zeros((100, 60), np.float32)
        ink[:, 20 : 20 + width], ink[40 : 40 + width] = 255, 200
        np.testing.assert_array_equal(_thickened(ink), ink)


def test_a_file_of_too_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes())
    monkeypatch.setattr("gpucnn.limits.PICTURE_BYTES", 50)
    with pytest.raises(DataError, match=r"a\.png: expected at most 50 bytes"):
        read_picture(tmp_path / "a.png", GREY)


def test_cropped_framing_takes_the_middle_and_keeps_the_shades(tmp_path: Path) -> None:
    page = np.full((10, 30), 200, np.uint8)
    page[:, 10:20] = np.arange(10) * 5
    with pytest.warns(UserWarning, match="its middle is taken"):
        read_back = read_picture_as(tmp_path, page, "cropped")
    np.testing.assert_array_equal(read_back[0], page[:, 10:20])


def test_a_large_photograph_is_decoded_small_and_looks_the_same(tmp_path: Path) -> None:
    y, x = np.mgrid[0:1200, 0:1600] / 1200
    photo = np.stack([127 + 120 * np.sin(5 * x), 255 * y, 127 + 120 * np.cos(4 * x + 3 * y)], -1).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "p.jpg", quality=95)
    with pytest.warns(UserWarning, match="its middle is taken"):
        page = read_picture(tmp_path / "p.jpg", (3, 32, 32)).transpose(1, 2, 0).astype(float)
    blocks = photo[8:1192, 208:1392].reshape(32, 37, 32, 37, 3).mean((1, 3))
    assert np.abs(page - blocks).mean() < 3


def read_picture_as(tmp_path: Path, page: np.ndarray, framing: str) -> np.ndarray:
    Image.fromarray(page).save(tmp_path / "f.png")
    return read_picture(tmp_path / "f.png", (1, 10, 10), framing)
