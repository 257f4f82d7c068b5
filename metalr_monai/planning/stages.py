"""The stages of a plan, each of which goes on where it was stopped: preprocess, train, evaluate, decide, predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..data.ct_lists import Item, data_list
from ..errors import DataError, OptionError, StateError
from ..evaluation.nnunet_summary import FolderScores
from .case_prediction import Predicted, predict_cases
from .cross_validation import decide, score_all, score_fold, trained_networks
from .file_marks import refuse_changed
from .fold_training import train_fold
from .input_cases import input_cases
from .nnunet_files import Fold, read_folds
from .plan import Plan, read_plan
from .postprocessing import Postprocessing, Step, read_postprocessing
from .prepared_cases import PreparedCases, prepare_cases
from .workspace import Workspace, workspace


@dataclass(frozen=True)
class Stages:
    """A plan, its data set and its folds.

    Attributes:
        plan: as read from `plan.json`.
        place: where everything is.
        folds: as read from `splits_final.json`.
    """

    plan: Plan
    place: Workspace
    folds: Sequence[Fold]

    @cached_property
    def items(self) -> dict[str, Item]:
        """Case → its item, of a data set that is still the one that was planned for.

        Raises:
            DataError: it has changed since, with the cases that have.
        """
        found = data_list(self.plan.dataset["kind"], self.plan.dataset["folder"])
        refuse_changed(found, self.plan.dataset["marks"], self.place.plan)
        return {str(item["case_id"]): item for item in found}

    def numbers(self, fold: int | str) -> list[int]:
        """Folds to work on.

        Args:
            fold: "all", or one of 1 … N.

        Raises:
            OptionError: it is neither.
        """
        known = list(range(1, len(self.folds) + 1))
        if fold == "all":
            return known
        if isinstance(fold, bool) or not isinstance(fold, int) or fold not in known:
            raise OptionError(f"--fold is {fold!r}; expected all, or one of 1 … {len(known)}.")
        return [fold]

    def preprocess(self, *, verify: bool = False, workers: int | None = None) -> PreparedCases:
        """Orient, resample and scale the cases that are not yet."""
        return prepare_cases(
            list(self.items.values()),
            self.place.prepared,
            spacing=self.plan["spacing"],
            hu_window=self.plan["hu_window"],
            value_range=self.plan["value_range"],
            regions=self.plan.regions,
            identity=self.plan.preprocessing_identity,
            verify=verify,
            workers=workers,
        )

    def train(self, fold: int | str = "all") -> dict[int, bool]:
        """Train folds; fold → whether anything was left to do."""
        numbers = self.numbers(fold)
        _ = self.items  # changed data stops here, not after hours
        return {number: train_fold(self.plan, self.place, number, self.folds[number - 1]) for number in numbers}

    def held_out(self, fold: int) -> list[Item]:
        """The cases that a fold's network has not seen."""
        return [self.items[case] for case in self.folds[fold - 1]["val"]]

    def splits(self, numbers: Sequence[int]) -> dict[int, Fold]:
        """Fold → its cases."""
        return {number: self.folds[number - 1] for number in numbers}

    def evaluate(self, fold: int | str = "all") -> FolderScores:
        """Scores of folds' held-out cases, and of all folds together where all are asked for.

        Raises:
            DataError: not one case of a fold could be scored; the other folds are.
        """
        splits = self.splits(self.numbers(fold))
        trained_networks(self.plan, self.place, splits)
        scores: list[FolderScores] = []
        faults: list[str] = []
        for number, split in splits.items():
            try:
                scores.append(score_fold(self.plan, self.place, number, split, self.held_out(number)))
            except DataError as error:
                faults.append(str(error))
        if faults:
            raise DataError("\n".join(faults))
        return score_all(self.plan, self.place, list(splits)) if fold == "all" else scores[0]

    def postprocess(self) -> Postprocessing:
        """What to keep of a prediction, by all held-out cases."""
        splits = self.splits(self.numbers("all"))
        return decide(self.plan, self.place, splits, {number: self.held_out(number) for number in splits})

    def predict(self, images: Path, output: Path, *, fold: int | str = "all", mirroring: bool = True) -> Predicted:
        """Label maps of a folder's images, by the mean of the folds' networks, and post-processed as was decided.

        Args:
            images: the folder.
            output: folder of the label maps.
            fold: one alone, or "all".
            mirroring: False predicts without mirrored copies, also where the plan has them.

        Raises:
            OptionError: the label maps would lie among the images.
            StateError: a fold is not trained, or something was made by another plan.
        """
        if images.resolve() == output.resolve():
            raise OptionError(f"{images} is to be predicted and written into; name another folder for the label maps.")
        networks = trained_networks(self.plan, self.place, self.splits(self.numbers(fold)))
        keep = [step.labels for step in self._postprocessing()]
        items, unreadable = input_cases(images)
        found = predict_cases(self.plan, networks, items, output, keep=keep, mirroring=mirroring)
        return Predicted(found.files, {**unreadable, **found.failed})

    def _postprocessing(self) -> Sequence[Step]:
        if not self.place.postprocessing.is_file():
            return ()
        decision = read_postprocessing(self.place.postprocessing)
        if decision.plan != self.plan.identity:
            raise StateError(
                f"{self.place.postprocessing} was decided for another plan. Decide again: python -m metalr_monai "
                f"postprocess {self.place.plan}; or remove it, to keep predictions as they are."
            )
        return decision.taken


def open_plan(plan: str | Path) -> Stages:
    """The stages of a plan: the path of its `plan.json`, or of the folder with one.

    Raises:
        DataError, OptionError: the plan or its folds cannot be read, or hold what cannot be.
    """
    place = workspace(plan)
    found = read_plan(place.plan)
    marks: Mapping[str, Any] = found.dataset["marks"]
    return Stages(found, place, read_folds(place.splits, list(marks)))
