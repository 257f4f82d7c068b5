"""Run a study's matrix: a process a job, several at a time; what is done is skipped, what was stopped goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import torch
from tqdm import tqdm

from ..errors import first_few
from .candidates import best
from .collect import last_validation, refuse_mixture
from .job import LOG_FILE, Job, is_done
from .matrix import Matrix, Run
from .study_file import StudyError


@dataclass(frozen=True)
class Failure:
    """A run that did not end well; the others do not depend on it."""

    scheme: str
    seed: int
    reason: str


def execute(matrix: Matrix, workers: int = 1, *, mixed: bool = False) -> list[Failure]:
    """Run what is left of the matrix on this machine.

    With GPUs, worker i uses number i modulo their count. Without, the cores are shared out among the workers.

    Args:
        mixed: go on with runs that other code or data began.

    Raises:
        StudyError: the source network, on which all depends, could not be trained; or a folder holds another run.
    """
    refuse_strangers(matrix.jobs, mixed=mixed)
    todo = [run for run in matrix.runs if not run.is_done]
    total = sum(len(run.jobs) for run in todo)
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(workers):
        slots.put(slot)

    def in_process(folder: Path, job: Job) -> None:
        with _one_of(slots) as slot:
            start(folder, job, environment(slot, workers))

    if matrix.source is not None and not is_done(*matrix.source):
        print(f"Training the source network (log: {matrix.source[0] / LOG_FILE}).", file=sys.stderr)
        in_process(*matrix.source)
    failures = []
    with tqdm(total=total, unit="training", smoothing=0, disable=not total) as bar, _pool(workers) as pool:
        futures = {pool.submit(complete, run, in_process, bar.update): run for run in todo}
        for future in as_completed(futures):
            own = futures[future].own
            if (error := future.exception()) is None:
                tqdm.write(f"done: {own.scheme}, seed {own.seed}", file=sys.stderr)
            elif isinstance(error, StudyError):
                failures.append(Failure(own.scheme, own.seed, str(error)))
                tqdm.write(f"failed: {own.scheme}, seed {own.seed}: {error}", file=sys.stderr)
            else:
                raise error
    return failures


def complete(run: Run, start_job: Callable[[Path, Job], None], advance: Callable[[], object]) -> None:
    """A run's search, one candidate after the other, and then the run with what was chosen by inner validation."""
    scores = []
    for folder, (_, job) in run.search.items():
        if not is_done(folder, job):
            start_job(folder, job)
        scores.append(last_validation(folder))
        advance()
    start_job(run.folder, chosen_job(run, scores))
    advance()


def chosen_job(run: Run, scores: Sequence[float]) -> Job:
    """The run's own job, with the keys of the best candidate."""
    if not run.search:
        return run.own
    candidate, _ = list(run.search.values())[best(scores)]
    return replace(run.own, keys={**run.own.keys, **candidate.keys})


def start(folder: Path, job: Job, variables: dict[str, str]) -> None:
    """Run a job in a process of its own, and wait for it.

    Raises:
        StudyError: it failed; with the end of its log.
    """
    job.write(folder)
    with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        command = [sys.executable, "-m", "metalr_monai.study.job", str(folder)]
        code = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, **variables}, check=False).returncode
    if code:
        lines = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        said = next((line for line in reversed(lines) if line.strip()), "nothing")
        raise StudyError(f"exit code {code}; {folder / LOG_FILE} ends with: {said.strip()}")


def environment(slot: int, workers: int) -> dict[str, str]:
    """What makes workers stay out of each other's way."""
    if gpus := torch.cuda.device_count():
        return {"CUDA_VISIBLE_DEVICES": str(slot % gpus)}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))} if workers > 1 else {}


def refuse_strangers(jobs: Sequence[tuple[Path, Job]], *, mixed: bool = False) -> None:
    """Refuse folders with runs that this study would not make; those of other code or data only without `mixed`.

    Raises:
        StudyError: with what differs.
    """
    found, there = [], {}
    for folder, job in jobs:
        try:
            there[folder] = Job.read(folder)
        except (OSError, ValueError, TypeError):  # nothing there yet, or what a kill has left
            continue
        found += [f"{folder}: {difference}" for difference in _differences(there[folder], job)]
    if found:
        raise StudyError(
            f"{first_few(found, 3)}. Runs of other settings cannot be compared with these: name another output folder, "
            f"or remove those runs."
        )
    if not mixed:
        now = {folder: job for folder, job in jobs if job.scheme != "source"}
        refuse_mixture({**now, **{folder: old for folder, old in there.items() if folder in now}})


def _differences(there: Job, job: Job) -> Iterator[str]:
    if there.config_files != job.config_files:
        yield f"was run with the configs {there.config_files}, and the study has {job.config_files}"
    for key in job.keys:  # a searching scheme's own run has the chosen keys besides
        if there.keys.get(key) != job.keys[key]:
            yield f"was run with {key}={there.keys.get(key)!r}, and the study has {job.keys[key]!r}"


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that wait for processes; what has not begun is dropped where something goes wrong."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _one_of(slots: SimpleQueue[int]) -> Iterator[int]:
    slot = slots.get()
    try:
        yield slot
    finally:
        slots.put(slot)
