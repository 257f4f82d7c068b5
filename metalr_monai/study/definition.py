"""A study as it was asked for: bundle, data, schemes and scores, with paths made absolute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
