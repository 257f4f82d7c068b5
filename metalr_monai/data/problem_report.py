"""What any check of a data list reports: problems, an error of them, and a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

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
class ProblemReport:
    """All problems, those of the whole list first; a report of some kind of data adds what they are like."""

    n_cases: int
    problems: list[Problem]

    _unit: ClassVar[str]  # what a case is called

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
            raise DataError("\n".join([f"{len(errors)} error(s) in {self.n_cases} {self._unit}(s):", *lines]))

    def told(self, kind: Kind, shown: int = 10) -> list[str]:
        """The problems of one kind, a line each: case, message and file; those beyond `shown` are counted."""
        found = self._of(kind)
        lines = [f"{p.case_id or 'the list'}: {p.message}{f' ({p.file})' * bool(p.file)}" for p in found[:shown]]
        return [*lines, f"and {len(found) - shown} more"] if len(found) > shown else lines

    def _counted(self) -> dict[str, Any]:
        """Plain containers for JSON: ok and counts."""
        errors, warnings = len(self._of("error")), len(self._of("warning"))
        return {"ok": self.ok, "cases": self.n_cases, "errors": errors, "warnings": warnings}

    def _listed(self) -> list[dict[str, str]]:
        return [asdict(problem) for problem in self.problems]

    def _table(self, read: str, summary: Iterator[str]) -> str:
        """How many there are and what was `read` of them, the summary, and a row a problem."""
        counts = f"{len(self._of('error'))} error(s), {len(self._of('warning'))} warning(s)"
        lines = [f"{self.n_cases} {self._unit}(s){read}: {counts}", *summary]
        if self.problems:
            rows = [("kind", "case", "file", "problem")]
            rows += [(p.kind, p.case_id, Path(p.file).name, p.message) for p in self.problems]
            widths = [max(len(row[column]) for row in rows) for column in range(3)]
            lines += ["", *("  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows)]
        return "\n".join(lines)

    def _of(self, kind: Kind) -> list[Problem]:
        return [problem for problem in self.problems if problem.kind == kind]
