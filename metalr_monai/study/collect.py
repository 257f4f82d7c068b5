"""Records from the folders of a study's runs; a folder that is not whole is passed over by name."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import StudyError, near_misses
from .earlier_runs import refuse_mixture
from .job import JOB_FILE, SCORED, TRAINED, Job, is_trained, run_folder
from .records import EpochRecord, RunRecord
from .surroundings import surroundings

# Of files that a kill, a disk or an editor has spoiled.
BROKEN = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, csv.Error)
NOT_FINISHED = "not finished"
COPY = f"a copy: its {JOB_FILE} names another folder"


class BrokenFile(StudyError):
    """A file of a run is not as the run has written it."""


def collect(output: Path, titles: Mapping[str, str], *, mixed: bool = False) -> tuple[list[RunRecord], dict[Path, str]]:
    """The finished runs of a study's folder, and the folders that were passed over, each with the reason.

    Args:
        output: folder of the study.
        titles: title of a score → its place in metrics.json, such as "accuracy.value".
        mixed: take runs of different code, data or source networks together.

    Raises:
        StudyError: runs differ in code, data or source network, and `mixed` is not set.
    """
    records, skipped, jobs = [], {}, {}
    for folder in sorted(output.glob("runs/*/seed_*")):
        if not (folder / SCORED).exists():
            skipped[folder] = NOT_FINISHED
            continue
        try:
            job = _job(folder)
            if folder != run_folder(output, job.scheme, job.seed):
                skipped[folder] = COPY
                continue
            with _whole(folder / TRAINED):
                records.append(_record(folder, job, titles))
        except BrokenFile as error:
            skipped[folder] = f"{error}; remove the folder to have it run again"
        except StudyError as error:
            skipped[folder] = str(error)
        else:
            jobs[folder] = job
    if not mixed:
        refuse_mixture(jobs)
    return sorted(records, key=lambda record: record.seed), skipped


def last_validation(folder: Path) -> float:
    """The key metric that a run ended with; NaN where it has none."""
    with _whole(folder / TRAINED):
        key = _read(folder / TRAINED)["key_metric"] or {}
        return _number(key.get("last"))


def searched_ranges(output: Path, scheme: str) -> dict[tuple[int, int], float]:
    """First and last frozen block → what a search found there by inner validation, the mean over seeds.

    Empty where the scheme's search, if it has one, did not try several first blocks. Spoiled candidates are left out.
    """
    found: dict[tuple[int, int], list[float]] = {}
    for folder in sorted(run_folder(output, scheme, 0).parent.glob("seed_*/search/*")):
        try:
            job, score = _job(folder), last_validation(folder)
            keys, is_copy = job.keys, folder.parents[1] != run_folder(output, job.scheme, job.seed)
        except BrokenFile:  # `collect` names it
            continue
        if is_trained(folder) and not is_copy and {"first_frozen", "last_frozen"} <= keys.keys():
            found.setdefault((keys["first_frozen"], keys["last_frozen"]), []).append(score)
    if len({first for first, _ in found}) < 2:
        return {}
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
        scores={title: _score(folder / SCORED, metrics, place) for title, place in titles.items()},
        cases=_cases(folder, next(iter(titles.values()))),
        validation={epoch: float(value) for epoch, value in validation.items() if value is not None},
        epochs=[
            EpochRecord(row["epoch"], _number(row["train_loss"]), float(row["seconds"]), row.get("rates", {}))
            for row in report["epochs"]
        ],
        search_seconds=sum(row["seconds"] for other in searched for row in other["epochs"]),
        chosen=_chosen(folder, job),
        peak_memory=memory.get("gpu", memory.get("process")),
        validated_on=_validated_on(report.get("split") or {}),
        **surroundings(report),
    )


def _validated_on(split: Mapping[str, Sequence[str]]) -> str:
    """The bundles validate on the test part where there is no validation part."""
    part = "validation" if split.get("validation") else "test"
    return f"{part} part ({len(split[part])} cases)" if part in split else ""


def _chosen(folder: Path, job: Job) -> str:
    """The keys of the candidate that this run was made with."""
    tried = {file.parent.name: _job(file.parent) for file in sorted(folder.glob(f"search/*/{JOB_FILE}"))}
    for name, candidate in tried.items():
        if {**candidate.keys, "validation": None} == {**job.keys, "validation": None}:
            return name.replace("_", " ")
    return ""


def _cases(folder: Path, first: str) -> dict[str, float]:
    """Case → its first score: 1 or 0 for a right or wrong class, or a region's score; none where a case has no such."""
    path = (folder / SCORED).with_suffix(".csv")
    with _whole(path), path.open(encoding="utf-8", newline="") as file:
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
    with _whole(file):
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        return content


def _job(folder: Path) -> Job:
    with _whole(folder / JOB_FILE):
        return Job.read(folder)


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """What goes wrong with a file's content is told with its name."""
    try:
        yield
    except StudyError:  # it names its own
        raise
    except BROKEN as error:
        raise BrokenFile(f"{file} is not whole ({type(error).__name__}: {error})") from error


def _score(file: Path, metrics: Mapping[str, Any], place: str) -> float:
    numbers = dict(_numbers(metrics))
    if place not in numbers:
        raise StudyError(
            f"{file} has no number at {place!r}, which the study file's scores name.{near_misses(place, numbers)} "
            f"Correct scores and run the study again: what is done is not run again."
        )
    return _number(numbers[place])


def _numbers(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Place, such as "accuracy.value", and number or null."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{above}{key}.")
        elif value is None or isinstance(value, (int, float)):
            yield f"{above}{key}", value
