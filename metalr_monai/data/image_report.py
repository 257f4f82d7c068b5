"""What a check of a list of labelled images found: problems, counts, a table and an error of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .problem_report import ProblemReport


@dataclass(frozen=True)
class ImageReport(ProblemReport):
    """All problems, those of the whole list first, and what the pictures are like; `str()` gives a table.

    Args:
        n_cases: images in the list.
        problems: errors and warnings.
        notes: what is no problem, but good to know.
        parts: images of each class in each published part; the one part is "all" where none is published.
        groups: images of each group, what no split may part.
        sizes: (columns, rows) of the readable pictures.
        modes: how many pictures are stored in each of Pillow's modes: L is 8-bit grey, RGB 8-bit colour.
    """

    notes: list[str]
    parts: Mapping[str, Mapping[str, int]]
    groups: Mapping[str, int]
    sizes: list[tuple[int, int]]
    modes: Mapping[str, int]

    _unit = "image"

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON: ok, counts, problems, notes, classes by part, groups, sizes, modes."""
        several = [count for count in self.groups.values() if count > 1]
        return {
            **self._counted(),
            "problems": self._listed(),
            "notes": list(self.notes),
            "parts": {part: dict(counts) for part, counts in self.parts.items()},
            "groups": {
                "count": len(self.groups),
                "largest": max(self.groups.values(), default=0),
                "of_several": len(several),
                "images_in_those": sum(several),
            },
            "columns": _spread([size[0] for size in self.sizes]),
            "rows": _spread([size[1] for size in self.sizes]),
            "modes": dict(self.modes),
        }

    def __str__(self) -> str:
        return self._table(" decoded", self._summary())

    def _summary(self) -> Iterator[str]:
        found = self.to_dict()
        for part, counts in self.parts.items():
            yield f"{part:<14}{', '.join(f'{name}: {count}' for name, count in counts.items())}"
        if self.groups:
            groups = found["groups"]
            yield (
                f"groups        {groups['count']}, the largest of {groups['largest']}; {groups['of_several']} of "
                f"several images, with {groups['images_in_those']} in all"
            )
        if self.sizes:
            columns, rows = (", ".join(map(str, found[side])) for side in ("columns", "rows"))
            yield f"size          {columns} columns × {rows} rows (smallest, median, largest)"
            yield f"mode          {', '.join(f'{mode}: {count}' for mode, count in self.modes.items())}"
        for note in self.notes:
            yield f"note          {note}"


def _spread(values: Sequence[int]) -> list[int]:
    """Smallest, median, largest; nothing of nothing."""
    ordered = sorted(values)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]] if ordered else []
