"""A network trained on MNIST reads digits as a person draws them with a mouse."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from runs import gpucnn
from strokes import DIGITS, draw

LOOKS = list(itertools.product((False, True), (False, True)))  # light on dark, anti-aliased


@pytest.mark.slow
def test_drawn_digits_are_read_whatever_their_size_place_and_polarity(tmp_path: Path, mnist: Path) -> None:
    run = tmp_path / "run"
    assert gpucnn("train", "--data", mnist, "--epochs", 2, "--device", "cpu", "--out", run).code == 0
    kinds: dict[str, list[bool]] = {}

    def write(kind: str, digit: int, number: int, side: int, *args: object, **options: object) -> Path:
        path = tmp_path / f"{digit}-{kind}-{side}-{number}.png"
        draw(digit, side, *args, **options).save(path)  # type: ignore[arg-type]
        return path

    paths = []
    for number, (light, smooth) in enumerate(LOOKS):
        rng = np.random.default_rng(number)
        for side, digit in itertools.product((24, 48, 100, 280, 600), DIGITS):
            paths.append(write("plain", digit, number, side, light, rng, smooth, plain=True))
            paths += [write("free", digit, 10 * number + i, side, light, rng, smooth) for i in range(3)]
        for side, digit in itertools.product((100, 400, 1000), DIGITS):
            paths.append(write("hairline", digit, number, side, light, rng, smooth, pen=0.004))
    result = gpucnn("predict", run, *paths, "--json")
    for path, line in zip(paths, result.out.splitlines(), strict=True):
        digit, kind, *_ = path.stem.split("-")
        kinds.setdefault(kind, []).append(json.loads(line)["answers"][0]["class"] == digit)
    right = {kind: float(np.mean(answers)) for kind, answers in kinds.items()}
    assert right["plain"] == 1, right
    assert right["free"] > 0.99, right
    assert right["hairline"] > 0.98, right
