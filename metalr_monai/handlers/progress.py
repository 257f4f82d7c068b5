"""How far the run is, and how long it will take: one bar over all epochs."""

from __future__ import annotations

import sys
import time

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.utils import is_scalar
from tqdm import tqdm


class Progress:
    """One tqdm bar over all iterations of a run, on standard error, with the time left, loss and key metric.

    (Ignite's `ProgressBar` starts anew at each epoch, and so never knows the run's time left.) Where standard error is
    no terminal, such as in a log file, there is one line an epoch instead. Only the first rank shows anything.

    Args:
        description: what stands before the bar.
        evaluator: the engine whose key metric is shown after it has run, or None.
    """

    def __init__(self, description: str = "training", evaluator: Engine | None = None) -> None:
        self._description, self._evaluator = description, evaluator
        self._bar: tqdm | None = None
        self._metric = ""
        self._began, self._first = 0.0, 0

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, and with the evaluator."""
        if idist.get_rank() != 0:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)
        if self._evaluator is not None:
            self._evaluator.add_event_handler(Events.COMPLETED, self._note_metric)

    def _start_epoch(self, engine: Engine) -> None:
        if self._bar is not None:
            self._end_epoch(engine, engine.state.epoch - 1)  # only now is it validated, whoever does that
            self._bar.total = _total(engine)  # a scheme may have added epochs
            return
        # Not at STARTED: a checkpoint that is loaded there moves the iteration.
        self._began, self._first = time.perf_counter(), engine.state.iteration
        self._bar = tqdm(
            desc=self._description,
            total=_total(engine),
            initial=self._first,
            dynamic_ncols=True,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
        )

    def _advance(self, engine: Engine) -> None:
        # The loss is read only when the bar is redrawn: reading it makes a GPU wait.
        if self._bar is not None and self._bar.update():
            self._bar.set_postfix_str(self._state(engine, engine.state.epoch), refresh=False)

    def _note_metric(self, evaluator: Engine) -> None:
        metrics = evaluator.state.metrics
        name = getattr(evaluator.state, "key_metric_name", None) or next(iter(metrics), None)
        if name in metrics and is_scalar(metrics[name]):
            self._metric = f", {name} {float(metrics[name]):.4f}"

    def _end_epoch(self, engine: Engine, epoch: int) -> None:
        if self._bar is not None and self._bar.disable:
            seconds = time.perf_counter() - self._began
            done, total = engine.state.iteration - self._first, _total(engine)
            left = "" if total is None or not done else f"<{_clock(seconds / done * (total - self._first - done))}"
            print(f"{self._description}: {self._state(engine, epoch)} [{_clock(seconds)}{left}]", file=sys.stderr)

    def _close(self, engine: Engine) -> None:
        if self._bar is not None:
            if engine.state.output is not None:  # else the run ended before its first step
                self._end_epoch(engine, engine.state.epoch)
                self._bar.set_postfix_str(self._state(engine, engine.state.epoch))
            self._bar.close()
            self._bar = None

    def _state(self, engine: Engine, epoch: int) -> str:
        output = engine.state.output
        loss = (output[0] if isinstance(output, list) else output)["loss"]
        return f"epoch {epoch}/{engine.state.max_epochs}, loss {float(loss):.4g}{self._metric}"


def _total(engine: Engine) -> int | None:
    """Iterations of the whole run, or None where the loader does not know its length."""
    length, epochs = engine.state.epoch_length, engine.state.max_epochs
    return None if length is None or epochs is None else length * epochs


def _clock(seconds: float) -> str:
    text: str = tqdm.format_interval(seconds)
    return text
