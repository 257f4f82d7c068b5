"""Score every case of a MONAI evaluator that classifies, once, on all ranks: key metrics and files."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from ..errors import OptionError, near_misses
from ..evaluation.classification import metric_names, read_class_names, read_predictions
from ..evaluation.predictions import CasePrediction, score_predictions, write_predictions
from .cases import identify, on_all_ranks, outputs

logger = logging.getLogger(__name__)


class ClassificationScores:
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

    def __init__(self, classes: Sequence[str], output_dir: str | Path | None = None) -> None:
        self._classes = read_class_names(classes)
        self._folder = None if output_dir is None else Path(output_dir)
        self._by_case: dict[str, tuple[str, dict[str, Any]]] = {}
        self.predictions: list[CasePrediction] = []
        self.metric_names = metric_names(self._classes)

    def attach(self, engine: Engine, name: str | None = None) -> None:
        """Register with the evaluator; `name` is the key under which it is given as a metric."""
        if name is not None and name not in self.metric_names:
            raise OptionError(
                f"ClassificationScores is given as the metric {name!r}; it has {', '.join(self.metric_names)}."
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
                    f"of its own."
                )
            group = str(item.get("group", "")) if isinstance(item, Mapping) else ""
            prediction = read_case(result["pred"], result["label"], self._classes, case=case, group=group)
            self._by_case[identity] = case, dataclasses.asdict(prediction)

    def _finish(self, engine: Engine) -> None:
        found = on_all_ranks(self._by_case)
        self.predictions = [CasePrediction(**{**content, "case": name}) for name, content in found.items()]
        metrics = score_predictions(self.predictions, self._classes).metrics
        engine.state.metrics.update(metrics)
        if idist.get_rank() != 0:
            return
        undefined = [name for name, value in metrics.items() if math.isnan(value)]
        if undefined:
            logger.warning(
                "No case defines %s (NaN): a class has no cases, or was never predicted.", ", ".join(undefined)
            )
        if self._folder is not None:
            write_predictions(self.predictions, self._classes, self._folder)


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
