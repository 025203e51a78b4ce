"""The page as text: what is in it, its policy, and what is refused before it is written."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpucnn import models, nn
from gpucnn.errors import ParameterError
from gpucnn.playground import Subject, playground

DIGITS = [str(k) for k in range(10)]


def subject(net: nn.Module | None = None, **changes: Any) -> Subject:
    made = Subject("lenet on digits", "about", net or models.lenet(), DIGITS, (1, 28, 28), [0.5], [0.25])
    return replace(made, **changes)


def block(html: str, name: str) -> str:
    found = re.search(rf'<script type="[\w/]+" id="{name}">(.*?)</script>', html, re.S)
    assert found is not None
    return found.group(1)


def test_it_holds_the_weights_as_they_are() -> None:
    net = models.lenet()
    html = playground(subject(net))
    numbers = np.frombuffer(base64.b64decode(block(html, "given-numbers")), "<f4")
    given = json.loads(block(html, "given"))
    offset, count = given["operations"][3]["arrays"]["weight"]
    np.testing.assert_array_equal(numbers[offset : offset + count], net.state_dict()["3.weight"].ravel())
    assert given["classes"] == DIGITS
    assert given["normalisation"] == {"mean": [0.5], "std": [0.25]}


def test_the_policy_lets_only_this_program_run() -> None:
    html = playground(subject())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    assert "default-src 'none'" in policy.group(1)
    assert "unsafe" not in policy.group(1)
    (program,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy.group(1)
    assert not re.search(r"\b(src|href)\s*=\s*[\"']?(https?:|//)", html)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|importScripts)\b\s*\(", html)


def test_names_stay_text() -> None:
    evil = "</script><script>alert(1)</script><!--\u2028\ud800"
    net = nn.Sequential(nn.Flatten(name="</script><b>"), nn.Linear(4, 1))
    html = playground(Subject(evil, evil, net, [evil], (1, 2, 2), [0.0], [1.0]))
    assert "<script>alert" not in html
    assert len(re.findall("</script>", html)) == html.count("<script")
    given = json.loads(block(html, "given"))
    assert given["classes"] == [evil.replace("\ud800", "\ufffd")]
    assert given["operations"][0]["name"] == "</script><b>"
    html.encode()


def test_pages_are_small() -> None:
    assert len(playground(subject())) < 1e6 * 0.7, "lenet, without test images"
    colour = {"image_shape": (3, 32, 32), "mean": [0.5] * 3, "std": [0.25] * 3}
    images = np.zeros((30, 3, 32, 32), np.uint8)
    assert len(playground(subject(models.resnet(), images=images, labels=[0] * 30, **colour))) < 3e6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"net": nn.Sequential(nn.Flatten(), nn.Linear(784, 4000), nn.Linear(4000, 10))}, "at most 10 MB of weights"),
        ({"class_names": ["a", "b"]}, "a number for each of 2 classes"),
        ({"image_shape": (2, 28, 28), "net": models.lenet(in_channels=2)}, "grey or RGB images"),
        ({"net": nn.Sequential(nn.LPPool2d(2, 2), nn.Flatten())}, "layer 0"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        playground(subject(**changes))


def test_damaged_weights_are_refused_by_their_layer() -> None:
    net = models.lenet()
    net.load_state_dict(net.state_dict() | {"3.bias": np.full(16, np.nan)})
    with pytest.raises(ParameterError, match=r"layer 3, conv2: expected finite weights"):
        playground(subject(net))


def test_first_filters_are_there_where_they_fit() -> None:
    net = models.lenet()
    before = np.ones((6, 1, 5, 5), np.float32)
    given = json.loads(block(playground(subject(net, filters_before=before)), "given"))
    assert given["filtersBefore"]["operation"] == 0
    given = json.loads(block(playground(subject(net, filters_before=before[:5])), "given"))
    assert given["filtersBefore"] is None
