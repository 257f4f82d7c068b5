"""Run a study's matrix: a process a job, several at a time; what is done is skipped, what was stopped goes on."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import torch
from tqdm import tqdm

from ..data.splits import read_split
from ..errors import DataError, StudyError
from .candidates import best
from .collect import last_validation
from .job import LOG_FILE, Job, is_done, run_logged
from .matrix import Matrix, Run

# Each run is a fork of a process that has imported torch and MONAI, and done nothing else: they take seconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["metalr_monai.study.job"])


@dataclass(frozen=True)
class Failure:
    """A run that did not end well; the others do not depend on it."""

    scheme: str
    seed: int
    reason: str


def execute(matrix: Matrix, workers: int = 1) -> list[Failure]:
    """Run what is left of the matrix on this machine.

    With GPUs, worker i uses number i modulo their count. Without, the cores are shared out among the workers.

    Raises:
        StudyError: the source network, on which all depends, could not be trained.
    """
    total = sum(len(run.jobs) for run in matrix.todo)
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(workers):
        slots.put(slot)

    def in_process(folder: Path, job: Job) -> None:
        with _one_of(slots) as slot:
            start(folder, job, slot, workers)

    if source := matrix.source_to_train:
        print(f"Training the source network (log: {source[0] / LOG_FILE}).", file=sys.stderr)
        in_process(*source)
    failures = []
    with tqdm(total=total, unit="training", smoothing=0, disable=not total) as bar, _pool(workers) as pool:
        futures = {pool.submit(complete, run, in_process, bar.update): run for run in matrix.todo}
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
    """A run's search, one candidate after the other, and then the run with what was chosen by inner validation.

    Raises:
        StudyError: a training failed, or what one has left cannot be read.
    """
    scores = []
    for folder, (_, job) in run.search.items():
        if not is_done(folder, job):
            start_job(folder, job)
        refuse_test_scores(folder)
        scores.append(last_validation(folder))
        advance()
    start_job(run.folder, chosen_job(run, scores))
    advance()


def refuse_test_scores(folder: Path) -> None:
    """The bundles validate on the test part where there is no validation part.

    Raises:
        StudyError: this candidate did, or its split.json cannot be read.
    """
    try:
        split = read_split(folder / "runs/train/split.json")
    except DataError as error:
        raise StudyError(f"{error} Remove {folder} to have it run again.") from error
    if not split["validation"]:
        raise StudyError(f"{folder} has no validation part, so that its search would choose by the test part.")


def chosen_job(run: Run, scores: Sequence[float]) -> Job:
    """The run's own job, with the keys of the best candidate."""
    if not run.search:
        return run.own
    candidate, _ = list(run.search.values())[best(scores)]
    return replace(run.own, keys={**run.own.keys, **candidate.keys})


def start(folder: Path, job: Job, slot: int = 0, workers: int = 1) -> None:
    """Run a job in a process of its own, as the `slot`-th of some workers, and wait for it.

    Raises:
        StudyError: it failed; with the end of its log.
    """
    job.write(folder)
    gpus = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
    variables = {"CUDA_VISIBLE_DEVICES": visible[slot % gpus]} if gpus and workers > 1 else {}
    threads = 0 if gpus or workers == 1 else max(1, (os.cpu_count() or 1) // workers)
    process = PROCESSES.Process(target=run_logged, args=(folder, variables, threads))
    process.start()
    process.join()
    # Another thread that starts a process looks at this one too, and may take its exit code away (it reads 255 then).
    if process.exitcode and not is_done(folder, job):
        lines = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        said = next((line for line in reversed(lines) if line.strip()), "nothing")
        raise StudyError(f"exit code {process.exitcode}; {folder / LOG_FILE} ends with: {said.strip()}")


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
