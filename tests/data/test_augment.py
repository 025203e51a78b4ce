"""Augmentation: what each kind does to images by hand-made cases, and that a seed decides all of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from gpucnn.data import Augmentation, Draws
from gpucnn.data.augment import add_noise, cut_out, elastic_field, move, warp
from gpucnn.errors import DataError, UsageError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 1, 9, 9), np.uint8)
COLOUR = RNG.integers(0, 256, (4, 3, 8, 11), np.uint8)
FLOATS = RNG.standard_normal((4, 2, 7, 6)).astype(np.float32)
EVERY = "shift=2,rotate=20,scale=0.2,flip,elastic=1.5,cutout=4,noise=0.1"
ALL = EVERY + ",crop=2,resized_crop=0.4,colour=0.4,hue=0.3,grey=0.3,blur=1.2"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Return an image (C, H, W) moved pixel by pixel, its border continued."""
    C, H, W = image.shape
    out = np.empty_like(image)
    for i in range(H):
        for j in range(W):
            out[:, i, j] = image[:, min(max(i - down, 0), H - 1), min(max(j - right, 0), W - 1)]
    return out


def still(images: np.ndarray, **changes: Any) -> np.ndarray:
    """Return ``warp`` of images with nothing but these changes."""
    B = len(images)
    nothing = {
        "angles": np.zeros(B),
        "factors": np.ones(B),
        "shifts": np.zeros((B, 2), int),
        "flips": np.zeros(B, bool),
    }
    return warp(images, **(nothing | changes))


@pytest.mark.parametrize("images", [GREY, COLOUR, FLOATS], ids=["grey", "colour", "floats"])
@pytest.mark.parametrize("flip", [False, True])
def test_shifts_by_whole_pixels_are_exact(images: np.ndarray, flip: bool) -> None:
    shifts, flips = RNG.integers(-3, 4, (len(images), 2)), np.full(len(images), flip)
    expected = [
        shifted(image[..., ::-1] if flip else image, *shift) for image, shift in zip(images, shifts, strict=True)
    ]
    for moved in (move(images, shifts, flips), still(images, shifts=shifts, flips=flips)):
        assert moved.dtype == images.dtype
        np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("quarters", [-1, 0, 1, 2, 3])
def test_quarter_turns_are_those_of_rot90(quarters: int) -> None:
    square = COLOUR[..., :8]
    turned = still(square, angles=np.full(4, quarters * math.pi / 2))
    np.testing.assert_array_equal(turned, np.rot90(square, quarters, axes=(2, 3)))


def test_a_flip_comes_before_the_turn_and_the_turn_before_the_shift() -> None:
    image = GREY[:1]
    changed = still(image, angles=np.array([math.pi / 2]), flips=np.array([True]), shifts=np.array([[1, -2]]))
    np.testing.assert_array_equal(changed[0], shifted(np.rot90(image[0][..., ::-1], 1, axes=(1, 2)), 1, -2))


def test_scaling_up_by_two_reads_between_pixels() -> None:
    ramp = np.arange(0, 90, 10, dtype=np.float32)[None, None, None].repeat(9, 2)
    larger = still(ramp, factors=np.array([2.0]))
    np.testing.assert_allclose(larger[0, 0, 4], 40 + 5 * np.arange(-4, 5), atol=1e-4)
    smaller = still(ramp, factors=np.array([0.5]))
    np.testing.assert_allclose(smaller[0, 0, 4], [0, 0, 0, 20, 40, 60, 80, 80, 80], atol=1e-4)


def test_interpolation_is_bilinear() -> None:
    """Against the definition, pixel by pixel, for turned, scaled and bent images."""
    images, (B, _, H, W) = FLOATS.astype(np.float64), FLOATS.shape
    angles, factors = RNG.uniform(-1, 1, B), RNG.uniform(0.7, 1.4, B)
    field = RNG.standard_normal((2, B, H, W)).astype(np.float32)
    got = still(images, angles=angles, factors=factors, field=field)
    for b, i, j in np.ndindex(B, H, W):
        u, v = i - (H - 1) / 2, j - (W - 1) / 2
        cos, sin = math.cos(angles[b]) / factors[b], math.sin(angles[b]) / factors[b]
        y = min(max(cos * u + sin * v + (H - 1) / 2 + field[0, b, i, j], 0), H - 1)
        x = min(max(cos * v - sin * u + (W - 1) / 2 + field[1, b, i, j], 0), W - 1)
        top, left = min(int(y), H - 2), min(int(x), W - 2)
        p, q = y - top, x - left
        corners = images[b, :, top : top + 2, left : left + 2]
        value = (1 - p) * (1 - q) * corners[:, 0, 0] + (1 - p) * q * corners[:, 0, 1]
        value += p * (1 - q) * corners[:, 1, 0] + p * q * corners[:, 1, 1]
        np.testing.assert_allclose(got[b, :, i, j], value, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (2, 3, 1, 6), (2, 1, 6, 1), (0, 1, 8, 8)])
def test_images_of_one_row_or_column_and_no_images(shape: tuple[int, ...]) -> None:
    images = RNG.integers(0, 256, shape, np.uint8)
    assert Augmentation.parse(EVERY)(images, rng()).shape == shape
    np.testing.assert_array_equal(still(images), images)


@pytest.mark.parametrize("images", [GREY, COLOUR, FLOATS], ids=["grey", "colour", "floats"])
def test_no_strength_changes_nothing(images: np.ndarray) -> None:
    np.testing.assert_array_equal(Augmentation()(images, rng()), images)
    np.testing.assert_array_equal(still(images), images)
    zero = Augmentation.parse("shift=0,rotate=0,scale=0,elastic=0,cutout=0,noise=0")
    np.testing.assert_array_equal(zero(images, rng()), images)


@pytest.mark.parametrize("kind", EVERY.split(","))
def test_each_kind_changes_images_and_leaves_those_it_was_given(kind: str) -> None:
    before = COLOUR.copy()
    for images in (COLOUR, COLOUR.astype(np.float32)):
        changed = [Augmentation.parse(kind)(images, rng(seed)) for seed in range(4)]
        assert all(image.shape == images.shape and image.dtype == images.dtype for image in changed)
        assert any((image != images).any() for image in changed)
    np.testing.assert_array_equal(COLOUR, before)


def test_half_of_the_images_are_flipped() -> None:
    images = np.tile(np.arange(4, dtype=np.uint8), (2000, 1, 1, 1))
    flipped = Augmentation(flip=True)(images, rng())[:, 0, 0, 0] == 3
    assert 900 < flipped.sum() < 1100


def test_strengths_are_kept_to_and_used_up() -> None:
    """A single bright pixel in the middle: where it goes is the shift."""
    images = np.zeros((4000, 1, 9, 9), np.uint8)
    images[:, :, 4, 4] = 255
    moved = Augmentation(shift=2)(images, rng()).reshape(4000, 81).argmax(1)
    places = {(int(place) // 9 - 4, int(place) % 9 - 4) for place in moved}
    assert places == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}


def test_elastic_displacements_are_smooth_and_of_unit_size() -> None:
    field = elastic_field(Draws([0], range(400)), 28, 28)
    assert field.shape == (2, 400, 28, 28)
    assert field.dtype == np.float32
    spread = field.std((0, 1))
    assert np.abs(spread - 1).max() < 0.1, "in the middle and in the corners alike"
    near = (field[..., 1:] * field[..., :-1]).mean()
    far = (field[..., 14:] * field[..., :-14]).mean()
    assert near > 0.95
    assert abs(far) < 0.1


def test_cut_out_is_a_square_of_the_mean_colour() -> None:
    images = np.zeros((3, 2, 6, 6), np.float32)
    images[:, 0], images[:, 1] = 1, np.arange(36, dtype=np.float32).reshape(6, 6)
    cut = cut_out(images, np.array([[2, 3], [0, 0], [5, 5]]), 3)
    changed = cut[:, 1] != images[:, 1]
    expected = np.zeros((3, 6, 6), bool)
    expected[0, 1:4, 2:5] = expected[1, :2, :2] = expected[2, 4:, 4:] = True
    np.testing.assert_array_equal(changed, expected)
    assert (cut[:, 0] == 1).all()
    assert (cut[:, 1][expected] == 17.5).all()


def test_noise_has_the_size_asked_for_and_stays_in_range() -> None:
    images = np.full((20, 1, 50, 50), 128, np.uint8)
    noisy = Augmentation(noise=0.1)(images, rng()).astype(float) - 128
    assert abs(noisy.mean()) < 0.5
    assert abs(noisy.std() - 25.5) < 0.5
    black = Augmentation(noise=1.0)(np.zeros((1, 1, 9, 9), np.uint8), rng())
    assert black.min() == 0
    np.testing.assert_array_equal(add_noise(np.array([0.5], np.float32), np.array([-2], np.float32)), [-1.5])


@pytest.mark.bits
@pytest.mark.parametrize("size", [28, 32, 96])
def test_a_seed_gives_the_same_bits_whatever_the_threads(size: int) -> None:
    images = RNG.integers(0, 256, (16, 3, size, size), np.uint8)
    augment, results = Augmentation.parse(EVERY), set()
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            results.add(augment(images, rng(7)).tobytes())
    assert len(results) == 1
    assert augment(images, rng(8)).tobytes() not in results


@pytest.mark.bits
def test_other_layouts_of_memory_give_the_same() -> None:
    augment = Augmentation.parse(EVERY)
    inner = np.asfortranarray(COLOUR)
    np.testing.assert_array_equal(augment(inner, rng()), augment(COLOUR, rng()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shfit=2", "Did you mean shift?"),
        ("", "got ''"),
        ("shift", "got 'shift'"),
        ("flip=1", "got 'flip=1'"),
        ("flip,flip", "each once, got 'flip'"),
        ("shift=two", "shift: expected a whole number, got 'two'"),
        ("shift=1.5", "shift: expected a whole number, got '1.5'"),
        ("shift=", "shift: expected a whole number, got ''"),
        ("rotate=nan", "rotate: expected a number from 0 to 180, got nan"),
        ("rotate=-1", "rotate: expected a number from 0 to 180, got -1"),
        ("scale=1", "scale: expected a number from 0 to 0.9, got 1"),
        ("noise=1.1", "noise: expected a number from 0 to 1"),
        ("cutout=-3", "cutout: expected a whole number from 0"),
        ("hue=0.6", "hue: expected a number from 0 to 0.5, got 0.6"),
        ("blur=-1", "blur: expected a number from 0 to 100, got -1"),
    ],
)
def test_what_cannot_be_is_told(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Augmentation.parse(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_spaces_and_order_do_not_matter() -> None:
    assert (
        Augmentation.parse(" flip , rotate = 10 ")
        == Augmentation.parse("rotate=10,flip")
        == Augmentation(rotate=10, flip=True)
    )


@pytest.mark.bits
@pytest.mark.parametrize("images", [GREY, COLOUR, FLOATS], ids=["grey", "colour", "floats"])
@pytest.mark.parametrize("kind", [*ALL.split(","), ALL])
def test_an_image_is_changed_alike_in_every_batch(images: np.ndarray, kind: str) -> None:
    """Its index decides, not its place in the batch, nor what is augmented beside it."""
    augment, indices = Augmentation.parse(kind), np.array([40, 2, 2**33, 7, 0])[: len(images)]
    whole = augment(images, Draws([3, 1], indices))
    for cut in ([0], [1], [3, 1], [2, 0, 3]):
        np.testing.assert_array_equal(augment(images[cut], Draws([3, 1], indices[cut])), whole[cut])


@pytest.mark.parametrize("kind", ALL.split(","))
def test_images_seeds_and_epochs_are_augmented_differently(kind: str) -> None:
    images = np.repeat(RNG.integers(0, 256, (1, 3, 16, 16), np.uint8), 64, 0)
    augment, indices = Augmentation.parse(kind), np.arange(64)
    seen = [augment(images, Draws(seed, indices)) for seed in ([0, 0, 1], [0, 1, 1], [1, 0, 1])]
    assert len(np.unique(seen[0].reshape(64, -1), axis=0)) > (1 if kind == "flip" or kind.startswith("grey") else 8)
    assert all((one != other).any() for one, other in zip(seen, seen[1:] + seen[:1], strict=True))


@pytest.mark.bits
def test_a_kind_that_is_added_changes_no_other() -> None:
    draws = Draws([5], range(4))
    moved = Augmentation(shift=2, flip=True)(COLOUR, draws)
    both = Augmentation(shift=2, flip=True, cutout=3)(COLOUR, draws)
    kept = both == moved
    assert kept.any(1).sum() >= 4 * (88 - 9)
    assert not kept.all()


def test_random_numbers_are_uniform_and_independent() -> None:
    numbers = Draws([0], range(20_000)).uniform(0, 32)
    assert 0 <= numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1
    counts = np.stack([np.histogram(word, 20, (0, 1))[0] for word in numbers.T])
    assert (((counts - 1000) ** 2 / 1000).sum(1) < 60).all()  # chi squared of 19 degrees: 1 in 10^6
    correlation = np.corrcoef(numbers.T)
    assert np.abs(correlation - np.eye(32)).max() < 0.04
    beside = np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]
    assert abs(beside) < 0.04


def test_fields_of_neighbours_are_independent() -> None:
    fields = Draws([0], range(50)).normals(1, (40, 40)).reshape(50, -1)
    assert abs(fields.mean()) < 0.02
    assert abs(fields.std() - 1) < 0.02
    assert np.abs(np.corrcoef(fields) - np.eye(50)).max() < 0.15


def test_random_numbers_for_another_number_of_images_are_told() -> None:
    with pytest.raises(DataError, match="rng: expected random numbers for 5 images, got for 4"):
        Augmentation(shift=1)(GREY, Draws([0], range(4)))
