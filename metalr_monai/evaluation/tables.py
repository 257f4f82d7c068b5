"""Scores in files, each written atomically: NaN is an empty cell of a CSV file, and null in JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_path


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows, at least one, that all have the first one's columns."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: "" if _is_nan(value) else value for column, value in row.items()} for row in rows)


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write plain containers, as pure JSON."""
    with atomic_path(path) as temporary:
        text = json.dumps(_without_nan(content), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _without_nan(value: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if _is_nan(value) else value
