"""Matrix products whose bits do not depend on who computes them.

A BLAS sums in an order that changes with its threads and with the processor, and floating-point sums change with the
order. Where both factors are multiples of 2**-20, their products are multiples of 2**-40, and so is every sum of them: as
long as none passes 2**13, all of them fit into float64's 53 bits, nothing is rounded, and every order gives the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PLACES = 20
"""Binary places that are kept of each factor."""

ROUNDING = 1.5 * 2.0 ** (52 - PLACES)
"""Added to a float64 it pushes all further places out of the mantissa, half to even; then it is taken off again."""


def rounded(values: Any) -> NDArray[np.float64]:
    """Return values below 2**30 as float64, rounded to multiples of 2**-20; the matrix product of two such is exact.

    Exact while the sums of absolute products stay below 2**13.

    >>> (rounded([0.25, 1 / 3]) * 2**20).tolist()
    [262144.0, 349525.0]
    """
    on_grid = np.array(values, np.float64)
    on_grid += ROUNDING
    on_grid -= ROUNDING
    return on_grid
