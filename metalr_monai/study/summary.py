"""What a study says: every scheme's scores and costs, and whether it is told apart from the baseline (`against`)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import OptionError, first_few, near_misses
from ..evaluation.comparison import FEWEST_FOR_INTERVAL, MeanSD, mean_sd, paired_differences, smallest_p
from .against import BETTER, FEWEST_CASES, LEVEL, OPEN, WORSE, Against, Runs, compare_schemes
from .budget import EqualTime, equal_time, has_curve
from .cost import Cost, cost_of
from .records import RunRecord
from .start_rates import Places, Sweep, sweeps
from .start_rates import verdict as sweep_verdict
from .surroundings import remarks

SHOWN = 0.05  # points: a smaller loss reads as 0.0


@dataclass(frozen=True)
class SchemeSummary:
    """One scheme.

    Attributes:
        scheme: its name.
        seeds: those with a run, and `missing` those that other schemes have and this one has not.
        scores: title → over seeds, 0 … 1.
        scores_by_seed: title → seed → score.
        cost: of training.
        against: the baseline; None for the baseline itself.
        equal_time: validation at equal wall-clock; None where it is left out.
        chosen: seed → what a searching scheme chose.
        warnings: what a reader must not miss.
    """

    scheme: str
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    scores: Mapping[str, MeanSD]
    scores_by_seed: Mapping[str, Mapping[int, float]]
    cost: Cost
    against: Against | None
    equal_time: EqualTime | None
    chosen: Mapping[int, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """A study: its schemes in the order of their first runs, the verdict in one or two sentences, and remarks.

    `sweeps` are its schemes without their start rates, where it runs each with several: they are not tested then.
    """

    baseline: str
    titles: tuple[str, ...]
    seeds: tuple[int, ...]
    schemes: tuple[SchemeSummary, ...]
    verdict: str
    notes: tuple[str, ...]
    sweeps: tuple[Sweep, ...] = ()

    @property
    def first_title(self) -> str:
        """Of the score that is tested."""
        return self.titles[0]


def summarize(
    records: Sequence[RunRecord],
    *,
    baseline: str,
    titles: Sequence[str],
    scratch: str | None = None,
    start_rates: Places | None = None,
) -> Summary:
    """Compare every scheme of a study with the baseline, seed by seed.

    Args:
        records: finished runs. A scheme may lack a seed: pairs are then those that are there, and a note says so.
        baseline: scheme that the others are compared with.
        titles: scores to tell of; the first one is tested.
        scratch: scheme that trains from random weights, if the study has one; a note says where it has no run yet.
        start_rates: of a sweep; its schemes are not tested against the baseline.

    Raises:
        OptionError: no records, two of one scheme and seed, none of the baseline, or a run without a score of `titles`.
    """
    runs = _by_scheme(records, titles)
    if baseline not in runs:
        raise OptionError(
            f"No run is of the scheme {baseline!r}.{near_misses(baseline, runs)} There are runs of {', '.join(runs)}."
        )
    seeds = tuple(sorted({record.seed for record in records}))
    found = sweeps(records, start_rates or {}, titles[0])
    against = {} if found else compare_schemes(runs, baseline, titles[0])
    schemes = tuple(
        SchemeSummary(
            scheme=name,
            seeds=tuple(own),
            missing=tuple(seed for seed in seeds if seed not in own),
            scores={title: mean_sd([run.scores[title] for run in own.values()]) for title in titles},
            scores_by_seed={title: {seed: run.scores[title] for seed, run in own.items()} for title in titles},
            cost=cost_of(own, runs[baseline]),
            against=against.get(name),
            equal_time=equal_time(own, runs[baseline]),
            chosen={seed: run.chosen for seed, run in own.items() if run.chosen},
            warnings=(
                *_undefined(own, titles),
                *_below_own_start(own),
                *_below_scratch(name, runs, scratch, titles[0]),
            ),
        )
        for name, own in runs.items()
    )
    notes = [*_notes(schemes, runs, baseline), *remarks(records)]
    if scratch is not None and scratch not in runs:
        notes.append(f"“{scratch}” has no finished run: no scheme is compared with training from random weights.")
    if found:
        notes.insert(0, f"Nothing is tested: {len(runs)} schemes with their rates are too many to correct for.")
    said = sweep_verdict(found, titles[0]) if found else _verdict(schemes, baseline, titles[0])
    return Summary(baseline, tuple(titles), seeds, schemes, said, tuple(notes), found)


def _by_scheme(records: Sequence[RunRecord], titles: Sequence[str]) -> dict[str, dict[int, RunRecord]]:
    if not records or not titles:
        raise OptionError(f"{len(records)} runs and {len(titles)} scores are given; expected one of each at least.")
    runs: dict[str, dict[int, RunRecord]] = defaultdict(dict)
    for record in records:
        if record.seed in runs[record.scheme]:
            raise OptionError(f"Two runs are of scheme {record.scheme!r} and seed {record.seed}; expected one of each.")
        missing = [title for title in titles if title not in record.scores]
        if missing:
            raise OptionError(
                f"The run of scheme {record.scheme!r}, seed {record.seed}, has no score {missing[0]!r}."
                f"{near_misses(missing[0], record.scores)} It has {', '.join(record.scores) or 'none'}."
            )
        runs[record.scheme][record.seed] = record
    return {name: dict(sorted(own.items())) for name, own in runs.items()}


# ---------------------------------------------------------------------- warnings and words


def _undefined(own: Runs, titles: Sequence[str]) -> list[str]:
    """Scores that means and tests leave out, and trainings that diverged."""
    found = []
    for title in titles:
        if count := sum(not math.isfinite(run.scores[title]) for run in own.values()):
            found.append(f"has no {title} in {count} of {len(own)} seeds, which its mean leaves out")
    if count := sum(not all(math.isfinite(epoch.train_loss) for epoch in run.epochs) for run in own.values()):
        found.append(f"diverged (its training loss was not finite) in {count} of {len(own)} seeds")
    return found


def _below_own_start(own: Runs) -> list[str]:
    pairs = [
        (run.validation[0], run.validation[max(run.validation)])
        for run in own.values()
        if 0 in run.validation and max(run.validation) > 0
    ]
    if not pairs:
        return []
    before, after = (100 * math.fsum(side) / len(pairs) for side in zip(*pairs, strict=True))
    lower = sum(last < first for first, last in pairs)
    if not before - after >= SHOWN:
        return []
    return [
        f"ends below its own validation score before training: {before:.1f} → {after:.1f} % "
        f"({lower} of {len(pairs)} seeds)"
    ]


def _below_scratch(name: str, runs: Mapping[str, Runs], scratch: str | None, title: str) -> list[str]:
    if scratch is None or scratch not in runs or name == scratch:
        return []
    scores = [{seed: run.scores[title] for seed, run in runs[scheme].items()} for scheme in (name, scratch)]
    differences = list(paired_differences(*scores).values())
    if not differences or not -100 * mean_sd(differences).mean >= SHOWN:
        return []
    lower = sum(difference < 0 for difference in differences)
    return [
        f"worse than training from random weights ({scratch}) by {-100 * mean_sd(differences).mean:.1f} points of "
        f"{title} ({lower} of {len(differences)} seeds)"
    ]


def _verdict(schemes: Sequence[SchemeSummary], baseline: str, title: str) -> str:
    compared = [(scheme.scheme, scheme.against) for scheme in schemes if scheme.against is not None]
    if not compared:
        return f"{baseline} is the only scheme: there is nothing to compare."
    parts = {
        kind: [f"“{name}” {against.words}" for name, against in compared if against.verdict == kind]
        for kind in (BETTER, WORSE)
    }
    sentences = []
    if parts[BETTER] or parts[WORSE]:
        told_apart = "; ".join(parts[BETTER] + parts[WORSE])
        sentences.append(f"{title[:1].upper()}{title[1:]} against “{baseline}”, with 95 % intervals: {told_apart}.")
    still_open = [f"“{name}”" for name, against in compared if against.verdict == OPEN]
    if len(still_open) == len(compared):
        sentences.append(f"No scheme is told apart from “{baseline}” by its {title}.")
    elif still_open:
        sentences.append(f"Not told apart from it: {first_few(still_open)}.")
    return " ".join(sentences)


def _notes(schemes: Sequence[SchemeSummary], runs: Mapping[str, Runs], baseline: str) -> list[str]:
    notes = []
    compared = [scheme.against for scheme in schemes if scheme.against is not None]
    if compared:
        notes.append(
            f"Told apart: the p over cases (over seeds, where there are fewer than {FEWEST_CASES} cases), corrected "
            f"for {len(compared)} comparison{'s' * (len(compared) != 1)} (Holm), is below {LEVEL}, and the 95 % "
            "intervals there and over seeds leave out 0."
        )
        notes.append(_power(compared))
    if any(against.unit == "cases" for against in compared):
        notes.append(
            "A case's difference is averaged over seeds first. Cases are taken as independent: where several are of "
            "one patient, the interval over cases is too narrow."
        )
    for scheme in schemes:
        if scheme.missing:
            names = f"seed{'s' * (len(scheme.missing) > 1)} {', '.join(map(str, scheme.missing))}"
            notes.append(f"“{scheme.scheme}” has no finished run of {names}: pairs are of the other seeds.")
    without = [f"“{name}”" for name, own in runs.items() if not any(map(has_curve, own.values()))]
    if len(without) == len(runs) or not any(map(has_curve, runs[baseline].values())):
        notes.append("Scores at equal time are left out: the baseline was validated at its last epoch only.")
    elif without:
        notes.append(f"Scores at equal time are left out for {first_few(without)}: validated at the last epoch only.")
    return notes


def _power(compared: Sequence[Against]) -> str:
    """What so many seeds can show."""
    seeds = max(against.seeds.n for against in compared)
    plural = "s" * (seeds != 1)
    if seeds < FEWEST_FOR_INTERVAL:
        return f"{seeds} seed{plural} in common: too few for an interval over seeds, so nothing can be told apart yet."
    found = f"With {seeds} seeds the smallest possible p over seeds is {smallest_p(seeds):.4g}, before the correction"
    if smallest_p(seeds) >= LEVEL and all(against.unit == "seeds" for against in compared):
        return f"{found}: with so few cases and seeds nothing can be told apart."
    return f"{found}."
