"""The tables as literal text."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from study_records import record

from metalr_monai.study.summary import summarize
from metalr_monai.study.tables import as_markdown, csv_rows, tables

MIB = 2**20
RECORDS = [
    record(
        "all layers", 0, 0.80, AUC=0.9, seconds=[60, 60], validation={0: 0.1, 1: 0.5, 2: 0.6}, peak_memory=512 * MIB
    ),
    record(
        "all layers", 1, 0.84, AUC=0.9, seconds=[60, 60], validation={0: 0.1, 1: 0.5, 2: 0.6}, peak_memory=400 * MIB
    ),
    record("search|k", 0, 0.85, AUC=0.7, search_seconds=480, seconds=[60, 60], chosen="last 2", validation={2: 0.7}),
    record("search|k", 1, 0.83, AUC=math.nan, search_seconds=480, seconds=[60, 60], chosen="last 2"),
    record("fast", 1, 0.84, AUC=0.95, seconds=[30, 30], validation={0: 0.1, 1: 0.3, 2: 0.5}),
]
PUBLISHED = {"all layers": {"accuracy": "91.6 ± 0.8", "time": "16.0m"}, "AutoLR": {"accuracy": "90.4 ± 0.8"}}


def summary(records=RECORDS):
    return summarize(records, baseline="all layers", titles=["accuracy", "AUC"])


def markdown(title, *args):
    [table] = [table for table in tables(summary(), *args) if table.title.startswith(title)]
    return as_markdown(table)


def test_scores_in_percent_with_sd_and_the_papers_numbers_apart():
    assert markdown("Scores", PUBLISHED) == (
        "## Scores\n\n"
        "| scheme | accuracy | AUC | time | peak memory |\n"
        "|---|---:|---:|---:|---:|\n"
        "| all layers | 82.0 ± 2.8 | 90.0 ± 0.0 | 2 min 00 s | 512 MiB |\n"
        "| all layers, in the paper | 91.6 ± 0.8 | – | 16.0m | – |\n"
        "| search\\|k | 84.0 ± 1.4 | 70.0 | 10 min 00 s | – |\n"
        "| fast | 84.0 | 95.0 | 1 min 00 s | – |\n"
        "| AutoLR, in the paper | 90.4 ± 0.8 | – | – | – |\n\n"
        "Test part, last epoch; %, mean ± standard deviation over seeds (1 to 2); time: training, a search included, "
        "median over seeds; peak memory: the highest of all seeds. Rows “in the paper” are published numbers, of the "
        "paper's own data and machine: not measured here.\n"
    )


def test_nothing_is_said_of_a_paper_without_its_numbers():
    assert "paper" not in markdown("Scores")


def test_differences_over_seeds_with_another_number_of_pairs_marked():
    assert markdown("Against all layers: accuracy").split("\n\n")[1] == (
        "| scheme | verdict | over 2 seeds | p | Holm p |\n"
        "|---|---|---:|---:|---:|\n"
        "| search\\|k | not told apart | +2.0 | 1 | 1 |\n"
        "| fast | not told apart | 0.0, n = 1 | 1 | 1 |"
    )


def test_differences_over_cases_come_first_with_their_interval():
    cases = {"all layers": [0.0] * 8, "b": [0.25] * 8}
    records = [record(name, seed, cases[name][0], AUC=1, cases=cases[name]) for seed in range(3) for name in cases]
    assert as_markdown(tables(summary(records))[1]).split("\n")[4] == (
        "| b | better | +25.0 (+25.0 … +25.0) | 0.00781 | 0.00781 | +25.0 (+25.0 … +25.0) | 0.25 | 0.25 |"
    )


def test_costs_are_ratios_to_the_baseline_with_what_a_search_chose():
    assert markdown("Cost").split("\n\n")[1] == (
        "| scheme | epoch, × | training, × | training time | search | peak memory | chosen |\n"
        "|---|---:|---:|---:|---:|---:|---|\n"
        "| all layers | 1.00 | 1.00 | 2 min 00 s | – | 512 MiB | – |\n"
        "| search\\|k | 1.00 | 5.00 | 10 min 00 s | 8 min 00 s | – | last 2 (seed 0, 1) |\n"
        "| fast | 0.50 | 0.50 | 1 min 00 s | – | – | – |"
    )


def test_columns_of_searches_are_there_only_with_a_search():
    without = summary([one for one in RECORDS if not one.chosen])
    [cost] = [table for table in tables(without) if table.title == "Cost"]
    assert cost.columns == ("scheme", "epoch, ×", "training, ×", "training time", "peak memory")


def test_equal_time_only_of_schemes_with_a_curve():
    assert markdown("At equal time").split("\n\n")[1] == (
        "| scheme | validation then | all layers then | reach it | time to it, × | epochs, × |\n"
        "|---|---:|---:|---:|---:|---:|\n"
        "| all layers | 60.0 ± 0.0 | 60.0 ± 0.0 | 2 of 2 | 1.00 | 1.00 |\n"
        "| fast | 50.0 | 60.0 | 0 of 1 | – | – |"
    )
    last_only = [replace(one, validation={2: 0.5}) for one in RECORDS]
    assert not [table for table in tables(summary(last_only)) if table.title == "At equal time"]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([""], "key metric of the validations in %, on"),
        (["test part (156 cases)"], "key metric of the validations, which are of the test part (156 cases), in %, on"),
        (
            ["validation part (9 cases)", "validation part (8 cases)"],
            "validations, which are of the validation part (9 cases) or the validation part (8 cases), in %, on",
        ),
    ],
)
def test_equal_time_names_the_part_that_was_validated_on(parts, words):
    found = [replace(one, validated_on=parts[one.seed % len(parts)]) for one in RECORDS]
    [table] = [table for table in tables(summary(found)) if table.title == "At equal time"]
    assert words in table.note


def test_every_seed_is_shown_and_a_missing_one_as_a_dash():
    assert markdown("Every seed") == (
        "## Every seed: accuracy, %\n\n"
        "| scheme | seed 0 | seed 1 |\n"
        "|---|---:|---:|\n"
        "| all layers | 80.0 | 84.0 |\n"
        "| search\\|k | 85.0 | 83.0 |\n"
        "| fast | – | 84.0 |\n"
    )


def test_csv_rows_hold_numbers_and_have_equal_columns():
    rows = csv_rows(summary(), PUBLISHED)
    assert [row["scheme"] for row in rows] == ["all layers", "search|k", "fast"]
    assert len({tuple(row) for row in rows}) == 1
    base, search, fast = rows
    assert (search["accuracy mean %"], search["accuracy sd %"], search["AUC mean %"]) == (84.0, 1.4142, 70.0)
    assert math.isnan(search["AUC sd %"]) and math.isnan(base["p, seeds"])
    assert (search["seeds compared"], search["difference over seeds, points"], search["p, seeds"]) == (2, 2.0, 1.0)
    assert (search["training time ratio"], search["search seconds"]) == (5.0, 480)
    assert (fast["validation at equal time %"], fast["time to the baseline's score, ratio"]) == (50.0, None)
    assert (base["accuracy published"], fast["accuracy published"], base["peak memory bytes"]) == (
        "91.6 ± 0.8",
        "",
        512 * MIB,
    )
