"""What is said of the machines, packages and days that a study's runs were made with."""

from __future__ import annotations

from dataclasses import replace

from study_records import record

from metalr_monai.study.summary import summarize
from metalr_monai.study.surroundings import of_all, surroundings

REPORT = {
    "ended": "2026-11-22T04:27:48.779202+00:00",
    "machine": {"device": "cpu", "device_name": "CPU", "system": "Linux x86_64", "cpu_cores": 2, "threads": 1},
    "versions": {"python": "3.11.7", "torch": "2.13.0+cpu"},
}
HERE = surroundings(REPORT)
THERE = {**HERE, "date": "2026-11-20", "machine": "Linux x86_64, 64 cores, NVIDIA H200, 16 threads"}
RUNS = [replace(record("all layers", seed, 0.5), **HERE) for seed in range(3)]
REMARK = "The runs differ in machines (see “How it was run”): their times cannot be compared."


def notes(records):
    return summarize(records, baseline="all layers", titles=["accuracy"]).notes


def test_a_run_says_when_on_what_and_by_what_it_was_made():
    assert HERE == {
        "date": "2026-11-22",
        "machine": "Linux x86_64, 2 cores, no GPU, 1 thread",
        "versions": "python 3.11.7, torch 2.13.0+cpu",
    }
    gpu = {"device": "cuda:0", "device_name": "NVIDIA H200", "system": "Linux x86_64", "cpu_cores": 64, "threads": 16}
    assert surroundings({**REPORT, "machine": gpu})["machine"] == THERE["machine"]


def test_what_all_runs_share_is_told_once_and_without_a_remark():
    assert of_all(RUNS) == HERE
    assert not [note for note in notes(RUNS) if "differ" in note]


def test_different_ones_are_all_listed_and_the_times_marked():
    mixed = [*RUNS, replace(record("b", 0, 0.5), **THERE)]
    assert of_all(mixed) == {
        "date": "2026-11-20 to 2026-11-22",
        "machine": f"{HERE['machine']} (3 runs); {THERE['machine']} (1 run)",
        "versions": HERE["versions"],
    }
    assert REMARK in notes(mixed)


def test_what_no_run_tells_is_left_out():
    assert of_all([record("all layers", 0, 0.5)]) == {}
    assert REMARK not in notes([RUNS[0], record("all layers", 7, 0.5)])
