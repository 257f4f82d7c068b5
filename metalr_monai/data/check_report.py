"""What a check of a data list found: problems, what the volumes are like, a table and an error of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import DataError

Kind = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one file (or, where `file` is empty, with the list).

    An "error" would stop training or spoil it; a "warning" is unusual and for the user to judge.
    """

    case_id: str
    file: str
    kind: Kind
    message: str


@dataclass(frozen=True)
class Volume:
    """What the image's header says, and what its voxels and its label's are like; that is None unless they were read.

    Args:
        shape: voxels along x, y, z.
        spacing: mm along x, y, z.
        orientation: where the axes point to, as "RAS".
        label_ml: ml of each class but 0.
        clipped: % of the image's voxels below and above the window of HU.
    """

    case_id: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    label_ml: dict[int, float] | None
    clipped: tuple[float, float] | None


@dataclass(frozen=True)
class CaseReport:
    """What the check of one case found; `volume` is None where the image's header is of no use."""

    case_id: str
    problems: list[Problem]
    volume: Volume | None


@dataclass(frozen=True)
class CheckReport:
    """All problems, those of the whole list first, and what the readable volumes are like; `str()` gives a table."""

    n_cases: int
    voxels: bool
    problems: list[Problem]
    volumes: list[Volume]

    @property
    def ok(self) -> bool:
        """There are no errors; warnings there may be."""
        return not self._of("error")

    def raise_if_bad(self) -> None:
        """Go on only without errors.

        Raises:
            DataError: with the first ten errors and their number.
        """
        if errors := self._of("error"):
            lines = [f"  {line}" for line in self.told("error")]
            raise DataError("\n".join([f"{len(errors)} error(s) in {self.n_cases} case(s):", *lines]))

    def told(self, kind: Kind, shown: int = 10) -> list[str]:
        """The problems of one kind, a line each: case, message and file; those beyond `shown` are counted."""
        found = self._of(kind)
        lines = [f"{p.case_id or 'the list'}: {p.message}{f' ({p.file})' * bool(p.file)}" for p in found[:shown]]
        return [*lines, f"and {len(found) - shown} more"] if len(found) > shown else lines

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON: ok, counts, problems, volumes."""
        return {
            "ok": self.ok,
            "cases": self.n_cases,
            "errors": len(self._of("error")),
            "warnings": len(self._of("warning")),
            "voxels_read": self.voxels,
            "problems": [asdict(problem) for problem in self.problems],
            "volumes": [
                asdict(v)
                | {"shape": list(v.shape), "spacing": list(v.spacing), "label_ml": _by_name(v.label_ml)}
                | {"clipped": None if v.clipped is None else list(v.clipped)}
                for v in self.volumes
            ],
        }

    def __str__(self) -> str:
        read = "headers and voxels" if self.voxels else "headers"
        counts = f"{len(self._of('error'))} error(s), {len(self._of('warning'))} warning(s)"
        lines = [f"{self.n_cases} case(s), {read} read: {counts}", *self._summary()]
        if self.problems:
            rows = [("kind", "case", "file", "problem")]
            rows += [(p.kind, p.case_id, Path(p.file).name, p.message) for p in self.problems]
            widths = [max(len(row[column]) for row in rows) for column in range(3)]
            lines += ["", *("  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows)]
        return "\n".join(lines)

    def _summary(self) -> Iterator[str]:
        if not self.volumes:
            return
        yield f"shape         {_ranges([v.shape for v in self.volumes], 'd')} voxels (smallest, median, largest)"
        yield f"spacing       {_ranges([v.spacing for v in self.volumes], '.3g')} mm"
        orientations = Counter(v.orientation for v in self.volumes).most_common()
        yield f"orientation   {', '.join(f'{codes}: {count}' for codes, count in orientations)}"
        for label in sorted({label for v in self.volumes for label in v.label_ml or {}}):
            ml = [v.label_ml[label] for v in self.volumes if v.label_ml and v.label_ml.get(label)]
            spread = f"{_spread(ml, '.4g')} ml" if ml else "absent"
            yield f"label {label:<8}{spread} in {len(ml)} case(s)"
        if clipped := [v.clipped for v in self.volumes if v.clipped is not None]:
            below, above = (_spread(share, ".3g") for share in zip(*clipped, strict=True))
            yield f"clipped       {below} % of the voxels below the window of HU, {above} % above it"

    def _of(self, kind: Kind) -> list[Problem]:
        return [problem for problem in self.problems if problem.kind == kind]


def _ranges(rows: Sequence[Sequence[float]], form: str) -> str:
    """Spread along each axis: `128, 128, 512 × 101, 128, 512 × 20, 112, 128`."""
    longest = max(map(len, rows))
    return " × ".join(_spread([row[axis] for row in rows if len(row) > axis], form) for axis in range(longest))


def _spread(values: Sequence[float], form: str) -> str:
    ordered = sorted(values)
    return ", ".join(f"{ordered[i]:{form}}" for i in (0, len(ordered) // 2, -1))


def _by_name(volumes: Mapping[int, float] | None) -> dict[str, float] | None:
    return None if volumes is None else {str(label): ml for label, ml in volumes.items()}
