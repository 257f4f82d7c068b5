"""What a classifier predicted for pictures without labels, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from ..evaluation.classification import read_class_names, read_predictions
from ..evaluation.tables import write_csv
from .cases import identify, on_all_ranks, outputs


class PredictionTable:
    """Write `predictions.csv` when an evaluator that classifies has run: a row a case, sorted by name.

    The columns are `case_id`, `predicted` (the most probable class), and `p_CLASS` for each class, as in the
    `metrics.csv` of an evaluation. The file is written whole or not at all; of several ranks the first one writes the
    cases of all. Reads probabilities, shape (K,), from `pred` in the evaluator's decollated output.

    (MONAI's `ClassificationSaver` writes numbers without a header and without class names.)

    Args:
        output_dir: folder of the table; made if missing.
        classes: names, in the order of the network's outputs.

    Raises:
        OptionError: what `read_class_names` refuses; a `pred` that is no probabilities of these classes; a case
            without a name.
        EngineError: the engine does not decollate its output, or has no `pred` in it.
    """

    def __init__(self, output_dir: str | Path, classes: Sequence[str]) -> None:
        self._path, self._classes = Path(output_dir) / "predictions.csv", read_class_names(classes)
        self._found: dict[str, tuple[str, list[float]]] = {}

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self) -> None:
        self._found = {}

    def _collect(self, engine: Engine) -> None:
        for item, result in outputs(engine, "pred"):
            identity, case = identify(item)
            self._found[identity] = case, read_probabilities(result["pred"], self._classes, case=case)

    def _write(self) -> None:
        found = on_all_ranks(self._found)
        if idist.get_rank() == 0 and found:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_csv([self._row(case, probabilities) for case, probabilities in found.items()], self._path)

    def _row(self, case: str, probabilities: Sequence[float]) -> dict[str, Any]:
        by_class = {f"p_{name}": p for name, p in zip(self._classes, probabilities, strict=True)}
        return {"case_id": case, "predicted": self._classes[int(np.argmax(probabilities))], **by_class}


def read_probabilities(pred: Any, classes: Sequence[str], *, case: str) -> list[float]:  # noqa: ANN401 - Tensor or array
    """The probabilities, shape (K,), in one case's output.

    Raises:
        OptionError: they are no probabilities of K classes.
    """
    no_label = [0]  # any will do
    p, _ = read_predictions(convert_to_tensor(pred, track_meta=False)[None], no_label, classes, [case])
    found: list[float] = p[0].tolist()
    return found
