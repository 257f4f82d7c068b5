"""Everything that comes out of a study, written anew from its runs' records alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..evaluation.tables import write_csv, write_json
from ..files import atomic_path
from . import figures as draw
from .job import as_path
from .page import StudyFigure, check_extras, write_page
from .records import RunRecord
from .start_rates import Places
from .summary import Summary, summarize
from .tables import START_RATES, Published, TextTable, as_markdown, csv_rows, tables

Ranges = Mapping[tuple[int, int], float]  # first and last frozen block → score
FIGURES = ("scores", "final_rates", "rates", "start_rates", "frozen_ranges*")
DEFAULT_TITLE = "Fine-tuning schemes compared"


def write_results(
    records: Sequence[RunRecord],
    folder: str | Path,
    *,
    about: Mapping[str, Any],
    baseline: str,
    titles: Sequence[str],
    scratch: str | None = None,
    published: Published | None = None,
    start_rates: Places | None = None,
    frozen_ranges: Mapping[str, Ranges] | None = None,
) -> Summary:
    """Write `results.md`, `results.csv`, `results.json`, `figures/*.png` and `report.html`, each atomically.

    The same arguments give the same files. Tables and JSON need no extra; figures and page, which come last, need
    matplotlib and jinja2 (`pip install metalr_monai[report]`).

    Args:
        records: finished runs, at least one.
        folder: made if missing.
        about: `title` of the study, if it has one, and what a reader needs to run it again: settings, machine, date,
            command. Plain values and containers.
        baseline: scheme that the others are compared with.
        titles: scores to tell of, by their keys in the records; the first one is tested.
        scratch: scheme that trains from random weights.
        published: scheme → {title of a score, or "time": text}: a paper's numbers, shown apart from our own.
        start_rates: of a sweep: the score by start rate takes the place of comparisons with the baseline.
        frozen_ranges: scheme → (first, last frozen block) → score, 0 … 1: draws the heat map of each of these searches.

    Returns:
        The summary.

    Raises:
        OptionError: as `summarize` does; nothing is written.
        StateError: the extra `report` is missing; the tables are written.
    """
    folder = Path(folder)
    summary = summarize(records, baseline=baseline, titles=titles, scratch=scratch, start_rates=start_rates)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    title = str(about.get("title", DEFAULT_TITLE))
    settings = {key: value for key, value in about.items() if key != "title"}
    found = tables(summary, published)
    with atomic_path(folder / "results.md") as temporary:
        temporary.write_text(_markdown(title, summary, found, settings), encoding="utf-8")
    write_csv(csv_rows(summary, published), folder / "results.csv")
    ranges = [
        {"scheme": scheme, "first": m, "last": n, "score": score}
        for scheme, scores in (frozen_ranges or {}).items()
        for (m, n), score in scores.items()
    ]
    content = {
        "about": about,
        "baseline": baseline,
        "titles": list(titles),
        "scratch": scratch,
        "published": published,
        "start_rates": start_rates,
        "frozen_ranges": ranges,
        "summary": asdict(summary),
        "records": [asdict(record) for record in records],
    }
    write_json(content, folder / "results.json")

    check_extras()
    drawn = _figures(records, summary, start_rates, frozen_ranges)
    for figure in drawn:
        draw.save_png(figure.figure, folder / f"figures/{figure.name}.png")
    for file in (file for name in FIGURES for file in (folder / "figures").glob(f"{name}.png")):
        if file.stem not in {figure.name for figure in drawn}:
            file.unlink()  # of other records
    write_page(folder / "report.html", title=title, summary=summary, tables=found, figures=drawn, about=settings)
    return summary


def _figures(
    records: Sequence[RunRecord],
    summary: Summary,
    start_rates: Places | None,
    frozen_ranges: Mapping[str, Ranges] | None,
) -> list[StudyFigure]:
    rates, first = "Rates by block", summary.first_title
    found = [
        StudyFigure(
            "scores",
            "Scores",
            "Scores of every seed, by scheme",
            f"A mark is a seed, the same one in every row; a bar is the mean over seeds, the dashed line that of "
            f"{summary.baseline}.",
            draw.scores_figure(summary),
        ),
        StudyFigure(
            "final_rates",
            rates,
            "Learning rate of each block after the last epoch, by scheme",
            "After the last epoch: geometric mean over seeds, a standard deviation of the logarithm above and below. "
            "Blocks by depth, the input's first. Schemes whose blocks all have one rate are left out.",
            draw.final_rates_figure(records),
        ),
        StudyFigure(
            "rates",
            rates,
            "Learning rate of each block by epoch, by scheme",
            "At the end of each epoch: geometric mean over seeds.",
            draw.rate_curves_figure(records),
        ),
    ]
    if start_rates:
        found.append(
            StudyFigure(
                "start_rates",
                START_RATES,
                f"{first} by start rate",
                "A dot is a seed, the line their mean, the band a standard deviation above and below.",
                draw.start_rate_figure(records, start_rates, first),
            )
        )
    for scheme, scores in (frozen_ranges or {}).items():
        found.append(
            StudyFigure(
                f"frozen_ranges_{as_path(scheme)}",
                "Frozen blocks",
                f"Score of {scheme} by first and last frozen block",
                "Blocks by depth, the input's being 1; all others train. The frame is the best; the left-most column "
                "is layer-wise fine-tuning.",
                draw.frozen_range_figure(scores, f"{scheme}: score of the search"),
                narrow=True,
            )
        )
    return [figure for figure in found if figure.figure is not None]


def _markdown(title: str, summary: Summary, found: Sequence[TextTable], about: Mapping[str, Any]) -> str:
    warnings = [f"- “{scheme.scheme}” {warning}." for scheme in summary.schemes for warning in scheme.warnings]
    parts = [f"# {title}\n", f"**{summary.verdict}**\n"]
    parts += ["\n".join(warnings) + "\n"] if warnings else []
    parts += [as_markdown(table) for table in found]
    parts += ["## Remarks\n\n" + "\n".join(f"- {note}" for note in summary.notes) + "\n"] if summary.notes else []
    parts += ["## How it was run\n\n" + "\n".join(f"- {key}: {_plain(value)}" for key, value in about.items()) + "\n"]
    return "\n".join(parts)


def _plain(value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    return f"`{json.dumps(value, ensure_ascii=False)}`" if isinstance(value, (Mapping, list, tuple)) else str(value)
