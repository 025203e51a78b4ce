"""The drawn digits: the contract of `draw_digits`, and statistics that would show a drawing gone wrong."""

import threading

import numpy as np
import pytest

from gpucnn.data.digit_shapes import SHAPES
from gpucnn.data.digits import HAND, POINTS, Hand, _compile, _ink, _lengths, draw_digits
from gpucnn.errors import ParameterError

COUNT = 3000


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    images, labels = draw_digits(COUNT, seed=5)
    return images, labels


@pytest.mark.parametrize("count", [0, 1, 9, 250, 251, 1234])
def test_shapes_types_and_balance(count: int) -> None:
    images, labels = draw_digits(count, seed=1)
    assert images.shape == (count, 1, 28, 28)
    assert images.dtype == np.uint8
    assert labels.shape == (count,)
    assert labels.dtype == np.int64
    sizes = np.bincount(labels, minlength=10)
    assert len(sizes) == 10
    assert sizes.sum() == count
    assert np.ptp(sizes) <= 1


def test_arrays_own_nothing_more_than_they_show() -> None:
    # A view of whole blocks would keep 250 images alive for one, and break code that asks for contiguous memory.
    for array in draw_digits(1):
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.base is None


@pytest.mark.bits
def test_same_seed_gives_same_bytes_whatever_the_threads() -> None:
    images, labels = draw_digits(1100, seed=7, threads=1)
    for threads in (2, 3, 16, None):
        again, labels_again = draw_digits(1100, seed=7, threads=threads)
        assert again.tobytes() == images.tobytes()
        assert labels_again.tobytes() == labels.tobytes()


@pytest.mark.bits
def test_callers_in_parallel_do_not_disturb_each_other() -> None:
    expected = draw_digits(300, seed=2)[0]
    results: list[np.ndarray] = []
    callers = [threading.Thread(target=lambda: results.append(draw_digits(300, seed=2)[0])) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 4
    assert all(np.array_equal(result, expected) for result in results)


@pytest.mark.bits
def test_a_smaller_count_is_the_beginning_of_a_larger_one() -> None:
    images, labels = draw_digits(777, seed=3)
    for count in (1, 250, 500, 501):
        fewer, fewer_labels = draw_digits(count, seed=3)
        assert np.array_equal(fewer, images[:count])
        assert np.array_equal(fewer_labels, labels[:count])


def test_seeds_differ_in_pictures_and_order() -> None:
    images, labels = draw_digits(100, seed=0)
    others, other_labels = draw_digits(100, seed=1)
    assert not np.array_equal(labels, other_labels)
    assert not any(np.array_equal(a, b) for a, b in zip(images, others, strict=True))


def test_labels_are_shuffled() -> None:
    labels = draw_digits(500)[1].reshape(-1, 10)
    assert len({tuple(ten) for ten in labels}) == len(labels)


def test_no_picture_comes_twice(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    assert len({image.tobytes() for image in drawn[0]}) == COUNT


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"count": -1}, "count: expected a whole number, 0 or more, got -1."),
        ({"count": 2.0}, "count: expected a whole number, 0 or more, got 2.0."),
        ({"count": "10"}, "count: expected a whole number, 0 or more, got '10'."),
        ({"count": None}, "count: expected a whole number, 0 or more, got None."),
        ({"count": True}, "count: expected a whole number, 0 or more, got True."),
        ({"count": 1, "seed": -3}, "seed: expected a whole number, 0 or more, got -3."),
        ({"count": 1, "seed": 0.5}, "seed: expected a whole number, 0 or more, got 0.5."),
        ({"count": 0, "threads": 0}, "threads: expected a whole number, 1 or more, got 0."),
        ({"count": 1, "threads": 1.5}, "threads: expected a whole number, 1 or more, got 1.5."),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ParameterError) as caught:
        draw_digits(**arguments)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError)
    assert str(caught.value) == f"draw_digits: {named}"


def test_numpy_integers_are_whole_numbers() -> None:
    images, _ = draw_digits(np.int64(20), np.uint8(4))  # type: ignore[arg-type]
    assert np.array_equal(images, draw_digits(20, 4)[0])


def test_white_ink_on_black(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    images = drawn[0][:, 0]
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    assert np.median(images) == 0
    assert border.mean() < 1
    assert images.max(axis=(1, 2)).min() >= 200, "an image without white ink"
    # MNIST has 0.131 and 0.308.
    assert 0.115 < (images / 255).mean() < 0.15
    assert 0.28 < (images / 255).std() < 0.34


def test_neither_blank_nor_blob(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    inked = drawn[0].mean(axis=(1, 2, 3)) / 255
    assert inked.min() > 0.02
    assert inked.max() < 0.36
    # Part of the ink's own rectangle: MNIST's digits but the one have 0.5 to 0.6 at the 99th percentile.
    ink = drawn[0][:, 0] > 60
    rectangle = ink.any(axis=1).sum(1) * ink.any(axis=2).sum(1)
    part = inked * 28 * 28 / rectangle
    assert np.quantile(part[drawn[1] != 1], 0.99) < 0.6


def test_ink_fills_the_box_of_twenty_pixels(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    ink = drawn[0][:, 0] > 100
    sides = np.stack([ink.any(axis=axis).sum(1) for axis in (1, 2)])
    longer = sides.max(0)
    assert longer.max() <= 23
    assert longer.min() >= 13
    assert np.mean(np.abs(longer - 20) <= 1) > 0.95


def test_centre_of_mass_is_in_the_middle(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    images = drawn[0][:, 0].astype(np.float64)
    mass = images.sum(axis=(1, 2))
    for axis in (1, 2):
        centre = (images.sum(axis=3 - axis) @ np.arange(28)) / mass
        assert abs(centre.mean() - 14) < 0.05
        # Moved by whole pixels, so within half a one; but a box never leaves the image for it.
        assert np.mean(np.abs(centre - 14) < 0.501) > 0.99
        assert np.abs(centre - 14).max() < 2


def test_each_digit_has_its_own_look(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = drawn[0].reshape(COUNT, -1) / 255, drawn[1]
    half = COUNT // 2
    means = np.stack([images[:half][labels[:half] == digit].mean(0) for digit in range(10)])
    apart = np.linalg.norm(means[:, None] - means, axis=2)
    assert apart[~np.eye(10, dtype=bool)].min() > 1.5
    # Reading by the nearest mean image is poor, at 82 % on MNIST itself, but labels that do not match would give 10 %.
    nearest = np.linalg.norm(images[half:, None] - means, axis=2).argmin(1)
    assert np.mean(nearest == labels[half:]) > 0.6


def test_a_one_is_narrower_than_a_zero_and_a_zero_has_a_hole(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = drawn[0][:, 0], drawn[1]
    width = (images > 100).any(axis=1).sum(1)
    assert width[labels == 1].mean() + 5 < width[labels == 0].mean()
    middle = images[:, 12:16, 12:16].mean(axis=(1, 2)) / 255
    assert middle[labels == 0].mean() < 0.25 < 0.5 < middle[labels == 1].mean()


def test_table_of_shapes_is_well_formed() -> None:
    assert sorted(SHAPES) == list(range(10))
    for lines in SHAPES.values():
        ways = lines.strip().splitlines()
        assert len(ways) >= 10
        assert len(set(ways)) == len(ways)
        for way in ways:
            weight, strokes = way.split(":")
            assert float(weight) > 0
            for stroke in strokes.split("|"):
                assert len(stroke.split()) >= 2
                heights = [float(point.rstrip("!").split(",")[1]) for point in stroke.split()]
                assert min(heights) >= -10
                assert max(heights) <= 110


def test_curve_passes_through_its_points_and_lifts_the_pen() -> None:
    shape = _compile("2.5: 0,0 50,0! 50,100 | 80,20 80,60", HAND)
    assert shape.weight == 2.5
    strokes = np.split(shape.base, np.flatnonzero(shape.lifted))
    assert len(strokes) == 2
    ends = [strokes[0][0], strokes[0][-1], strokes[1][0], strokes[1][-1]]
    np.testing.assert_allclose(ends, [[-0.5, -0.5], [0, 0.5], [0.3, -0.3], [0.3, 0.1]], atol=1e-6)
    # Two straight lines meet in the corner: nothing is cut off or overshoots.
    first = strokes[0]
    assert np.all((np.abs(first[:, 1] + 0.5) < 1e-6) | (np.abs(first[:, 0]) < 1e-6))
    assert np.min(np.hypot(first[:, 0], first[:, 1] + 0.5)) < 0.02


def test_wobble_keeps_strokes_apart_and_neighbours_together() -> None:
    shape = _compile("1: 0,0 0,20 0,40 0,60 0,80 0,100 | 80,20 80,60", HAND)
    covariance = shape.spread @ shape.spread.T
    deviation = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(deviation, deviation)
    second = int(np.flatnonzero(shape.lifted)[0])
    assert np.abs(correlation[:second, second:]).max() < 1e-6
    assert correlation[0, 3] > 0.9
    assert abs(correlation[0, second - 1]) < 0.2


def test_a_lifted_pen_leaves_no_ink() -> None:
    path = np.array([[[0, 0], [3, 4], [6, 8], [90, 8], [90, 10]]], np.float32)
    lifted = np.array([[False, False, False, True, False]])
    inked = np.array([[True, True, True, True, False]])
    assert _lengths(path, inked, lifted).tolist() == [[2.5, 5, 2.5, 1, 0]]


def test_ink_is_the_distance_to_the_pen() -> None:
    radius, soft = 1.5, 1.0
    along = np.linspace(4, 24, POINTS)
    path = np.stack([np.full(POINTS, 13.3), along], axis=1)[None].astype(np.float32)
    length = np.full((1, POINTS), 20 / (POINTS - 1), np.float32)
    image = _ink(
        np.random.default_rng(0), path, length, np.full((1, POINTS), radius, np.float32), Hand(soft=soft, soft_spread=0)
    )[0]
    for x in range(28):
        expected = 255 * min(1.0, max(0.0, (radius - abs(x - 13.3)) / soft + 0.5))
        assert abs(int(image[14, x]) - expected) < 2
