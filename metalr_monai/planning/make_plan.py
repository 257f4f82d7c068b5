"""From a data set to its plan: the files of a workspace before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.ct_lists import data_list
from ..errors import DataError, OptionError, first_few
from ..evaluation.tables import write_json
from .file_marks import marks_of
from .fingerprint import Fingerprint, nnunet_fingerprint, read_fingerprint
from .from_checkpoint import plan_from_checkpoint
from .from_scratch import plan_from_scratch
from .input_contract import read_contract
from .nnunet_files import make_folds, nnunet_regions, read_folds, write_folds
from .plan import Choice, Plan, read_plan, write_plan
from .plan_rules import EVALUATED
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
    folds: int = 5,
    memory_gb: float | None = None,
    bfloat16: bool | None = None,
    workers: int | None = None,
) -> Plan:
    """Write `plan.json`, `splits_final.json` and `dataset_fingerprint.json`, or find them there.

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
        folds: of the cross-validation.
        memory_gb: of 2³⁰ bytes, for training; None for what is free.
        bfloat16: train and predict in it; None where that is faster.
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
    items = data_list(kind, str(folder))
    if odd := [str(item["case_id"]) for item in items if str(item["case_id"]).startswith(EVALUATED)]:
        raise DataError(f"The names of cases begin with {' '.join(EVALUATED)}: {first_few(odd)}. Rename their files.")
    wanted, output_values = _regions(kind, folder, regions)
    contract = None if checkpoint is None else read_contract(checkpoint)
    fingerprint = read_fingerprint(
        items, labels=_labels(wanted), hu_window=None if contract is None else contract.hu_window, workers=workers
    )
    options: dict[str, Any] = {"regions": wanted, "folds": folds, "memory_gb": memory_gb, "bfloat16": bfloat16}
    if iterations is not None:
        options["iterations"] = iterations
    choices = (
        plan_from_scratch(fingerprint, **options)
        if contract is None
        else plan_from_checkpoint(fingerprint, checkpoint=contract, **options)
    )
    choices["bundle"] = Choice(str(bundle), "trains and predicts")
    dataset = {"kind": kind, "folder": str(folder), "asked": asked, "marks": marks_of(items, workers=workers)}
    plan = Plan("scratch" if contract is None else "checkpoint", dataset, wanted, output_values, choices)
    _write(plan, place, fingerprint)
    return plan


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
            f"values, or remove it to plan anew."
        )
    _ = open_plan(place.plan).items  # which refuses data that has changed
    return plan


def _regions(
    kind: str, folder: Path, given: Mapping[str, Sequence[int]] | None
) -> tuple[dict[str, list[int]], list[int]]:
    """Region → label values, and the value that a prediction has for each: the first that no earlier region took."""
    if given is None and kind == "nnunet":
        return nnunet_regions(folder)
    regions = {name: list(values) for name, values in (given or LIVER).items()}
    outputs: list[int] = []
    for name, values in regions.items():
        free = [value for value in values if value not in outputs]
        if not free:
            raise OptionError(f"The region {name!r} has no label value of its own: {regions}. Put inner regions last.")
        outputs.append(free[0])
    return regions, outputs


def _labels(regions: Mapping[str, Sequence[int]]) -> list[int]:
    return sorted({0, *(value for values in regions.values() for value in values)})


def _write(plan: Plan, place: Workspace, fingerprint: Fingerprint) -> None:
    """The plan last: it stands for all of them."""
    place.folder.mkdir(parents=True, exist_ok=True)
    cases = [facts.case for facts in fingerprint.cases]
    if place.splits.is_file():
        read_folds(place.splits, cases)
    else:
        write_folds(make_folds(cases, plan["folds"]), place.splits)
    write_json(nnunet_fingerprint(fingerprint), place.fingerprint)
    write_plan(plan, place.plan)
