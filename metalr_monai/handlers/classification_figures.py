"""What a classifier's `metrics.json` holds, as matplotlib figures: confusion matrix and reliability diagram.

Needs matplotlib (`pip install metalr_monai[report]`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BAR, GAP = "#0072b2", "#d55e00"  # of Okabe and Ito's palette, which the colour-blind tell apart too


def confusion_figure(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Any:  # noqa: ANN401 - a Figure
    """Counts, a row a true class; the shade is the share of the row, so that rare classes are as visible as others.

    Args:
        matrix: shape (K, K), a row a true class, a column a predicted one.
        classes: K names.
    """
    from matplotlib.figure import Figure  # the base install has no matplotlib

    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    k = len(classes)
    figure = Figure(figsize=(5.1, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(counts.shape):
        text = f"{counts[i, j]}" + (f"\n{shares[i, j]:.0%}" if counts[i].any() else "")
        axes.text(j, i, text, ha="center", va="center", fontsize=10, color="white" if shares[i, j] > 0.55 else "black")
    axes.set_xticks(range(k), [_short(name) for name in classes], parse_math=False)
    axes.set_yticks(range(k), [_short(name) for name in classes], parse_math=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.set_title("Confusion matrix", loc="left", fontsize=10)
    return figure


def reliability_figure(bins: Sequence[Mapping[str, Any]], ece: float | None) -> Any:  # noqa: ANN401 - a Figure
    """Accuracy of the cases of each bin of confidence, against the confidence, and below how many they are.

    Args:
        bins: of `evaluation.calibration.reliability`, as dicts.
        ece: expected calibration error.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.1, 4.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    known = [b for b in bins if b["n"]]
    confidence, accuracy = ([b[name] for b in known] for name in ("confidence", "accuracy"))
    middles = [(b["low"] + b["high"]) / 2 for b in known]
    width = (bins[0]["high"] - bins[0]["low"]) * 0.92
    above.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="dashed")
    above.bar(middles, accuracy, width=width, color=BAR, alpha=0.8, label="accuracy")
    above.plot(confidence, accuracy, "o", markersize=4, color=GAP, label="mean of the bin")
    below.bar(middles, [b["n"] for b in known], width=width, color="0.6")
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    below.set(xlabel="confidence (probability of the predicted class)", ylabel="cases")
    below.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    error = "" if ece is None else f", expected calibration error {ece:.3f}"
    above.set_title(f"Reliability{error}", loc="left", fontsize=10)
    above.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"
