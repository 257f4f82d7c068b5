"""What may be wrong with a study file, a line each: said before anything runs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from monai.bundle import ConfigParser

from ..doctor.config_files import unmergeable, unreadable
from ..errors import near_misses
from .definition import Entry, Study
from .job import as_path
from .tables import TIME

_Kind = TypeVar("_Kind")
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
SOURCE_KEYS = {key: KEYS[key] for key in ("overlays", "keys", "folder", "phantoms")}
ENTRY_KEYS = {"overlays": list, "keys": dict, "pretrained": bool, "search": object}  # text or keys: looked at apart
REQUIRED = ("title", "bundle", "scores", "schemes", "baseline")


def faults(content: Mapping[str, Any]) -> Iterator[str]:
    yield from _part_faults("", content, KEYS)
    yield from (f"{key} is missing." for key in REQUIRED if key not in content)
    yield from _entries_faults(content)
    share, seeds = content.get("inner_validation", 0.2), content.get("seeds", 1)
    if isinstance(share, (int, float)) and not 0 < share < 1:
        yield f"inner_validation is {share!r}; expected a share between 0 and 1."
    if isinstance(seeds, int) and seeds < 1:
        yield f"seeds is {seeds!r}; expected 1 or more."
    for rate in _as(list, content.get("start_rates")):
        if not _is_rate(rate):
            yield f"start_rates holds {rate!r}; expected numbers above 0."
    if not content.get("scores", True):
        yield "scores is empty; expected title → place in metrics.json, such as {accuracy: accuracy.value}."
    scores = _as(dict, content.get("scores"))
    yield from _names_faults("scores: ", scores)
    for title, place in scores.items():
        if not isinstance(place, str):
            yield f"scores: {title} is {place!r}; expected a place in metrics.json, as text such as accuracy.value."
    yield from _published_faults(_as(dict, content.get("published")), [*map(str, scores), TIME])
    yield from _part_faults("source: ", _as(dict, content.get("source")), SOURCE_KEYS)


def _entries_faults(content: Mapping[str, Any]) -> Iterator[str]:
    given = content.get("schemes")
    if not isinstance(given, dict):
        return
    yield from _names_faults("schemes: ", given)
    entries = {name: entry for name, entry in given.items() if isinstance(name, str)}
    folders: dict[str, str] = {}
    for name, entry in entries.items():
        if (other := folders.setdefault(as_path(name).lower(), name)) != name:
            yield f"schemes: {name!r} and {other!r} would share a folder; call one of them otherwise."
        yield from _part_faults(f"schemes: {name}: ", entry or {}, ENTRY_KEYS)
        search = entry.get("search", "") if isinstance(entry, dict) else ""
        if not isinstance(search, (str, dict)):
            yield f"schemes: {name}: search is {search!r}; expected a kind of search, or keys with lists of values."
        for key, values in _as(dict, search).items():
            if not isinstance(values, list):
                yield f"schemes: {name}: search: {key} is {values!r}; expected a list of values to try."
    for key in ("baseline", "scratch"):
        if isinstance(scheme := content.get(key), str) and scheme not in entries:
            yield f"{key} is {scheme!r}, which is none of the schemes.{near_misses(scheme, entries)}"


def _published_faults(published: Mapping[Any, Any], columns: Sequence[str]) -> Iterator[str]:
    yield from _names_faults("published: ", published)
    for name, row in published.items():
        yield from _unknown(f"published: {name}: ", row, columns)
        for column, value in _as(dict, row).items():
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                yield f"published: {name}: {column} is {value!r}; expected a number, or text such as 93.9 ± 0.5."


def _part_faults(place: str, part: object, kinds: Mapping[str, type]) -> Iterator[str]:
    """Of the study as a whole, of its source or of a scheme."""
    yield from _unknown(place, part, kinds)
    given = _as(dict, part)
    for key, kind in kinds.items():
        wanted = (int, float) if kind is float else kind
        if key in given and not isinstance(given[key], wanted):
            yield f"{place}{key} is {given[key]!r}; expected a {kind.__name__}."
    for name in _as(list, given.get("overlays")):
        if not isinstance(name, str):
            yield f"{place}overlays holds {name!r}; expected names of files."
    for key in ("keys", "search"):
        yield from _values_faults(f"{place}{key}: ", _as(dict, given.get(key)))


def _values_faults(place: str, values: Mapping[Any, Any]) -> Iterator[str]:
    yield from _names_faults(place, values)
    for key, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and _NUMBER.fullmatch(one):
                yield f"{place}{key} is the text {one!r}; YAML takes 1.0e-4 and 0.0001 for numbers, not {one}."


def _names_faults(place: str, given: Mapping[Any, Any]) -> Iterator[str]:
    """YAML takes 2024 for a number, and no for False."""
    yield from (f"{place}{name!r} is no text; put it in quotes." for name in given if not isinstance(name, str))


def _unknown(place: str, given: object, known: Sequence[str] | Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(given, dict):
        yield f"{place}expected keys, found {given!r}."
        return
    for key in given:
        if key not in known:
            yield f"{place}unknown key {key!r}; known: {', '.join(known)}.{near_misses(str(key), known)}"


def _as(kind: type[_Kind], value: object) -> _Kind:
    """What is of another kind, which is told by itself, as an empty one."""
    return value if isinstance(value, kind) else kind()


def _is_rate(value: Any) -> bool:  # noqa: ANN401 - any YAML
    try:
        return not isinstance(value, bool) and 0 < float(value) < math.inf
    except (TypeError, ValueError):
        return False


def bundle_faults(study: Study) -> Iterator[str]:
    """Configs that cannot be read; keys that no config of the run has, which MONAI would add, to do nothing."""
    parts = {
        entry.name: ([*study.overlays, *entry.overlays], [*study.keys, *entry.keys, *_searched(entry)])
        for entry in study.schemes.values()
    }
    if study.source is not None:
        parts["source"] = (list(study.source.overlays), list(study.source.keys))
    own = [study.train_config, study.bundle / "configs/evaluate.json"]
    files = dict.fromkeys([*own, *(Path(name) for overlays, _ in parts.values() for name in overlays)])
    if broken := [f"{file} {fault}" for file in files if (fault := unreadable(file))]:
        yield from broken
        return
    for name, (overlays, keys) in parts.items():
        chain = [study.train_config, *map(Path, overlays)]
        if fault := unmergeable(chain):
            yield f"{name}: {', '.join(map(str, chain))} {fault}"
            continue
        config = ConfigParser.load_config_files([str(file) for file in chain])
        for key in keys:
            if key.split("#")[0] not in config:
                yield f"{name}: the bundle {study.bundle.name} has no key {key!r}.{near_misses(key, config)}"


def _searched(entry: Entry) -> Sequence[str]:
    return list(entry.search) if isinstance(entry.search, Mapping) else []
