"""The model that a server hands out: replaced by a better one, never lost."""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import nn

from ..errors import StateError
from ..files import atomic_path
from ..weights.read import UNREADABLE
from .final_model import FinalModel, is_finite, settings_file

logger = logging.getLogger(__name__)

REJECTED = "rejected_model.pt"


class ServedModel:
    """Put the trained network in the place of the served one if it scores no worse; the old one stays as a backup.

    Before training the served network is scored on the evaluator's cases (the run's epoch 0), and after it the trained
    one. The backups are `model_1.pt`, `model_2.pt`, … beside `model.pt`, each with its settings. What is not put in
    place is written to the run's folder. While nothing is labelled for validation nothing can be compared: then the
    trained network takes the place, and the log says so. One with weights that are not finite never does.

    Let it stand behind the `CheckpointLoader` and before what records the evaluator's scores.

    Args:
        network: not wrapped in `DistributedDataParallel`.
        path: of the served network's file.
        evaluator: scores the network; None compares nothing.
        metric: name of the evaluator's metric; more is better.
        output_dir: folder of the run.
        settings: as of `FinalModel`.
        replace_if_worse: put the trained network in place whatever it scores.

    Raises:
        StateError: when training starts, the served file does not hold this network's weights.
    """

    def __init__(
        self,
        network: nn.Module,
        path: str | Path,
        evaluator: Evaluator | None,
        metric: str,
        output_dir: str | Path,
        settings: Mapping[str, Any] | None = None,
        *,
        replace_if_worse: bool = False,
    ) -> None:
        self._network, self._path, self._folder = network, Path(path), Path(output_dir)
        self._evaluator, self._metric, self._settings = evaluator, metric, settings
        self._replace_if_worse = replace_if_worse
        self._scored_at: int | None = None
        self._before: float | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        if self._evaluator is not None:
            engine.add_event_handler(Events.STARTED, self._score_served)
            self._evaluator.add_event_handler(Events.COMPLETED, self._note, engine)
        engine.add_event_handler(Events.COMPLETED, self._decide)

    def _note(self, engine: Engine) -> None:
        self._scored_at = engine.state.epoch

    def _score(self) -> float:
        if self._evaluator is None:
            raise StateError("ServedModel has no evaluator to score with.")
        self._evaluator.run()
        return float(self._evaluator.state.metrics[self._metric])

    def _score_served(self) -> None:
        if not self._path.exists():
            return
        start = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
        try:
            self._network.load_state_dict(_weights(self._path))
        except UNREADABLE as error:
            raise StateError(
                f"{self._path} does not hold the weights of this network ({type(error).__name__}: {error}). Put the "
                f"right file in its place, such as a backup that stands beside it."
            ) from error
        self._before = self._score()
        self._scored_at = None  # these were the served weights, whatever epoch the trainer is at
        self._network.load_state_dict(start)

    def _decide(self, engine: Engine) -> None:
        after = None
        if self._evaluator is not None:
            after = (
                self._score() if self._scored_at != engine.state.epoch else self._evaluator.state.metrics[self._metric]
            )
        if idist.get_rank() != 0:
            return
        finite = is_finite(self._network)
        told = f"{self._metric} of the new model {_shown(after)}, of the served one {_shown(self._before)}"
        if not finite or (_is_worse(after, self._before) and not self._replace_if_worse):
            FinalModel(self._network, self._folder / REJECTED, self._settings).save()
            logger.warning(
                "The served model stays: %s. The new one is in %s; %s.",
                *(told, self._folder / REJECTED),
                "train with replace_if_worse to take it anyway"
                if finite
                else "its weights are not finite: train with a lower alpha0",
            )
            return
        kept = self._back_up()
        FinalModel(self._network, self._path, self._settings).save()
        logger.info("The new model is served: %s. The old one is kept as %s.", told, kept)

    def _back_up(self) -> str | None:
        """A copy: the served file itself must be there at any time."""
        if not self._path.exists():
            return None
        stem = self._path.stem
        numbers = [
            re.fullmatch(rf"{re.escape(stem)}_(\d+)", file.stem) for file in self._path.parent.glob(f"{stem}_*.pt")
        ]
        number = 1 + max((int(match[1]) for match in numbers if match), default=0)
        backup = self._path.with_name(f"{stem}_{number}.pt")
        for source, target in ((settings_file(self._path), settings_file(backup)), (self._path, backup)):
            if source.exists():
                with atomic_path(target) as temporary:
                    shutil.copy2(source, temporary)
        return backup.name


def _weights(file: Path) -> Mapping[str, Any]:
    found = torch.load(file, map_location="cpu", weights_only=True)
    inner: Mapping[str, Any] = found.get("model", found) if isinstance(found, dict) else {}
    return inner


def _is_worse(after: float | None, before: float | None) -> bool:
    """An undefined score is worse than any."""
    if after is None or before is None or math.isnan(before):
        return False
    return math.isnan(after) or after < before


def _shown(score: float | None) -> str:
    return "unknown" if score is None else f"{score:.4g}"
