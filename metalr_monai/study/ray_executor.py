"""Run a study's matrix on a Ray cluster: the same jobs, in the same folders, which all its machines must see."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from ..errors import StudyError
from .execute import Failure, complete, start
from .matrix import Matrix, Run


def execute_on_ray(matrix: Matrix, workers: int = 1) -> list[Failure]:
    """As `execute`, but Ray places the runs: on the cluster of RAY_ADDRESS, or on this machine, `workers` at a time.

    Raises:
        StudyError: Ray is not installed, no cluster answers, a GPU is needed and the cluster has none, or as in
            `execute`.
    """
    try:
        import ray
    except ImportError as error:
        raise StudyError("Ray is missing. Get it with pip install metalr_monai[cluster].") from error
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(include_dashboard=False, log_to_driver=False, **({} if address else {"num_cpus": workers}))
    except (ConnectionError, ValueError) as error:
        where = f"at RAY_ADDRESS, which is {address!r}" if address else "on this machine"
        raise StudyError(f"Ray could not be reached {where}: {error}") from error
    try:
        gpus = ray.cluster_resources().get("GPU", 0)  # those of the cluster: its head may have none
        if matrix.needs_gpu and not gpus:
            raise StudyError("This study needs a GPU (needs_gpu), and the Ray cluster has none.")
        remote = ray.remote(num_cpus=1, num_gpus=min(1, gpus))(_complete)
        source = matrix.source_to_train
        if source is not None and (reason := _reason(ray, remote.remote(Run(*source, search={})))):
            raise StudyError(reason)
        return _wait(ray, {remote.remote(run): run for run in matrix.todo})
    finally:
        ray.shutdown()


def _complete(run: Run) -> str:
    """On a machine of the cluster: why the run failed, or nothing."""
    try:
        complete(run, start, lambda: None)
    except StudyError as error:
        return str(error)
    return ""


def _reason(ray: Any, ended: Any) -> str:  # noqa: ANN401 - the module, which may be missing, and its own
    """As of `_complete`; also where its process or machine has died."""
    try:
        return str(ray.get(ended))
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {error}"


def _wait(ray: Any, runs: Mapping[Any, Run]) -> list[Failure]:  # noqa: ANN401 - the module, which may be missing
    failures, left = [], list(runs)
    with tqdm(total=len(left), unit="run", smoothing=0, disable=not left) as bar:
        while left:
            (ended,), left = ray.wait(left)
            own = runs[ended].own
            if reason := _reason(ray, ended):
                failures.append(Failure(own.scheme, own.seed, reason))
            tqdm.write(f"{'failed' if reason else 'done'}: {own.scheme}, seed {own.seed} {reason}", file=sys.stderr)
            bar.update()
    return failures
