"""A scheme against the baseline: differences over cases and over seeds, and whether the two are told apart.

**Told apart** means all of: the Holm-corrected sign-flip p of the first score is below 0.05 over the cases of the test
part (over the seeds, where there are fewer than six cases); the 95 % interval of the mean difference leaves out 0,
there and over the seeds; and both are of one sign. So a difference that other cases, or other seeds, may turn round is
none. Nothing but the first score is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..evaluation.comparison import Difference, case_differences, compare, holm, paired_differences
from .records import RunRecord

LEVEL = 0.05
FEWEST_CASES = 6  # with fewer, no p can be below LEVEL
BETTER, WORSE, OPEN = "better", "worse", "open"

Runs = Mapping[int, RunRecord]  # of one scheme, by seed


@dataclass(frozen=True)
class Against:
    """A scheme's first score against the baseline's, 0 … 1.

    Attributes:
        cases: over the cases of the test part.
        seeds: over the seeds that both have.
        cases_holm, seeds_holm: p, corrected for all schemes that are compared; NaN where there is none.
        unit: "cases" or "seeds": what the verdict counts.
        verdict: "better" or "worse" where the scheme is told apart, else "open".
        words: the verdict, as a sentence goes on after the scheme's name.
    """

    cases: Difference
    seeds: Difference
    cases_holm: float
    seeds_holm: float
    unit: str
    verdict: str
    words: str


def compare_schemes(runs: Mapping[str, Runs], baseline: str, title: str) -> dict[str, Against]:
    """Every scheme but the baseline, over the cases and seeds that both have.

    Args:
        runs: scheme → seed → run.
        baseline: one of the schemes.
        title: of the score that is compared over seeds.
    """
    others = {name: own for name, own in runs.items() if name != baseline}
    base_cases = {seed: run.cases for seed, run in runs[baseline].items()}
    base_scores = {seed: run.scores[title] for seed, run in runs[baseline].items()}
    cases, seeds = {}, {}
    for name, own in others.items():
        by_case = case_differences({seed: run.cases for seed, run in own.items()}, base_cases)
        by_seed = paired_differences({seed: run.scores[title] for seed, run in own.items()}, base_scores)
        cases[name], seeds[name] = compare(list(by_case.values())), compare(list(by_seed.values()))
    cases_holm = holm({name: difference.p for name, difference in cases.items()})
    seeds_holm = holm({name: difference.p for name, difference in seeds.items()})
    found = {}
    for name in others:
        unit = "cases" if cases[name].n >= FEWEST_CASES else "seeds"
        counted, p = (cases[name], cases_holm[name]) if unit == "cases" else (seeds[name], seeds_holm[name])
        apart = p < LEVEL and counted.excludes_zero and seeds[name].excludes_zero
        apart = apart and (counted.mean > 0) == (seeds[name].mean > 0)
        verdict = OPEN if not apart else BETTER if counted.mean > 0 else WORSE
        words = _words(verdict, counted, seeds[name].n, baseline)
        found[name] = Against(cases[name], seeds[name], cases_holm[name], seeds_holm[name], unit, verdict, words)
    return found


def _words(verdict: str, difference: Difference, seeds: int, baseline: str) -> str:
    if not seeds:
        return f"not compared with {baseline}: no seed in common"
    if verdict == OPEN or difference.interval is None:
        return f"not told apart from {baseline}"
    size, *ends = (100 * abs(value) for value in (difference.mean, *difference.interval))
    low, high = sorted(ends)
    decimals = 1 if low >= 0.05 else 2
    return f"{verdict} by {size:.{decimals}f} points ({low:.{decimals}f} … {high:.{decimals}f})"
