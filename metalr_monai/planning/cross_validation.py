"""Score the cases that the folds held out, fold by fold and all together, and decide the post-processing by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DataError, StateError
from ..evaluation.nnunet_summary import FolderScores, merge_summaries, score_folder
from .case_prediction import predict_cases
from .fold_training import is_trained, refuse_another_plan
from .plan import Plan
from .postprocessing import Postprocessing, decide_postprocessing, write_postprocessing
from .workspace import Workspace

Item = Mapping[str, Any]
Split = Mapping[str, Sequence[str]]


def score_fold(plan: Plan, place: Workspace, fold: int, split: Split, items: Sequence[Item]) -> FolderScores:
    """Predict a fold's held-out cases, those that are not there yet, and write their `summary.json`.

    A case that fails does not stop the others: see `FolderScores.failed`.

    Args:
        plan: what the fold was trained by.
        place: where it is.
        fold: 1 … N.
        split: its cases.
        items: those held out: "image", "label" and "case_id".

    Raises:
        StateError: the fold is not trained, or was trained with another plan.
        DataError: not one case could be scored.
    """
    networks, folder = trained_networks(plan, place, {fold: split}), place.validation(fold)
    predicted = predict_cases(plan, networks, items, folder)
    if not predicted.files:
        told = "; ".join(f"{case}: {reason}" for case, reason in predicted.failed.items())
        raise DataError(f"Not one held-out case of fold {fold} could be predicted: {told}.")
    wanted = {str(item["case_id"]): str(item["label"]) for item in items}
    scores = score_folder(predicted.files, wanted, plan.classes)
    scores = replace(scores, failed={**scores.failed, **predicted.failed})
    scores.write(folder)
    return scores


def score_all(plan: Plan, place: Workspace, folds: Sequence[int]) -> FolderScores:
    """All scored folds' cases together, written into `cross_validation`."""
    files = [place.validation(fold) / "summary.json" for fold in folds]
    return merge_summaries(files, plan.classes, output=place.cross_validation)


def decide(
    plan: Plan, place: Workspace, splits: Mapping[int, Split], held_out: Mapping[int, Sequence[Item]]
) -> Postprocessing:
    """Decide by all folds' held-out cases whether to keep largest components alone, and write `postprocessing.json`.

    Args:
        plan: what the folds were trained by.
        place: where they are.
        splits: fold → its cases.
        held_out: fold → those held out.

    Raises:
        StateError: a fold is not trained, was trained with another plan, or has not been scored.
    """
    trained_networks(plan, place, splits)
    if unscored := [fold for fold in splits if not (place.validation(fold) / "summary.json").is_file()]:
        raise StateError(f"Fold {unscored[0]} is not scored; first: python -m metalr_monai evaluate {place.plan}.")
    predictions: dict[str, Path] = {}
    references: dict[str, str] = {}
    for fold, items in held_out.items():
        for item in items:
            case = str(item["case_id"])
            predictions[case] = place.validation(fold) / f"{case}.nii.gz"
            references[case] = str(item["label"])
    decision = replace(decide_postprocessing(predictions, references, plan.regions), plan=plan.identity)
    write_postprocessing(decision, place.postprocessing)
    return decision


def trained_networks(plan: Plan, place: Workspace, splits: Mapping[int, Split]) -> list[Path]:
    """The networks of folds, by their numbers and cases.

    Raises:
        StateError: a fold is not trained, or was trained with another plan.
    """
    for fold, split in splits.items():
        refuse_another_plan(plan, place, fold, split)
        if not is_trained(place, fold):
            raise StateError(
                f"Fold {fold} in {place.fold(fold)} is not trained; train it first: python -m metalr_monai train "
                f"{place.plan} --fold {fold}."
            )
    return [place.network(fold) for fold in splits]
