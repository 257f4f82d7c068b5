"""A study file: which bundle, data, schemes and scores; read and checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from ..errors import StudyError, near_misses
from .job import as_path


@dataclass(frozen=True)
class Data:
    """Where a training's data comes from: a folder below the user's, or phantoms that are generated."""

    folder: str = ""
    phantoms: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Entry:
    """A scheme of a study: `overlays` and `keys` on top of the study's own.

    Attributes:
        pretrained: start from the source network; else from scratch.
        search: the candidates among which inner validation chooses before the run proper; a kind of
            `candidates.SEARCHES`, or key → values to try.
    """

    name: str
    overlays: Sequence[str] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    search: str | Mapping[str, Sequence[Any]] | None = None


@dataclass(frozen=True)
class Source:
    """How the network that all pre-trained schemes start from is made."""

    overlays: Sequence[str]
    keys: Mapping[str, Any]
    data: Data


@dataclass(frozen=True)
class Study:
    """A study file, with paths made absolute. See docs/reference/studies.md for what each key means.

    Attributes:
        start_rates: scheme → the scheme that it is a variant of, and the rate `lr` it starts with; of a sweep.
    """

    title: str
    about_data: str
    bundle: Path
    overlays: Sequence[str]
    keys: Mapping[str, Any]
    data: Data
    scores: Mapping[str, str]
    schemes: Mapping[str, Entry]
    source: Source | None
    baseline: str
    scratch: str | None
    seeds: int
    inner_validation: float
    needs_gpu: bool
    published: Mapping[str, Mapping[str, str]]
    start_rates: Mapping[str, tuple[str, float]]

    @property
    def train_config(self) -> Path:
        """The bundle's config that every run begins with."""
        return self.bundle / "configs/train.json"


_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")

KEYS = {
    "title": str,
    "data": str,
    "bundle": str,
    "overlays": list,
    "keys": dict,
    "folder": str,
    "phantoms": dict,
    "scores": dict,
    "schemes": dict,
    "source": dict,
    "baseline": str,
    "scratch": str,
    "seeds": int,
    "inner_validation": float,
    "needs_gpu": bool,
    "published": dict,
    "start_rates": list,
}
REQUIRED = ("title", "bundle", "scores", "schemes", "baseline")


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
    if faults := list(_faults(content)):
        raise StudyError("\n".join(f"{file}: {fault}" for fault in faults))
    study = _study(content, file)
    if faults := list(_bundle_faults(study)):
        raise StudyError("\n".join(f"{file}: {fault}" for fault in faults))
    return study


def _content(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"The study {file} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise StudyError(f"The study {file} is not valid YAML: {error}.") from error
    if not isinstance(content, dict):
        raise StudyError(f"The study {file} holds a {type(content).__name__}; expected keys such as title and schemes.")
    return content


def _faults(content: Mapping[str, Any]) -> Iterator[str]:
    yield from _unknown("", content, KEYS)
    yield from (f"{key} is missing." for key in REQUIRED if key not in content)
    for key, kind in KEYS.items():
        wanted = (int, float) if kind is float else kind
        if key in content and not isinstance(content[key], wanted):
            yield f"{key} is {content[key]!r}; expected a {kind.__name__}."
    entries = content.get("schemes")
    if not isinstance(entries, dict):
        return
    known = [item.name for item in fields(Entry) if item.name != "name"]
    for name, entry in entries.items():
        yield from _unknown(f"schemes: {name}: ", entry or {}, known)
    folders: dict[str, str] = {}
    for name, entry in entries.items():
        if (other := folders.setdefault(as_path(name).lower(), name)) != name:
            yield f"schemes: {name!r} and {other!r} would share a folder; call one of them otherwise."
        yield from _entry_faults(name, entry if isinstance(entry, dict) else {})
    share, seeds = content.get("inner_validation", 0.2), content.get("seeds", 1)
    if isinstance(share, (int, float)) and not 0 < share < 1:
        yield f"inner_validation is {share!r}; expected a share between 0 and 1."
    if isinstance(seeds, int) and seeds < 1:
        yield f"seeds is {seeds!r}; expected 1 or more."
    if not content.get("scores", True):
        yield "scores is empty; expected title → place in metrics.json, such as {accuracy: accuracy.value}."
    if isinstance(content.get("source"), dict):
        yield from _unknown("source: ", content["source"], ("overlays", "keys", "folder", "phantoms"))
        yield from _entry_faults("source", content["source"])
    for key in ("baseline", "scratch"):
        if (name := content.get(key)) is not None and name not in entries:
            yield f"{key} is {name!r}, which is none of the schemes.{near_misses(str(name), entries)}"


def _entry_faults(name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(entry.get("overlays", []), list):
        yield f"{name}: overlays is {entry['overlays']!r}; expected a list."
    search = entry.get("search", "")
    if not isinstance(search, (str, dict)):
        yield f"{name}: search is {search!r}; expected a kind of search, or keys with lists of values to try."
    for key, values in search.items() if isinstance(search, dict) else ():
        if not isinstance(values, list):
            yield f"{name}: search: {key} is {values!r}; expected a list of values to try."
    for key, value in entry.get("keys", {}).items():
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            yield f"{name}: {key} is the text {value!r}; YAML takes 1.0e-4 and 0.0001 for numbers, not {value}."


def _unknown(place: str, given: object, known: Sequence[str] | Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(given, dict):
        yield f"{place}expected keys, found {given!r}."
        return
    for key in given:
        if key not in known:
            yield f"{place}unknown key {key!r}; known: {', '.join(known)}.{near_misses(str(key), known)}"


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
        published=content.get("published", {}),
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


def _bundle_faults(study: Study) -> Iterator[str]:
    """Keys that no config of the run has would be added by MONAI, and do nothing."""
    parts = [(entry.name, [*study.overlays, *entry.overlays], [*study.keys, *entry.keys, *_searched(entry)])
             for entry in study.schemes.values()]  # fmt: skip
    if study.source is not None:
        parts.append(("source", list(study.source.overlays), list(study.source.keys)))
    for name, overlays, keys in parts:
        config = ConfigParser.load_config_files([str(study.train_config), *overlays])
        for key in keys:
            if key.split("#")[0] not in config:
                known = [name for name in config if isinstance(name, str)]
                yield f"{name}: the bundle {study.bundle.name} has no key {key!r}.{near_misses(key, known)}"


def _searched(entry: Entry) -> Sequence[str]:
    return list(entry.search) if isinstance(entry.search, Mapping) else []
