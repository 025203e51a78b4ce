"""``gpucnn summary``."""

from __future__ import annotations

import json

import pytest
from runs import assert_refused, gpucnn

from gpucnn import models
from gpucnn.inspect import summary


def test_the_table() -> None:
    result = gpucnn("summary", "lenet")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{summary(models.lenet(), (1, 28, 28))}\n"
    assert "total" in result.out
    assert "61,706" in result.out


def test_json_with_another_shape() -> None:
    result = gpucnn("summary", "lenet:pooling=avg", "--input-shape", "3,32,32", "--classes", 7, "--json")
    assert (result.code, result.err) == (0, "")
    values = json.loads(result.out)
    assert values["input_shape"] == [3, 32, 32]
    assert [layer["kind"] for layer in values["layers"]][2] == "AvgPool2d"
    assert values["layers"][0]["parameters"] == 3 * 6 * 25 + 6
    assert values["layers"][-1]["output_shape"] == [1, 7]


def test_mistakes() -> None:
    assert_refused(gpucnn("summary"), 2, "NAME")
    assert_refused(gpucnn("summary", "lenett"), 2, "Did you mean lenet?")
    assert_refused(gpucnn("summary", "lenet", "--input-shape", "1,4,4"), 2, "lenet")


@pytest.mark.parametrize("shape", ["28,28", "0,28,28", "1,28,28,1", "a,b,c", ""])
def test_no_shape(shape: str) -> None:
    assert_refused(gpucnn("summary", "lenet", "--input-shape", shape), 2, "C,H,W such as 1,28,28")


def test_images_that_are_not_square() -> None:
    result = gpucnn("summary", "lenet", "--input-shape", "1,20,32", "--json")
    layers = json.loads(result.out)["layers"]
    assert (result.code, layers[0]["output_shape"][-2:]) == (0, [20, 32])
