"""The report of one image: saliency, feature maps, probabilities and edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucnn import functional as F
from gpucnn import nn
from gpucnn.analysis.feature_maps import edge_filter, feature_maps, responses
from gpucnn.analysis.saliency import CONVOLUTIONS, grad_cam, occlusion
from gpucnn.analysis.titles import layer_titles
from gpucnn.autograd import Tensor, tensor
from gpucnn.errors import ShapeError
from gpucnn.formats import percent
from gpucnn.report.html import colour_bar, name, page, picture, table, text
from gpucnn.report.images import SIGNED, WARM, coloured, enlarged, image_pixels, overlaid, sheet
from gpucnn.report.run_report import MOST_FILTERS
from gpucnn.report.tiles import scaled_down

MOST_ANSWERS = 10
LEAST_DROP = 0.01
"""Loss of probability for the full colour: for a confident prediction, smaller losses are mostly noise."""

SIDE = 336
"""Approximate side in pixels of enlarged images."""


@dataclass(frozen=True)
class Look:
    """One image (C, H, W), as the data set would hold it, and its prediction explained.

    probabilities: (K,). target: the class that is explained. cam: Grad-CAM (H, W), None without a convolution. covered:
    occlusion (H, W). maps: each convolution's dotted name and feature maps (F, h, w). edges: the responses of filters for
    vertical and horizontal edges to the grey image, 0 to 1. titles: readable names of layers, by dotted name. original: the
    image as it is in its file, (H, W) or (H, W, 3) uint8.

    >>> sorted(look(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), np.zeros((1, 2, 2)), ["a", "b"]).edges)
    ['horizontal', 'vertical']
    """

    image: Any
    class_names: Sequence[str]
    probabilities: Any
    target: int
    cam: Any
    covered: Any
    maps: Mapping[str, Any]
    edges: Mapping[str, Any]
    titles: Mapping[str, str] = field(default_factory=dict)
    original: Any = None


def look(
    model: nn.Module,
    image: Any,
    class_names: Sequence[str],
    x: Tensor | None = None,
    target: int | None = None,
    original: Any = None,
) -> Look:
    """Return the explained prediction of ``model`` for ``image`` (C, H, W). target: by default the predicted class.

    x: the image as the model takes it, (1, C, H, W) normalised; by default ``image`` itself. original: the image before
    preprocessing, uint8 pixels. Errors: see ``grad_cam``.

    >>> net = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    >>> {name: maps.shape for name, maps in look(net, np.zeros((1, 8, 8)), "abc").maps.items()}
    {'0': (6, 4, 4)}
    """
    image = np.asarray(image)
    if image.ndim != 3:
        raise ShapeError.expected("look", "image", "(C, H, W)", f"shape {image.shape}")
    given = image[None] if x is None else x
    modules = dict(model.named_modules())
    made = feature_maps(model, given)
    maps = {key: found[0] for key, found in made.items() if isinstance(modules[key], CONVOLUTIONS)}
    logits = feature_maps(model, given, "")
    probabilities = F.softmax(tensor(logits, device="cpu")).numpy()[0]
    chosen = int(probabilities.argmax()) if target is None else target
    covered = occlusion(model, given, chosen)
    cam = grad_cam(model, given, chosen) if maps else None
    pixels = image_pixels(image).astype(np.float32) / 255
    grey = pixels if pixels.ndim == 2 else pixels.mean(2)
    edges = {which: responses(grey, edge_filter(which)) for which in ("vertical", "horizontal")}
    return Look(
        image, list(class_names), probabilities, chosen, cam, covered, maps, edges, layer_titles(model), original
    )


def look_page(found: Look, title: str) -> str:
    """Return an explained prediction as an HTML page in one file.

    >>> found = look(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), np.zeros((1, 2, 2)), ["a", "b"])
    >>> "<h1>one.png</h1>" in look_page(found, "one.png")
    True
    """
    label = found.class_names[found.target]
    answer = int(found.probabilities.argmax())
    said = f"The network says {name(found.class_names[answer])}, with probability {percent(found.probabilities[answer], 1)}."
    parts = [("Where it looked", _places(found, label)), ("Probabilities", _probabilities(found))]
    parts += [
        (f"Feature maps of {found.titles.get(key, key)}", _maps(found.titles.get(key, key), maps))
        for key, maps in found.maps.items()
    ]
    figures = (
        picture(_large(coloured((values + 1) / 2, SIGNED)), f"The image's {which} edges", f"{which} edges")
        for which, values in found.edges.items()
    )
    about = (
        "<p>Not learnt: the difference of neighbouring pixels, which is all an edge is. Blue gets lighter, red darker; "
        "left to right for vertical edges, top to bottom for horizontal ones.</p>"
    )
    parts.append(("Edges by hand-made filters", f'{about}<div class="row">{"".join(figures)}</div>'))
    return page(title, f"<h1>{text(title)}</h1><p>{said}</p>", parts)


def heats(found: Look) -> dict[str, Any]:
    """Return the saliency maps to draw: {title: image (H, W, 3) uint8}.

    >>> found = look(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), np.zeros((1, 2, 2)), ["a", "b"])
    >>> list(heats(found))
    ['Occlusion']
    """
    heat = np.maximum(found.covered, 0) / max(float(found.covered.max()), LEAST_DROP)
    shown = {} if found.cam is None else {"Grad-CAM": overlaid(found.image, found.cam)}
    return shown | {"Occlusion": overlaid(found.image, heat)}


def _places(found: Look, label: str) -> str:
    shown = []
    if found.original is not None:
        shown.append(picture(_large(scaled_down(found.original, SIDE)), "The original picture", "the picture"))
    shown.append(
        picture(_large(image_pixels(found.image)), "The image as the network reads it", "as the network reads it")
    )
    captions = {
        "Grad-CAM": "Grad-CAM: the lighter, the more the last convolution found there that speaks for the class",
        "Occlusion": "Occlusion: the lighter, the more the probability falls when a square there is covered; "
        f"by {percent(max(float(found.covered.max()), 0), 1)} at most",
    }
    shown += [picture(_large(pixels), f"{what} for {label}", captions[what]) for what, pixels in heats(found).items()]
    bar = colour_bar(WARM, "0", "most", "Colours of the maps, from nothing to the most of this image")
    return f'<p>For the class {name(label)}.</p><div class="row">{"".join(shown)}</div>{bar}'


def _probabilities(found: Look) -> str:
    order = np.argsort(-found.probabilities, kind="stable")[:MOST_ANSWERS]
    rows = (
        [name(found.class_names[i]), percent(found.probabilities[i]),
         f'<span class="bar" style="--share: {found.probabilities[i]:.4f}"></span>']
        for i in order
    )  # fmt: skip
    return table(f"The {len(order)} most probable classes", ["class", "probability", ""], rows, "bars")


def _maps(key: str, maps: Any) -> str:
    F_, h, w = maps.shape
    tiles, largest = map_pixels(maps)
    about = f"{F_} maps of {h}x{w}" + (f", the first {MOST_FILTERS} shown" if F_ > MOST_FILTERS else "")
    bar = colour_bar(SIGNED, f"{-largest:.3g}", f"{largest:.3g}", "Colours of the maps, 0 in the middle")
    return f"<p>{about}.</p>{bar}{picture(sheet(tiles, side=640), f'Feature maps of {key}')}"


def map_pixels(maps: Any) -> tuple[Any, float]:
    """Return feature maps (F, h, w) as images (F, h, w, 3) on one scale, and the value of its full colour.

    >>> map_pixels(np.array([[[-2.0, 0.0]]]))[0].tolist()
    [[[[33, 102, 172], [247, 247, 247]]]]
    """
    maps = np.nan_to_num(maps[:MOST_FILTERS])
    largest = float(np.abs(maps).max()) or 1.0
    return coloured((maps / largest + 1) / 2, SIGNED), largest


def _large(pixels: Any) -> Any:
    return enlarged(pixels, max(SIDE // max(pixels.shape[:2]), 1))
