"""Which cases a check has passed, in a file of the run's folder, so that a repeated run reads only what changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..files import atomic_path
from .check_report import CaseReport, Volume
from .problem_report import Problem

VERSION = 1


class CheckMemory:
    """Cases without errors by the path, size and time of their files; written after each case, whole or not at all.

    Args:
        path: of the JSON file; one that is missing, damaged or of other settings is begun anew.
        settings: what the check depends on, in JSON's types.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self._path = Path(path)
        self._head = {"version": VERSION, "settings": dict(settings)}
        self._cases = _read(self._path, self._head)

    def recall(self, name: str, item: Mapping[str, Any]) -> CaseReport | None:
        """What was found before, if the case's files are still the same."""
        known = self._cases.get(name)
        if known is None or known["files"] != _files(item):
            return None
        return _report(name, known)

    def keep(self, case: CaseReport, item: Mapping[str, Any]) -> None:
        """Remember a case that has no errors, and forget one that has."""
        files = _files(item)
        self._cases.pop(case.case_id, None)
        if files and all(problem.kind == "warning" for problem in case.problems):
            self._cases[case.case_id] = {
                "files": files,
                "warnings": [{"file": problem.file, "message": problem.message} for problem in case.problems],
                "volume": None if case.volume is None else asdict(case.volume),
            }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps(self._head | {"cases": self._cases}, indent=1) + "\n", encoding="utf-8")


def _files(item: Mapping[str, Any]) -> list[list[Any]]:
    """[key, path, bytes, ns since 1970] of each file, a folder's summed over its files; nothing if one is missing."""
    found = []
    for key in ("image", "label"):
        files = item.get(key) or []
        for file in files if isinstance(files, (list, tuple)) else [files]:
            path = Path(file).absolute()
            if not path.exists():
                return []
            stats = [part.stat() for part in (path.iterdir() if path.is_dir() else [path])]
            found.append([key, str(path), sum(s.st_size for s in stats), sum(s.st_mtime_ns for s in stats)])
    return found


def _read(path: Path, head: Mapping[str, Any]) -> dict[str, Any]:
    """The cases of the file; none where it cannot be used, for it can be made again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if any(content[key] != value for key, value in head.items()):
            return {}
        cases: dict[str, Any] = content["cases"]
        for name, case in cases.items():
            _report(name, case)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return cases


def _report(name: str, known: Mapping[str, Any]) -> CaseReport:
    problems = [Problem(name, entry["file"], "warning", entry["message"]) for entry in known["warnings"]]
    return CaseReport(name, problems, None if known["volume"] is None else _volume(known["volume"]))


def _volume(fields: Mapping[str, Any]) -> Volume:
    """JSON has no tuples, and its keys are strings."""
    ml, clipped = fields["label_ml"], fields["clipped"]
    return Volume(
        fields["case_id"],
        tuple(fields["shape"]),
        tuple(fields["spacing"]),
        fields["orientation"],
        None if ml is None else {int(label): size for label, size in ml.items()},
        None if clipped is None else (clipped[0], clipped[1]),
    )
