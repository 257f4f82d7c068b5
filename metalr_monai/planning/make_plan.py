"""From a data set to its plan: the files of a workspace before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.ct_lists import Item, data_list
from ..data.data_check import DataCheck
from ..errors import DataError, OptionError, first_few
from ..evaluation.tables import write_json
from ..settings import check_settings
from .file_marks import marks_of
from .fingerprint import Fingerprint, nnunet_fingerprint, read_fingerprint
from .from_checkpoint import plan_from_checkpoint
from .from_scratch import plan_from_scratch
from .input_contract import read_contract
from .nnunet_files import Fold, make_folds, nnunet_regions, read_folds, write_folds
from .plan import Choice, Plan, read_plan, write_plan
from .plan_rules import EVALUATED
from .shared_choices import FOLDS, fold_choice, memory_choice
from .stages import open_plan
from .workspace import Workspace

LIVER = {"liver": [1, 2]}  # of label values 1 liver and 2 tumour, the task of LiTS in the paper


def make_plan(
    kind: str,
    folder: Path,
    place: Workspace,
    *,
    bundle: Path,
    checkpoint: Path | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
    iterations: int | None = None,
    folds: int | None = None,
    memory_gb: float | None = None,
    bfloat16: bool | None = None,
    check: str = "voxels",
    workers: int | None = None,
) -> Plan:
    """Write `plan.json` and what it was derived from, or find it there.

    A plan that is there is left as it is, with what a person may have edited in it, if it was asked for in the same
    words and its data set has not changed since. `splits_final.json`, also nnU-Net's own, is taken if it is there.

    Args:
        kind: layout of `folder`, as of `data_list`.
        folder: absolute path of the data set.
        place: where to.
        bundle: absolute path of the bundle that trains.
        checkpoint: pre-trained weights; None trains from scratch.
        regions: region → label values; None for those of `dataset.json`, or liver = 1, 2 where there is none.
        iterations: steps of each fold; None for what the family plans.
        folds: of the cross-validation; None for those of a `splits_final.json` that is there, or 5.
        memory_gb: of 2³⁰ bytes, for training; None for what is free.
        bfloat16: train and predict in it; None where that is faster.
        check: how closely the data are looked at, as of `DataCheck`.
        workers: threads.

    Raises:
        DataError: the data set cannot be planned for, or is no longer the one of the plan that is there.
        OptionError: a value that cannot be, or a plan that is there and was asked for otherwise.
    """
    given = {"regions": regions, "iterations": iterations, "memory_gb": memory_gb, "bfloat16": bfloat16, "folds": folds}
    asked: dict[str, Any] = {
        **{name: value for name, value in given.items() if value is not None},
        **({} if checkpoint is None else {"checkpoint": str(checkpoint)}),
        "bundle": str(bundle),
        "kind": kind,
        "folder": str(folder),
    }
    if place.plan.is_file():
        return _planned(place, asked)
    if not (bundle / "configs/train.json").is_file():
        raise OptionError(
            f"There is no {bundle}/configs/train.json; expected the liver bundle's folder: --bundle FOLDER."
        )
    items = _cases(kind, folder)
    wanted, output_values = _regions(kind, folder, regions)
    check_settings({"regions": wanted})
    if iterations is not None and (isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1):
        raise OptionError(f"iterations is {iterations!r}; expected a whole number, 1 or more.")
    splits = _splits(place, [str(item["case_id"]) for item in items], folds)
    contract = None if checkpoint is None else read_contract(checkpoint)
    window = None if contract is None else contract.hu_window
    options: dict[str, Any] = {
        "regions": wanted,
        "folds": len(splits),
        "memory_gb": None if memory_gb is None else memory_choice(memory_gb).value,
        "bfloat16": bfloat16,
        **({} if iterations is None else {"iterations": iterations}),
    }
    fingerprint = read_fingerprint(items, labels=_labels(wanted), hu_window=window, workers=workers)
    _refuse_absent(wanted, fingerprint, splits)
    choices = (
        plan_from_scratch(fingerprint, **options)
        if contract is None
        else plan_from_checkpoint(fingerprint, checkpoint=contract, **options)
    )
    choices["bundle"] = Choice(str(bundle), "trains and predicts")
    values = {name: choice.value for name, choice in choices.items()}
    warnings = _checked(items, wanted, values, check, place)
    marks = marks_of(items, workers=workers)
    dataset = {"kind": kind, "folder": str(folder), "asked": asked, "warnings": warnings, "marks": marks}
    plan = Plan("scratch" if contract is None else "checkpoint", dataset, wanted, output_values, choices)
    write_json(nnunet_fingerprint(fingerprint), place.fingerprint)
    write_json(fingerprint.to_dict(), place.facts)
    write_folds(splits, place.splits)
    write_plan(plan, place.plan)  # last: it stands for all of them
    return plan


def _cases(kind: str, folder: Path) -> list[Item]:
    """The data list, of CT with names that a config may hold."""
    items = data_list(kind, str(folder))
    if odd := [str(item["case_id"]) for item in items if str(item["case_id"]).startswith(EVALUATED)]:
        raise DataError(f"The names of cases begin with {' '.join(EVALUATED)}: {first_few(odd)}. Rename their files.")
    if kind in ("nnunet", "msd"):
        info = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        channels = info.get("channel_names") or info.get("modality") or {}
        if other := [str(name) for name in channels.values() if str(name).upper() != "CT"]:
            raise DataError(f"{folder}/dataset.json says {first_few(other)}; expected CT alone, whose values are HU.")
    return items


def _splits(place: Workspace, cases: Sequence[str], folds: int | None) -> list[Fold]:
    """Those that are there, or nnU-Net's."""
    if not place.splits.is_file():
        return make_folds(cases, fold_choice(FOLDS if folds is None else folds, len(cases)).value)
    found = read_folds(place.splits, cases)
    advice = f"Remove {place.splits} to have the folds drawn, or correct it."
    if folds is not None and folds != len(found):
        raise OptionError(f"--folds is {folds}, and {place.splits} has {len(found)}. {advice}")
    named = {case for fold in found for part in ("train", "val") for case in fold[part]}
    if left_out := [case for case in cases if case not in named]:
        raise DataError(f"{place.splits} has {first_few(left_out)} in no fold. {advice}")
    return found


def _refuse_absent(regions: Mapping[str, Sequence[int]], fingerprint: Fingerprint, splits: Sequence[Fold]) -> None:
    """A region that a fold has no training case of cannot be learned in it."""
    labels = {facts.case: facts.voxels for facts in fingerprint.cases}
    for number, fold in enumerate(splits, 1):
        for name, values in regions.items():
            if not any(labels[case].get(value) for case in fold["train"] for value in values):
                raise DataError(
                    f"The region {name!r}, label values {list(values)}, is in none of the training cases of "
                    f"fold {number}. Correct the labels, or what is segmented: --regions, or dataset.json."
                )


def _checked(
    items: Sequence[Item], regions: Mapping[str, Sequence[int]], values: Mapping[str, Any], check: str, place: Workspace
) -> list[str]:
    """What the bundle's own check says of the data: errors are raised, warnings are kept with the plan."""
    place.folder.mkdir(parents=True, exist_ok=True)
    data_check = DataCheck(
        check,
        regions=regions,
        hu_window=values["hu_window"],
        spacing=values["spacing"],
        patch_size=values["patch_size"],
    )
    data_check({"train": list(items)}, place.folder)
    return list(data_check.warnings)


def _planned(place: Workspace, asked: Mapping[str, Any]) -> Plan:
    """The plan that is there."""
    plan = read_plan(place.plan)
    before = plan.dataset.get("asked", {})
    if told := [
        f"{name} {before.get(name)!r}, and now {asked.get(name)!r}"
        for name in dict.fromkeys([*before, *asked])
        if before.get(name) != asked.get(name)
    ]:
        raise OptionError(
            f"{place.plan} is there, and was asked for with {'; '.join(told)}. Name another --output, edit that plan's "
            f"values, or remove it (and splits_final.json, for other folds) to plan anew."
        )
    _ = open_plan(place.plan).items  # which refuses data that has changed
    return plan


def _regions(
    kind: str, folder: Path, given: Mapping[str, Sequence[int]] | None
) -> tuple[dict[str, list[int]], list[int]]:
    """Region → label values, and the value that a prediction has for each."""
    if given is None and kind == "nnunet":
        return nnunet_regions(folder)
    regions = {name: list(values) for name, values in (given or LIVER).items()}
    return regions, output_values_of(regions)


def output_values_of(regions: Mapping[str, Sequence[int]]) -> list[int]:
    """The label value that a prediction has for each region: its first that no region before it has taken.

    Raises:
        OptionError: a region has none of its own.

    Example:
        >>> output_values_of({"liver": [1, 2], "tumour": [2]})
        [1, 2]
    """
    outputs: list[int] = []
    for name, values in regions.items():
        free = [value for value in values if value not in outputs]
        if not free:
            raise OptionError(f"The region {name!r} has no label value of its own: {regions}. Put inner ones last.")
        outputs.append(free[0])
    return outputs


def _labels(regions: Mapping[str, Sequence[int]]) -> list[int]:
    return sorted({0, *(value for values in regions.values() for value in values)})
