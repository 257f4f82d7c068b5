"""A sweep of start rates: the score by scheme and rate, and how far from its best rate a scheme may start."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ..evaluation.comparison import MeanSD, mean_sd
from .records import RunRecord

NEAR = 1.0  # points below the best that count as good as the best
_ROUNDING = 1e-9  # points

Places = Mapping[str, tuple[str, float]]
"""Scheme of the study → the scheme that it is a variant of, and its start rate."""


@dataclass(frozen=True)
class Sweep:
    """A scheme with every start rate.

    Attributes:
        scheme: its name, without a rate.
        rates: of the sweep, lowest first.
        scores: by rate, in %, over seeds; of no seed where no run has ended.
        low, high: the ends of the widest run of neighbouring rates, the best among them, whose means are all within
            `NEAR` points of the best; NaN where there is no score at all.
    """

    scheme: str
    rates: tuple[float, ...]
    scores: tuple[MeanSD, ...]
    low: float
    high: float

    @property
    def decades(self) -> float:
        """Width of the range; NaN where there is none."""
        return math.log10(self.high / self.low)

    @property
    def near_best(self) -> str:
        """The range in words."""
        return " … ".join(dict.fromkeys(f"{end:g}" for end in (self.low, self.high)))


def scores_by_rate(records: Sequence[RunRecord], places: Places, title: str) -> dict[str, dict[float, list[float]]]:
    """Scheme without rate, of those with a run, → start rate, lowest first, → the score of each seed, in %."""
    found: dict[str, dict[float, list[float]]] = {}
    for scheme, (line, rate) in sorted(places.items(), key=lambda item: item[1][1]):
        own = [100 * record.scores[title] for record in records if record.scheme == scheme]
        found.setdefault(line, {})[rate] = own
    return {line: found[line] for line, _ in places.values() if any(found[line].values())}


def sweeps(records: Sequence[RunRecord], places: Places, title: str) -> tuple[Sweep, ...]:
    """Every scheme that has a run, in the study's order."""
    found = []
    for line, by_rate in scores_by_rate(records, places, title).items():
        scores = tuple(map(mean_sd, by_rate.values()))
        low, high = near_best({rate: score.mean for rate, score in zip(by_rate, scores, strict=True)})
        found.append(Sweep(line, tuple(by_rate), scores, low, high))
    return tuple(found)


def near_best(means: Mapping[float, float]) -> tuple[float, float]:
    """The ends of the widest run of neighbours, the best among them, that are all within `NEAR` points of the best.

    Args:
        means: rate, lowest first, → score in %; NaN breaks a run.

    Returns:
        Lowest and highest rate; NaN twice where there is no score.

    Example:
        >>> near_best({1e-4: 37.0, 1e-3: 88.4, 1e-2: 88.0, 1e-1: 87.5, 1.0: 80.0})
        (0.001, 0.1)
    """
    best = max((mean for mean in means.values() if math.isfinite(mean)), default=math.nan)
    runs = [list(run) for near, run in groupby(means, lambda rate: best - means[rate] <= NEAR + _ROUNDING) if near]
    with_best = [(run[0], run[-1]) for run in runs if any(means[rate] == best for rate in run)]
    return max(with_best, key=lambda ends: ends[1] / ends[0], default=(math.nan, math.nan))


def verdict(found: Sequence[Sweep], title: str) -> str:
    """The widths in a sentence, the widest first."""
    widest = sorted((sweep for sweep in found if sweep.decades >= 0), key=lambda sweep: -sweep.decades)
    words = [f"“{sweep.scheme}” {sweep.decades:.1f} ({sweep.near_best})" for sweep in widest]
    return (
        f"Decades of start rates over which the {title} of a scheme stays within {NEAR:g} point of its own best: "
        f"{', '.join(words) or 'none is known yet'}."
    )
