"""Records of invented runs, for the tests of what comes out of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metalr_monai.study.records import EpochRecord, RunRecord


def record(
    scheme: str,
    seed: int,
    score: float,
    *,
    cases: Sequence[float] = (),
    seconds: Sequence[float] = (10.0, 10.0),
    rates: Sequence[Mapping[str, float]] = ({"body": 1e-3, "head": 1e-3},),
    validation: Mapping[int, float] | None = None,
    search_seconds: float = 0.0,
    chosen: str = "",
    peak_memory: int | None = None,
    **scores: float,
) -> RunRecord:
    """A run whose first score is `accuracy`; the last of `rates` goes on for the other epochs."""
    return RunRecord(
        scheme,
        seed,
        {"accuracy": score, **scores},
        {f"case_{i}": value for i, value in enumerate(cases)},
        validation or {},
        [EpochRecord(i + 1, 0.5, s, rates[min(i, len(rates) - 1)]) for i, s in enumerate(seconds)],
        search_seconds,
        chosen,
        peak_memory,
    )
