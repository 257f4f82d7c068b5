"""The rates on disk and on screen: CSV, JSON lines, TensorBoard, and the curves (the paper's Fig. 2)."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import math
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ..errors import OptionError
from ..files import atomic_path
from ..rates.history import RateHistory
from .metalr import MetaLRHandler

logger = logging.getLogger(__name__)


class RateHistoryHandler:
    """Write `rates.csv` after each epoch and `rates.png` at the end of the run, and TensorBoard scalars by block name.

    Args:
        metalr: the trainer's `MetaLRHandler`.
        output_dir: folder of the run; made if missing.
        summary_writer: a TensorBoard `SummaryWriter`, or anything with its `add_scalar`, or None.
    """

    def __init__(self, metalr: MetaLRHandler, output_dir: str | Path, summary_writer: Any = None) -> None:  # noqa: ANN401
        self._metalr, self._writer = metalr, summary_writer
        self._folder = Path(output_dir)
        self._written: int | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer; only the first rank writes."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, self._start)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)
            engine.add_event_handler(Events.COMPLETED, self._plot)

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._written is None:  # what a resumed history brings along is in TensorBoard already
            self._written = 0 if self._metalr.tuner is None else len(self._metalr.tuner.history)

    def _write(self) -> None:
        if self._metalr.tuner is None:
            return
        history = self._metalr.tuner.history
        save_rates(history, self._folder / "rates.csv")
        if self._writer is not None:
            for step, _, *values in history.rows(self._written or 0):
                for column, value in zip(history.columns[2:], values, strict=True):
                    if not math.isnan(value):
                        self._writer.add_scalar(f"metalr/{column}", value, step)
            self._written = len(history)

    def _plot(self) -> None:
        if self._metalr.tuner is None or not len(self._metalr.tuner.history):
            return
        if importlib.util.find_spec("matplotlib") is None:
            logger.warning("No rates.png: matplotlib is missing (pip install metalr_monai[report]).")
        else:
            plot_rates(self._metalr.tuner.history, self._folder / "rates.png")


def save_rates(history: RateHistory, path: str | Path) -> None:
    """Write a history as CSV or JSON lines, by the file's ending; one row a step, atomically.

    Raises:
        OptionError: the ending is neither `.csv` nor `.jsonl`.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".jsonl"):
        raise OptionError(f"{path} ends in {path.suffix!r}; rates are written as .csv or .jsonl.")
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(history.columns)
            writer.writerows(["" if math.isnan(value) else value for value in row] for row in history.rows())
        else:
            for row in history.rows():
                values = (None if math.isnan(value) else value for value in row)
                file.write(json.dumps(dict(zip(history.columns, values, strict=True))) + "\n")


def plot_rates(history: RateHistory, path: str | Path, title: str = "Learned learning rates") -> None:
    """Draw each block's rate over the steps, on a log axis, into an image file.

    Needs matplotlib (`pip install metalr_monai[report]`).
    """
    from matplotlib.figure import Figure  # the base install has no matplotlib

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    rates, d = history.rates, len(history.names)
    colours = depth_colours(d)
    for j, name in enumerate(history.names):
        axes.plot(history.steps.numpy(), rates[:, j].numpy(), color=colours[j], linewidth=1.6, label=name)
    axes.set(title=title, xlabel="optimizer step", ylabel="learning rate", yscale="log")
    axes.margins(x=0)
    axes.grid(which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, title="block, by depth")
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lstrip("."), dpi=150)


def depth_colours(d: int) -> list[Any]:
    """One colour a block, from shallow to deep."""
    from matplotlib import colormaps

    return [colormaps["turbo"](0.05 + 0.9 * j / max(d - 1, 1)) for j in range(d)]
