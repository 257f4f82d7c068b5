"""Score every case of a MONAI evaluator, once, on all ranks: key metrics, `metrics.csv` and `metrics.json`."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from ..errors import OptionError, near_misses
from ..evaluation.scores import summarize, write_scores
from ..evaluation.segmentation import ClassScore, read_classes, score_case, score_names
from .cases import identify, on_all_ranks, outputs

logger = logging.getLogger(__name__)


class SegmentationScores:
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

    def __init__(
        self,
        classes: Mapping[str, int | Sequence[int]],
        output_dir: str | Path | None = None,
        surface: bool = False,
        tolerance_mm: float = 2.0,
    ) -> None:
        if not tolerance_mm >= 0 or math.isinf(tolerance_mm):
            raise OptionError(f"tolerance_mm is {tolerance_mm!r}; expected a distance in mm, 0 or more.")
        self._classes = read_classes(classes)
        self._folder = None if output_dir is None else Path(output_dir)
        self._surface, self._tolerance_mm = surface, tolerance_mm
        self._by_case: dict[str, tuple[str, list[dict[str, Any]]]] = {}
        self.scores: list[ClassScore] = []
        self.metric_names = tuple(f"{c}_{s}" for c in self._classes for s in score_names(surface))

    def attach(self, engine: Engine, name: str | None = None) -> None:
        """Register with the evaluator; `name` is the key under which it is given as a metric."""
        if name is not None and name not in self.metric_names:
            raise OptionError(
                f"SegmentationScores is given as the metric {name!r}; it has {', '.join(self.metric_names)}."
                f"{near_misses(name, self.metric_names)}"
            )
        if engine.has_event_handler(self._collect, Events.ITERATION_COMPLETED):
            return  # given once more, under another of its names
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self) -> None:
        self._by_case = {}

    def _collect(self, engine: Engine) -> None:
        for item, result in outputs(engine, "pred", "label"):
            identity, case = identify(item)
            if identity in self._by_case:
                raise OptionError(
                    f"Two items are the case {identity}; expected whole cases, each once. Give every item a case_id "
                    f"of its own, and evaluate volumes, not patches."
                )
            scores = score_case(
                result["pred"],
                result["label"],
                self._classes,
                case=case,
                surface=self._surface,
                spacing=_spacing(result["label"]) if self._surface else None,
                tolerance_mm=self._tolerance_mm,
            )
            self._by_case[identity] = case, [dataclasses.asdict(score) for score in scores]

    def _finish(self, engine: Engine) -> None:
        found = on_all_ranks(self._by_case)
        self.scores = [ClassScore(**{**score, "case": name}) for name, scores in found.items() for score in scores]
        summary = summarize(self.scores)
        means = {f"{c}_{s}": summary[c][s]["mean"] for c in self._classes for s in score_names(self._surface)}
        engine.state.metrics.update(means)
        if idist.get_rank() != 0:
            return
        undefined = [name for name, mean in means.items() if math.isnan(mean)]
        if undefined:
            logger.warning(
                "No case defines %s (NaN): a mask that it needs is empty in all cases.", ", ".join(undefined)
            )
        if self._folder is not None:
            about: dict[str, Any] = {"classes": self._classes}
            if self._surface:
                about["surface_tolerance_mm"] = self._tolerance_mm
            write_scores(self.scores, self._folder, about)


def _spacing(reference: Any) -> list[float] | None:  # noqa: ANN401 - a Tensor or array
    """Size of a voxel in mm along each spatial axis, from the header."""
    if not isinstance(reference, MetaTensor):
        return None
    spacing: list[float] = reference.pixdim[: reference.ndim - 1].tolist()
    return spacing
