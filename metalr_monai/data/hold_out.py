"""Hold a meta-validation set out of the training data (the paper: 23 of 111 volumes, or 25 % of the images)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from torch.utils.data import Dataset, IterableDataset, Subset

from ..errors import MetaDataError

T = TypeVar("T")


@overload
def hold_out(data: list[T], amount: float, seed: int = 0) -> tuple[list[T], list[T]]: ...
@overload
def hold_out(data: Dataset[T], amount: float, seed: int = 0) -> tuple[Subset[T], Subset[T]]: ...
def hold_out(data: Any, amount: float, seed: int = 0) -> tuple[Any, Any]:
    """Split a data list or a map-style data set into a training and a meta part, disjoint, each in the given order.

    Args:
        data: list of items, or a data set (the parts are then `Subset`s of it and share its cache).
        amount: number of cases to hold out, as an int ≥ 1, or their share, as a float in (0, 1). Items that have the
            same `group` (a patient's images, a video's frames), or without one the same `case_id`, are one case;
            other items are each their own.
        seed: chooses the cases.

    Raises:
        MetaDataError: nothing, or everything, would be held out.

    Example:
        >>> train, meta = hold_out(list(range(111)), 23)
        >>> len(train), len(meta), set(train) & set(meta)
        (88, 23, set())
    """
    if isinstance(data, IterableDataset):
        raise MetaDataError(f"{type(data).__name__} has no items by number to hold out; give a meta DataLoader.")
    total = len(data)
    cases = _cases(data)
    names = list(dict.fromkeys(cases))
    count = _count(amount, len(names), total)
    chosen = {names[i] for i in np.random.default_rng(seed).permutation(len(names))[:count]}
    train, meta = ([i for i in range(total) if (cases[i] in chosen) is held] for held in (False, True))
    if isinstance(data, Dataset):
        return Subset(data, train), Subset(data, meta)
    return [data[i] for i in train], [data[i] for i in meta]


def _cases(data: Any) -> list[object]:  # noqa: ANN401 - a list or data set
    """What each item belongs to: its `group`, else its `case_id`, else itself."""
    items = _items(data)
    if items is None:
        return list(range(len(data)))
    ids = (item.get("group", item.get("case_id")) if isinstance(item, Mapping) else None for item in items)
    return [number if name is None else str(name) for number, name in enumerate(ids)]


def _items(data: Any) -> Sequence[Any] | None:  # noqa: ANN401
    """The items before they are loaded, where the data set has them at hand."""
    if isinstance(data, Subset):
        inner = _items(data.dataset)
        return None if inner is None else [inner[i] for i in data.indices]
    items = data if isinstance(data, Sequence) else getattr(data, "data", None)
    return items if isinstance(items, Sequence) and len(items) == len(data) else None


def _count(amount: float, cases: int, items: int) -> int:
    known = f"{cases} cases"
    if items > cases:
        known += f" ({items} items; those of one group or case_id are one case)"
    if isinstance(amount, bool) or not isinstance(amount, (Integral, float)):
        raise MetaDataError(f"The meta set's size is {amount!r}; expected a count such as 23 or a share such as 0.25.")
    if isinstance(amount, float) and not 0 < amount < 1:
        raise MetaDataError(
            f"The meta set's share is {amount!r}; expected a float between 0 and 1, or an int to count."
        )
    count = round(amount * cases) if isinstance(amount, float) else int(amount)
    if count < 1:
        raise MetaDataError(f"The meta set would be empty: {amount!r} of {known}. Hold out at least one.")
    if count >= cases:
        raise MetaDataError(
            f"The meta set would take {count} of {known} and leave nothing to train on. Hold out fewer, or use another "
            f"training batch as meta batch (meta='training')."
        )
    return count


def case_names(data: Sequence[Any] | Dataset[Any]) -> list[str]:
    """What to call each item in a log: its `case_id`, else the file name of its image, else its number."""
    if isinstance(data, Subset):
        names = case_names(data.dataset)
        return [names[i] for i in data.indices]
    items = _items(data)
    if items is None:
        return [str(i) for i in range(len(data))]  # type: ignore[arg-type]
    return [_case_name(item, i) for i, item in enumerate(items)]


def _case_name(item: object, number: int) -> str:
    if isinstance(item, Mapping):
        if "case_id" in item:
            return str(item["case_id"])
        image = item.get("image")
        first = image[0] if isinstance(image, (list, tuple)) and image else image
        if isinstance(first, (str, PathLike)):
            return Path(first).name
    return str(number)
