"""Runs that a study's folder holds already: may they stand beside those that the study would make now?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import StudyError, first_few
from .fingerprint import digest
from .job import Job, is_done

MUST_BE_EQUAL = ("code", "data", "source")  # in all runs; "source" only of those that have one and know it


def refuse_strangers(jobs: Sequence[tuple[Path, Job]], *, mixed: bool = False) -> None:
    """Refuse folders with runs that this study would not make; those of other code, data or source networks only
    without `mixed`.

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
    found = [
        f"{folder}: {difference}"
        for folder, job in jobs
        if folder in there
        for difference in _begun(folder, there[folder], job)
    ]
    if found:
        raise StudyError(
            f"{first_few(found, 3)}. A run half of one and half of the other says nothing of either: remove it."
        )
    if not mixed:
        now = {folder: job for folder, job in jobs if job.scheme != "source"}
        refuse_mixture({**now, **{folder: old for folder, old in there.items() if folder in now}})


def _differences(there: Job, job: Job) -> Iterator[str]:
    """Folders may have moved: what is in them has fingerprints of its own."""
    before, now = ([_file(name, 2) for name in of.config_files] for of in (there, job))
    if before != now:
        yield f"was run with the configs {', '.join(before)}, and the study has {', '.join(now)}"
    elif there.files != job.files:
        yield f"its configs, or files that they name, have changed since: {', '.join(now)}"
    if there.search != job.search:
        yield f"searched among {there.search}, and the study has {job.search}"
    chosen = {key for keys in job.search for key in keys}
    for key in dict.fromkeys([*job.keys, *there.keys]):
        if key in chosen:
            continue
        old, new = (_file(of.get(key, "not set")) for of in (there.keys, job.keys))
        if old != new:
            yield f"was run with {key}={old!r}, and the study has {new!r}"


def source_fingerprint(folder: Path, job: Job) -> str:
    """Of what the source network in `folder` was trained by, where it is there, and else will be: `job`."""
    if is_done(folder, job):
        with suppress(OSError, ValueError, TypeError):
            job = Job.read(folder)
    keys = {key: _file(value) for key, value in job.keys.items() if key != "dataset_dir"}  # its content is `data`
    return digest([json.dumps(keys, sort_keys=True), job.files, job.code, job.data])


def _begun(folder: Path, there: Job, job: Job) -> Iterator[str]:
    """A training that was stopped goes on by the code, data and source that it began with, or not at all."""
    if (folder / "runs").is_dir() and not is_done(folder, job):
        for what in MUST_BE_EQUAL:
            old, new = getattr(there, what), getattr(job, what)
            if old and old != new:
                yield f"was begun with other {what} than the study has now"


def _file(value: Any, parts: int = 1) -> Any:  # noqa: ANN401 - of a config
    """The end of a path; other values as they are."""
    return "/".join(Path(value).parts[-parts:]) if isinstance(value, str) and value.startswith("/") else value


def refuse_mixture(jobs: Mapping[Path, Job]) -> None:
    """Refuse runs of different code, data or source networks: a difference in their scores may not be the schemes'.

    Raises:
        StudyError: with the runs of each kind.
    """
    for what in MUST_BE_EQUAL:
        versions: dict[str, list[str]] = {}
        for folder, job in jobs.items():
            if version := getattr(job, what):
                versions.setdefault(version, []).append(f"{folder.parent.name}/{folder.name}")
        if len(versions) > 1:
            kinds = "; ".join(f"{len(runs)} of {version}: {first_few(runs, 3)}" for version, runs in versions.items())
            raise StudyError(
                f"The runs differ in their {what} ({kinds}), so that a difference in their scores may not be the "
                f"schemes'. Remove the old runs, name another output folder, or take them together with --mixed."
            )
