"""A study's figures: scores by scheme, rates by block, frozen ranges, start rates.

Needs matplotlib (`pip install metalr_monai[report]`). Every function returns a matplotlib Figure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.comparison import mean_sd
from ..files import atomic_path
from ..handlers.classification_figures import BAR, GAP
from ..handlers.rate_history import depth_colours
from .records import RunRecord
from .start_rates import Places, scores_by_rate
from .summary import Summary

SEED_MARKS = "osD^vP*X<>"
_LINES = (BAR, GAP, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's palette
_WIDTH, _PANELS = 10.4, 3  # inches; panels side by side
_ANNOTATED = 15  # blocks: of more, a heat map's cells have no room for numbers

FloatArray = NDArray[np.float64]


def scores_figure(summary: Summary) -> Any:  # noqa: ANN401 - a matplotlib Figure, imported where it is there
    """Test scores, %: a row a scheme, a panel a score; a mark a seed, a bar the mean, a dashed line the baseline's."""
    schemes = summary.schemes
    figure, panels = _panels(len(summary.titles), 0.95 + 0.36 * len(schemes), columns=4, sharey=True)
    offsets = np.linspace(-0.22, 0.22, len(summary.seeds)) if len(summary.seeds) > 1 else np.zeros(1)
    for axes, title in zip(panels, summary.titles, strict=True):
        for row, scheme in enumerate(schemes):
            for number, seed in enumerate(summary.seeds):
                if seed in scheme.seeds:
                    axes.plot(
                        100 * scheme.scores_by_seed[title][seed],
                        row + offsets[number],
                        SEED_MARKS[number % len(SEED_MARKS)],
                        color=BAR,
                        alpha=0.55,
                        markersize=5,
                        markeredgewidth=0,
                    )
            mean = 100 * scheme.scores[title].mean
            axes.plot([mean, mean], [row - 0.33, row + 0.33], color="black", linewidth=2.2)
            if scheme.scheme == summary.baseline:
                axes.axvline(mean, color=GAP, linewidth=1.2, linestyle="dashed", zorder=0)
        axes.set_title(title, loc="left", fontsize=10, parse_math=False)
        axes.set_xlabel("%")
        axes.margins(x=0.08)
        axes.grid(axis="y", visible=False)
    first = panels[0]
    first.set_yticks(range(len(schemes)), [scheme.scheme for scheme in schemes], parse_math=False)
    first.set_ylim(len(schemes) - 0.5, -0.5)
    return figure


def final_rates_figure(records: Sequence[RunRecord]) -> Any:  # noqa: ANN401
    """The blocks' rates after the last epoch, a panel a scheme whose blocks differ: mean ± sd of log₁₀ over seeds.

    None where all blocks of every scheme have one rate.
    """
    found = block_wise(records)
    if not found:
        return None
    figure, panels = _panels(len(found), 2.6, sharey=True)
    for axes, (scheme, runs) in zip(panels, found.items(), strict=True):
        blocks = _blocks(runs)
        logs = np.stack([_log_rates(run, blocks)[-1] for run in runs])
        means, sds = logs.mean(axis=0), logs.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(blocks))
        places = np.arange(len(blocks))
        axes.plot(places, 10**means, color="0.55", linewidth=1, zorder=1)
        errors = np.stack([10**means - 10 ** (means - sds), 10 ** (means + sds) - 10**means])
        axes.errorbar(places, 10**means, yerr=errors, fmt="none", ecolor="0.45", capsize=2, linewidth=1, zorder=2)
        axes.scatter(places, 10**means, c=depth_colours(len(blocks)), s=26, zorder=3)
        axes.set_title(scheme, loc="left", fontsize=10, parse_math=False)
        axes.set(yscale="log")
        axes.set_xticks(places, blocks, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
        axes.tick_params(axis="x", labelsize=8)
    _label_left(panels, "learning rate")
    _readable_decades(panels)
    return figure


def rate_curves_figure(records: Sequence[RunRecord]) -> Any:  # noqa: ANN401
    """The blocks' rates over the epochs, a panel a scheme whose blocks differ: geometric mean over seeds.

    Seeds with fewer epochs end their share of the mean early. None where all blocks of every scheme have one rate.
    """
    found = block_wise(records)
    if not found:
        return None
    figure, panels = _panels(len(found), 2.5, sharey=True)
    for axes, (scheme, runs) in zip(panels, found.items(), strict=True):
        blocks = _blocks(runs)
        longest = max(runs, key=lambda run: len(run.epochs))
        logs = np.full((len(runs), len(longest.epochs), len(blocks)), np.nan)
        for number, run in enumerate(runs):
            logs[number, : len(run.epochs)] = _log_rates(run, blocks)
        counts = np.isfinite(logs).sum(axis=0)
        means = 10 ** (np.nansum(logs, axis=0) / np.where(counts, counts, np.nan))
        epochs = [epoch.epoch for epoch in longest.epochs]
        few = "." if len(epochs) <= 10 else None
        for j, (block, colour) in enumerate(zip(blocks, depth_colours(len(blocks)), strict=True)):
            axes.plot(epochs, means[:, j], color=colour, linewidth=1.4, marker=few, label=block)
        axes.set_title(scheme, loc="left", fontsize=10, parse_math=False)
        axes.set(xlabel="epoch", yscale="log")
        axes.xaxis.get_major_locator().set_params(integer=True)
    _label_left(panels, "learning rate")
    _readable_decades(panels)
    handles = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside right center",
        frameon=False,
        fontsize=8,
        title="block, by depth",
        title_fontsize=8,
    )
    return figure


def frozen_range_figure(scores: Mapping[tuple[int, int], float], title: str) -> Any:  # noqa: ANN401
    """Heat map of a bi-directional search: the score where blocks m to n are frozen, %; the best is framed.

    Args:
        scores: (m, n) → score, 0 … 1; first and last frozen block, counted from 1, m ≤ n.
        title: what the score is.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    d = max(n for _, n in scores)
    table = np.full((d, d), np.nan)
    for (m, n), score in scores.items():
        table[n - 1, m - 1] = 100 * score
    side = 2.2 + 0.42 * d
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(table, cmap="viridis", origin="lower", extent=(0.5, d + 0.5, 0.5, d + 0.5))
    low, high = np.nanmin(table), np.nanmax(table)
    for (m, n), score in scores.items() if d <= _ANNOTATED else ():
        dark = high == low or (100 * score - low) / (high - low) < 0.6
        axes.text(m, n, f"{100 * score:.1f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    m, n = max(scores, key=lambda place: scores[place])
    axes.add_patch(Rectangle((m - 0.5, n - 0.5), 1, 1, fill=False, edgecolor=GAP, linewidth=2.5))
    axes.set(xlabel="first frozen block", ylabel="last frozen block", xticks=range(1, d + 1), yticks=range(1, d + 1))
    axes.set_title(f"{title}, %, with these blocks frozen", loc="left", fontsize=10, parse_math=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8).outline.set_visible(False)
    return figure


def start_rate_figure(records: Sequence[RunRecord], places: Places, title: str) -> Any:  # noqa: ANN401
    """A score against the start rate: one line the mean over seeds, its band ± sd, a dot a seed.

    Args:
        records: runs; those whose scheme is not in `places` are left out.
        places: scheme → (name of its line, start rate).
        title: of the score to draw.
    """
    figure, [axes] = _panels(1, 3.6, columns=1)
    for number, (line, by_rate) in enumerate(scores_by_rate(records, places, title).items()):
        colour = _LINES[number % len(_LINES)]
        rates = [rate for rate, scores in by_rate.items() if scores]
        spread = [mean_sd(by_rate[rate]) for rate in rates]
        means = np.array([score.mean for score in spread])
        sds = np.array([0 if math.isnan(score.sd) else score.sd for score in spread])
        axes.plot(rates, means, color=colour, marker="o", markersize=5, linewidth=1.6, label=line)
        axes.fill_between(rates, means - sds, means + sds, color=colour, alpha=0.15, linewidth=0)
        for rate in rates:
            axes.plot([rate] * len(by_rate[rate]), by_rate[rate], ".", color=colour, alpha=0.5, markersize=4)
    axes.set(xscale="log", xlabel="start rate", ylabel="%")
    axes.set_title(title, loc="left", fontsize=10, parse_math=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    return figure


def save_png(figure: Any, path: Path) -> None:  # noqa: ANN401
    """Write a figure as PNG, atomically; the same figure gives the same bytes."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def block_wise(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Schemes whose blocks differ in rate after some epoch → their runs, in order of the records."""
    runs: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.epochs:
            runs[record.scheme].append(record)
    return {scheme: own for scheme, own in runs.items() if any(map(_differ, own))}


# ---------------------------------------------------------------------- shared


def _differ(run: RunRecord) -> bool:
    return any(not math.isclose(min(rates), max(rates)) for epoch in run.epochs if (rates := epoch.rates.values()))


def _blocks(runs: Sequence[RunRecord]) -> list[str]:
    """By depth; of all seeds."""
    return list(dict.fromkeys(block for run in runs for block in run.epochs[-1].rates))


def _log_rates(run: RunRecord, blocks: Sequence[str]) -> FloatArray:
    """log₁₀ of the rates, shape (epochs, blocks); NaN where a block has none, or 0."""
    rates = [[epoch.rates.get(block, math.nan) for block in blocks] for epoch in run.epochs]
    return np.array([[math.log10(rate) if rate > 0 else math.nan for rate in row] for row in rates])


def _panels(count: int, height: float, columns: int = _PANELS, sharey: bool = False) -> tuple[Any, list[Any]]:
    """A figure with `count` axes in rows of `columns`, each row `height` inches high."""
    from matplotlib.figure import Figure  # the base install has no matplotlib

    rows, columns = math.ceil(count / columns), min(count, columns)
    figure = Figure(figsize=(_WIDTH, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey).flatten()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[:count]:
        axes.grid(which="major", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", labelsize=9)
    return figure, list(grid[:count])


def _label_left(panels: Sequence[Any], label: str) -> None:
    for axes in panels[::_PANELS]:
        axes.set_ylabel(label)


def _readable_decades(panels: Sequence[Any]) -> None:
    """A log axis of less than a decade has no labelled tick otherwise."""
    low, high = panels[0].get_ylim()
    if high / low < 10:
        middle = math.sqrt(low * high)
        panels[0].set_ylim(min(low, middle / math.sqrt(10)), max(high, middle * math.sqrt(10)))
