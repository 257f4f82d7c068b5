"""What a bundle's config may set, checked before anything heavy is made: one rule a key."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from .data.ct_lists import READERS
from .data.data_check import LEVELS
from .data.image_lists import IMAGE_READERS
from .errors import OptionError, near_misses
from .networks.genesis_unet3d import STRIDE
from .rates.options import read_options

LEARNING = ("rule", "beta", "scale", "bounds", "one_pass")  # keys that are options of MetaLR


@dataclass(frozen=True)
class Rule:
    """What a key's value must be, in words and as a test."""

    expected: str
    holds: Callable[[Any], bool]


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse values that a run would fail on, or be spoiled by, and name the config's keys.

    Args:
        settings: config id → value; ids without a rule in `RULES` are passed over.

    Raises:
        OptionError: with all that is wrong, a line each.

    Example:
        >>> check_settings({"patch_size": [64, 64, 32], "epochs": 100})
        >>> check_settings({"patch_size": [64, 60, 32]})
        Traceback (most recent call last):
        metalr_monai.errors.OptionError: patch_size is [64, 60, 32]; expected three multiples of 8, as [64, 56, 32] or \
[64, 64, 32].
    """
    if faults := list(_faults(settings)):
        raise OptionError("\n".join(faults))
    read_options("paper", {name: settings[name] for name in LEARNING if settings.get(name) is not None})


def _faults(settings: Mapping[str, Any]) -> Iterator[str]:
    for name in RULES:
        if name in settings and not RULES[name].holds(settings[name]):
            yield f"{name} is {settings[name]!r}; expected {RULES[name].expected}."
    for name, known in CHOICES.items():
        if name in settings and settings[name] not in known:
            value = str(settings[name])
            yield f"{name} is {value!r}; expected one of {', '.join(known)}.{near_misses(value, known)}"
    if "patch_size" in settings:
        yield from _patch_faults(settings["patch_size"])
    if "regions" in settings:
        yield from _region_faults(settings["regions"])
    if "classes" in settings:
        yield from _class_faults(settings["classes"], settings.get("dataset_kind"))
    for name in ("lr", "head_lr"):
        yield from _rate_faults(name, settings.get(name), settings.get("bounds"))


def _number(low: float, below: float = math.inf, *, inclusive: bool = True) -> Callable[[Any], bool]:
    def holds(value: object) -> bool:
        return _is_number(value) and (low <= value if inclusive else low < value) and value < below  # type: ignore[operator]

    return holds


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: _is_whole(value) and value >= low


def _numbers(count: int, each: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (list, tuple)) and len(value) == count and all(map(each, value))


def _is_window(value: Any) -> bool:  # noqa: ANN401 - what a config holds may be anything
    return _numbers(2, _is_number)(value) and value[0] < value[1]


def _is_meta(value: Any) -> bool:  # noqa: ANN401
    return value is None or value == "training" or _whole(1)(value) or (isinstance(value, float) and 0 < value < 1)


def _is_truth(value: object) -> bool:
    return isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(
        (
            *("epochs", "val_interval", "patience", "batch_size", "patches_per_volume", "cubes_per_scan", "width"),
            "halve_every",
        ),
        Rule("a whole number, 1 or more", _whole(1)),
    ),
    **dict.fromkeys(("lr", "head_lr", "std"), Rule("a number above 0", _number(0, inclusive=False))),
    "momentum": Rule("a number from 0 to below 1", _number(0, 1)),
    "spacing": Rule("three numbers above 0, in mm", _numbers(3, _number(0, inclusive=False))),
    "hu_window": Rule("two numbers, the lower first, in HU", _is_window),
    "value_range": Rule("two numbers, the lower first: what hu_window becomes", _is_window),
    "occupied": Rule(
        "two shares, the lower first, from 0 to 1", lambda value: _is_window(value) and value[0] >= 0 and value[1] <= 1
    ),
    "channels": Rule("1 (grey) or 3 (RGB)", lambda value: _is_whole(value) and value in (1, 3)),
    # of 32 pixels one would be left, and a last batch of one image would have nothing for batch norm
    "image_size": Rule("two whole numbers above 32: rows and columns in pixels", _numbers(2, _whole(33))),
    "crop_scale": Rule(
        "a share of the image's sides, above 0, at most 1", lambda value: _is_number(value) and 0 < value <= 1
    ),
    "mean": Rule("a number", _is_number),
    "validation": Rule("a share of the training images, from 0 to below 1", _number(0, 1)),
    "overlap": Rule("a number from 0 to below 1", _number(0, 1)),
    "meta": Rule("a number of cases, a share between 0 and 1, 'training' or null", _is_meta),
    "bfloat16": Rule("true or false", _is_truth),
    "match_norms": Rule("true or false", _is_truth),
    "seed": Rule("a whole number, 0 … 2³² − 1", lambda value: _whole(0)(value) and value < 2**32),
}
CHOICES: Mapping[str, tuple[str, ...]] = {"dataset_kind": (*READERS, *IMAGE_READERS), "check": LEVELS}


def _patch_faults(value: Any) -> Iterator[str]:  # noqa: ANN401
    if not _numbers(3, _whole(1))(value):
        yield f"patch_size is {value!r}; expected three whole numbers, multiples of {STRIDE}, as [64, 64, 32]."
    elif any(side % STRIDE for side in value):
        below, above = ([max(STRIDE, round_(side / STRIDE) * STRIDE) for side in value] for round_ in _ROUNDINGS)
        yield f"patch_size is {list(value)}; expected three multiples of {STRIDE}, as {_either(below, above)}."


_ROUNDINGS: tuple[Callable[[float], int], ...] = (math.floor, math.ceil)


def _either(one: object, other: object) -> str:
    return f"{one}" if one == other else f"{one} or {other}"


def _region_faults(regions: Any) -> Iterator[str]:  # noqa: ANN401
    if not isinstance(regions, Mapping) or not regions:
        yield f"regions is {regions!r}; expected region → label values, as {{'liver': [1, 2], 'tumour': [2]}}."
        return
    faulty = {name: values for name, values in regions.items() if not _are_labels(values)}
    for name, values in faulty.items():
        yield f"regions: {name!r} has the values {values!r}; expected a list of different label values, each 1 or more."
    if faulty:
        return
    for (outer, wide), (inner, narrow) in combinations(regions.items(), 2):
        shared = sorted(set(wide) & set(narrow))
        if set(wide) == set(narrow):
            yield f"regions: {outer!r} and {inner!r} have the same values, {shared}; keep one of them."
        elif set(wide) < set(narrow):
            yield f"regions: {outer!r} lies inside {inner!r}, which would cover it; put the inner one last."
        elif shared and set(narrow) - set(wide):
            yield f"regions: {outer!r} and {inner!r} share {shared}; expected one inside the other, or nothing shared."


def _are_labels(values: Any) -> bool:  # noqa: ANN401
    return isinstance(values, (list, tuple)) and all(map(_whole(1), values)) and 0 < len(values) == len(set(values))


def _class_faults(classes: Any, kind: Any) -> Iterator[str]:  # noqa: ANN401
    """A label is a place among the classes, so that another order would call them by each other's names."""
    reader = IMAGE_READERS.get(str(kind))
    if reader is not None and (not isinstance(classes, (list, tuple)) or tuple(classes) != reader.classes):
        known = list(reader.classes)
        yield f"classes is {classes!r}; expected {known} in this order, the classes of dataset_kind {kind!r}."


def _rate_faults(name: str, lr: Any, bounds: Any) -> Iterator[str]:  # noqa: ANN401
    """The learned rates start at `lr`, that of the head at `head_lr`."""
    if _is_number(lr) and lr > 0 and _is_window(bounds) and not bounds[0] <= lr <= bounds[1]:
        limits = list(bounds)
        yield f"{name} is {lr!r}, outside of bounds {limits}; learned rates start at {name}, so set it inside them."
