"""Train a network on each of five kinds of data, and draw docs/gallery.md with what came out. Needs a clone.

    python scripts/gallery.py                  # about two minutes
    python scripts/gallery.py --data FOLDER    # only draw the data sets, to type the page's commands

All data are drawn by the program: the built-in digits, and those of gallery_data.py. The page's numbers are those of
docs/gallery/results.json, which a run writes.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import figures
import gallery_data
import numpy as np
from gallery_data import Drawn
from PIL import Image

from gpucnn import functional as F
from gpucnn import inspect, no_grad
from gpucnn.data import draw_digits
from gpucnn.formats import percent
from gpucnn.report.image_report import map_pixels
from gpucnn.report.images import image_pixels, overlaid
from gpucnn.report.outcome import Outcome, confusions
from gpucnn.training import RunFolder, SavedModel

DOCS = Path(__file__).resolve().parent.parent / "docs"
NEAR = 4
"""Pixels from a defect that still count as on it: Grad-CAM's map is a quarter of the image's size."""
SHORTER = ("--epochs", "1", "--batch-size", "20", "--validation", "30")
"""What a quick run adds to the commands."""


def digits(count: int, seed: int) -> Drawn:
    """Return some built-in digits, for a quick run that does not draw all of them."""
    images, labels = draw_digits(count, seed=seed)
    return Drawn(images.reshape(-1, 28, 28), labels, [str(digit) for digit in range(10)])


@dataclass(frozen=True)
class Exhibit:
    """A data set, the command that trains on it, and what the page says.

    draw: (count, seed) -> Drawn; train, test: how many images, 0 where the command draws its own; folder: of files.
    """

    name: str
    title: str
    about: str
    command: str
    draw: Callable[[int, int], Drawn]
    train: int = 0
    test: int = 0
    folder: bool = False


EXHIBITS = (
    Exhibit(
        "digits",
        "Digits",
        "The built-in data set: drawn by strokes of a pen, like MNIST's. Here LeNet gets 12,000 of the 60,000. Grad-CAM "
        "often points beside the ink: empty space tells digits apart as well.",
        "gpucnn train --limit 12000 --epochs 8 --out runs/digits",
        digits,
    ),
    Exhibit(
        "clothes",
        "Clothes",
        "Ten kinds of clothes as grey silhouettes, after the manner of Fashion-MNIST. Short-sleeved shirts and long-sleeved "
        "T-shirts are among them, so some images could be either.",
        "gpucnn train --data clothes.npz --epochs 10 --augment shift=2,flip --out runs/clothes",
        gallery_data.clothes,
        4000,
        1000,
    ),
    Exhibit(
        "flowers",
        "Flowers in folders",
        "Colour pictures in folders, `flowers/train/daisy/0.png` and so on. The network is a small residual one.",
        "gpucnn train --data flowers --model resnet:width=8,blocks=1 --epochs 8 --batch-size 32 "
        "--augment flip,colour=0.2 --out runs/flowers",
        gallery_data.flowers,
        800,
        400,
        folder=True,
    ),
    Exhibit(
        "surfaces",
        "Defects on a surface",
        "Brushed metal. Two of three images show nothing wrong, which is how such data come: `--class-weights balanced` "
        "makes the rare kinds count as much as the common one.",
        "gpucnn train --data surfaces.npz --model resnet:width=8,blocks=1 --epochs 10 --class-weights balanced "
        "--augment flip --out runs/surfaces",
        gallery_data.surfaces,
        2700,
        900,
    ),
    Exhibit(
        "hands",
        "Hands that spell",
        "Letters of the American finger alphabet, by left and right hands, light on dark and dark on light. U and V differ "
        "by how far two fingers stand apart; D and I by which finger is up.",
        "gpucnn train --data hands.npz --epochs 12 --augment flip,shift=2,rotate=10 --out runs/hands",
        gallery_data.hands,
        3000,
        1000,
    ),
)


def write_data(exhibit: Exhibit, folder: Path, quick: bool) -> None:
    """Draw an exhibit's data set into ``folder``, as its command expects it."""
    if not (exhibit.train or quick):
        return
    parts = {
        "train": exhibit.draw(108 if quick else exhibit.train, 0),
        "test": exhibit.draw(54 if quick else exhibit.test, 1),
    }
    if exhibit.folder:
        for part, data in parts.items():
            for i, (pixels, label) in enumerate(zip(data.images, data.labels, strict=True)):
                place = folder / exhibit.name / part / data.names[label]
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(place / f"{i}.png")
    else:
        arrays = {f"x_{part}": data.images for part, data in parts.items()}
        labels = {f"y_{part}": data.labels for part, data in parts.items()}
        np.savez(folder / f"{exhibit.name}.npz", **arrays, **labels, class_names=list(parts["train"].names))


def train(exhibit: Exhibit, folder: Path, quick: bool) -> None:
    """Run an exhibit's command in ``folder``."""
    program, *options = shlex.split(exhibit.command)
    if quick:
        options += [*SHORTER, *(() if exhibit.train else ("--data", f"{exhibit.name}.npz", "--limit", "100"))]
    subprocess.run([sys.executable, "-m", program, *options], check=True, cwd=folder)


@dataclass(frozen=True)
class Answers:
    """What a run's network answers on the test images (N, C, H, W): probabilities (N, K)."""

    saved: SavedModel
    metrics: list[dict[str, Any]]
    images: Any
    labels: Any
    probabilities: Any

    @classmethod
    def of(cls, run: Path) -> Answers:
        saved = SavedModel.load(RunFolder.open(run), "cpu")
        test = saved.test_set()[1]
        batches = [np.arange(start, min(start + 100, len(test))) for start in range(0, len(test), 100)]
        loader = saved.feed(test)
        with no_grad():
            found = [F.softmax(saved.net(loader.batch(chosen)[0])).numpy() for chosen in batches]
        images, labels = test[np.arange(len(test))]
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return cls(saved, metrics, images, labels, np.concatenate(found))

    @property
    def found(self) -> Any:
        """The answers (N,)."""
        return self.probabilities.argmax(1)

    @property
    def confusion(self) -> Any:
        """Counts (K, K): rows are true classes."""
        K = len(self.saved.class_names)
        return np.bincount(self.labels * K + self.found, minlength=K * K).reshape(K, K)

    def input(self, i: int) -> Any:
        """Return an image as the network takes it, (C, H, W)."""
        mean, std = (np.array(of, np.float32)[:, None, None] for of in vars(self.saved.normalisation).values())
        return (self.images[i] / np.float32(255) - mean) / std


def results_of(answers: Answers, exhibit: Exhibit) -> dict[str, Any]:
    """Return the numbers of an exhibit."""
    counts = answers.confusion
    outcome = Outcome(exhibit.name, answers.saved.class_names, counts)
    rows = [row for row in answers.metrics if "train_loss" in row]
    kept = ("epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
    numbers: dict[str, Any] = {
        "command": exhibit.command,
        "classes": answers.saved.class_names,
        "parameters": sum(parameter.size for parameter in answers.saved.net.parameters()),
        "test_images": outcome.count,
        "test_accuracy": outcome.accuracy,
        "confusion": counts.tolist(),
        "confused": [[*pair, int(counts[pair])] for pair in confusions(outcome, 1)],
        "epochs": [{key: row[key] for key in kept} for row in rows],
    }
    if exhibit.draw is gallery_data.surfaces:
        numbers["pointed"] = pointed(answers, exhibit)
    return numbers


def pointed(answers: Answers, exhibit: Exhibit) -> list[int]:
    """Return for how many defects that were classified correctly Grad-CAM's highest place is on them, and of how many."""
    defects = exhibit.draw(len(answers.labels), 1).defects
    named = np.flatnonzero((answers.labels == answers.found) & defects.any((1, 2)))
    hits = 0
    for i in named:
        heat = inspect.grad_cam(answers.saved.net, answers.input(i), int(answers.labels[i]))
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        rows, columns = np.nonzero(defects[i])
        hits += bool((np.hypot(rows - row, columns - column) <= NEAR).any())
    return [hits, len(named)]


def draw(answers: Answers, exhibit: Exhibit, numbers: dict[str, Any], folder: Path) -> None:
    """Draw an exhibit's figures; those of ``numbers`` from these alone."""
    names = answers.saved.class_names
    of_class = [np.flatnonzero(answers.labels == k) for k in range(len(names))]

    def path(what: str) -> Path:
        return folder / f"{exhibit.name}-{what}.svg"

    pixels = [[image_pixels(answers.images[i]) for i in chosen[:8]] for chosen in of_class]
    figures.write_samples(path("samples"), names, pixels)
    figures.write_confusion(path("confusion"), np.array(numbers["confusion"]), names)
    figures.write_accuracy(path("accuracy"), numbers["epochs"])

    right = answers.probabilities[np.arange(len(answers.labels)), answers.labels]
    worst = [int(i) for i in np.argsort(right) if answers.found[i] != answers.labels[i]][:8]
    shown = [
        (image_pixels(answers.images[i]), names[answers.labels[i]], f"as {names[answers.found[i]]}") for i in worst
    ]
    figures.write_tiles(path("mistakes"), "Worst mistakes", shown, "Test images classified wrongly", figures.MIDDLE)

    chosen = [int(of[np.argmax(right[of])]) for of in of_class[:4]]
    looked = []
    for i in chosen:
        heat = inspect.grad_cam(answers.saved.net, answers.input(i), int(answers.labels[i]))
        looked.append(([image_pixels(answers.images[i]), overlaid(answers.images[i], heat)], names[answers.labels[i]]))
    figures.write_tiles(path("looked"), "Grad-CAM: what speaks for it", looked, "Images and Grad-CAM", figures.SMALL)

    maps = next(iter(inspect.feature_maps(answers.saved.net, answers.input(chosen[2])[None]).values()))[0]
    coloured, _ = map_pixels(maps[:7])
    row = [(image_pixels(answers.images[chosen[2]]), "image")]
    row += [(one, f"map {i}") for i, one in enumerate(coloured, 1)]
    figures.write_tiles(path("maps"), "Maps of the first convolution", row, "Blue below zero, red above", figures.SMALL)


HEAD = """# Gallery: five kinds of data

What a network makes of digits, clothes, flowers, metal and hands, each trained by one command in seconds on two cores.
All images are drawn by a program, so whoever has gpucnn has them, and nobody's data are in it. They are easier than
photographs: the figures say that the commands do what they should, not what they would reach on yours.

Everything here was made by `scripts/gallery.py`; its numbers are in `docs/gallery/results.json`. To type the commands
yourself, draw the data sets first:

<!-- not run: needs a clone -->
```sh
python scripts/gallery.py --data .
```

Each command leaves a [run folder](runs.md) with a report that shows more of the same; `gpucnn playground` lets you
[draw and watch](playground.md).
"""

PICTURES = {
    "samples": "samples of each class",
    "confusion": "confusion matrix of the test images",
    "accuracy": "accuracy in training and validation",
    "mistakes": "worst mistakes",
    "looked": "Grad-CAM of some test images",
    "maps": "feature maps of the first convolution",
}


def part_of(exhibit: Exhibit, numbers: dict[str, Any]) -> str:
    """Return an exhibit's part of the page."""
    wrong = numbers["test_images"] - sum(numbers["confusion"][k][k] for k in range(len(numbers["classes"])))
    said = (
        f"**{percent(numbers['test_accuracy'], 1)}** of {numbers['test_images']:,} test images are classified correctly "
        f"after {len(numbers['epochs'])} epochs by a network of {numbers['parameters']:,} parameters"
    )
    for i, j, times in numbers["confused"]:
        name = numbers["classes"]
        said += f"; of {wrong:,} mistakes the most frequent is {name[i]} taken for {name[j]} ({times} times)"
    if "pointed" in numbers:
        hits, of = numbers["pointed"]
        said += (
            f". Of {of:,} defects that it classifies correctly, Grad-CAM's highest place lies on the defect, or at most "
            f"{NEAR} pixels from it, in {hits:,}, though nobody told the network where they are"
        )
    pictures = "\n".join(
        f"![{exhibit.title}: {about}](gallery/{exhibit.name}-{what}.svg)" for what, about in PICTURES.items()
    )
    command = textwrap.fill(exhibit.command, 76, subsequent_indent="    ", break_on_hyphens=False).replace(
        "\n", " \\\n"
    )
    skip = "" if not exhibit.train else "<!-- not run: needs a data set of the gallery -->\n"
    about, said = (textwrap.fill(paragraph, 125, break_on_hyphens=False) for paragraph in (exhibit.about, f"{said}."))
    return f"## {exhibit.title}\n\n{about}\n\n{skip}```sh\n{command}\n```\n\n{said}\n\n{pictures}\n"


def page_of(results: dict[str, Any]) -> str:
    """Return the page that shows these results."""
    return HEAD + "".join("\n" + part_of(exhibit, results[exhibit.name]) for exhibit in EXHIBITS)


@click.command(help=__doc__)
@click.option(
    "--data", "only", type=click.Path(file_okay=False, path_type=Path), help="Draw the data sets there, no more."
)
@click.option("--out", default=DOCS, type=click.Path(file_okay=False, path_type=Path), help="Where the page goes.")
@click.option("--quick", is_flag=True, help="A few images and one epoch, to see that it runs.")
def main(only: Path | None, out: Path, quick: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) if only is None else only
        data.mkdir(parents=True, exist_ok=True)
        for exhibit in EXHIBITS:
            write_data(exhibit, data, quick)
        if only is not None:
            return
        folder = out / "gallery"
        folder.mkdir(parents=True, exist_ok=True)
        results, kinds = {}, []
        for exhibit in EXHIBITS:
            train(exhibit, data, quick)
            answers = Answers.of(data / "runs" / exhibit.name)
            results[exhibit.name] = results_of(answers, exhibit)
            draw(answers, exhibit, results[exhibit.name], folder)
            kinds.append([image_pixels(image) for image in answers.images[:8]])
        figures.write_rows(folder / "kinds.svg", "Five kinds of data", list(results), kinds, 8, 240)
    (folder / "results.json").write_text(json.dumps(results) + "\n", encoding="utf-8")
    (out / "gallery.md").write_text(page_of(results), encoding="utf-8")


if __name__ == "__main__":
    main()
