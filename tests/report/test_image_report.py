"""A look at one image: the parts are what the functions for them give, and the page shows them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pages
import pytest

import gpucnn
from gpucnn import models, nn
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.inspect import feature_maps, grad_cam, look, look_page, occlusion

pytest.importorskip("PIL")

NAMES = [f"<{i}>" for i in range(10)]


@pytest.fixture
def net() -> nn.Module:
    gpucnn.manual_seed(0)
    return models.lenet()


def digit() -> np.ndarray:
    from gpucnn.data import draw_digits

    return draw_digits(1, seed=4)[0][0].reshape(1, 28, 28)


@pytest.mark.bits
def test_the_parts_are_those_of_the_functions(net: nn.Module) -> None:
    image = digit()
    x = gpucnn.tensor(((image[None] / 255 - 0.13) / 0.3).astype(np.float32))
    found = look(net, image, NAMES, x)
    with gpucnn.no_grad():
        logits = net.eval()(x).numpy()[0].astype(np.float64)
    np.testing.assert_allclose(found.probabilities, np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)
    assert found.target == logits.argmax()
    np.testing.assert_array_equal(found.cam, grad_cam(net, x))
    np.testing.assert_array_equal(found.covered, occlusion(net, x))
    assert list(found.maps) == ["0", "3"]
    np.testing.assert_allclose(found.maps["3"], feature_maps(net, x, "3")[0], atol=1e-5)
    grey = image[0] / np.float32(255)
    np.testing.assert_allclose(found.edges["vertical"], grey[:, :-1] - grey[:, 1:], atol=1e-6)
    np.testing.assert_allclose(found.edges["horizontal"], grey[:-1] - grey[1:], atol=1e-6)
    other = look(net, image, NAMES, x, target=(found.target + 1) % 10)
    np.testing.assert_array_equal(other.cam, grad_cam(net, x, (found.target + 1) % 10))


def test_the_page(net: nn.Module) -> None:
    found = look(net, digit(), NAMES)
    page = pages.read(look_page(found, "a<b.png"))
    assert page.all("h1")[0].text == "a<b.png"
    best = int(found.probabilities.argmax())
    assert f"The network says <{best}>, with probability {100 * found.probabilities[best]:.1f} %." in page.text
    rows = pages.table(page.section("Probabilities"))[1:]
    order = sorted(range(10), key=lambda i: -found.probabilities[i])
    assert [row[:2] for row in rows] == [[f"<{i}>", f"{100 * found.probabilities[i]:.2f} %"] for i in order]
    (original, cam, covered) = page.section("Where it looked").figures()
    times = 336 // 28
    assert (pages.pixels(original)[::times, ::times] == digit()[0]).all()
    hot = np.unravel_index(found.cam.argmax(), (28, 28))
    assert pages.pixels(cam)[hot[0] * times, hot[1] * times].tolist() != [digit()[0][hot]] * 3
    assert pages.pixels(covered).shape == (336, 336, 3)
    assert "6 maps of 28x28" in page.section("Feature maps of conv1").text
    assert "16 maps of 10x10" in page.section("Feature maps of conv2").text
    assert len(page.section("Edges by hand-made filters").all("img")) == 2
    assert all(image.attributes["alt"] for image in page.all("img"))


def test_a_sure_answer_shows_no_noise(net: nn.Module) -> None:
    found = look(net, digit(), NAMES)
    quiet = dataclasses.replace(found, covered=np.full((28, 28), 1e-7, np.float32))
    loud = dataclasses.replace(found, covered=np.full((28, 28), 0.5, np.float32))

    def colours(one: object) -> np.ndarray:
        return pages.pixels(pages.read(look_page(one, "t")).section("Where it looked").figures()[2]).astype(int)  # type: ignore[arg-type]

    assert np.ptp(colours(quiet), axis=-1).max() == 0, "grey"
    assert np.ptp(colours(loud), axis=-1).max() > 50


def test_colour_images_deep_networks_and_none_with_a_convolution() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    deep = models.build("resnet", classes=3, in_channels=3, image_size=32)
    page = pages.read(look_page(look(deep, image, list("abc")), "t"))
    assert len(page.all("section")) > 10
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    found = look(flat, image, list("ab"))
    assert found.cam is None
    assert len(pages.read(look_page(found, "t")).section("Where it looked").figures()) == 2
    whole = dataclasses.replace(found, original=np.zeros((90, 40, 3), np.uint8))
    original = pages.read(look_page(whole, "t")).section("Where it looked").figures()[0]
    assert (original.attributes["alt"], pages.pixels(original).shape) == ("The original picture", (270, 120, 3))


def test_mistakes(net: nn.Module) -> None:
    with pytest.raises(ShapeError, match=r"\(C, H, W\)"):
        look(net, np.zeros((28, 28)), NAMES)
    with pytest.raises(ParameterError, match="a class from 0 to 9"):
        look(net, digit(), NAMES, target=10)
