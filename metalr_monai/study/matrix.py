"""The runs of a study: every scheme with every seed, the candidates of those that search, and the source network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..data.phantom_kinds import PHANTOMS
from ..errors import StudyError, near_misses
from ..files import atomic_path
from .candidates import Candidate, candidates
from .definition import Data, Entry, Study
from .earlier_runs import source_fingerprint
from .fingerprint import code_fingerprint, data_fingerprint, files_fingerprint
from .job import Job, as_path, is_done, run_folder


@dataclass(frozen=True)
class Run:
    """A scheme with one seed: the jobs of its search, if it has one, and then its own.

    `own` is the job without what a search has still to choose.
    """

    folder: Path
    own: Job
    search: Mapping[Path, tuple[Candidate, Job]]

    @property
    def jobs(self) -> list[tuple[Path, Job]]:
        """Folder and job of everything that runs."""
        return [*((folder, job) for folder, (_, job) in self.search.items()), (self.folder, self.own)]

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to run."""
        return is_done(self.folder, self.own)


@dataclass(frozen=True)
class Matrix:
    """All runs of a study; those of one seed stand together, so that times can be compared."""

    source: tuple[Path, Job] | None
    runs: Sequence[Run]
    needs_gpu: bool = False

    @property
    def todo(self) -> list[Run]:
        """The runs that are not done."""
        return [run for run in self.runs if not run.is_done]

    @property
    def source_to_train(self) -> tuple[Path, Job] | None:
        """The source network's folder and job, where it is still to be trained for a run that is not done."""
        return self.source if self.source is not None and self.todo and not is_done(*self.source) else None

    @property
    def jobs(self) -> list[tuple[Path, Job]]:
        """Folder and job of everything, in the order in which it runs."""
        return [*([self.source] if self.source else []), *(job for run in self.runs for job in run.jobs)]


def make_matrix(
    study: Study,
    data: Path | None,
    output: Path,
    seeds: int,
    schemes: Sequence[str],
    checkpoint: Path | None = None,
    *,
    generate: bool = True,
) -> Matrix:
    """The runs of some schemes of a study. Phantoms that are its data are generated into `output`.

    Args:
        checkpoint: pre-trained weights, in place of the study's source network.
        generate: False leaves phantoms that are not there yet ungenerated, for who only counts the runs.

    Raises:
        StudyError: an unknown scheme, a search without candidates, a folder of data that is not there or has the
            output in it, or a scheme that starts from a pre-trained network where there is none.
    """
    schemes = _named(study, schemes)
    code, meta = code_fingerprint(study.bundle), str(study.bundle / "configs/metadata.json")
    target = _data_folder(study.data, data, output / "phantoms", generate)
    source = None
    if study.source is not None and checkpoint is None:
        folder = _data_folder(study.source.data, data, output / "source_phantoms", generate)
        configs = [str(study.train_config), *study.source.overlays]
        job = Job(
            scheme="source",
            seed=0,
            config_files=configs,
            meta_file=meta,
            evaluate="",
            keys={"dataset_dir": str(folder), **study.source.keys},
            code=code,
            data=data_fingerprint(folder),
            files=files_fingerprint([*configs, *_files_in(study.source.keys.values())]),
            search=[],
        )
        source = (output / "source", job)
    fixed = {"meta_file": meta, "code": code, "data": data_fingerprint(target)}
    weights = checkpoint if source is None else source_model(output)
    trained_by = "" if source is None else source_fingerprint(*source)
    found = {name: candidates(study, study.schemes[name]) for name in schemes}
    runs = [
        _run(study, study.schemes[name], seed, target, output, found[name], fixed, weights, trained_by)
        for seed in range(seeds)
        for name in schemes
    ]
    return Matrix(source, runs, study.needs_gpu)


def _named(study: Study, names: Sequence[str]) -> list[str]:
    """Schemes by name; that of a sweep's line stands for all its start rates."""
    lines: dict[str, list[str]] = {}
    for scheme, (line, _) in study.start_rates.items():
        lines.setdefault(line, []).append(scheme)
    known = [*study.schemes, *lines]
    for name in names:
        if name not in known:
            raise StudyError(f"There is no scheme {name!r}; known: {', '.join(known)}.{near_misses(name, known)}")
    return list(dict.fromkeys(scheme for name in names for scheme in lines.get(name, [name])))


def _run(
    study: Study,
    entry: Entry,
    seed: int,
    target: Path,
    output: Path,
    tried: Sequence[Candidate],
    fixed: Mapping[str, str],
    weights: Path | None,
    trained_by: str,
) -> Run:
    folder = run_folder(output, entry.name, seed)
    files = [str(study.train_config), *study.overlays, *entry.overlays]
    # What a scheme's overlay sets is the scheme, and not for the study to change.
    of_scheme = {key for overlay in entry.overlays for key in ConfigParser.load_config_file(overlay)}
    common = {key: value for key, value in study.keys.items() if key not in of_scheme}
    keys = {"dataset_dir": str(target), **common, **entry.keys, "seed": seed}
    if not entry.pretrained:
        keys["checkpoint"] = None
    elif weights is not None:
        keys.setdefault("checkpoint", str(weights))
    elif not (keys.get("checkpoint") or ConfigParser.load_config_files(files).get("checkpoint")):
        raise StudyError(
            f"{entry.name} starts from a pre-trained network, and there is none: name one with --checkpoint, give the "
            f"study a source, or set pretrained: false."
        )

    # The source's model need not be there yet, and its own job says what it is.
    model = str(source_model(output))
    named = _files_in(value for value in keys.values() if value != model)
    known = {
        **fixed,
        "files": files_fingerprint([*files, *named]),
        "source": trained_by if keys.get("checkpoint") == model else "",
    }

    def job(evaluate: str, more: Mapping[str, Any], search: Sequence[Candidate] = ()) -> Job:
        tried_before = [dict(candidate.keys) for candidate in search]
        own = {**keys, **more}
        return Job(entry.name, seed, files, evaluate=evaluate, keys=own, search=tried_before, **known)

    inner = {"validation": study.inner_validation}
    search = {
        folder / "search" / as_path(candidate.name): (candidate, job("", {**candidate.keys, **inner}))
        for candidate in tried
    }
    return Run(folder, job(str(study.bundle / "configs/evaluate.json"), {}, tried), search)


def source_model(output: Path) -> Path:
    """What the pre-trained schemes start from, where the study trains it."""
    return output / "source/models/model.pt"


def _files_in(values: Iterable[object]) -> list[str]:
    """Those that name files, as a run will find them: its working folder is this one."""
    return [value for value in values if isinstance(value, str) and isfile(value)]


def _data_folder(data: Data, base: Path | None, phantoms: Path, generate: bool) -> Path:
    if data.phantoms is not None:
        return _phantoms(dict(data.phantoms), phantoms, generate)
    if base is None:
        raise StudyError("This study is of data of yours; name its folder with --data.")
    if not (base / data.folder).is_dir():
        raise StudyError(f"There is no folder {base / data.folder}; expected the study's data there.")
    folder = (base / data.folder).absolute()
    if phantoms.resolve().is_relative_to(folder.resolve()):
        raise StudyError(
            f"The output folder {phantoms.parent} is in the data folder {folder}, so that what runs write would be "
            f"taken for other data when the study goes on; name an output folder elsewhere."
        )
    return folder


def _phantoms(options: dict[str, Any], folder: Path, generate: bool) -> Path:
    folder = folder.with_name(as_path("_".join([folder.name, *(f"{key}_{value}" for key, value in options.items())])))
    kind = options.pop("kind", None)
    if kind not in PHANTOMS:
        raise StudyError(f"phantoms: kind is {kind!r}; expected one of {', '.join(PHANTOMS)}.")
    count = [options.pop("count")] if "count" in options else []
    if generate and not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder) as unfinished:
            try:
                PHANTOMS[kind](unfinished, *count, **options)
            except TypeError as error:  # an option that these phantoms do not have
                raise StudyError(f"phantoms of kind {kind}: {error}.") from error
    return folder
