"""Score a folder of predictions as nnU-Net does, with a `summary.json` in its form.

Source: nnunetv2 2.8.1, `evaluation/evaluate_predictions.py`. Where both masks are empty, Dice and IoU are NaN, which a
class's mean leaves out; the mean over classes does not, and is NaN where a class has no score at all. Unlike nnU-Net, a
case whose files do not fit each other is refused, and the others are scored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, OptionError, first_few
from ..files import atomic_path
from .label_pairs import Files, LabelPair, case_name, label_pairs, label_values, of_each_pair, refuse_all_failed
from .scores import write_scores
from .segmentation import EMPTY_MASKS, ClassScore, read_classes
from .voxel_counts import Counts, joint_counts

Classes = Mapping[str, int | Sequence[int]]
METRICS = ("Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref")


@dataclass(frozen=True)
class CaseCounts:
    """One case: its files as nnU-Net names them, and class name → voxels."""

    case: str
    prediction_file: str
    reference_file: str
    counts: Mapping[str, Counts]


@dataclass(frozen=True)
class FolderScores:
    """The scores of many cases.

    Attributes:
        keys: class name → its key in nnU-Net's summary, "2" or "(1, 2)".
        cases: those that could be scored, in the order of the predictions' file names.
        failed: case → why it could not be scored.
    """

    keys: Mapping[str, str]
    cases: tuple[CaseCounts, ...]
    failed: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Every case was scored."""
        return not self.failed

    @property
    def summary(self) -> dict[str, Any]:
        """nnU-Net's summary: "foreground_mean", "mean" and "metric_per_case"; "failed" besides, where a case has."""
        per_case = [
            {
                "metrics": {key: _metrics(case.counts[name]) for name, key in self.keys.items()},
                "prediction_file": case.prediction_file,
                "reference_file": case.reference_file,
            }
            for case in self.cases
        ]
        mean = {
            key: {metric: _mean([case["metrics"][key][metric] for case in per_case]) for metric in METRICS}  # type: ignore[index]
            for key in self.keys.values()
        }
        found = {
            "foreground_mean": {m: float(np.mean([of_class[m] for of_class in mean.values()])) for m in METRICS},
            "mean": mean,
            "metric_per_case": per_case,
        }
        return found if self.ok else {"failed": dict(self.failed), **found}

    @property
    def class_scores(self) -> list[ClassScore]:
        """Dice, PPV and sensitivity of each case and class, as `score_case` gives them."""
        return [_class_score(case.case, name, case.counts[name]) for case in self.cases for name in self.keys]

    def write(self, folder: str | PathLike[str]) -> None:
        """Write `summary.json`, as nnU-Net does, `metrics.csv` and `metrics.json`, each atomically."""
        folder = Path(folder)
        write_scores(self.class_scores, folder, {"classes": dict(self.keys), "failed": dict(self.failed)})
        with atomic_path(folder / "summary.json") as temporary:
            temporary.write_text(json.dumps(self.summary, indent=4, sort_keys=True), encoding="utf-8")


def score_folder(
    predictions: Files,
    references: Files,
    classes: Classes,
    *,
    output: str | PathLike[str] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> FolderScores:
    """Score label files against their references; a case that cannot be scored does not stop the others.

    Such a case (see `FolderScores.failed`) lacks its prediction or its reference, has a file that is missing, damaged
    or no 3D NIfTI volume, two grids (shape; corners apart by more than a tenth of a voxel), or a label of no class.

    Args:
        predictions, references: a folder of `<case>.nii.gz` (or `.nii`), or case → path.
        classes: class name → label value, or values that are merged: {"liver": [1, 2], "tumour": 2}. As in nnU-Net's
            dataset.json, a value gives the key "2" in the summary, and a list, where one of several values is among
            the classes, "(1, 2)" or "(2,)".
        output: folder for `summary.json`, `metrics.csv` and `metrics.json`, made if missing.
        workers: threads, each with one case at a time in memory; by default up to 4.
        progress: show a bar with the time left on standard error.

    Raises:
        OptionError: classes that are none, or two with the same labels.
        DataError: there is no such folder, or not one case could be scored.
    """
    known, keys = read_classes(classes), summary_keys(classes)
    values = label_values(known)

    def count(pair: LabelPair) -> CaseCounts:
        joint = joint_counts(*pair.read(values), values)
        counts = {name: joint.of(region) for name, region in known.items()}
        return CaseCounts(pair.case, str(pair.prediction), str(pair.reference), counts)

    pairs, unpaired = label_pairs(predictions, references)
    cases, failed = of_each_pair(count, pairs, desc="evaluate", workers=workers, progress=progress)
    failed = {**unpaired, **failed}
    if not cases:
        refuse_all_failed(failed, "scored")
    scores = FolderScores(keys, tuple(cases), failed)
    if output is not None:
        scores.write(output)
    return scores


def merge_summaries(
    summaries: Sequence[str | PathLike[str]], classes: Classes, *, output: str | PathLike[str] | None = None
) -> FolderScores:
    """All folds' cases together, as if they had been scored in one folder: means are over cases, not over folds.

    Args:
        summaries: files `summary.json`, of this module or of nnU-Net.
        classes: as for `score_folder`.
        output: folder, as for `score_folder`.

    Raises:
        OptionError: as `score_folder`.
        DataError: a file is no such summary or has other classes, a case is in two of them, or there is no case.
    """
    keys, cases, failed = summary_keys(classes), [], {}
    for path in summaries:
        content = _read(Path(path))
        cases += [_read_case(case, classes, Path(path)) for case in content["metric_per_case"]]
        failed.update(content.get("failed", {}))
    cases.sort(key=lambda case: Path(case.prediction_file).name)
    names = [case.case for case in cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"{first_few(twice)}: more than one of {', '.join(map(str, summaries))} scores this; expected each case in "
            f"one fold. Is a summary of another split among them?"
        )
    if not cases:
        raise DataError("There is no summary to merge; expected the folds' files summary.json.")
    merged = FolderScores(keys, tuple(cases), failed)
    if output is not None:
        merged.write(output)
    return merged


def summary_keys(classes: Classes) -> dict[str, str]:
    """Class name → its key in nnU-Net's summary.

    Raises:
        OptionError: two classes have the same labels.

    Example:
        >>> summary_keys({"liver": [1, 2], "tumour": 2})
        {'liver': '(1, 2)', 'tumour': '2'}
    """
    known = read_classes(classes)
    regions = any(len(values) > 1 for values in known.values())
    keys = {
        name: str(values) if regions and not isinstance(classes[name], int) else str(values[0])
        for name, values in known.items()
    }
    if len({frozenset(values) for values in known.values()}) < len(keys):
        raise OptionError(f"Two classes have the same labels: {known}. Leave one of them out.")
    return keys


def _metrics(counts: Counts) -> dict[str, float]:
    return {
        "Dice": counts.dice,
        "FN": counts.fn,
        "FP": counts.fp,
        "IoU": counts.iou,
        "TN": counts.tn,
        "TP": counts.tp,
        "n_pred": counts.n_pred,
        "n_ref": counts.n_ref,
    }


def _mean(values: Sequence[float]) -> float:
    return math.nan if all(math.isnan(value) for value in values) else float(np.nanmean(values))


def _class_score(case: str, name: str, counts: Counts) -> ClassScore:
    if counts.n_pred and counts.n_ref:
        values = {"dice": counts.dice, "ppv": counts.ppv, "sensitivity": counts.sensitivity}
        return ClassScore(case, name, "", values)
    empty = "both" if not (counts.n_pred or counts.n_ref) else "prediction" if counts.n_ref else "reference"
    values = {score: EMPTY_MASKS[empty][score] for score in ("dice", "ppv", "sensitivity")}
    return ClassScore(case, name, empty, values)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a summary.json: {error}. Evaluate that fold again.") from error
    if not isinstance(content, dict) or not isinstance(content.get("metric_per_case"), list):
        raise DataError(f"{path} has no list 'metric_per_case'; expected a summary.json of nnU-Net's form.")
    return content


def _read_case(case: Any, classes: Classes, path: Path) -> CaseCounts:  # noqa: ANN401 - whatever JSON can hold
    try:
        found = {_labels_of(key): metrics for key, metrics in case["metrics"].items()}
        counts = {
            name: Counts(*(int(found[frozenset(values)][metric]) for metric in ("TP", "FP", "FN", "TN")))
            for name, values in read_classes(classes).items()
        }
        files = str(case["prediction_file"]), str(case["reference_file"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        known = ", ".join(f"{name} {key}" for name, key in summary_keys(classes).items())
        raise DataError(
            f"{path}: a case is not as expected ({type(error).__name__}: {error}); expected prediction_file, "
            f"reference_file, and metrics with TP, FP, FN and TN of {known}. Evaluate that fold again."
        ) from error
    return CaseCounts(case_name(files[0]), *files, counts)


def _labels_of(key: str) -> frozenset[int]:
    """The labels of "2", "(2,)" or "(1, 2)"."""
    return frozenset(int(value) for value in key.strip("()").split(",") if value.strip())
