"""Products of rounded factors: exact, so the same bits from every BLAS, in every order and with every number of threads."""

from __future__ import annotations

import hashlib
import sys
from fractions import Fraction

import numpy as np
import pytest
from runs import environment, python
from threadpoolctl import threadpool_limits

from gpucnn.data.exact import PLACES, rounded

pytestmark = pytest.mark.bits

RNG = np.random.default_rng(0)


def test_rounding_is_to_the_nearest_multiple_and_keeps_what_it_was_given() -> None:
    values = RNG.normal(0, 100, 1000).astype(np.float32)
    before = values.copy()
    np.testing.assert_array_equal(rounded(values), np.rint(values.astype(np.float64) * 2**PLACES) / 2**PLACES)
    np.testing.assert_array_equal(values, before)


def test_a_product_is_exact() -> None:
    a, b = rounded(RNG.normal(0, 3, (4, 60))), rounded(RNG.normal(0, 3, (60, 5)))
    product = a @ b
    for i, j in np.ndindex(4, 5):
        assert Fraction(product[i, j]) == sum(Fraction(x) * Fraction(y) for x, y in zip(a[i], b[:, j], strict=True))


@pytest.mark.parametrize("size", [28, 96, 300])
def test_neither_order_nor_threads_matter(size: int) -> None:
    a, b, order = rounded(RNG.random((size, size))), rounded(RNG.random((size, size))), RNG.permutation(size)
    results = set()
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            results |= {(a @ b).tobytes(), (a[:, order] @ b[order]).tobytes(), (b.T @ a.T).T.tobytes()}
    assert len(results) == 1


CODE = """
import hashlib
import numpy as np
from gpucnn.data import Augmentation, draw_digits

images = draw_digits(500, seed=3)[0]
bent = Augmentation(elastic=2)(images.astype(np.float32), np.random.default_rng(0))
print(hashlib.sha256(images).hexdigest(), hashlib.sha256(bent).hexdigest())
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="NumPy may have Apple's BLAS, which has one kernel")
def test_kernels_of_openblas_give_the_same_digits_and_fields() -> None:
    kernels = ["Haswell", "Sandybridge", "Nehalem"]  # what the processor cannot run OpenBLAS replaces
    said = {python("-c", CODE, env=environment(OPENBLAS_CORETYPE=kernel)).stdout for kernel in kernels}
    assert len(said) == 1
    assert len(said.pop()) == 2 * len(hashlib.sha256().hexdigest()) + 2
