"""When, on what and with which packages a study's runs were made, by their own reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .records import RunRecord


def surroundings(report: Mapping[str, Any]) -> dict[str, str]:
    """Of one run, in words: `date`, `machine` and `versions`; those that its run_report.json tells."""
    found = {"date": str(report.get("ended") or "")[:10]}
    if machine := report.get("machine"):
        gpu = machine["device_name"] if machine["device"].startswith("cuda") else "no GPU"
        threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
        found["machine"] = f"{machine['system']}, {machine['cpu_cores']} cores, {gpu}, {threads}"
    if versions := report.get("versions"):
        found["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return found


def of_all(records: Sequence[RunRecord]) -> dict[str, str]:
    """Of all runs; where they differ, each kind and how many runs are of it. Left out what no run tells."""
    dates = sorted({record.date for record in records} - {""})
    found = {
        "date": " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
        "machine": _kinds([record.machine for record in records]),
        "versions": _kinds([record.versions for record in records]),
    }
    return {name: words for name, words in found.items() if words}


def remarks(records: Sequence[RunRecord]) -> list[str]:
    """What a reader of times must know where not all runs were made alike."""
    kinds = {"machines": {run.machine for run in records}, "versions of packages": {run.versions for run in records}}
    differ = [name for name, own in kinds.items() if len(own - {""}) > 1]
    if not differ:
        return []
    return [f"The runs differ in {' and '.join(differ)} (see “How it was run”): their times cannot be compared."]


def _kinds(words: Sequence[str]) -> str:
    counts = Counter(word for word in words if word)
    if len(counts) < 2:
        return "".join(counts)
    return "; ".join(f"{word} ({count} run{'s' * (count != 1)})" for word, count in counts.items())
