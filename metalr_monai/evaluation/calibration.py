"""How far a classifier's confidence can be taken at its word: reliability table and expected calibration error.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", Eq. 1 to 3. (MONAI 1.6's `calibration_binning` bins
in float32, at edges a little above m/M, and its `right` means the opposite of what its docstring says.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""M, as in Guo et al.: bin m holds the confidences in ((m − 1)/M, m/M]."""


@dataclass(frozen=True)
class Bin:
    """The cases whose confidence is in (low, high]; `confidence` and `accuracy` are their means, NaN where n is 0."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def reliability(confidence: NDArray[Any], right: NDArray[Any]) -> tuple[Bin, ...]:
    """The `BINS` bins, from the least confident to the most.

    Args:
        confidence: the probability of the predicted class, in [0, 1], shape (N,).
        right: whether the prediction is right, shape (N,).
    """
    edges = np.arange(BINS + 1) / BINS
    place = np.searchsorted(edges[1:-1], confidence, side="left")  # a value on an edge belongs to the bin below
    bins = []
    for m in range(BINS):
        inside = place == m
        n = int(inside.sum())
        means = [float(values[inside].mean()) if n else math.nan for values in (confidence, right)]
        bins.append(Bin(float(edges[m]), float(edges[m + 1]), n, *means))
    return tuple(bins)


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """ECE, in [0, 1]: Σ n_m/N · |accuracy_m − confidence_m|; NaN without cases.

    With a few dozen cases it is above 0 for a perfectly calibrated network too: compare runs on the same cases only.
    """
    total = sum(b.n for b in bins)
    return sum(b.n / total * abs(b.accuracy - b.confidence) for b in bins if b.n) if total else math.nan
