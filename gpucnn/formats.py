"""The formats of numbers on pages and in tables."""

from __future__ import annotations

from typing import Any

ABSENT = "\N{EN DASH}"
"""What is written where there is no number."""


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share, 0 to 1, as a percentage.

    >>> percent(0.98425), percent(0.5, 0), percent(None)
    ('98.42 %', '50 %', '–')
    """
    return ABSENT if share is None else f"{100 * share:.{digits}f} %"


def loss_text(loss: float | None) -> str:
    """Return a loss with four decimals, or four significant digits where it is large or very small.

    >>> loss_text(0.25), loss_text(123456.0), loss_text(0.00001234)
    ('0.2500', '1.235e+05', '1.234e-05')
    """
    if loss is None:
        return ABSENT
    return f"{loss:.4f}" if loss == 0 or 1e-3 <= abs(loss) < 1000 else f"{loss:.3e}"


def duration(seconds: float | None) -> str:
    """Return a time in the two largest of its units.

    >>> duration(0.25), duration(75.4), duration(7384), duration(200000)
    ('0.2 s', '1 min 15 s', '2 h 3 min', '2 d 7 h')
    """
    if seconds is None:
        return ABSENT
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for large, small, one, other in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= large:
            return f"{whole // large} {one} {whole % large // small} {other}"
    raise AssertionError("unreachable")


def date_text(date: Any) -> str:
    """Return a date of ``environment.json`` to the minute; anything but text, as in an untrusted file, is absent.

    >>> date_text("2026-11-26T17:55:44+00:00")
    '2026-11-26 17:55'
    """
    return date[:16].replace("T", " ") if isinstance(date, str) else ABSENT


def setting_text(value: Any) -> str:
    """Return a setting as its option would be typed.

    >>> setting_text(True), setting_text(0.001), setting_text(None)
    ('yes', '0.001', '–')
    """
    if value is None:
        return ABSENT
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value}"


def cut(name: str, most: int) -> str:
    """Return a name of at most ``most`` characters, cut in the middle: what tells names apart is often at their end.

    >>> cut("photographs-of-cats-at-night", 15)
    'photogr…t-night'
    """
    if len(name) <= most:
        return name
    first = most // 2
    return f"{name[:first]}…{name[len(name) - (most - first - 1) :]}"
