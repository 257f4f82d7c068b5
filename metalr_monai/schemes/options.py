"""Checks of what a scheme may be given, with the messages of the settings' own checks."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..errors import OptionError


def checked_number(name: str, value: float, expected: str, holds: Callable[[float], bool]) -> float:
    """`value` as a float.

    Raises:
        OptionError: it is no finite number, or `holds` denies it; `expected` says what would do.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not holds(value):
        raise OptionError(f"{name} is {value!r}; expected {expected}.")
    return float(value)


def checked_count(name: str, value: int, low: int) -> int:
    """`value` itself.

    Raises:
        OptionError: it is no whole number, or below `low`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise OptionError(f"{name} is {value!r}; expected a whole number, {low} or more.")
    return value
