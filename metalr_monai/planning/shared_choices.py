"""The choices that both families make alike: batch, length, folds, loss, prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, Final

from ..errors import OptionError
from ..networks.bfloat16 import gains_by_bfloat16
from .memory import GIGABYTE, TrainingMemory, memory_at_hand
from .plan import Choice
from .topology import sides

FEWEST_PATCHES: Final = 2  # in a batch, as nnU-Net
MOST_OF_DATA: Final = 0.05  # of the data set's voxels in a batch, as nnU-Net
USUAL_MEMORY: Final = 8.0  # GB, nnU-Net's target
SHARE_OF_FREE: Final = 0.8  # the rest is for the process, the data and other programs
OVERSAMPLING: Final = 0.33  # nnU-Net's oversampling
FOLDS: Final = 5
VALIDATIONS: Final = 5  # in a training, besides the one before it: each predicts every held-out scan
EPOCH_STEPS: Final = 50  # at least: each epoch ends with a checkpoint, which is not to cost more than its steps


@dataclass(frozen=True)
class Resampled:
    """The data set after resampling: how many cases, their median shape in voxels (x, y, z)."""

    cases: int
    shape: tuple[float, float, float]

    @property
    def voxels(self) -> float:
        """Of all cases."""
        return self.cases * prod(self.shape)


def memory_choice(memory_gb: float | None) -> Choice:
    """What training may take, in units of 2³⁰ bytes.

    Raises:
        OptionError: it is no number above 0.
    """
    if memory_gb is not None:
        if isinstance(memory_gb, bool) or not isinstance(memory_gb, (int, float)) or not 0 < memory_gb < float("inf"):
            raise OptionError(f"memory_gb is {memory_gb!r}; expected a number above 0, what training may take.")
        return Choice(float(memory_gb), "as given")
    free = memory_at_hand()
    value = round(min(USUAL_MEMORY, SHARE_OF_FREE * free), 1)
    return Choice(
        value,
        f"the smaller of nnU-Net's usual {USUAL_MEMORY:g} GB and {SHARE_OF_FREE:.0%} of the {free:.1f} GB that were "
        f"free when this was planned; give memory_gb for another",
    )


def fold_choice(folds: int, cases: int) -> Choice:
    """The number of folds, at most that of cases.

    Raises:
        OptionError: fewer than 2 folds, or cases.
    """
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise OptionError(f"folds is {folds!r}; expected a whole number, 2 or more.")
    if cases < 2:
        raise OptionError(f"There is {cases} case; expected 2 or more, so that a fold can hold one out.")
    if cases < folds:
        return Choice(cases, f"as many as there are cases; {folds} would leave some without one to hold out")
    reason = "as nnU-Net" if folds == FOLDS else "as given"
    return Choice(folds, f"{reason}: each case is predicted once by networks that never saw it")


def batch_choices(
    memory: TrainingMemory, memory_gb: float, patch_size: Sequence[int], data: Resampled, folds: int
) -> dict[str, Choice]:
    """How many patches a step sees, as scans a step times patches a scan, since a scan comes once an epoch.

    Raises:
        OptionError: not even two patches fit.
    """
    fitting = memory.largest_batch(memory_gb)
    if fitting < FEWEST_PATCHES:
        raise OptionError(
            f"memory_gb is {memory_gb:g}, and {FEWEST_PATCHES} patches of {sides(patch_size)} voxels take "
            f"{_gigabytes(memory.total(FEWEST_PATCHES))}; give at least that, or a smaller network."
        )
    enough = round(MOST_OF_DATA * data.voxels / prod(patch_size))
    patches = max(FEWEST_PATCHES, min(fitting, enough))
    training = training_cases(data.cases, folds)
    from_each = ceil(patches / training)
    scans = patches // from_each
    limit = "5 % of the data set's voxels are no more" if enough < fitting else f"more do not fit in {memory_gb:g} GB"
    if enough < FEWEST_PATCHES:
        limit = f"nnU-Net's least, though it is more than {MOST_OF_DATA:.0%} of the data set's voxels"
    why_each = (
        "each patch of a step from another scan, as nnU-Net"
        if from_each == 1
        else f"{patches} patches a step are more than a fold's {training} training scans"
    )
    return {
        "batch_size": Choice(
            scans,
            f"scans a step, {scans * from_each} patches in all: {limit}; counted are {_gigabytes(memory.per_patch)} a "
            f"patch beside {_gigabytes(memory.fixed)}, {_gigabytes(memory.total(scans * from_each))} in all",
        ),
        "patches_per_volume": Choice(from_each, why_each),
    }


def length_choices(iterations: int, why: str, batch_size: int, cases: int, folds: int) -> dict[str, Choice]:
    """Epochs for a fixed number of steps, an epoch being every training scan of a fold as often as `passes` says.

    Raises:
        OptionError: `iterations` is no whole number above 0.
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise OptionError(f"iterations is {iterations!r}; expected a whole number, 1 or more.")
    training = training_cases(cases, folds)
    passes = max(1, min(EPOCH_STEPS, iterations) * batch_size // training)
    steps = ceil(passes * training / batch_size)
    epochs = ceil(iterations / steps)
    return {
        "passes": Choice(
            passes,
            f"over a fold's {training} training scans in an epoch, {steps} step{'s' * (steps > 1)}: it ends with a "
            f"checkpoint, from which a training that was stopped goes on",
        ),
        "epochs": Choice(epochs, f"{iterations:,} steps ({why}), whatever the data set's size"),
        "val_interval": Choice(
            max(1, epochs // VALIDATIONS),
            f"epochs; {min(epochs, VALIDATIONS)} looks at the held-out scans a training, and one before it",
        ),
    }


def training_cases(cases: int, folds: int) -> int:
    """The cases that the smallest training of a fold has."""
    return cases - ceil(cases / folds)


def foreground_of_nnunet(patches: int) -> float:
    """The share of a batch that nnU-Net draws around foreground: at least a third, in whole patches.

    Example:
        >>> foreground_of_nnunet(2), foreground_of_nnunet(3)
        (0.5, 0.3333)
    """
    return round((patches - round(patches * (1 - OVERSAMPLING))) / patches, 4)


def loss_choice(regions: Mapping[str, Sequence[int]], why: str) -> Choice:
    """Dice and binary cross-entropy of each region by itself."""
    options = {"sigmoid": True, "smooth_nr": 1.0, "smooth_dr": 1.0, "batch": True}
    if len(regions) == 1:
        return Choice({"_target_": "DiceCELoss", **options}, f"soft Dice and cross-entropy, {why}")
    return Choice(
        {"_target_": "DiceFocalLoss", "gamma": 0.0, **options},
        f"soft Dice and binary cross-entropy, {why}: a focal loss of gamma 0 is the latter. (DiceCELoss would take the "
        f"softmax over the {len(regions)} regions, and never see one that is found where there is none.)",
    )


def prediction_choices() -> dict[str, Choice]:
    """How whole scans are predicted, and what is done with it."""
    return {
        "overlap": Choice(0.5, "as nnU-Net: windows half a patch apart, weighted by a gaussian"),
        "postprocessing": Choice(
            "undecided", "decided when all folds are scored: the largest component alone is kept where that helps"
        ),
    }


def precision_choice(bfloat16: bool | None) -> Choice:
    """Whether forward passes are in bfloat16; None for where that is faster."""
    if bfloat16 is not None:
        return Choice(bfloat16, "as given; weights, gradients and losses are float32 in any case")
    if gains_by_bfloat16():
        return Choice(
            True,
            "this CPU computes in it: a step takes about half of the time; weights, gradients and losses are float32",
        )
    return Choice(False, "float32: no CPU here computes in it, and a GPU has mixed precision without it")


def plain(values: Sequence[float]) -> list[Any]:
    """Numbers of JSON, rounded to what a scan's header is good for."""
    return [round(float(value), 6) for value in values]


def _gigabytes(count: int) -> str:
    return f"{count / GIGABYTE:.2f} GB"
