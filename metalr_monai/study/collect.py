"""Records from the folders of a study's runs; a folder that is not whole is passed over by name."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .earlier_runs import refuse_mixture
from .job import SCORED, TRAINED, Job, is_trained, run_folder
from .records import EpochRecord, RunRecord

BROKEN = (OSError, ValueError, KeyError, TypeError, IndexError)  # of files that a kill, a disk or an editor has spoiled


def collect(output: Path, titles: Mapping[str, str], *, mixed: bool = False) -> tuple[list[RunRecord], dict[Path, str]]:
    """The finished runs of a study's folder, and the folders that were passed over, each with the reason.

    Args:
        output: folder of the study.
        titles: title of a score → its place in metrics.json, such as "accuracy.value".
        mixed: take runs of different code or data together.

    Raises:
        StudyError: runs differ in code or data, and `mixed` is not set.
    """
    records, skipped, jobs = [], {}, {}
    for folder in sorted(output.glob("runs/*/seed_*")):
        if not (folder / SCORED).exists():
            skipped[folder] = "not finished"
            continue
        try:
            job = Job.read(folder)
            records.append(_record(folder, job, titles))
        except BROKEN as error:
            skipped[folder] = f"{type(error).__name__}: {error}"
        else:
            jobs[folder] = job
    if not mixed:
        refuse_mixture(jobs)
    return sorted(records, key=lambda record: record.seed), skipped


def last_validation(folder: Path) -> float:
    """The key metric that a run ended with; NaN where it has none."""
    key = _read(folder / TRAINED)["key_metric"] or {}
    last = key.get("last")
    return math.nan if last is None else float(last)


def searched_ranges(output: Path, scheme: str | None) -> dict[tuple[int, int], float]:
    """First and last frozen block → what a search found there by inner validation, the mean over seeds."""
    found: dict[tuple[int, int], list[float]] = {}
    for folder in [] if scheme is None else sorted(run_folder(output, scheme, 0).parent.glob("seed_*/search/*")):
        if is_trained(folder):
            keys = Job.read(folder).keys
            found.setdefault((keys["first_frozen"], keys["last_frozen"]), []).append(last_validation(folder))
    return {place: math.fsum(scores) / len(scores) for place, scores in found.items()}


def _record(folder: Path, job: Job, titles: Mapping[str, str]) -> RunRecord:
    report, metrics = _read(folder / TRAINED), _read(folder / SCORED)
    key = (report["key_metric"] or {}).get("name")
    validation = {row["epoch"]: row["metrics"].get(key) for row in report["validation"]}
    memory = report["peak_memory_bytes"]
    searched = [_read(file) for file in sorted(folder.glob(f"search/*/{TRAINED}"))]
    return RunRecord(
        scheme=job.scheme,
        seed=job.seed,
        scores={title: _number(_value_at(metrics, place)) for title, place in titles.items()},
        cases=_cases(folder, next(iter(titles.values()))),
        validation={epoch: float(value) for epoch, value in validation.items() if value is not None},
        epochs=[
            EpochRecord(row["epoch"], _number(row["train_loss"]), float(row["seconds"]), row.get("rates", {}))
            for row in report["epochs"]
        ],
        search_seconds=sum(row["seconds"] for other in searched for row in other["epochs"]),
        chosen=_chosen(folder, job),
        peak_memory=memory.get("gpu", memory.get("process")),
    )


def _chosen(folder: Path, job: Job) -> str:
    """The keys of the candidate that this run was made with."""
    for file in sorted(folder.glob("search/*/study_run.json")):
        candidate = Job.read(file.parent)
        if {**candidate.keys, "validation": None} == {**job.keys, "validation": None}:
            return file.parent.name.replace("_", " ")
    return ""


def _cases(folder: Path, first: str) -> dict[str, float]:
    """Case → its first score: 1 or 0 for a right or wrong class, or a region's score; none where a case has no such."""
    with (folder / SCORED).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if first == "accuracy.value":
        return {row["case_id"]: float(row["predicted"] == row["true"]) for row in rows}
    if region := re.fullmatch(r"summary\.(.+)\.(\w+)\.mean", first):
        name, score = region.groups()
        return {row["case"]: float(row[score]) for row in rows if row["class"] == name and row[score]}
    return {}


def _number(value: Any) -> float:  # noqa: ANN401 - any JSON
    """NaN for null: a loss that diverged, or a score that no case defines."""
    return math.nan if value is None else float(value)


def _read(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds a {type(content).__name__}")
    return content


def _value_at(content: Any, place: str) -> Any:  # noqa: ANN401 - any JSON
    for key in place.split("."):
        content = content[key]
    return content
