"""What may be wrong with a study file, a line each: said before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from monai.bundle import ConfigParser

from ..errors import near_misses
from .definition import Entry, Study
from .job import as_path

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


def faults(content: Mapping[str, Any]) -> Iterator[str]:
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


def bundle_faults(study: Study) -> Iterator[str]:
    """Keys that no config of the run has would be added by MONAI, and do nothing."""
    parts = {
        entry.name: ([*study.overlays, *entry.overlays], [*study.keys, *entry.keys, *_searched(entry)])
        for entry in study.schemes.values()
    }
    if study.source is not None:
        parts["source"] = (list(study.source.overlays), list(study.source.keys))
    for name, (overlays, keys) in parts.items():
        config = ConfigParser.load_config_files([str(study.train_config), *overlays])
        for key in keys:
            if key.split("#")[0] not in config:
                known = [name for name in config if isinstance(name, str)]
                yield f"{name}: the bundle {study.bundle.name} has no key {key!r}.{near_misses(key, known)}"


def _searched(entry: Entry) -> Sequence[str]:
    return list(entry.search) if isinstance(entry.search, Mapping) else []
