"""A study file, read and checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import StudyError, near_misses
from .definition import Data, Entry, Source, Study
from .study_faults import bundle_faults, faults


def read_study(file: str | Path) -> Study:
    """Read a study file.

    Overlays are looked for beside the study file's folder (`configs/schemes/x.json` of `configs/studies/y.yaml` is
    `schemes/x.json`) and as paths; a bundle beside `configs`, below `bundles`, or as a path.

    Raises:
        StudyError: with all that is wrong, a line each: unknown keys (with near misses), missing ones, overlays or
            bundles that are not there, keys that the bundle's config does not have.
    """
    file = Path(file)
    content = _content(file)
    if found := list(faults(content)):
        raise StudyError("\n".join(f"{file}: {fault}" for fault in found))
    study = _study(content, file)
    if found := list(bundle_faults(study)):
        raise StudyError("\n".join(f"{file}: {fault}" for fault in found))
    return study


def _content(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"The study {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise StudyError(f"The study {file} is not UTF-8: {error}. Save it as UTF-8.") from error
    except (yaml.YAMLError, ValueError) as error:  # a date without its day is a ValueError
        raise StudyError(f"The study {file} is not valid YAML: {error}.") from error
    if not isinstance(content, dict):
        raise StudyError(f"The study {file} holds a {type(content).__name__}; expected keys such as title and schemes.")
    return content


def _study(content: Mapping[str, Any], file: Path) -> Study:
    configs = file.absolute().parents[1]
    bundle = _found(content["bundle"], [configs.parent / "bundles", Path.cwd()], f"{file}: the bundle")
    source = content.get("source")
    entries = [_entry(name, entry or {}, configs, file) for name, entry in content["schemes"].items()]
    rates = [float(rate) for rate in content.get("start_rates", [])]
    swept = [_at_rate(entry, rate) for entry in entries for rate in rates] or entries
    return Study(
        title=content["title"],
        about_data=content.get("data", "generated"),
        bundle=bundle,
        overlays=_overlays(content, configs, file),
        keys=_keys(content, configs),
        data=Data(content.get("folder", ""), content.get("phantoms")),
        scores=content["scores"],
        schemes={entry.name: entry for entry in swept},
        source=None
        if source is None
        else Source(
            _overlays(source, configs, file),
            _keys(source, configs),
            Data(source.get("folder", ""), source.get("phantoms")),
        ),
        baseline=f"{content['baseline']}, lr {rates[len(rates) // 2]:g}" if rates else content["baseline"],
        scratch=content.get("scratch") if not rates else None,
        seeds=content.get("seeds", 5),
        inner_validation=float(content.get("inner_validation", 0.2)),
        needs_gpu=content.get("needs_gpu", False),
        published={
            name: {column: str(value) for column, value in row.items()}
            for name, row in content.get("published", {}).items()
        },
        start_rates={_at_rate(entry, rate).name: (entry.name, rate) for entry in entries for rate in rates},
    )


def _entry(name: str, entry: Mapping[str, Any], configs: Path, file: Path) -> Entry:
    chosen = {key: value for key, value in entry.items() if key in ("pretrained", "search")}
    return Entry(name, _overlays(entry, configs, file), _keys(entry, configs), **chosen)


def _at_rate(entry: Entry, rate: float) -> Entry:
    return replace(entry, name=f"{entry.name}, lr {rate:g}", keys={**entry.keys, "lr": rate})


def _overlays(part: Mapping[str, Any], configs: Path, file: Path) -> list[str]:
    return [str(_found(name, [configs, Path.cwd()], f"{file}: the overlay")) for name in part.get("overlays", [])]


def _keys(part: Mapping[str, Any], configs: Path) -> dict[str, Any]:
    """Values that name a file beside the study's, such as a split, become its path."""
    keys = dict(part.get("keys", {}))
    for key, value in keys.items():
        if isinstance(value, str) and value.endswith(".json") and (configs / value).is_file():
            keys[key] = str(configs / value)
    return keys


def _found(name: str, bases: Sequence[Path], what: str) -> Path:
    for base in bases:
        if (base / name).exists():
            return (base / name).absolute()
    beside = [path.name for base in bases for path in (base / name).parent.glob("*")]
    raise StudyError(f"{what} {name!r} is not there.{near_misses(Path(name).name, beside)}")
