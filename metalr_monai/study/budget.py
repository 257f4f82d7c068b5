"""Schemes at equal wall-clock: what a scheme reaches in the time that the baseline's whole run takes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from ..evaluation.comparison import MeanSD, mean_sd
from .records import RunRecord


@dataclass(frozen=True)
class EqualTime:
    """Validation scores, 0 … 1, of the seeds that the scheme and the baseline have, both validated more than once.

    Attributes:
        score: the scheme's when the baseline's run ended, a straight line between its validations; over the seeds whose
            search, if there is one, was over by then.
        baseline: the baseline's last score.
        seeds: how many there are.
        reached: of how many seeds the scheme ever has the baseline's last score.
        time_ratio: time until a validation first gives the baseline's last score, over the baseline's own such time;
            the median over seeds. None unless more than half of them reach it.
        epoch_ratio: the same in epochs, which other work on the machine does not change; None also where there was a
            search, whose epochs are another kind of run's.
        validated_on: the parts of the data that all these scores are of, in words.
    """

    score: MeanSD
    baseline: MeanSD
    seeds: int
    reached: int
    time_ratio: float | None
    epoch_ratio: float | None
    validated_on: tuple[str, ...]


def has_curve(run: RunRecord) -> bool:
    """Whether more than one epoch of training was validated."""
    return len(_curve(run)) > 1


def equal_time(own: Mapping[int, RunRecord], base: Mapping[int, RunRecord]) -> EqualTime | None:
    """Compare runs of the same seeds; None where none was validated more than once.

    Times are those of training, a search before it included, validation not.

    Args:
        own, base: seed → run.
    """
    pairs = [(run, base[seed]) for seed, run in own.items() if seed in base]
    pairs = [(run, other) for run, other in pairs if has_curve(run) and has_curve(other)]
    if not pairs:
        return None
    lasts = [_curve(other)[-1].score for _, other in pairs]
    firsts = [(_first(run, last), _first(other, last)) for (run, other), last in zip(pairs, lasts, strict=True)]
    searched = any(run.search_seconds for pair in pairs for run in pair)
    return EqualTime(
        score=mean_sd([_score_at(run, other.train_seconds) for run, other in pairs]),
        baseline=mean_sd(lasts),
        seeds=len(pairs),
        reached=sum(math.isfinite(own.seconds) for own, _ in firsts),
        time_ratio=_median([own.seconds / base.seconds for own, base in firsts]),
        epoch_ratio=None if searched else _median([own.epoch / base.epoch for own, base in firsts]),
        validated_on=tuple(dict.fromkeys(run.validated_on for pair in pairs for run in pair if run.validated_on)),
    )


class _Validation(NamedTuple):
    epoch: float
    seconds: float
    score: float


_NEVER = _Validation(math.inf, math.inf, math.nan)


def _median(ratios: list[float]) -> float | None:
    ratio = statistics.median(ratios)
    return ratio if math.isfinite(ratio) else None


def _curve(run: RunRecord) -> list[_Validation]:
    """Every validated epoch of training, in order, and the seconds until its end."""
    ends = accumulate((epoch.seconds for epoch in run.epochs), initial=run.search_seconds)
    times = dict(zip((0, *(epoch.epoch for epoch in run.epochs)), ends, strict=True))
    validated = sorted(run.validation.items())
    return [_Validation(epoch, times[epoch], score) for epoch, score in validated if epoch > 0 and epoch in times]


def _score_at(run: RunRecord, seconds: float) -> float:
    """NaN before the first validation."""
    start = [_Validation(0, run.search_seconds, run.validation[0])] if 0 in run.validation else []
    _, times, scores = zip(*start, *_curve(run), strict=True)
    return float(np.interp(seconds, times, scores, left=math.nan))


def _first(run: RunRecord, score: float) -> _Validation:
    """The first validation that gives the score."""
    return next((validation for validation in _curve(run) if validation.score >= score), _NEVER)
