"""A number field of the page is untrusted: whole() reads a whole number out of it."""

from __future__ import annotations

import math


def whole(value: object, name: str, low: int | None = None, high: int | None = None) -> int:
    """The field's whole number, from low to high where they are given. Raises ValueError."""
    accepted = "a whole number" if low is None else f"a whole number from {low} to {high}"
    if value is None:
        raise ValueError(f"{name} is empty; {accepted} is accepted")
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value != int(value) or (low is not None and not low <= value <= high):
        raise ValueError(f"{name} is {value!r}; {accepted} is accepted")
    return int(value)
