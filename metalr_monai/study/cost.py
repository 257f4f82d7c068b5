"""What training with a scheme takes: time, as a ratio to the baseline's, and memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from .against import Runs
from .records import RunRecord


@dataclass(frozen=True)
class Cost:
    """What training takes; None where it is unknown.

    Attributes:
        epoch_ratio: median seconds of an epoch over the baseline's of the same seed; the median over seeds.
        total_ratio: training time, a search included, over the baseline's of the same seed; the median over seeds.
        train_seconds: training time, a search included; the median over seeds.
        search_seconds: the search's part of it.
        peak_memory: bytes; the highest of all seeds.
    """

    epoch_ratio: float | None
    total_ratio: float | None
    train_seconds: float
    search_seconds: float
    peak_memory: int | None


def cost_of(own: Runs, base: Runs) -> Cost:
    """What the runs of a scheme took, and the baseline's of the same seeds.

    Args:
        own, base: seed → run.
    """
    memories = [run.peak_memory for run in own.values() if run.peak_memory is not None]
    return Cost(
        epoch_ratio=_median_ratio(own, base, _epoch_seconds),
        total_ratio=_median_ratio(own, base, lambda run: run.train_seconds),
        train_seconds=statistics.median(run.train_seconds for run in own.values()),
        search_seconds=statistics.median(run.search_seconds for run in own.values()),
        peak_memory=max(memories, default=None),
    )


def _epoch_seconds(run: RunRecord) -> float:
    return statistics.median(epoch.seconds for epoch in run.epochs) if run.epochs else 0.0


def _median_ratio(own: Runs, base: Runs, seconds: Callable[[RunRecord], float]) -> float | None:
    pairs = [(seconds(run), seconds(base[seed])) for seed, run in own.items() if seed in base]
    ratios = [ours / theirs for ours, theirs in pairs if theirs]
    return statistics.median(ratios) if ratios else None
