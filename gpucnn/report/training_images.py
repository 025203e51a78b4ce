"""What a report shows of the training images: how many there are of each class, and how the network sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpucnn.report.charts import columns
from gpucnn.report.html import folded, name, table
from gpucnn.report.images import image_pixels
from gpucnn.report.tiles import class_bars, strip, tile

MOST_SAMPLED = 24
"""Most classes of which sample images are shown."""


@dataclass(frozen=True)
class Balance:
    """The training images: the count of each class, and some images (C, H, W) of each as the network sees them.

    views: of some images the class, and the image as it is and as augmentation made it in each of the first epochs. mixed:
    images of the first batches as mixup or CutMix made them, with pairs (class, share).

    >>> Balance(["cat", "dog"], [30, 70]).share
    0.3
    """

    class_names: Sequence[str]
    counts: Sequence[int]
    samples: Sequence[Sequence[Any]] = ()
    views: Sequence[tuple[int, Sequence[Any]]] = ()
    mixed: Sequence[tuple[Any, Sequence[tuple[int, float]]]] = ()

    @property
    def share(self) -> float:
        """The fraction of the images that belong to the rarest class."""
        return min(self.counts) / max(sum(self.counts), 1)


def balance_part(balance: Balance) -> str:
    """Return the part of a report about the training images."""
    total, K = sum(balance.counts), len(balance.class_names)
    rarest, commonest = (choose(range(K), key=lambda i: balance.counts[i]) for choose in (min, max))
    about = f"{total:,} images of {K} classes, as the network sees them."
    if balance.counts[commonest] > 1.5 * balance.counts[rarest]:
        about += (
            f" {name(balance.class_names[commonest])} has {balance.counts[commonest]:,}, "
            f"{name(balance.class_names[rarest])} {balance.counts[rarest]:,}."
        )
    drawn = columns("Images of each class", balance.class_names, balance.counts, "images")
    shown = [i for i in range(min(K, len(balance.samples), MOST_SAMPLED)) if len(balance.samples[i])]
    rows = "".join(
        f'<tr><th scope="row">{name(balance.class_names[i])}</th>'
        f"<td>{strip(balance.samples[i], f'Training image of class {balance.class_names[i]}')}</td></tr>"
        for i in shown
    )
    more = f", the first {len(shown)} of {K} classes" if len(shown) < K else ""
    samples = f'<table class="names"><caption><span>Samples{more}</span></caption><tbody>{rows}</tbody></table>'
    more_of_them = _views(balance) + _mixed(balance)
    counts = ([name(label), f"{count:,}"] for label, count in zip(balance.class_names, balance.counts, strict=True))
    numbers = folded("Numbers", table("Training images of each class", ["class", "images"], counts))
    return f'<p>{about}</p><div class="row"><div>{drawn}{numbers}</div>{samples if shown else ""}</div>{more_of_them}'


def _views(balance: Balance) -> str:
    """Return some images as they are, and as augmentation made them in the first epochs."""
    if not balance.views:
        return ""
    rows = [
        [
            name(balance.class_names[i]),
            *(
                tile(image_pixels(image), f"{balance.class_names[i]}, {_when(epoch)}")
                for epoch, image in enumerate(seen)
            ),
        ]
        for i, seen in balance.views
    ]
    heads = ["class", *(_when(epoch) for epoch in range(len(rows[0]) - 1))]
    return table("Augmentation: the same images, epoch by epoch", heads, rows, "views")


def _when(epoch: int) -> str:
    return f"epoch {epoch}" if epoch else "as it is"


def _mixed(balance: Balance) -> str:
    """Return images of the first batches that were mixed, with the shares of their classes."""
    if not balance.mixed:
        return ""
    tiles = "".join(
        f"<li>{tile(image_pixels(image), 'Mixed image')}{class_bars(balance.class_names, shares)}</li>"
        for image, shares in balance.mixed
    )
    return f'<figure><h3>Mixed images of the first batches</h3><ul class="tiles">{tiles}</ul></figure>'
