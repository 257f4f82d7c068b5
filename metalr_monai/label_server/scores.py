"""The network's doubt of every study that nobody has labelled, kept with the study in the server's data store."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from monailabel.interfaces.tasks.scoring import ScoringMethod
from torch import Tensor

from ..evaluation.uncertainty import class_disagreement, class_doubt, mask_disagreement, mask_doubt

logger = logging.getLogger(__name__)


class DoubtScore(ScoringMethod):  # type: ignore[misc]  # MONAI Label is untyped
    """Score each unlabelled study anew when the model has changed; one that fails is passed over.

    (The server's own `EpistemicScoring` scores label maps, whose entropy grows with the field of view, cannot score
    classes, and remembers one time stamp for all models.)

    Args:
        task: gives a study's probabilities.
        key: of the score in the study's information.
        passes: of the network over each study.
        description: for people.
    """

    mask: Callable[[Tensor], float]
    classes: Callable[[Tensor], float]

    def __init__(self, task: Any, key: str, passes: int, description: str) -> None:  # noqa: ANN401
        super().__init__(description)
        self._task, self._key, self._passes = task, key, passes

    def measure(self, passes: Tensor) -> float:
        """The doubt out of probabilities, (T, R, *spatial) of regions or (T, K) of classes."""
        raise NotImplementedError

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:  # noqa: ANN401
        """Score; returns how many studies were scored, skipped and failed."""
        begin, model = time.time(), self._model_time()
        counts = {"total": 0, "executed": 0, "skipped": 0, "failed": 0}
        for study in datastore.get_unlabeled_images():
            counts["total"] += 1
            if datastore.get_image_info(study).get(f"{self._key}_model") == model:
                counts["skipped"] += 1
                continue
            try:
                score = self._score(datastore.get_image_uri(study), request)
            except Exception:  # one bad study must not cost the others; the log has the reason
                logger.exception("%s: no score", study)
                counts["failed"] += 1
                continue
            datastore.update_image_info(study, {self._key: score, f"{self._key}_model": model})
            counts["executed"] += 1
            logger.info("%s: %s %.4f", study, self._key, score)
        self._task.clear_cache()
        return {**counts, "latency": round(time.time() - begin, 3)}

    def _score(self, image: str, request: dict[str, Any]) -> float:
        wanted = {name: request[name] for name in ("device",) if name in request}
        outputs = [self._task({"image": image, "logging": "error", **wanted})[1]["pred"] for _ in range(self._passes)]
        return self.measure(torch.stack([torch.as_tensor(output).detach().cpu() for output in outputs]))

    def _model_time(self) -> int:
        """When the model was written, ns."""
        file = self._task.get_path()
        return os.stat(file).st_mtime_ns if file else 0


class OnePassScore(DoubtScore):
    """Cheap: one pass; 1 − the Dice that the network expects of its mask, or 1 − the likeliest class's probability."""

    def __init__(self, task: Any, key: str) -> None:  # noqa: ANN401
        super().__init__(task, key, 1, "The network's own doubt, from one pass")

    def measure(self, passes: Tensor) -> float:
        """See `mask_doubt` and `class_doubt`."""
        return class_doubt(passes[0]) if passes.ndim == 2 else mask_doubt(passes[0])


class EpistemicScore(DoubtScore):
    """Monte Carlo dropout: what several passes do not agree on."""

    def __init__(self, task: Any, key: str, passes: int) -> None:  # noqa: ANN401
        super().__init__(task, key, max(2, passes), "What passes with dropout do not agree on")

    def measure(self, passes: Tensor) -> float:
        """See `mask_disagreement` and `class_disagreement`."""
        return class_disagreement(passes) if passes.ndim == 2 else mask_disagreement(passes)
