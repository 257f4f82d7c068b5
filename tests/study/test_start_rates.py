"""A sweep of start rates: the table of scores by rate, and how wide the range near the best is."""

from __future__ import annotations

import math

import pytest
from study_records import record

from metalr_monai.study.start_rates import near_best, sweeps
from metalr_monai.study.summary import summarize
from metalr_monai.study.tables import as_markdown, tables

RATES = (1e-3, 1e-2, 1e-1)
SCORES = {"plain": ((0.5, 0.6), (0.8, 0.8), (0.2, 0.1)), "MetaLR, found": ((0.79, 0.79), (0.8, 0.79), (0.8, 0.8))}
PLACES = {f"{line}, lr {rate:g}": (line, rate) for line in SCORES for rate in RATES}
RECORDS = [
    record(f"{line}, lr {rate:g}", seed, score)
    for line, by_rate in SCORES.items()
    for rate, scores in zip(RATES, by_rate, strict=True)
    for seed, score in enumerate(scores)
]


def summary(records=RECORDS, places=PLACES):
    return summarize(records, baseline="plain, lr 0.01", titles=["accuracy"], start_rates=places)


@pytest.mark.parametrize(
    ("means", "ends"),
    [
        ({1e-3: 80.0, 1e-2: 70.0, 1e-1: 79.5}, (1e-3, 1e-3)),  # what is far from the best parts what is near
        ({1e-3: 79.0, 1e-2: 80.0, 1e-1: 79.0, 1.0: 78.9}, (1e-3, 1e-1)),  # one point is within
        ({1e-3: 100 * 0.54, 1e-2: 100 * 0.55}, (1e-3, 1e-2)),  # a point but for rounding
        ({1e-4: 80.0, 1e-3: 70.0, 1e-2: 80.0, 1e-1: 79.9}, (1e-2, 1e-1)),  # of two bests, the wider
        ({1e-3: 79.5, 1e-2: math.nan, 1e-1: 80.0}, (1e-1, 1e-1)),  # a rate that is unknown parts, too
    ],
)
def test_the_range_is_of_neighbours_of_the_best_within_a_point_of_it(means, ends):
    assert near_best(means) == ends


def test_without_a_score_there_is_no_range():
    assert all(map(math.isnan, near_best({1e-3: math.nan})))
    [none] = sweeps([record("a", 0, math.nan)], {"a": ("a", 1e-3)}, "accuracy")
    assert math.isnan(none.decades)


def test_the_table_has_a_row_a_scheme_a_column_a_rate_and_the_range_in_decades():
    assert as_markdown(tables(summary())[0]).split("\n\n")[:2] == [
        "## Start rates",
        "| scheme | 0.001 | 0.01 | 0.1 | within 1 point of its best | decades |\n"
        "|---|---:|---:|---:|---:|---:|\n"
        "| plain | 55.0 | 80.0 | 15.0 | 0.01 | 0.0 |\n"
        "| MetaLR, found | 79.0 | 79.5 | 80.0 | 0.001 … 0.1 | 2.0 |",
    ]


def test_a_rate_without_a_run_is_a_dash_and_ends_a_range():
    some = [one for one in RECORDS if one.scheme != "MetaLR, found, lr 0.01"]
    assert tables(summary(some))[0].rows[1] == ("MetaLR, found", "79.0", "–", "80.0", "0.1", "0.0")
    assert [sweep.scheme for sweep in summary(RECORDS[:6]).sweeps] == ["plain"]  # no run of the other yet


def test_schemes_with_their_rates_are_not_tested_and_the_verdict_is_of_the_ranges():
    found = summary()
    assert not [table for table in tables(found) if table.title.startswith("Against")]
    assert found.notes[0] == "Nothing is tested: 6 schemes with their rates are too many to correct for."
    assert not [note for note in found.notes if "Holm" in note]
    assert found.verdict == (
        "Decades of start rates over which the accuracy of a scheme stays within 1 point of its own best: "
        "“MetaLR, found” 2.0 (0.001 … 0.1), “plain” 0.0 (0.01)."
    )
    untold = summarize(RECORDS, baseline="plain, lr 0.01", titles=["accuracy"])
    assert [table.title for table in tables(untold)][:2] == ["Scores", "Against plain, lr 0.01: accuracy"]
