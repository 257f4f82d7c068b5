"""One run of a study in a process of its own, `python -m metalr_monai.study.job FOLDER`: train, then score.

What is done is not done again, a training that was stopped goes on, and two processes never work in one folder.
"""

from __future__ import annotations

import fcntl
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import atomic_path

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
    """

    scheme: str
    seed: int
    config_files: list[str]
    meta_file: str
    evaluate: str
    keys: dict[str, Any]
    code: str
    data: str

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
    from monai.bundle import run as run_config  # seconds, which the study's own process is spared

    with _alone_in(folder):
        job = Job.read(folder)
        keys = {key: "$None" if value is None else value for key, value in job.keys.items()}  # MONAI drops a None
        common = {"meta_file": job.meta_file, "bundle_root": str(folder), **keys}
        if not is_trained(folder):
            run_config(config_file=job.config_files, **common)
        if not is_done(folder, job):
            common["split"] = str(folder / "runs/train/split.json")
            run_config(config_file=[*job.config_files, job.evaluate], **common)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for a process that works in this folder, such as one whose study was killed; the kernel frees the lock."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    run(Path(sys.argv[1]))
