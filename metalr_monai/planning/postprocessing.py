"""Keep the largest component only, where that helps on the cases that the folds held out.

Rule of nnU-Net 2.8.1 (`postprocessing/remove_connected_components.py`): first the largest component of all foreground
taken together, then that of each region alone, in their order, on what the accepted ones before have left. Each is
accepted if the mean Dice over the regions rises and no region's falls. (nnU-Net asks the latter of the first step only;
of a region that lies in another, such as a tumour in a liver, what is removed is lost to the other, too.) Components
are connected by faces, edges and corners, as nnU-Net's. A tie leaves the prediction as it is.

Each case is read once and all its outcomes are kept as numbers: a step depends on all foreground's and on those before
it whose regions share a label with it, so the components are found in 2 · 2ⁿ maps for n such regions, less those that
a step leaves as they were.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ..data.largest_component import LargestComponentd
from ..errors import DataError
from ..evaluation.label_pairs import Files, LabelPair, label_pairs, label_values, of_each_pair, refuse_all_failed
from ..evaluation.segmentation import read_classes
from ..evaluation.tables import write_json
from ..evaluation.voxel_counts import joint_counts

ALL_FOREGROUND = "all foreground"

Regions = Mapping[str, tuple[int, ...]]
Dice = dict[str, float]  # by region
On = tuple[bool, ...]  # which steps of a group of regions are taken


@dataclass(frozen=True)
class Step:
    """One step that was weighed: keep the largest component of `labels`, taken together.

    Attributes:
        name: the region's, or "all foreground".
        labels: label values that count as one object.
        taken: it helps.
        dice_before, dice_after: region → mean Dice over the cases, without and with it, after the steps taken before.
            NaN where no case has a score.
        reason: in words.
    """

    name: str
    labels: tuple[int, ...]
    taken: bool
    dice_before: Mapping[str, float]
    dice_after: Mapping[str, float]
    reason: str


@dataclass(frozen=True)
class Postprocessing:
    """What `decide_postprocessing` found.

    Attributes:
        regions: region → label values.
        steps: all that were weighed, in the order in which they are applied.
        cases: number of cases it was decided on.
        failed: case → why it could not be used.
        plan: identity of the plan whose networks made the predictions; "" where that is not known.
    """

    regions: Regions
    steps: tuple[Step, ...]
    cases: int
    failed: Mapping[str, str]
    plan: str = ""

    @property
    def ok(self) -> bool:
        """Every case was used."""
        return not self.failed

    @property
    def taken(self) -> tuple[Step, ...]:
        """The steps to apply, in this order."""
        return tuple(step for step in self.steps if step.taken)

    @property
    def dice_before(self) -> Mapping[str, float]:
        """Region → mean Dice of the predictions as they are."""
        return self.steps[0].dice_before

    @property
    def dice_after(self) -> Mapping[str, float]:
        """Region → mean Dice after all steps taken."""
        last = self.steps[-1]
        return last.dice_after if last.taken else last.dice_before


def decide_postprocessing(
    predictions: Files,
    references: Files,
    regions: Mapping[str, int | Sequence[int]],
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Postprocessing:
    """Decide which components to remove, on predictions of cases that their networks were not trained on.

    A case that cannot be scored, as in `score_folder`, does not stop the others: see `Postprocessing.failed`.

    Args:
        predictions, references: a folder of `<case>.nii.gz`, or case → path: all folds' held-out cases.
        regions: region → label value, or values: {"liver": [1, 2], "tumour": 2}.
        workers: threads, each with one case at a time in memory; by default up to 4.
        progress: show a bar with the time left on standard error.

    Raises:
        OptionError: there are no regions, or their labels are none.
        DataError: there is no such folder, or not one case could be used.
    """
    known = read_classes(regions)
    groups = _groups(known)
    pairs, unpaired = label_pairs(predictions, references)
    outcomes, failed = of_each_pair(
        lambda pair: _outcomes(pair, known, groups), pairs, desc="postprocess", workers=workers, progress=progress
    )
    failed = {**unpaired, **failed}
    if not outcomes:
        refuse_all_failed(failed, "used")
    return Postprocessing(known, _decide(known, groups, outcomes), len(outcomes), failed)


def write_postprocessing(decision: Postprocessing, path: str | PathLike[str]) -> None:
    """Write the decision as JSON, atomically."""
    write_json(asdict(decision), Path(path))


def read_postprocessing(path: str | PathLike[str]) -> Postprocessing:
    """The decision that `write_postprocessing` has written.

    Raises:
        DataError: the file is missing, or no such decision.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not content["steps"]:
            raise ValueError("it has no steps")
        return Postprocessing(
            regions={str(name): tuple(map(int, values)) for name, values in content["regions"].items()},
            steps=tuple(_read_step(step) for step in content["steps"]),
            cases=int(content["cases"]),
            failed={str(case): str(reason) for case, reason in content["failed"].items()},
            plan=str(content["plan"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read as a decision on post-processing ({type(error).__name__}: {error}); expected what "
            f"the verb postprocess writes. Decide again."
        ) from error


def _read_step(step: Mapping[str, Any]) -> Step:
    before, after = (
        {str(region): math.nan if dice is None else float(dice) for region, dice in step[key].items()}
        for key in ("dice_before", "dice_after")
    )
    if not isinstance(step["taken"], bool):
        raise TypeError(f"'taken' is {step['taken']!r}, not true or false")
    return Step(step["name"], tuple(map(int, step["labels"])), step["taken"], before, after, str(step["reason"]))


# ---------------------------------------------------------------------- one case


@dataclass(frozen=True)
class _Group:
    """Regions that share labels, directly or by others, and those among them whose largest component may be kept."""

    regions: tuple[str, ...]
    steps: tuple[str, ...]


@dataclass(frozen=True)
class _Outcomes:
    """A case's Dice: `dice[all foreground's component kept][number of the group][steps taken]` of the group."""

    dice: Mapping[bool, Sequence[Mapping[On, Dice]]]


def _groups(regions: Regions) -> list[_Group]:
    groups: list[set[str]] = []
    for name, values in regions.items():
        touched = [group for group in groups if any(set(values) & set(regions[other]) for other in group)]
        groups = [group for group in groups if group not in touched] + [{name}.union(*touched)]
    # The step of a region that is all foreground would be the first one again
    foreground = set(label_values(regions))
    steps = {name for name, values in regions.items() if set(values) != foreground}
    return [
        _Group(tuple(name for name in regions if name in group), tuple(n for n in regions if n in group & steps))
        for group in groups
    ]


def _outcomes(pair: LabelPair, regions: Regions, groups: Sequence[_Group]) -> _Outcomes:
    values = label_values(regions)
    predicted, wanted = pair.read(values)
    counts = joint_counts(predicted, wanted, values)
    n_ref = {name: counts.of(region).n_ref for name, region in regions.items()}
    box = _foreground_box(predicted)
    wanted = wanted[box]

    def dice(labels: Tensor, names: Sequence[str]) -> Dice:
        inside = joint_counts(labels[0].numpy(), wanted, values)
        found = {name: inside.of(regions[name]) for name in names}
        return {name: _ratio(2 * c.tp, c.n_pred + n_ref[name]) for name, c in found.items()}

    def by_steps(labels: Tensor, steps: Sequence[str], group: _Group) -> dict[On, Dice]:
        if not steps:
            return {(): dice(labels, group.regions)}
        off = by_steps(labels, steps[1:], group)
        kept = _largest(labels, regions[steps[0]])
        on = off if torch.equal(kept, labels) else by_steps(kept, steps[1:], group)
        return {(taken, *rest): d for taken, found in ((False, off), (True, on)) for rest, d in found.items()}

    whole = _as_tensor(predicted[box])
    kept = _largest(whole, values)
    off = [by_steps(whole, group.steps, group) for group in groups]
    on = off if torch.equal(kept, whole) else [by_steps(kept, group.steps, group) for group in groups]
    return _Outcomes({False: off, True: on})


def _foreground_box(labels: NDArray[Any]) -> tuple[slice, ...]:
    """The box of all foreground, or one voxel where there is none: what lies outside of it has no component."""
    boxes = ndimage.find_objects((labels != 0).view(np.int8))
    return boxes[0] if boxes else (slice(0, 1),) * labels.ndim


def _as_tensor(labels: NDArray[Any]) -> Tensor:
    # torch cannot write into uint16
    return torch.from_numpy(labels if labels.dtype == np.uint8 else labels.astype(np.int32))[None]


def _largest(labels: Tensor, values: Sequence[int]) -> Tensor:
    kept: Tensor = LargestComponentd("labels", values)({"labels": labels})["labels"]
    return kept


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


# ---------------------------------------------------------------------- all cases


def _decide(regions: Regions, groups: Sequence[_Group], outcomes: Sequence[_Outcomes]) -> tuple[Step, ...]:
    on: list[On] = [(False,) * len(group.steps) for group in groups]
    first = _weigh(
        ALL_FOREGROUND,
        tuple(label_values(regions)),
        _mean_dice(regions, outcomes, False, on),
        _mean_dice(regions, outcomes, True, on),
        len(outcomes),
    )
    whole, steps = first.taken, [first]
    for name in regions:
        for number, group in enumerate(groups):
            if name not in group.steps:
                continue
            place = group.steps.index(name)
            tried = [*on[:number], (*on[number][:place], True, *on[number][place + 1 :]), *on[number + 1 :]]
            before, after = (_mean_dice(regions, outcomes, whole, taken) for taken in (on, tried))
            steps.append(_weigh(name, regions[name], before, after, len(outcomes)))
            on = tried if steps[-1].taken else on
    return tuple(steps)


def _mean_dice(regions: Regions, outcomes: Sequence[_Outcomes], whole: bool, on: Sequence[On]) -> Dice:
    """Region → mean over the cases that have a score; exactly rounded, so that the order of cases makes no winner."""
    scores: dict[str, list[float]] = defaultdict(list)
    for case in outcomes:
        for group, taken in zip(case.dice[whole], on, strict=True):
            for region, dice in group[taken].items():
                scores[region].append(dice)
    return {region: _mean(scores[region]) for region in regions}


def _mean(values: Sequence[float]) -> float:
    scored = [value for value in values if not math.isnan(value)]
    return math.fsum(scored) / len(scored) if scored else math.nan


def _weigh(name: str, labels: tuple[int, ...], before: Dice, after: Dice, cases: int) -> Step:
    worse = [region for region in before if after[region] < before[region]]
    mean_before, mean_after = _mean(list(before.values())), _mean(list(after.values()))
    taken = not worse and mean_after > mean_before
    if math.isnan(mean_before):
        told = "kept off: no region has a score"
    elif worse:
        lost = max(worse, key=lambda region: before[region] - after[region])
        told = f"kept off: mean Dice of {lost} {before[lost]:.5f} → {after[lost]:.5f}"
    elif taken:
        told = f"on: mean Dice {mean_before:.5f} → {mean_after:.5f}, no region's falls,"
    else:
        told = f"kept off: mean Dice stays {mean_before:.5f}"
    return Step(name, labels, taken, before, after, f"{told} on {cases} case{'' if cases == 1 else 's'}")
