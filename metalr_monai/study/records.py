"""What a study knows of a finished run, read from its folder: all that tables, figures and statistics need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochRecord:
    """An epoch of training.

    Attributes:
        epoch: from 1 on.
        train_loss: mean over the epoch.
        seconds: wall-clock.
        rates: block, by depth, → its learning rate at the epoch's end.
    """

    epoch: int
    train_loss: float
    seconds: float
    rates: Mapping[str, float]


@dataclass(frozen=True)
class RunRecord:
    """A run of one scheme with one seed, scored on the test part.

    Attributes:
        scheme, seed: its place in the study.
        scores: title of a score in the study file → its value, 0 … 1.
        cases: case of the test part → its first score: 1 or 0 for a right or wrong class, Dice for a segmentation.
        validation: epoch → key metric of the run's validation; epoch 0 is before training. Empty where there is none.
        epochs: of training, in order.
        search_seconds: training time of the candidates that a searching scheme tried before this run; else 0.
        chosen: what a searching scheme chose, in words; else "".
        peak_memory: bytes of the process, or of the GPU where there is one; None where unknown.
        validated_on: the part of the data that validations are of, in words, such as "test part (156 cases)".
        date, machine, versions: when it ended, on what, and with which packages; "" where unknown.
    """

    scheme: str
    seed: int
    scores: Mapping[str, float]
    cases: Mapping[str, float]
    validation: Mapping[int, float]
    epochs: Sequence[EpochRecord]
    search_seconds: float = 0.0
    chosen: str = ""
    peak_memory: int | None = None
    validated_on: str = ""
    date: str = ""
    machine: str = ""
    versions: str = ""

    @property
    def train_seconds(self) -> float:
        """Training time, that of a search included."""
        return self.search_seconds + sum(epoch.seconds for epoch in self.epochs)
