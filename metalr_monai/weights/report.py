"""What became of every tensor when a checkpoint was loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import first_few
from .renaming import described

Status = Literal["loaded", "adapted", "re-initialised", "shape mismatch", "unused"]
Shape = tuple[int, ...]

_MOST_ROWS = 30


@dataclass(frozen=True)
class TensorReport:
    """One tensor.

    Attributes:
        name: its name in the network; of an unused one, in the file after renaming.
        status: `loaded` as it is; `adapted` to the network; `re-initialised`: left as the network was built, since
            it is missing in the file or belongs to a head of another size; `shape mismatch`: left as well;
            `unused`: in the file alone.
        shape: in the network; None where unused.
        file_shape: in the file; None where missing.
        counts: whether coverage counts it: parameters do, buffers and unused tensors do not.
        elements: numbers in the network's tensor, or in the file's where unused.
        note: how it was adapted, or why it was not loaded.
        head: whether it is re-initialised as a head: its shape differs in nothing but the number of classes, or it
            is of the last layer and missing in the file.
    """

    name: str
    status: Status
    shape: Shape | None
    file_shape: Shape | None
    counts: bool
    elements: int
    note: str = ""
    head: bool = False

    @property
    def covered(self) -> bool:
        """Whether its values come from the file."""
        return self.status in ("loaded", "adapted")

    @property
    def is_counter(self) -> bool:
        """Whether it is batch norm's count of batches, which no usual forward pass reads."""
        return self.name.endswith("num_batches_tracked")

    def __str__(self) -> str:
        details = [self.note] if self.note else []
        if self.shape is not None and self.file_shape is not None and self.shape != self.file_shape:
            details.insert(0, f"file {_shape(self.file_shape)}, network {_shape(self.shape)}")
        return f"{self.name} ({'; '.join(details)})" if details else self.name


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did; `print` it for a table, `to_dict()` it for a run's report.

    Attributes:
        source: the checkpoint's path, or `"a state dict"`.
        container: the key in the file under which the state dict was, empty where it was plain.
        others: further keys with a state dict, which were not used.
        rules: renaming rules that fired, in order.
        network: the network's class.
        tensors: the network's tensors in its order, then the file's unused ones.
        rescaled: layers in front of a normalisation → what they were multiplied by, where norms were matched.
    """

    source: str
    container: str
    others: tuple[str, ...]
    rules: tuple[str, ...]
    network: str
    tensors: tuple[TensorReport, ...]
    rescaled: Mapping[str, float] = field(default_factory=dict)

    def with_status(self, status: Status) -> tuple[TensorReport, ...]:
        """All tensors of one status."""
        return tuple(tensor for tensor in self.tensors if tensor.status == status)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names in the network that the file lacks, but for batch norm's counters."""
        tensors = self.with_status("re-initialised")
        return tuple(tensor.name for tensor in tensors if tensor.file_shape is None and not tensor.is_counter)

    @property
    def coverage(self) -> float:
        """Share of the network's parameters, in elements, that come from the file; in [0, 1]. Buffers do not count."""
        return _coverage(self.tensors)

    @property
    def coverage_without_head(self) -> float:
        """`coverage` of all tensors but those of a head that was re-initialised."""
        return _coverage([tensor for tensor in self.tensors if not tensor.head])

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return {
            "source": self.source,
            "container": self.container,
            "others": list(self.others),
            "rules": list(self.rules),
            "network": self.network,
            "parameters": _elements(self.tensors),
            "coverage": self.coverage,
            "coverage_without_head": self.coverage_without_head,
            "rescaled": dict(self.rescaled),
            "tensors": [
                {
                    "name": tensor.name,
                    "status": tensor.status,
                    "network_shape": None if tensor.shape is None else list(tensor.shape),
                    "file_shape": None if tensor.file_shape is None else list(tensor.file_shape),
                    "note": tensor.note,
                }
                for tensor in self.tensors
            ],
        }

    def __str__(self) -> str:
        return "\n".join([*self._headline(), *self._table(), *self._exceptions()])

    def _headline(self) -> list[str]:
        place = f" [{self.container}]" if self.container else ""
        others = f" (also in it, not used: {', '.join(self.others)})" if self.others else ""
        head = f"; without the head {percent(self.coverage_without_head)}" if any(t.head for t in self.tensors) else ""
        return [
            f"{self.source}{place}{others} → {self.network}",
            f"coverage {percent(self.coverage)} of {_elements(self.tensors):,} parameters{head}",
            f"renaming rules: {described(self.rules)}",
            *self._rescaled(),
        ]

    def _rescaled(self) -> list[str]:
        if not self.rescaled:
            return []
        low, high = min(self.rescaled.values()), max(self.rescaled.values())
        return [f"norms matched: {len(self.rescaled)} layers in front of a normalisation, × {low:.2g} … {high:.2g}"]

    def _table(self) -> list[str]:
        parts = _parts([tensor for tensor in self.tensors if tensor.status != "unused"])
        rows = [
            (part, f"{_elements(tensors):,}", percent(_coverage(tensors)))
            for part, tensors in parts.items()
            if _elements(tensors)
        ]
        more = [f"and {len(rows) - _MOST_ROWS} more parts"] if len(rows) > _MOST_ROWS else []
        rows = [("part", "parameters", "loaded"), *rows[:_MOST_ROWS]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
        return [*lines, *more]

    def _exceptions(self) -> list[str]:
        statuses: tuple[Status, ...] = ("adapted", "re-initialised", "shape mismatch", "unused")
        found = ((status, [str(t) for t in self.with_status(status) if not t.is_counter]) for status in statuses)
        return [f"{status} ({len(names)}): {first_few(names)}" for status, names in found if names]


def percent(share: float) -> str:
    """Rounded down, so that only a whole is called 100.0%."""
    return f"{math.floor(1000 * share) / 10:.1f}%"


def _elements(tensors: Iterable[TensorReport]) -> int:
    return sum(tensor.elements for tensor in tensors if tensor.counts)


def _coverage(tensors: Sequence[TensorReport]) -> float:
    total = _elements(tensors)
    return _elements(tensor for tensor in tensors if tensor.covered) / total if total else 0.0


def _parts(tensors: Sequence[TensorReport]) -> dict[str, list[TensorReport]]:
    """By the first component in which the names differ."""
    paths = [tensor.name.split(".")[:-1] for tensor in tensors]
    depth = 0
    while len({tuple(path[: depth + 1]) for path in paths}) == 1 and all(len(path) > depth + 1 for path in paths):
        depth += 1
    parts: dict[str, list[TensorReport]] = {}
    for tensor, path in zip(tensors, paths, strict=True):
        parts.setdefault(".".join(path[: depth + 1]) or tensor.name, []).append(tensor)
    return parts


def _shape(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "scalar"
