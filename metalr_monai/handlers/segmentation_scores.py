"""Score every case of a MONAI evaluator, once, on all ranks: key metrics, `metrics.csv` and `metrics.json`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from ..errors import OptionError
from ..evaluation.scores import summarize, write_scores
from ..evaluation.segmentation import ClassScore, read_classes, score_case, score_names
from .case_scores import CaseScores


class SegmentationScores(CaseScores):
    """Per-case scores of a `SupervisedEvaluator`, and their means in `engine.state.metrics`.

    As `key_val_metric` under one of its `metric_names` it goes before all handlers, so that MONAI's comparison with the
    best epoch, `CheckpointSaver` and `StatsHandler` see the new means; the other means are set as well. Among
    `val_handlers` it must stand before those that read the means. The evaluator's postprocessing must leave label maps
    (1, H, W[, D]) in `pred` and `label`, on the same grid: `AsDiscreted("pred", argmax=True)`.

    A case is known by its item's `case_id`, else by its image's file, and counted once, though a `DistributedSampler`
    may hand it to two ranks. The spacing is the reference's.

    Args:
        classes: class name → label value, or values that are merged: {"liver": [1, 2], "tumour": 2}.
        output_dir: folder for `metrics.csv` and `metrics.json`, written anew by the first rank after each run of the
            evaluator; None for no files.
        surface: also HD95 (mm) and surface Dice.
        tolerance_mm: of the surface Dice.

    Attributes:
        scores: the last run's scores, sorted by case.
        metric_names: what is set in `engine.state.metrics`, as `liver_dice`.

    A mean over no case is NaN (see `evaluation.segmentation` for empty masks), and no later score is better than a NaN:
    choose the key metric by Dice, which is NaN only where nothing is to be found and nothing was found in any case.

    Raises:
        OptionError: unknown metric name; a case without a name or with one of its rank's other cases'; and what
            `score_case` refuses.
        EngineError: the engine does not decollate its output, or has no `pred` and `label` in it.

    Example:
        >>> from metalr_monai.handlers.segmentation_scores import SegmentationScores
        >>> scores = SegmentationScores({"liver": [1, 2], "tumour": 2})
        >>> scores.metric_names[:4]
        ('liver_dice', 'liver_ppv', 'liver_sensitivity', 'tumour_dice')
        >>> # SupervisedEvaluator(..., key_val_metric={"liver_dice": scores})
    """

    _whole_cases = ", and evaluate volumes, not patches"
    _undefined = "a mask that it needs is empty in all cases"

    def __init__(
        self,
        classes: Mapping[str, int | Sequence[int]],
        output_dir: str | Path | None = None,
        surface: bool = False,
        tolerance_mm: float = 2.0,
    ) -> None:
        super().__init__(output_dir)
        if not tolerance_mm >= 0 or math.isinf(tolerance_mm):
            raise OptionError(f"tolerance_mm is {tolerance_mm!r}; expected a distance in mm, 0 or more.")
        self._classes = read_classes(classes)
        self._surface, self._tolerance_mm = surface, tolerance_mm
        self.scores: list[ClassScore] = []
        self.metric_names = tuple(f"{c}_{s}" for c in self._classes for s in score_names(surface))

    def _score(self, item: Any, result: Mapping[str, Any], case: str) -> list[dict[str, Any]]:  # noqa: ANN401
        scores = score_case(
            result["pred"],
            result["label"],
            self._classes,
            case=case,
            surface=self._surface,
            spacing=_spacing(result["label"]) if self._surface else None,
            tolerance_mm=self._tolerance_mm,
        )
        return [dataclasses.asdict(score) for score in scores]

    def _combine(self, found: Mapping[str, Any]) -> dict[str, float]:
        self.scores = [ClassScore(**{**score, "case": name}) for name, scores in found.items() for score in scores]
        summary = summarize(self.scores)
        return {f"{c}_{s}": summary[c][s]["mean"] for c in self._classes for s in score_names(self._surface)}

    def _write(self, folder: Path) -> None:
        about: dict[str, Any] = {"classes": self._classes}
        if self._surface:
            about["surface_tolerance_mm"] = self._tolerance_mm
        write_scores(self.scores, folder, about)


def _spacing(reference: Any) -> list[float] | None:  # noqa: ANN401 - a Tensor or array
    """Size of a voxel in mm along each spatial axis, from the header."""
    if not isinstance(reference, MetaTensor):
        return None
    spacing: list[float] = reference.pixdim[: reference.ndim - 1].tolist()
    return spacing
