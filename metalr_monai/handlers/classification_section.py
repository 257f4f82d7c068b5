"""What the run report's page says of a classifier, from the run's `metrics.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StateError
from .classification_figures import confusion_figure, reliability_figure


@dataclass(frozen=True)
class ClassificationSection:
    """`scores` is what `evaluation.predictions.write_predictions` has written; the figures are matplotlib's."""

    scores: Mapping[str, Any]
    confusion: Any
    reliability: Any


def classification_section(folder: Path) -> ClassificationSection | None:
    """The section of a run's folder; None where `metrics.json` is missing or of another task.

    Raises:
        StateError: it cannot be read, or is not whole.
    """
    path = folder / "metrics.json"
    if not path.exists():
        return None
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        if scores.get("task") != "classification":
            return None
        absent = [k for k in ("cases", "accuracy", "balanced_accuracy", "auc", "by_class", "ece") if k not in scores]
        if absent:
            raise KeyError(", ".join(absent))
        confusion = confusion_figure(scores["confusion_matrix"], scores["classes"])
        return ClassificationSection(scores, confusion, reliability_figure(scores["reliability"], scores["ece"]))
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise StateError(
            f"{path} is no whole metrics.json: {type(error).__name__}: {error}. Restore it, or take it away."
        ) from error
