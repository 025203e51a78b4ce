"""Draw the figures of docs/tutorial.md from the values that the page's own code computes. Needs a clone.

python scripts/tutorial_figures.py
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import click
import figures
import numpy as np
from figures import HEAD, MARGIN, WIDTH, words

from gpucnn import inspect
from gpucnn.report.charts import Series, chart_svg
from gpucnn.report.image_report import map_pixels
from gpucnn.report.images import SIGNED, coloured, filter_pixels, overlaid, sheet

DOCS = Path(__file__).resolve().parent.parent / "docs"
TIMES = "\N{MULTIPLICATION SIGN}"
DIGIT = 3
"""Which test image is followed through LeNet."""


def values_of(page: Path) -> dict[str, Any]:
    """Run the Python blocks of a page, except those that it marks as not run, and return their variables."""
    found: dict[str, Any] = {"__name__": "__main__"}
    text = re.sub(r"<!-- not run: .*? -->\n```python\n.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    with contextlib.redirect_stdout(io.StringIO()):
        for code in re.findall(r"^```python\n(.*?)^```", text, flags=re.S | re.M):
            exec(code, found)
    return found


def grid(
    x: float, y: float, numbers: Any, cell: float, marked: Collection[tuple[int, int]] = (), hidden: Any = ()
) -> str:
    """Return numbers (H, W) in boxes; those at the places ``marked`` stand out, those at ``hidden`` are not shown yet."""
    parts = []
    for (i, j), number in np.ndenumerate(np.atleast_2d(numbers)):
        left, top = x + j * cell, y + i * cell
        kind = "mark" if (i, j) in marked else "box"
        parts.append(f'<rect class="{kind}" x="{left}" y="{top}" width="{cell}" height="{cell}"/>')
        if (i, j) not in hidden:
            parts.append(words(left + cell / 2, top + cell / 2 + 6, f"{number:g}", "middle", "ink"))
    return "".join(parts)


def window(row: int, column: int) -> set[tuple[int, int]]:
    """Return the places of a 2x2 window."""
    return {(row + i, column + j) for i in range(2) for j in range(2)}


def one_place(folder: Path, image: Any, kernel: Any, output: Any) -> None:
    """Draw how the first number of a convolution comes about."""
    cell, y = 46, HEAD + 30
    signs = [words(196, y + 52, TIMES, "middle", "ink"), words(339, y + 52, "=", "middle", "ink")]
    covered = image[:2, :2]
    said = " + ".join(f"{pixel:g}·{weight:g}" for pixel, weight in zip(covered.ravel(), kernel.ravel(), strict=True))
    heads = [words(x, y - 10, name) for x, name in ((34, "image"), (220, "kernel"), (362, "output"))]
    parts = [
        *heads, *signs,
        grid(34, y, image, cell, window(0, 0)), grid(220, y, kernel, cell, window(0, 0)),
        grid(362, y, output, cell, {(0, 0)}, {(0, 1), (1, 0), (1, 1)}),
        words(WIDTH / 2, y + 180, f"{said} = {output[0, 0]:g}", "middle", "ink"),
    ]  # fmt: skip
    figures.write(folder / "window.svg", "One place of the window", 240, parts, f"{said} = {output[0, 0]:g}")


def all_places(folder: Path, image: Any, output: Any) -> None:
    """Draw the four places of the window and the number that each gives."""
    cell, parts = 32, []
    places = [(i, j) for i in range(2) for j in range(2)]
    for k, (i, j) in enumerate(places):
        x, y = 22 + j * 234, HEAD + 8 + i * 120
        parts.append(grid(x, y, image, cell, window(i, j)))
        parts.append(words(x + 118, y + 54, "→", "middle"))
        parts.append(grid(x + 140, y + 16, output, cell, {(i, j)}, set(places[k + 1 :])))
    figures.write(folder / "places.svg", "All four places", 240, parts, "The window in four places, and the output")


def columns(folder: Path, matrix: Any, kernel: Any, output: Any) -> None:
    """Draw im2col: windows as rows, times the kernel as a column."""
    cell, y = 42, HEAD + 30
    row, column = {(0, j) for j in range(4)}, {(i, 0) for i in range(4)}
    parts = [
        words(34, y - 10, "a window in each row"), words(232, y - 10, "kernel"), words(330, y - 10, "output"),
        grid(34, y, matrix, cell, row), grid(236, y, kernel.reshape(4, 1), cell, column),
        grid(334, y, output.reshape(4, 1), cell, {(0, 0)}),
        words(219, y + 90, TIMES, "middle", "ink"), words(306, y + 90, "=", "middle", "ink"),
    ]  # fmt: skip
    figures.write(folder / "im2col.svg", "im2col", 208, parts, "Windows as the rows of a matrix, times the kernel")


def loss_curve(folder: Path, losses: Sequence[float], epochs: int) -> None:
    """Draw the loss of single steps and its mean over twenty."""
    steps = len(losses) / epochs
    mean = np.convolve(losses, np.ones(20) / 20, "valid")
    series = [
        Series("step", "steps", tuple((i / steps, loss) for i, loss in enumerate(losses, 1))),
        Series("mean of 20", "train", tuple((i / steps, float(loss)) for i, loss in enumerate(mean, 20))),
    ]
    figures.write_chart(folder / "loss.svg", "Loss", chart_svg("loss", series, "loss", (0, None)), series)


def filters(folder: Path, before: Any, after: Any) -> None:
    """Draw filters before and after training, on one scale."""
    largest = max(abs(before).max(), abs(after).max())
    side = (WIDTH - 3 * MARGIN) / 2
    parts = []
    for k, (name, stack) in enumerate((("before", before), ("after", after))):
        pixels = sheet(filter_pixels(stack, largest), 5, side=1)
        x = MARGIN + k * (side + MARGIN)
        parts.append(figures.image(pixels, x, HEAD, side, side * pixels.shape[0] / pixels.shape[1]))
        parts.append(words(x, HEAD + side * 1.2 + 22, name, kind="ink"))
    title = f"{len(after)} filters, before and after training"
    figures.write(folder / "filters.svg", title, 300, parts, "Noise before training, strokes and edges after")


def feature_maps(folder: Path, image: Any, maps: Any) -> None:
    """Draw an image and maps of its first convolution."""
    shown = [(image, "image")] + [(one, f"map {i}") for i, one in enumerate(map_pixels(maps[0][:7])[0], 1)]
    figures.write_tiles(
        folder / "maps.svg", "What the filters make of a digit", shown, "Blue below zero, red above", 300
    )


def heat(folder: Path, net: Any, scaled: Any, images: Any) -> None:
    """Draw Grad-CAM over four test images."""
    shown = []
    for image in images:
        found = inspect.grad_cam(net, scaled(image[None])[0])
        answer = int(net(scaled(image[None])).argmax(1).numpy()[0])
        pixels = image.reshape(28, 28)
        shown.append(([pixels, overlaid(pixels[None], found)], f"read as {answer}"))
    figures.write_tiles(folder / "heat.svg", "Where it looked", shown, "Test images, and Grad-CAM over each")


def through_lenet(folder: Path, net: Any, x: Any) -> None:
    """Draw the values of every layer of LeNet for one digit."""
    made = inspect.feature_maps(net, x)
    probabilities = np.exp(logits := made[list(made)[-1]][0]) / np.exp(logits).sum()
    parts, y, beside = [], float(HEAD), 126

    def named(name: str, shape: Sequence[int]) -> None:
        parts.append(words(MARGIN, y + 17, name, kind="ink"))
        parts.append(words(MARGIN, y + 36, "x".join(map(str, shape))))

    named("image", (1, 28, 28))
    parts.append(figures.image((x.numpy()[0, 0] * 255).astype(np.uint8), beside, y, 40))
    y += 50
    for name, layer in net.named_modules():
        kind = type(layer).__name__
        if kind in ("Conv2d", "MaxPool2d"):
            maps = made[name][0]
            named({"Conv2d": "convolution", "MaxPool2d": "pooling"}[kind], maps.shape)
            for i, pixels in enumerate(map_pixels(maps)[0]):
                parts.append(figures.image(pixels, beside + i % 8 * 43, y + i // 8 * 43, 40))
            y += 43 * -(-len(maps) // 8) + 10
        elif kind == "Linear" and made[name].shape[1] != len(probabilities):
            values = made[name][0]
            named("linear", values.shape)
            pixels = coloured((values / abs(values).max() + 1) / 2, SIGNED)[None]
            parts.append(
                figures.image(pixels, beside, y + 4, 341, 30).replace("<image", '<image preserveAspectRatio="none"')
            )
            y += 48
    named("answer", probabilities.shape)
    for digit, share in enumerate(probabilities):
        left, high = beside + digit * 34, 54 * float(share)
        parts.append(f'<rect class="column" x="{left}" y="{y + 56 - high:.1f}" width="28" height="{high + 1:.1f}"/>')
        parts.append(words(left + 14, y + 76, str(digit), "middle", "ink"))
    about = f"The maps of every layer for one digit; the answer is {int(probabilities.argmax())}"
    figures.write(folder / "lenet.svg", "A digit on its way through LeNet", y + 82 - HEAD, parts, about, 480)


def draw(found: dict[str, Any], folder: Path) -> None:
    """Draw all figures from the page's variables."""
    folder.mkdir(parents=True, exist_ok=True)
    image, kernel = (found[name].detach().numpy() for name in ("image", "kernel"))
    output = found["F"].corr2d(found["image"], found["kernel"]).detach().numpy()
    one_place(folder, image, kernel, output)
    all_places(folder, image, output)
    columns(folder, found["columns"].numpy(), kernel, output)
    loss_curve(folder, found["losses"], 5)
    filters(folder, found["first_filters"], found["learnt"])
    tests, scaled = found["test_images"], found["scaled"]
    feature_maps(folder, tests[0].reshape(28, 28), found["maps"]["0"])
    heat(folder, found["net"], scaled, tests[:4])
    through_lenet(folder, found["lenet"], scaled(tests[DIGIT : DIGIT + 1]))


@click.command(help=__doc__)
@click.option(
    "--out", default=DOCS / "tutorial", type=click.Path(file_okay=False, path_type=Path), help="Where they go."
)
def main(out: Path) -> None:
    draw(values_of(DOCS / "tutorial.md"), out)


if __name__ == "__main__":
    main()
