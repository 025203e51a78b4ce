"""Special functions that NumPy and CuPy lack, written for both."""

from __future__ import annotations

from typing import Any

from gpucnn.backend.device import Array

# Coefficients of Cody's rational approximations, highest power first: |x| <= 0.46875, up to 4, above.
NEAR = (
    (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
MIDDLE = (
    (
        2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1, 2.98635138197400131e2,
        8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3,
    ),
    (
        1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
        3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
    ),
)  # fmt: skip
FAR = (
    (
        1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
        1.60837851487422766e-2, 6.58749161529837803e-4,
    ),
    (
        1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1, 6.05183413124413191e-2,
        2.33520497626869185e-3,
    ),
)  # fmt: skip
INVERSE_ROOT_PI = 5.6418958354775628695e-1


def erf(xp: Any, x: Array) -> Array:
    """Return 2/sqrt(pi) times the integral of e^-t² from 0 to x, to the last bits of float64.

    Source: W. J. Cody 1969, "Rational Chebyshev approximations for the error function".
    """
    a = xp.minimum(abs(x), xp.asarray(7, x.dtype))  # erf(7) is 1 to the last bit; each formula stays in its range
    square = a * a
    gauss = xp.exp(-square)
    near = a * _ratio(xp.minimum(square, xp.asarray(0.25, x.dtype)), NEAR)
    middle = 1 - gauss * _ratio(xp.minimum(a, xp.asarray(4, x.dtype)), MIDDLE)
    large = xp.maximum(a, xp.asarray(4, x.dtype))
    inverse = 1 / (large * large)
    far = 1 - gauss * (INVERSE_ROOT_PI - inverse * _ratio(inverse, FAR)) / large
    return xp.sign(x) * xp.where(a <= 0.46875, near, xp.where(a <= 4, middle, far))


def _ratio(x: Array, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
    """Return the quotient of two polynomials, by Horner's rule."""
    values = []
    for polynomial in coefficients:
        value = x * 0 + polynomial[0]
        for coefficient in polynomial[1:]:
            value = value * x + coefficient
        values.append(value)
    return values[0] / values[1]
