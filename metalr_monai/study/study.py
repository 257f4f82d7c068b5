"""A whole study: run what is missing, then write tables, figures and report out of the runs' folders alone."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import StudyError, near_misses
from ..files import atomic_path
from .collect import COPY, NOT_FINISHED, collect, searched_ranges
from .definition import Study
from .earlier_runs import refuse_strangers
from .execute import Failure, execute
from .job import is_done
from .matrix import Matrix, make_matrix
from .ray_executor import execute_on_ray
from .results import write_results
from .surroundings import of_all

EXECUTORS = {"local": execute, "ray": execute_on_ray}
ABOUT_FILE = "study.json"
MIXED = {"mixed": "runs of different code, data or source networks may be compared here (--mixed)"}


@dataclass(frozen=True)
class Outcome:
    """What a study left behind.

    Attributes:
        page: report.html, or None where no run of the baseline has been scored.
        failures: runs that did not end well.
        skipped: folders that are not in the results → why.
    """

    page: Path | None
    failures: Sequence[Failure]
    skipped: Mapping[Path, str]

    @property
    def ok(self) -> bool:
        """Whether no run has failed, and none that is finished is missing from the results."""
        return not self.failures and set(self.skipped.values()) <= {NOT_FINISHED, COPY}


def run_study(
    study: Study,
    output: Path,
    *,
    command: str,
    data: Path | None = None,
    checkpoint: Path | None = None,
    seeds: int | None = None,
    schemes: Sequence[str] | None = None,
    workers: int = 1,
    executor: str = "local",
    mixed: bool = False,
) -> Outcome:
    """Run all that is not done yet, and write the results of all that is.

    Args:
        output: folder of the study, with a folder a run; made if missing.
        command: as the user typed it, for the report.
        data: folder that the study's data is in or below.
        checkpoint: pre-trained weights, in place of the study's source network.
        seeds: 0 … seeds − 1; the study file's number by default.
        schemes: some of the study's; all by default.
        workers: runs at a time.
        executor: "local", or "ray" (the extra `cluster`).
        mixed: take runs of different code, data or source networks together.

    Raises:
        StudyError: see `make_matrix`, `execute` and `collect`; or a GPU is needed, and there is none.
    """
    if executor not in EXECUTORS:
        raise StudyError(
            f"executor is {executor!r}; expected one of {', '.join(EXECUTORS)}.{near_misses(executor, EXECUTORS)}"
        )
    if study.needs_gpu and executor == "local" and not torch.cuda.is_available():
        raise StudyError("This study needs a GPU (needs_gpu), and this machine has none that torch can use.")
    matrix = _matrix(study, output, data, checkpoint, seeds, schemes)
    # Those that are not asked for now are reported too.
    refuse_strangers(
        _matrix(study, output, data, checkpoint, _seeds_there(output, seeds or study.seeds), None).jobs, mixed=mixed
    )
    _write_about(study, output, command)
    failures = EXECUTORS[executor](matrix, workers)
    page, skipped = report_study(output, mixed=mixed)
    return Outcome(page, failures, skipped)


def plan_study(
    study: Study,
    output: Path,
    *,
    data: Path | None = None,
    checkpoint: Path | None = None,
    seeds: int | None = None,
    schemes: Sequence[str] | None = None,
    workers: int = 1,
) -> str:
    """The matrix in words: what is done, what is left, and how long that takes by the runs that are done."""
    matrix = _matrix(study, output, data, checkpoint, seeds, schemes, generate=False)
    names = list(dict.fromkeys(run.own.scheme for run in matrix.runs))
    width = max(map(len, names))
    lines = [f"{'scheme':<{width}}  trainings  done"]
    for name in names:
        jobs = [job for run in matrix.runs if run.own.scheme == name for job in run.jobs]
        lines.append(f"{name:<{width}}  {len(jobs):>9}  {sum(is_done(*job) for job in jobs):>4}")
    left = [job for job in matrix.jobs if not is_done(*job)]
    lines.append(f"\n{len(left)} of {len(matrix.jobs)} trainings are left. {_expected(matrix, len(left), workers)}")
    return "\n".join(lines)


def report_study(output: Path, *, mixed: bool = False) -> tuple[Path | None, dict[Path, str]]:
    """Write the results anew from the runs' folders; the page, or None where no run of the baseline has been
    scored, and what was passed over.

    Raises:
        StudyError: no study has been run there, or its runs cannot be compared.
    """
    about = _read_about(output)
    records, skipped = collect(output, about["titles"], mixed=mixed)
    records = [record for record in records if record.scheme in about["schemes"]]
    if not any(record.scheme == about["baseline"] for record in records):
        return None, skipped
    write_results(
        sorted(records, key=lambda record: (about["schemes"].index(record.scheme), record.seed)),
        output,
        about={**about["shown"], **of_all(records), **(MIXED if mixed else {})},
        baseline=about["baseline"],
        titles=list(about["titles"]),
        scratch=about["scratch"],
        published=about["published"],
        start_rates={name: (line, rate) for name, (line, rate) in about["start_rates"].items()},
        frozen_ranges={name: found for name in about["schemes"] if (found := searched_ranges(output, name))},
    )
    return output / "report.html", skipped


def _matrix(
    study: Study,
    output: Path,
    data: Path | None,
    checkpoint: Path | None,
    seeds: int | None,
    schemes: Sequence[str] | None,
    *,
    generate: bool = True,
) -> Matrix:
    if checkpoint is not None and not checkpoint.is_file():
        raise StudyError(f"There is no file {checkpoint}; expected pre-trained weights.")
    number = study.seeds if seeds is None else seeds
    return make_matrix(study, data, output, number, schemes or list(study.schemes), checkpoint, generate=generate)


def _seeds_there(output: Path, seeds: int) -> int:
    there = (re.fullmatch(r"seed_(\d+)", folder.name) for folder in output.glob("runs/*/seed_*"))
    return max([seeds, *(int(name[1]) + 1 for name in there if name)])


def _expected(matrix: Matrix, left: int, workers: int) -> str:
    """By the median wall-clock of the trainings that are done."""
    seconds = [_wall_seconds(folder) for folder, job in matrix.jobs if is_done(folder, job)]
    if not seconds:
        return "How long that takes is known once one is done: try --seeds 1 with --schemes and the baseline."
    hours, minutes = divmod(round(left * statistics.median(seconds) / workers / 60), 60)
    return f"By those that are done: about {hours} h {minutes} min with {workers} at a time."


def _wall_seconds(folder: Path) -> float:
    report = json.loads((folder / "runs/train/run_report.json").read_text(encoding="utf-8"))
    return float(report["wall_seconds"])


def _write_about(study: Study, output: Path, command: str) -> None:
    content = {
        "titles": study.scores,
        "schemes": list(study.schemes),
        "baseline": study.baseline,
        "scratch": study.scratch,
        "published": study.published,
        "start_rates": study.start_rates,
        "shown": {
            "title": study.title,
            "command": command,
            "data": study.about_data,
            "bundle": study.bundle.name,
            "settings": dict(study.keys),
        },
    }
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(output / ABOUT_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def _read_about(output: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((output / ABOUT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"{output / ABOUT_FILE} cannot be read ({error}); run the study first.") from error
    return content
