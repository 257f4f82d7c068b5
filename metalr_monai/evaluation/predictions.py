"""A classifier's cases one by one, and the files that carry them and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .classification import Classification, score_classification
from .tables import write_csv, write_json

ABSENT_CLASSES = (
    "null: a class without cases has no sensitivity, one that was never predicted no PPV, one with no cases or all of "
    "them no AUC; the means are over the classes that have the score"
)
INTERVALS = "Wilson, 95 %, cases taken as independent; too narrow where several cases are of one group (video, person)"


@dataclass(frozen=True)
class CasePrediction:
    """One case: its true class's number, and the probability of each class; `group` is "" where there is none."""

    case: str
    group: str
    label: int
    probabilities: tuple[float, ...]

    @property
    def predicted(self) -> int:
        """Number of the most probable class."""
        return int(np.argmax(self.probabilities))


def score_predictions(predictions: Sequence[CasePrediction], classes: Sequence[str]) -> Classification:
    """`score_classification` of the cases."""
    return score_classification([p.probabilities for p in predictions], [p.label for p in predictions], classes)


def write_predictions(predictions: Sequence[CasePrediction], classes: Sequence[str], folder: str | Path) -> None:
    """Write `metrics.csv`, a row a case, and `metrics.json`, the scores; each atomically.

    The rows have `case_id`, `group` if any case has one, `true`, `predicted`, and `p_CLASS` of each class.

    Raises:
        OptionError: there is no case, or what `score_classification` refuses.
    """
    scores = score_predictions(predictions, classes)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    groups = {p.group for p in predictions if p.group}
    write_csv([_row(p, classes, bool(groups)) for p in predictions], folder / "metrics.csv")
    about = {
        "task": "classification",
        "classes": list(classes),
        "groups": len(groups) or None,
        "absent_classes": ABSENT_CLASSES,
        "intervals": INTERVALS,
    }
    write_json({**about, **scores.to_dict()}, folder / "metrics.json")


def _row(prediction: CasePrediction, classes: Sequence[str], grouped: bool) -> dict[str, Any]:
    return {
        "case_id": prediction.case,
        **({"group": prediction.group} if grouped else {}),
        "true": classes[prediction.label],
        "predicted": classes[prediction.predicted],
        **{f"p_{name}": p for name, p in zip(classes, prediction.probabilities, strict=True)},
    }
