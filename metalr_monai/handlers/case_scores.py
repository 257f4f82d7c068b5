"""Score every case of a MONAI evaluator, once, on all ranks."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ..errors import OptionError, near_misses
from .cases import identify, on_all_ranks, outputs

logger = logging.getLogger(__name__)


class CaseScores(ABC):
    """What the handlers that score cases share: when they act, whose cases they take, and where the means go.

    Attributes:
        metric_names: what is set in `engine.state.metrics`.
    """

    metric_names: tuple[str, ...]
    _whole_cases: str  # how to give every case once, after "Give every item a case_id of its own"
    _undefined: str  # why a score may be NaN

    def __init__(self, output_dir: str | Path | None) -> None:
        self._folder = None if output_dir is None else Path(output_dir)
        self._by_case: dict[str, tuple[str, Any]] = {}

    def attach(self, engine: Engine, name: str | None = None) -> None:
        """Register with the evaluator; `name` is the key under which it is given as a metric."""
        if name is not None and name not in self.metric_names:
            raise OptionError(
                f"{type(self).__name__} is given as the metric {name!r}; it has {', '.join(self.metric_names)}."
                f"{near_misses(name, self.metric_names)}"
            )
        if engine.has_event_handler(self._collect, Events.ITERATION_COMPLETED):
            return  # given once more, under another of its names
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    @abstractmethod
    def _score(self, item: Any, result: Mapping[str, Any], case: str) -> Any:  # noqa: ANN401 - what a data set makes
        """A case's score in plain containers, which can be gathered from other ranks."""

    @abstractmethod
    def _combine(self, found: Mapping[str, Any]) -> dict[str, float]:
        """Metrics of all ranks' cases, by `metric_names`."""

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Write what `_combine` has made of the cases."""

    def _start(self) -> None:
        self._by_case = {}

    def _collect(self, engine: Engine) -> None:
        for item, result in outputs(engine, "pred", "label"):
            identity, case = identify(item)
            if identity in self._by_case:
                raise OptionError(
                    f"Two items are the case {identity}; expected whole cases, each once. Give every item a case_id "
                    f"of its own{self._whole_cases}."
                )
            self._by_case[identity] = case, self._score(item, result, case)

    def _finish(self, engine: Engine) -> None:
        metrics = self._combine(on_all_ranks(self._by_case))
        engine.state.metrics.update(metrics)
        if idist.get_rank() != 0:
            return
        if undefined := [name for name, value in metrics.items() if math.isnan(value)]:
            logger.warning("No case defines %s (NaN): %s.", ", ".join(undefined), self._undefined)
        if self._folder is not None:
            self._write(self._folder)
