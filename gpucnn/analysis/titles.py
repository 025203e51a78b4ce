"""Readable names of layers: "conv1" where the network only has a number."""

from __future__ import annotations

import re
from collections import Counter

from gpucnn import nn


def layer_titles(model: nn.Module) -> dict[str, str]:
    """Return a readable name of each layer without layers inside: {dotted name: title}.

    A layer whose name is only its index in a container is called by its kind and a number; others keep their dotted names.

    >>> layer_titles(nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.Conv2d(6, 16, 5)))
    {'0': 'conv1', '1': 'relu1', '2': 'conv2'}
    """
    counts: Counter[str] = Counter()
    titles = {}
    for name, module in model.named_modules():
        if not any(module.children()):
            kind = re.sub(r"\dd$", "", type(module).__name__).lower()
            counts[kind] += 1
            titles[name] = name if name and not name.rpartition(".")[2].isdigit() else f"{kind}{counts[kind]}"
    return titles
