"""What a check of a data list found: problems, what the volumes are like, a table and an error of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .problem_report import Problem, ProblemReport


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
class CheckReport(ProblemReport):
    """All problems, those of the whole list first, and what the readable volumes are like; `str()` gives a table."""

    voxels: bool
    volumes: list[Volume]

    _unit = "case"

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON: ok, counts, problems, volumes."""
        return {
            **self._counted(),
            "voxels_read": self.voxels,
            "problems": self._listed(),
            "volumes": [
                asdict(v)
                | {"shape": list(v.shape), "spacing": list(v.spacing), "label_ml": _by_name(v.label_ml)}
                | {"clipped": None if v.clipped is None else list(v.clipped)}
                for v in self.volumes
            ],
        }

    def __str__(self) -> str:
        return self._table(f", {'headers and voxels' if self.voxels else 'headers'} read", self._summary())

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


def _ranges(rows: Sequence[Sequence[float]], form: str) -> str:
    """Spread along each axis: `128, 128, 512 × 101, 128, 512 × 20, 112, 128`."""
    longest = max(map(len, rows))
    return " × ".join(_spread([row[axis] for row in rows if len(row) > axis], form) for axis in range(longest))


def _spread(values: Sequence[float], form: str) -> str:
    ordered = sorted(values)
    return ", ".join(f"{ordered[i]:{form}}" for i in (0, len(ordered) // 2, -1))


def _by_name(volumes: Mapping[int, float] | None) -> dict[str, float] | None:
    return None if volumes is None else {str(label): ml for label, ml in volumes.items()}
