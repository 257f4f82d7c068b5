"""A study's summary as tables of text, in the papers' layout: a scheme a row; scores in %, as mean ± sd over seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluation.comparison import Difference, MeanSD
from ..handlers.report_page import duration, memory
from .against import BETTER, OPEN, WORSE
from .start_rates import NEAR
from .summary import Summary

NOTHING = "–"
UNITS = ("cases", "seeds")
VERDICTS = {BETTER: "better", WORSE: "worse", OPEN: "not told apart"}
START_RATES = "Start rates"
TIME = "time"  # column of the papers' tables, and a key of published numbers
Published = Mapping[str, Mapping[str, str]]  # scheme → column → text


@dataclass(frozen=True)
class TextTable:
    """A table as text.

    Attributes:
        title: its heading.
        columns, rows: cells; the first column is the row's name.
        words: columns that hold words, not numbers.
        note: what a reader needs to read it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[str, ...] = ()
    note: str = ""

    @property
    def numeric(self) -> tuple[bool, ...]:
        """By column: whether it holds numbers."""
        return tuple(i > 0 and column not in self.words for i, column in enumerate(self.columns))


def tables(summary: Summary, published: Published | None = None) -> list[TextTable]:
    """All tables of a study; those with nothing to say are left out.

    Args:
        summary: of the study.
        published: scheme → {score's title, or "time": text}: numbers of a paper, shown below our own and marked.
    """
    found = [
        _start_rates(summary),
        _scores(summary, published or {}),
        _against(summary),
        _cost(summary),
        _equal_time(summary),
        _every_seed(summary),
    ]
    return [table for table in found if table.rows]


def as_markdown(table: TextTable) -> str:
    """Heading, table and note."""
    rule = "|".join("---:" if numeric else "---" for numeric in table.numeric)
    lines = [_row(table.columns), f"|{rule}|", *map(_row, table.rows)]
    note = f"\n\n{table.note}" if table.note else ""
    return f"## {table.title}\n\n" + "\n".join(lines) + note + "\n"


def csv_rows(summary: Summary, published: Published | None = None) -> list[dict[str, Any]]:
    """One row a scheme, with numbers as numbers: scores in %, differences in points; NaN where there is none."""
    rows = []
    for scheme in summary.schemes:
        against, cost, equal = scheme.against, scheme.cost, scheme.equal_time
        row: dict[str, Any] = {"scheme": scheme.scheme, "seeds": len(scheme.seeds)}
        for title, score in scheme.scores.items():
            row |= {f"{title} mean %": _hundred(score.mean), f"{title} sd %": _hundred(score.sd)}
        for unit in UNITS:
            difference: Difference | None = getattr(against, unit, None)
            low, high = (difference and difference.interval) or (math.nan, math.nan)
            row |= {
                f"{unit} compared": difference.n if difference else math.nan,
                f"difference over {unit}, points": _hundred(difference.mean) if difference else math.nan,
                f"low, {unit}": _hundred(low),
                f"high, {unit}": _hundred(high),
                f"p, {unit}": difference.p if difference else math.nan,
                f"p Holm, {unit}": getattr(against, f"{unit}_holm", math.nan),
            }
        row |= {
            "verdict": against.words if against else "",
            "epoch time ratio": cost.epoch_ratio,
            "training time ratio": cost.total_ratio,
            "training seconds": cost.train_seconds,
            "search seconds": cost.search_seconds,
            "peak memory bytes": cost.peak_memory,
            "validation at equal time %": _hundred(equal.score.mean) if equal else math.nan,
            "time to the baseline's score, ratio": equal.time_ratio if equal else math.nan,
            "epochs to the baseline's score, ratio": equal.epoch_ratio if equal else math.nan,
        }
        row |= {
            f"{column} published": (published or {}).get(scheme.scheme, {}).get(column, "")
            for column in _published_columns(summary, published or {})
        }
        rows.append(row)
    return rows


# ---------------------------------------------------------------------- the tables


def _start_rates(summary: Summary) -> TextTable:
    rates = sorted({rate for sweep in summary.sweeps for rate in sweep.rates})
    rows = []
    for sweep in summary.sweeps:
        means = dict(zip(sweep.rates, (score.mean for score in sweep.scores), strict=True))
        cells = [_cell(means.get(rate, math.nan), ".1f") for rate in rates]
        rows.append((sweep.scheme, *cells, sweep.near_best, _cell(sweep.decades, ".1f")))
    return TextTable(
        START_RATES,
        ("scheme", *(f"{rate:g}" for rate in rates), f"within {NEAR:g} point of its best", "decades"),
        tuple(rows),
        note=(
            f"{summary.first_title}, %, by start rate; mean over seeds ({_seeds(summary)}). Within {NEAR:g} point of "
            "its best: the widest run of neighbouring rates, the best among them, with no mean lower than that; "
            "decades: log₁₀ of its highest rate over its lowest. It may go on beyond the rates that were tried."
        ),
    )


def _scores(summary: Summary, published: Published) -> TextTable:
    columns = ("scheme", *summary.titles, TIME, "peak memory")
    rows = []
    for scheme in summary.schemes:
        scores = [percent(scheme.scores[title]) for title in summary.titles]
        cost = scheme.cost
        rows.append((scheme.scheme, *scores, duration(cost.train_seconds), memory(cost.peak_memory)))
        if scheme.scheme in published:
            rows.append(_published_row(scheme.scheme, columns, published))
    known = {scheme.scheme for scheme in summary.schemes}
    rows += [_published_row(name, columns, published) for name in published if name not in known]
    note = (
        f"Test part, last epoch; %, mean ± standard deviation over seeds ({_seeds(summary)}); {TIME}: training, a "
        "search included, median over seeds; peak memory: the highest of all seeds."
    )
    if published:
        note += " Rows “in the paper” are published numbers, of the paper's own data and machine: not measured here."
    return TextTable("Scores", columns, tuple(rows), note=note)


def _published_row(name: str, columns: Sequence[str], published: Published) -> tuple[str, ...]:
    return (f"{name}, in the paper", *(published[name].get(column, NOTHING) for column in columns[1:]))


def _published_columns(summary: Summary, published: Published) -> list[str]:
    given = {column for texts in published.values() for column in texts}
    return [column for column in (*summary.titles, TIME) if column in given]


def _against(summary: Summary) -> TextTable:
    compared = [(scheme.scheme, scheme.against) for scheme in summary.schemes if scheme.against is not None]
    counts = {unit: max((getattr(against, unit).n for _, against in compared), default=0) for unit in UNITS}
    units = [unit for unit in UNITS if counts[unit]]
    rows = []
    for name, against in compared:
        cells = []
        for unit in units:
            difference: Difference = getattr(against, unit)
            other = f", n = {difference.n}" if difference.n != counts[unit] else ""
            cells += [_points(difference) + other, _p(difference.p), _p(getattr(against, f"{unit}_holm"))]
        rows.append((name, VERDICTS[against.verdict], *cells))
    columns = [column for unit in units for column in (f"over {_count(counts[unit], unit)}", "p", "Holm p")]
    return TextTable(
        f"Against {summary.baseline}: {summary.first_title}",
        ("scheme", "verdict", *columns),
        tuple(rows),
        words=("verdict",),
        note=(
            "Mean difference in points, with its 95 % interval (BCa bootstrap). p: two-sided, sign-flip test; Holm p: "
            "corrected for all comparisons of the column."
        ),
    )


def _cost(summary: Summary) -> TextTable:
    searched = any(scheme.cost.search_seconds for scheme in summary.schemes)
    chosen = any(scheme.chosen for scheme in summary.schemes)
    rows = []
    for scheme in summary.schemes:
        cost = scheme.cost
        cells = [_times(cost.epoch_ratio), _times(cost.total_ratio), duration(cost.train_seconds)]
        cells += [duration(cost.search_seconds) if cost.search_seconds else NOTHING] * searched
        cells += [memory(cost.peak_memory)]
        cells += [_choices(scheme.chosen)] * chosen
        rows.append((scheme.scheme, *cells))
    columns = ["epoch, ×", "training, ×", "training time", *["search"] * searched, "peak memory"]
    note = (
        f"×: over {summary.baseline} with the same seed: the median epoch's seconds, and the whole training time"
        f"{', that of the search included' * searched}; medians over seeds. Peak memory: the highest of all seeds."
    )
    return TextTable("Cost", ("scheme", *columns, *["chosen"] * chosen), tuple(rows), words=("chosen",), note=note)


def _equal_time(summary: Summary) -> TextTable:
    rows = []
    parts: dict[str, None] = {}
    for scheme in summary.schemes:
        equal = scheme.equal_time
        if equal is not None:
            parts |= dict.fromkeys(equal.validated_on)
            reached = f"{equal.reached} of {equal.seeds}"
            ratios = (_times(equal.time_ratio), _times(equal.epoch_ratio))
            rows.append((scheme.scheme, percent(equal.score), percent(equal.baseline), reached, *ratios))
    of = f", which are of the {' or the '.join(parts)}," if parts else ""
    return TextTable(
        "At equal time",
        ("scheme", "validation then", f"{summary.baseline} then", "reach it", "time to it, ×", "epochs, ×"),
        tuple(rows if len(rows) > 1 else ()),
        note=(
            f"Then: when the run of {summary.baseline} with the same seed was over; key metric of the validations{of} "
            "in %, on a straight line between them. Reach it: seeds with a validation as high as the last one of "
            f"{summary.baseline}. Time and epochs to it: over those of {summary.baseline} until it first has that "
            "score; median over seeds. –: its search was not over then, or no more than half of the seeds reach it; "
            "epochs are not counted of a scheme that searches."
        ),
    )


def _every_seed(summary: Summary) -> TextTable:
    rows = [
        (
            scheme.scheme,
            *(
                _cell(100 * scheme.scores_by_seed[summary.first_title].get(seed, math.nan), ".1f")
                for seed in summary.seeds
            ),
        )
        for scheme in summary.schemes
    ]
    columns = ("scheme", *(f"seed {seed}" for seed in summary.seeds))
    return TextTable(f"Every seed: {summary.first_title}, %", columns, tuple(rows))


# ---------------------------------------------------------------------- cells


def percent(score: MeanSD) -> str:
    """`93.9 ± 0.4`, without the sd where there is a single value."""
    if not score.n:
        return NOTHING
    return f"{100 * score.mean:.1f}" + (f" ± {100 * score.sd:.1f}" if score.n > 1 else "")


def _points(difference: Difference) -> str:
    if not difference.n:
        return NOTHING
    ends = difference.interval
    return _signed(difference.mean) + (f" ({_signed(ends[0])} … {_signed(ends[1])})" if ends else "")


def _signed(value: float) -> str:
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else _cell(p, ".3g")


def _times(ratio: float | None) -> str:
    return NOTHING if ratio is None else f"{ratio:.2f}"


def _count(n: int, unit: str) -> str:
    return f"{n} {unit if n != 1 else unit[:-1]}"


def _choices(chosen: Mapping[int, str]) -> str:
    """What was chosen, with the seeds that it was chosen for."""
    seeds: dict[str, list[str]] = defaultdict(list)
    for seed, words in chosen.items():
        seeds[words].append(str(seed))
    return "; ".join(f"{words} (seed {', '.join(own)})" for words, own in seeds.items()) or NOTHING


def _cell(value: float, form: str) -> str:
    return NOTHING if math.isnan(value) else format(value, form)


def _hundred(value: float) -> float:
    return round(100 * value, 4)


def _seeds(summary: Summary) -> str:
    counts = sorted({len(scheme.seeds) for scheme in summary.schemes})
    return " to ".join(map(str, [counts[0], counts[-1]] if len(counts) > 1 else counts))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"
