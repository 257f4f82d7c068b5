"""One run of a study, in a process of its own: train, then score the test part.

What is done is not done again, a training that was stopped goes on, and two processes never work in one folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import run as run_config

from ..errors import first_cause, own_error
from ..files import atomic_path
from ..handlers.run_checkpoints import PREFIX

JOB_FILE = "study_run.json"
LOG_FILE = "log.txt"
TRAINED = "runs/train/run_report.json"
SCORED = "runs/evaluate/metrics.json"


@dataclass(frozen=True)
class Job:
    """What a process is asked to run, and what tells runs apart that must not be mixed.

    Attributes:
        scheme, seed: its place in the study; "source" and the first seed for the source network.
        config_files: the bundle's train.json and the overlays, in order.
        evaluate: the bundle's evaluate.json, or "" where a run is not scored on the test part.
        keys: on top of the configs.
        code, data: fingerprints of the program and of the data's folder.
        files: fingerprint of the configs, and of the files that keys name, as a split or weights of the user's.
        search: the keys of each candidate that is tried before it.
        source: fingerprint of the job that trained the network it starts from; "" where the study trains none for it,
            and of runs from before it was written down.
    """

    scheme: str
    seed: int
    config_files: list[str]
    meta_file: str
    evaluate: str
    keys: dict[str, Any]
    code: str
    data: str
    files: str
    search: list[dict[str, Any]]
    source: str = ""

    def write(self, folder: Path) -> None:
        """Leave the job in its folder, for `run`."""
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / JOB_FILE) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Job:
        """The job of a folder; `OSError`, `ValueError` or `TypeError` where there is none."""
        return cls(**json.loads((folder / JOB_FILE).read_text(encoding="utf-8")))


def run_folder(output: Path, scheme: str, seed: int) -> Path:
    """Where a run's files are."""
    return output / "runs" / as_path(scheme) / f"seed_{seed}"


def as_path(name: str) -> str:
    """A folder's name for a scheme or a candidate."""
    return re.sub(r"[^\w.+-]+", "_", name)


def is_trained(folder: Path) -> bool:
    """Whether the training of this folder has ended."""
    return _content(folder / TRAINED).get("status") == "completed"


def is_done(folder: Path, job: Job) -> bool:
    """Whether nothing of `job` is left to do."""
    return is_trained(folder) and (not job.evaluate or bool(_content(folder / SCORED)))


def _content(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it was never written
        return {}
    return content if isinstance(content, dict) else {}


def run(folder: Path) -> None:
    """Do what is left of the folder's job."""
    with _alone_in(folder):
        job = Job.read(folder)
        keys = {key: "$None" if value is None else value for key, value in job.keys.items()}  # MONAI drops a None
        common = {"meta_file": job.meta_file, "bundle_root": str(folder), **keys}
        if not is_trained(folder):
            (folder / SCORED).unlink(missing_ok=True)  # of an earlier training
            run_config(config_file=job.config_files, **common)
        for checkpoint in (folder / TRAINED).parent.glob(f"{PREFIX}*.pt"):  # most of a folder's bytes, by far
            checkpoint.unlink()
        if not is_done(folder, job):
            common["split"] = str(folder / "runs/train/split.json")
            run_config(config_file=[*job.config_files, job.evaluate], **common)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for a process that works in this folder, such as one whose study was killed; the kernel frees the lock."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_logged(folder: Path, variables: Mapping[str, str], threads: int) -> None:
    """`run` as a process's whole work, with what it prints appended to the folder's log.

    Args:
        variables: of the environment.
        threads: of torch; 0 leaves it the choice.
    """
    os.environ.update(variables)
    if threads:
        torch.set_num_threads(threads)
    with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
        try:
            run(folder)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the process fails
            traceback.print_exc()
            cause = own_error(error) or first_cause(error)
            sys.exit(f"{type(cause).__name__}: {cause}")  # last, where the study looks for the reason
