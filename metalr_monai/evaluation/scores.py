"""The scores of many cases: their summary, and the files that carry both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OptionError
from .segmentation import EMPTY_MASKS, ClassScore
from .tables import write_csv, write_json

MEANINGS = {
    "both": "nothing to find, nothing found",
    "reference": "nothing to find, something found",
    "prediction": "something to find, nothing found",
}


def summarize(scores: Sequence[ClassScore]) -> dict[str, dict[str, Any]]:
    """Summary of each class over the cases.

    Returns:
        class name → {"cases": number, "empty": {"both": number, "reference": …, "prediction": …}, and by score
        {"mean", "sd" (n − 1), "median", "n"}}. NaN scores are left out, n counts the others; a mean of none is NaN.
    """
    return {
        name: _summary([s for s in scores if s.class_name == name]) for name in _unique(s.class_name for s in scores)
    }


def _summary(scores: Sequence[ClassScore]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "cases": len(scores),
        "empty": {kind: sum(s.empty == kind for s in scores) for kind in EMPTY_MASKS},
    }
    for name in scores[0].values:
        values = np.array([s.values[name] for s in scores if not math.isnan(s.values[name])])
        found[name] = {
            "mean": float(values.mean()) if values.size else math.nan,
            "sd": float(values.std(ddof=1)) if values.size > 1 else math.nan,
            "median": float(np.median(values)) if values.size else math.nan,
            "n": int(values.size),
        }
    return found


def write_scores(scores: Sequence[ClassScore], folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write `metrics.csv`, a row a case and class, and `metrics.json`: policy, summary and cases; each atomically.

    NaN is an empty cell in the CSV and null in the JSON.

    Args:
        scores: of `score_case`, all with the same score names.
        folder: made if missing.
        about: what else the JSON should say, such as {"classes": …}.

    Raises:
        OptionError: there is no score.
    """
    if not scores:
        raise OptionError(f"There is no score to write to {folder}; was any case evaluated?")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"case": s.case, "class": s.class_name, "empty": s.empty, **s.values} for s in scores]
    write_csv(rows, folder / "metrics.csv")
    names = tuple(scores[0].values)
    content = {
        **(about or {}),
        "empty_masks": {
            kind: {"meaning": MEANINGS[kind], **{name: policy[name] for name in names}}
            for kind, policy in EMPTY_MASKS.items()
        },
        "summary": summarize(scores),
        "cases": rows,
    }
    write_json(content, folder / "metrics.json")


def _unique(names: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(names))
