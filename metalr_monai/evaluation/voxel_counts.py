"""Voxels of two label maps, counted once by both their labels: every class's and region's counts are sums of these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNK = 2**18  # voxels at a time, so that the indices stay in the processor's cache


@dataclass(frozen=True)
class Counts:
    """Voxels of one class: true positive, false positive, false negative, true negative."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def n_pred(self) -> int:
        """Voxels predicted."""
        return self.tp + self.fp

    @property
    def n_ref(self) -> int:
        """Voxels of the reference."""
        return self.tp + self.fn

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN), NaN where both masks are empty."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN), NaN where both masks are empty."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def ppv(self) -> float:
        """TP / (TP + FP), NaN where nothing was predicted."""
        return _ratio(self.tp, self.n_pred)

    @property
    def sensitivity(self) -> float:
        """TP / (TP + FN), NaN where the reference is empty."""
        return _ratio(self.tp, self.n_ref)


@dataclass(frozen=True)
class JointCounts:
    """`table[i, j]`: the voxels that were predicted as `labels[i]` and are `labels[j]` in the reference."""

    labels: NDArray[np.int64]
    table: NDArray[np.int64]

    def of(self, region: Sequence[int]) -> Counts:
        """The counts of some labels taken together."""
        inside = np.isin(self.labels, region)
        tp, fp = self.table[inside][:, inside].sum(), self.table[inside][:, ~inside].sum()
        fn, tn = self.table[~inside][:, inside].sum(), self.table[~inside][:, ~inside].sum()
        return Counts(int(tp), int(fp), int(fn), int(tn))


def joint_counts(prediction: NDArray[np.integer], reference: NDArray[np.integer], values: Sequence[int]) -> JointCounts:
    """Count two label maps of the same shape (H, W, D), which hold no labels but 0 and `values`, ints ≥ 1.

    Example:
        >>> joint_counts(np.array([[[0, 1, 2, 2]]]), np.array([[[0, 2, 2, 1]]]), [1, 2]).of([1, 2])
        Counts(tp=3, fp=0, fn=0, tn=1)
    """
    labels = np.array([0, *values])
    row = np.zeros(labels.max() + 1, dtype=np.intp)
    row[labels] = np.arange(len(labels))
    cells = np.zeros(len(labels) ** 2, dtype=np.int64)
    slices = max(1, CHUNK // math.prod(prediction.shape[:2]))
    for start in range(0, prediction.shape[2], slices):  # nibabel's arrays are contiguous along the last axis' slices
        slab = np.s_[:, :, start : start + slices]
        cell = row[prediction[slab].ravel(order="F")] * len(labels) + row[reference[slab].ravel(order="F")]
        cells += np.bincount(cell, minlength=len(cells))
    return JointCounts(labels, cells.reshape(len(labels), len(labels)))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
