"""Where the files of a plan are: everything lies in the folder of `plan.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """The paths of one plan; nothing is made or looked up.

    Attributes:
        plan: `plan.json`, absolute.
    """

    plan: Path

    @property
    def folder(self) -> Path:
        """All of it."""
        return self.plan.parent

    @property
    def fingerprint(self) -> Path:
        """nnU-Net's `dataset_fingerprint.json`."""
        return self.folder / "dataset_fingerprint.json"

    @property
    def facts(self) -> Path:
        """The whole fingerprint: besides nnU-Net's orientations, class sizes and what the window clips, by case."""
        return self.folder / "fingerprint.json"

    @property
    def splits(self) -> Path:
        """nnU-Net's `splits_final.json`."""
        return self.folder / "splits_final.json"

    @property
    def prepared(self) -> Path:
        """The prepared cases, a folder each."""
        return self.folder / "preprocessed"

    def fold(self, number: int) -> Path:
        """The run's folder of fold `number`, 1 … N."""
        return self.folder / "folds" / f"fold_{number}"

    def network(self, number: int) -> Path:
        """The trained network of a fold."""
        return self.fold(number) / "model" / "model.pt"

    def validation(self, number: int) -> Path:
        """What a fold's network says of the cases that it never saw, with their `summary.json`."""
        return self.fold(number) / "validation"

    @property
    def cross_validation(self) -> Path:
        """The scores of all folds together."""
        return self.folder / "cross_validation"

    @property
    def postprocessing(self) -> Path:
        """What is kept of a prediction, as the folds decided."""
        return self.folder / "postprocessing.json"


def workspace(plan: str | Path) -> Workspace:
    """The workspace of a plan: the path of its file, which ends in `.json`, or of the folder with `plan.json`."""
    path = Path(plan).expanduser().absolute()
    return Workspace(path if path.suffix == ".json" and not path.is_dir() else path / "plan.json")
