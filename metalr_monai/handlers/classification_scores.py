"""Score every case of a MONAI evaluator that classifies, once, on all ranks: key metrics and files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.utils import convert_to_tensor

from ..evaluation.classification import metric_names, read_class_names, read_predictions
from ..evaluation.predictions import CasePrediction, score_predictions, write_predictions
from .case_scores import CaseScores


class ClassificationScores(CaseScores):
    """Scores of a `SupervisedEvaluator` that classifies, in `engine.state.metrics`.

    As `key_val_metric` under one of its `metric_names` it goes before all handlers, so that MONAI's comparison with the
    best epoch, `CheckpointSaver` and `StatsHandler` see the new scores; the others are set as well. Among
    `val_handlers` it must stand before those that read the scores. Of "ece" and "log_loss" less is better: as key
    metric they need the evaluator's `metric_cmp_fn`.

    The evaluator's postprocessing must leave probabilities, shape (K,), in `pred`: `Activationsd("pred",
    softmax=True)`. The class number in `label` stays as it is. Logits are refused, for their confidence would be none.

    A case is known by its item's `case_id`, else by its image's file, and counted once, though a `DistributedSampler`
    may hand it to two ranks. An item's `group` (its video, its person), if it has one, is written beside it.

    Args:
        classes: names, in the order of the labels from 0 on.
        output_dir: folder for `metrics.csv` and `metrics.json`, written anew by the first rank after each run of the
            evaluator; None for no files.

    Attributes:
        predictions: the last run's cases, sorted by name.
        metric_names: what is set in `engine.state.metrics`, as `accuracy` and `malignant_sensitivity`.

    A score that no case defines is NaN (see `evaluation.classification` for absent classes), and no later score is
    better than a NaN: choose the key metric among accuracy, balanced accuracy and log loss, which are always defined.

    Raises:
        OptionError: unknown metric name; a case without a name or with one of its rank's other cases'; and what
            `read_predictions` refuses.
        EngineError: the engine does not decollate its output, or has no `pred` and `label` in it.

    Example:
        >>> from metalr_monai.handlers.classification_scores import ClassificationScores
        >>> scores = ClassificationScores(["benign", "malignant"])
        >>> scores.metric_names[:3]
        ('accuracy', 'balanced_accuracy', 'auc')
        >>> # SupervisedEvaluator(..., postprocessing=Activationsd("pred", softmax=True),
        >>> #                     key_val_metric={"accuracy": scores})
    """

    _whole_cases = ""
    _undefined = "a class has no cases, or was never predicted"

    def __init__(self, classes: Sequence[str], output_dir: str | Path | None = None) -> None:
        super().__init__(output_dir)
        self._classes = read_class_names(classes)
        self.predictions: list[CasePrediction] = []
        self.metric_names = metric_names(self._classes)

    def _score(self, item: Any, result: Mapping[str, Any], case: str) -> dict[str, Any]:  # noqa: ANN401
        group = str(item.get("group", "")) if isinstance(item, Mapping) else ""
        return dataclasses.asdict(read_case(result["pred"], result["label"], self._classes, case=case, group=group))

    def _combine(self, found: Mapping[str, Any]) -> dict[str, float]:
        self.predictions = [CasePrediction(**{**content, "case": name}) for name, content in found.items()]
        return score_predictions(self.predictions, self._classes).metrics

    def _write(self, folder: Path) -> None:
        write_predictions(self.predictions, self._classes, folder)


def read_case(
    pred: Any,  # noqa: ANN401 - a Tensor or array
    label: Any,  # noqa: ANN401 - decollated: a number or a Tensor of one
    classes: Sequence[str],
    *,
    case: str,
    group: str = "",
) -> CasePrediction:
    """One case of an evaluator's decollated output.

    Args:
        pred: probabilities, shape (K,).
        label: class number, shape () or (1,).
        classes: K names.

    Raises:
        OptionError: what `read_predictions` refuses.
    """
    one = convert_to_tensor(label, track_meta=False)
    p, truth = read_predictions(
        convert_to_tensor(pred, track_meta=False)[None], one[None] if one.ndim == 0 else one, classes, [case]
    )
    return CasePrediction(case, group, int(truth[0]), tuple(p[0].tolist()))
