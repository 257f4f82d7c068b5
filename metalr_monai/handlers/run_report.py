"""What a run did, in `run_report.json` and on one page, `report.html`: for whoever asks a year later."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.engines import SupervisedTrainer
from monai.engines.utils import default_metric_cmp_fn
from torch import Tensor

from ..data.splits import read_split
from ..errors import EngineError, StateError
from ..files import atomic_path
from .metalr import MetaLRHandler
from .report_page import REPORT_FILE, read_report, write_report_page
from .run_facts import machine, peak_memory, plain, versions, without_folders

logger = logging.getLogger(__name__)


class LoadReport(Protocol):
    """What became of the tensors of a checkpoint, in plain containers."""

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""


class RunReport:
    """Write `run_report.json` after each epoch, each validation and at the run's end, and then `report.html`.

    The report says what ran (versions, device, settings, weights, hold-out), what it cost (seconds, peak memory), and
    what came out (losses, validation metrics from epoch 0 on, learned rates), with a warning where fine-tuning made the
    network worse. A run that ends by an exception has the status "failed" and the exception's message. Names of host
    and user are left out, and paths are shown without the folders that lead to them. With several processes the loss is
    the mean over all, time and memory are the first one's, and `machine` says how many there were.

    The mean training loss is in the trainer's `state.metrics` too, as `train_loss`. For resuming name the handler in
    `CheckpointSaver`'s `save_dict` and `CheckpointLoader`'s `load_dict`.

    Args:
        output_dir: folder of the run; made if missing.
        metalr: the trainer's `MetaLRHandler`.
        evaluator: the engine whose `state.metrics` are recorded whenever it has run, under the trainer's epoch. Run it
            before the trainer for epoch 0.
        settings: what the run was configured with, such as {"lr": 1e-3}.
        weights: what `load_weights` reported.
        data_warnings: what a `DataCheck` found; the list may be filled after this handler is made.
        title: of the page.

    Raises:
        EngineError: the engine is no `SupervisedTrainer`.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        metalr: MetaLRHandler | None = None,
        evaluator: Engine | None = None,
        settings: Mapping[str, Any] | None = None,
        weights: LoadReport | None = None,
        data_warnings: Sequence[str] = (),
        title: str = "Fine-tuning run",
    ) -> None:
        self._folder = Path(output_dir)
        self._metalr, self._evaluator = metalr, evaluator
        self._data_warnings = data_warnings
        self._about = {
            "title": title,
            "settings": settings or {},
            "weights": None if weights is None else weights.to_dict(),
        }
        self._trainer: SupervisedTrainer | None = None
        self._status, self._error = "running", ""
        self._started, self._ended = _now(), ""
        self._clock, self._seconds_before = time.perf_counter(), 0.0
        self._peak_before: dict[str, int] = {}
        self._resumed_after: list[int] = []
        self._epochs: dict[int, dict[str, Any]] = {}
        self._validation: dict[int, dict[str, Any]] = {}
        self._start_rates: dict[str, float] = {}

    # ------------------------------------------------------------------ Ignite

    def attach(self, engine: Engine) -> None:
        """Register with the trainer and the evaluator; only the first rank writes."""
        if not isinstance(engine, SupervisedTrainer):
            raise EngineError(f"RunReport is attached to {type(engine).__name__}; expected a SupervisedTrainer.")
        self._trainer = engine
        Average(_loss, device=engine.state.device).attach(engine, "train_loss")  # over all ranks
        if idist.get_rank() != 0:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._complete)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)
        handlers = engine._event_handlers[Events.EXCEPTION_RAISED]
        handlers.insert(0, handlers.pop())  # MONAI's own handlers raise, and those behind them never run
        if self._evaluator is not None:
            self._evaluator.add_event_handler(Events.COMPLETED, self._end_validation)

    def _start_epoch(self) -> None:
        # Not at STARTED: the tuner is made there, and a checkpoint is loaded.
        tuner = None if self._metalr is None else self._metalr.tuner
        if tuner is not None and not len(tuner.history):
            self._start_rates = tuner.lrs
        self._write()

    def _end_epoch(self, engine: SupervisedTrainer) -> None:
        self._epochs[engine.state.epoch] = {
            "epoch": engine.state.epoch,
            "train_loss": float(engine.state.metrics["train_loss"]),
            "seconds": engine.state.times[Events.EPOCH_COMPLETED.name],
            "rates": {group["name"]: group["lr"] for group in engine.optimizer.param_groups if "name" in group},
        }
        self._write()

    def _end_validation(self, evaluator: Engine) -> None:
        epoch = 0 if self._trainer is None else self._trainer.state.epoch
        self._validation[epoch] = {"epoch": epoch, "metrics": plain(evaluator.state.metrics, self._folder)}
        self._write()
        if self._status == "completed":
            self._write_page()

    def _complete(self) -> None:
        self._status, self._error, self._ended = "completed", "", _now()
        self._write()
        self._write_page()

    def _fail(self, engine: Engine, error: BaseException) -> None:
        message = f"{type(error).__name__}: {error}"
        self._status, self._error, self._ended = "failed", without_folders(message, self._folder), _now()
        self._write()
        self._write_page()
        handlers = [f for f, *_ in engine._event_handlers[Events.EXCEPTION_RAISED]]
        if handlers[-1] == self._fail:  # else those behind decide, as they would without this one
            raise error  # Ignite would go on as if nothing had happened

    # ------------------------------------------------------------------ files

    def _write(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._folder / REPORT_FILE) as temporary:
            text = json.dumps(plain(self._content(), self._folder), indent=2, allow_nan=False, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")

    def _write_page(self) -> None:
        try:
            write_report_page(self._folder)
        except StateError as error:  # a page is no reason to lose a run
            logger.warning("No report.html: %s", error)

    def _content(self) -> dict[str, Any]:
        trainer = self._trainer
        key = self._key_metric()
        return {
            "report_version": 1,
            "title": self._about["title"],
            "status": self._status,
            "error": self._error,
            "warnings": [*_warnings_of_scores(key), *self._warnings_of_training(), *self._data_warnings],
            "started": self._started,
            "ended": self._ended,
            "resumed_after_epochs": self._resumed_after,
            "wall_seconds": self._seconds(),
            "max_epochs": None if trainer is None else trainer.state.max_epochs,
            "peak_memory_bytes": self._peak(),
            "key_metric": key,
            "epochs": [self._epochs[epoch] for epoch in sorted(self._epochs)],
            "validation": [self._validation[epoch] for epoch in sorted(self._validation)],
            "metalr": None if self._metalr is None else _learned(self._metalr, self._start_rates),
            "split": self._split(),
            "settings": self._about["settings"],
            "weights": self._about["weights"],
            "versions": versions(),
            "machine": None if trainer is None else machine(trainer.state.device),
        }

    def _split(self) -> dict[str, list[str]] | None:
        """Cases by part: of the run's split.json, if it has one, with the meta set held out of its training part."""
        file = self._folder / "split.json"
        parts = dict(read_split(file)) if file.exists() else {}
        held_out = None if self._metalr is None else self._metalr.split
        return {part: cases for part, cases in {**parts, **(held_out or {})}.items() if cases} or None

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._clock

    def _peak(self) -> dict[str, int]:
        now = {} if self._trainer is None else peak_memory(self._trainer.state.device)
        return {kind: max(now.get(kind, 0), self._peak_before.get(kind, 0)) for kind in {**self._peak_before, **now}}

    def _key_metric(self) -> dict[str, Any] | None:
        """MONAI's key metric, or the first one: its first, last and best value, by the evaluator's own comparison."""
        metrics = {epoch: entry["metrics"] for epoch, entry in self._validation.items() if entry["metrics"]}
        if not metrics or self._evaluator is None:
            return None
        name = getattr(self._evaluator.state, "key_metric_name", None) or next(iter(metrics[min(metrics)]))
        better: Callable[[float, float], bool] = getattr(self._evaluator, "metric_cmp_fn", default_metric_cmp_fn)
        values = {epoch: metrics[epoch].get(name) for epoch in sorted(metrics)}
        numbers = {epoch: value for epoch, value in values.items() if isinstance(value, (int, float))}
        best = None
        for epoch, value in numbers.items():
            best = epoch if best is None or better(value, numbers[best]) else best
        last = max(values)
        return {
            "name": name,
            "before": values.get(0),
            "last": values[last],
            "last_epoch": last,
            "best": None if best is None else numbers[best],
            "best_epoch": best,
            "worse_than_before": 0 in numbers and last in numbers and last > 0 and better(numbers[0], numbers[last]),
        }

    def _warnings_of_training(self) -> list[str]:
        found = []
        broken = [epoch for epoch, entry in self._epochs.items() if not math.isfinite(entry["train_loss"])]
        if broken:
            found.append(f"The training loss was not finite in epoch {', '.join(map(str, broken))}.")
        if self._metalr is not None and self._metalr.tuner is not None:
            counts = self._metalr.tuner.counts
            if counts["nonfinite"]:
                found.append(
                    f"In {counts['nonfinite']} of {counts['meta_steps']} meta steps the hypergradient was not finite; "
                    f"the rates were left as they were."
                )
        return found

    # ------------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        """What was recorded so far; plain containers only."""
        return {
            "started": self._started,
            "epoch": 0 if self._trainer is None else self._trainer.state.epoch,
            "wall_seconds": self._seconds(),
            "peak_memory_bytes": self._peak(),
            "resumed_after_epochs": list(self._resumed_after),
            "start_rates": dict(self._start_rates),
            "epochs": list(self._epochs.values()),
            "validation": list(self._validation.values()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`.

        A checkpoint may have been saved before its own epoch was recorded or validated: the report in the run's folder
        knows, if it is of the same run.
        """
        self._started, epoch = state["started"], state["epoch"]
        self._seconds_before, self._clock = state["wall_seconds"], time.perf_counter()
        self._peak_before = dict(state["peak_memory_bytes"])
        self._resumed_after = [*state["resumed_after_epochs"], epoch]
        self._start_rates = dict(state["start_rates"])
        older = _report_of_same_run(self._folder, self._started)
        for name, rows in (("epochs", self._epochs), ("validation", self._validation)):
            rows.clear()
            rows.update({row["epoch"]: row for row in older.get(name, []) if row["epoch"] <= epoch})
            rows.update({row["epoch"]: row for row in state[name]})


def _report_of_same_run(folder: Path, started: str) -> dict[str, Any]:
    try:
        found = read_report(folder)
    except StateError:
        return {}
    return found if found["started"] == started else {}


def _loss(output: Any) -> Tensor:  # noqa: ANN401 - a dict, or a list of them where MONAI has decollated it
    loss: Tensor = (output[0] if isinstance(output, list) else output)["loss"]
    return loss


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


def _learned(metalr: MetaLRHandler, start: Mapping[str, float]) -> dict[str, Any] | None:
    """Options, counts and the blocks with their first and present rates; None before the start."""
    tuner = metalr.tuner
    if tuner is None:
        return None
    now = tuner.lrs
    return {
        # Not `asdict`, which copies: a schedule may be anything.
        "options": {field.name: getattr(tuner.options, field.name) for field in dataclasses.fields(tuner.options)},
        "steps": tuner.steps,
        "counts": tuner.counts,
        "blocks": [
            {
                "name": name,
                "tensors": len(parameters),
                "parameters": sum(p.numel() for p in parameters),
                "trainable": sum(p.numel() for p in parameters if p.requires_grad),
                "start_rate": start.get(name),
                "rate": now[name],
            }
            for name, parameters in tuner.blocks.items()
        ],
    }


def _warnings_of_scores(key: Mapping[str, Any] | None) -> list[str]:
    if key is None:
        return []
    if key["last"] is None:
        return [f"The last {key['name']} (epoch {key['last_epoch']}) is undefined: no case defines it."]
    if key["worse_than_before"]:
        return [
            f"Fine-tuning made the network worse: {key['name']} is {key['last']:.4g} after epoch {key['last_epoch']}, "
            f"and was {key['before']:.4g} before the first epoch."
        ]
    return []
