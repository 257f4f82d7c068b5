"""What a searching scheme tries before its run proper, one candidate after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from monai.bundle import ConfigParser

from ..errors import StudyError, near_misses
from ..rates.blocks import blocks
from ..schemes.block_ranges import frozen_ranges, last_k, levels
from .definition import Entry, Study

SEARCHES = {"layer-wise": last_k, "bi-directional": frozen_ranges}
"""Kind of search → number of blocks → the ranges to freeze, (first, last), counted from 1 by depth."""


@dataclass(frozen=True)
class Candidate:
    """A setting that a search tries.

    Attributes:
        name: in words, such as "lr 0.001"; also of its folder.
        keys: on top of the scheme's own.
    """

    name: str
    keys: Mapping[str, Any]


def candidates(study: Study, entry: Entry) -> list[Candidate]:
    """The candidates of a scheme; none where it does not search.

    Raises:
        StudyError: an unknown kind of search, or nothing to try.
    """
    if entry.search is None:
        return []
    if isinstance(entry.search, Mapping):
        if not entry.search:
            raise StudyError(f"{entry.name}: search names no keys to try values of.")
        found = [dict(zip(entry.search, values, strict=True)) for values in product(*entry.search.values())]
    elif entry.search in SEARCHES:
        ranges = SEARCHES[entry.search](_depth(study, entry))
        found = [{"first_frozen": first, "last_frozen": last} for first, last in ranges]
    else:
        raise StudyError(
            f"{entry.name}: search is {entry.search!r}; expected {', '.join(SEARCHES)}, or keys with the values to "
            f"try, as {{lr: [0.0001, 0.001]}}.{near_misses(str(entry.search), SEARCHES)}"
        )
    if not found:
        raise StudyError(f"{entry.name}: search names no values to try.")
    return [Candidate(_words(keys), keys) for keys in found]


def _words(keys: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in keys.items())


def _depth(study: Study, entry: Entry) -> int:
    """Levels of blocks, by the scheme's reading of depth where it has one."""
    parser = ConfigParser()
    parser.read_config([str(study.train_config), *study.overlays, *entry.overlays])
    parser.update({**study.keys, **entry.keys, "checkpoint": None})
    names = blocks(parser.get_parsed_content("network_def"), parser.get_parsed_content("blocks")).names
    return len(levels(names, parser.get("depth_order", "I1")))


def best(scores: Sequence[float]) -> int:
    """The place of the highest score; the first one of equals, and one that is not finite never wins."""
    return max(range(len(scores)), key=lambda place: (scores[place] == scores[place], scores[place]))
