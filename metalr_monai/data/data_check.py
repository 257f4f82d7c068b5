"""The check of a bundle's data before it trains: errors stop the run, warnings go to the log and to its report."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch.distributed as dist
from monai.data.utils import compute_shape_offset

from ..errors import DataError, MetaDataError, OptionError, first_few, near_misses
from ..nifti import times
from .check_memory import CheckMemory
from .check_report import CheckReport, Volume
from .check_volumes import check_volumes
from .ct_lists import Item
from .hold_out import hold_out
from .regions import Regions

logger = logging.getLogger(__name__)

LEVELS = ("voxels", "headers", "none")
MEMORY_FILE = "data_check.json"


class DataCheck:
    """Refuse data that would stop training, or spoil it, before anything is computed.

    Args:
        level: "voxels": every voxel is read, once, for `data_check.json` in the run's folder remembers what passed;
            "headers": milliseconds a case; "none": no file is opened, only cases and labels are counted.
        regions: region → label values in it; others than these and 0 are errors.
        hu_window: what intensities are clipped to, HU.
        spacing: what volumes are resampled to, mm.
        patch_size: voxels, after resampling; smaller volumes are padded, which is a warning.
        meta: what `MetaLRHandler` will hold out of the training part; "training" or None for nothing.
        batch_size: cases a step.
        progress: show a bar with the time left on standard error.

    Attributes:
        warnings: what was unusual, a line each; empty until data are checked.

    Raises:
        OptionError: an unknown level.
    """

    def __init__(
        self,
        level: str = "voxels",
        *,
        regions: Regions,
        hu_window: Sequence[float],
        spacing: Sequence[float],
        patch_size: Sequence[int],
        meta: float | str | None = None,
        batch_size: int = 1,
        progress: bool = True,
    ) -> None:
        if level not in LEVELS:
            raise OptionError(f"check is {level!r}; expected {', '.join(LEVELS)}.{near_misses(str(level), LEVELS)}")
        self._level, self._regions = level, {name: list(values) for name, values in regions.items()}
        self._hu_window = (float(hu_window[0]), float(hu_window[1]))
        self._spacing, self._patch_size = tuple(spacing), tuple(patch_size)
        self._meta, self._batch_size = meta, batch_size
        self._progress = progress and is_first_rank()
        self.warnings: list[str] = []

    def __call__(self, parts: Mapping[str, Sequence[Item]], output_dir: str | Path) -> None:
        """Check the cases of all parts.

        Args:
            parts: part ("train", "test", …) → its items.
            output_dir: folder of the run.

        Raises:
            DataError: there are errors, all of them in one message, or nothing to learn for a region.
            MetaDataError: the training part is too small for what is to be held out of it.
        """
        items = [item for part in parts.values() for item in part]
        _refuse_unlabelled(items)
        _refuse_few_cases(parts["train"], self._meta, self._batch_size)
        if self._level == "none":
            return
        report = self._check(items, Path(output_dir))
        report.raise_if_bad()
        self._refuse_absent_regions(report, [str(item["case_id"]) for item in parts["train"]])
        self.warnings[:] = [*report.told("warning"), *too_small(report.volumes, self._spacing, self._patch_size)]
        if self.warnings and is_first_rank():
            logger.warning("The data can be trained on, but:\n%s", "\n".join(f"  {line}" for line in self.warnings))

    def _check(self, items: Sequence[Item], folder: Path) -> CheckReport:
        labels = sorted({0, *(value for values in self._regions.values() for value in values)})
        memory = None
        if self._level == "voxels":
            memory = CheckMemory(folder / MEMORY_FILE, {"labels": labels, "hu_window": list(self._hu_window)})
        return check_volumes(
            items,
            voxels=self._level == "voxels",
            labels=labels,
            hu_window=self._hu_window,
            memory=memory,
            progress=self._progress,
        )

    def _refuse_absent_regions(self, report: CheckReport, training: Sequence[str]) -> None:
        sizes = [volume.label_ml for volume in report.volumes if volume.case_id in set(training) and volume.label_ml]
        for name, values in self._regions.items():
            if sizes and not any(size[value] for size in sizes for value in values):
                raise DataError(
                    f"The region {name!r}, label values {values}, is in none of the {len(sizes)} training cases "
                    f"({first_few(training)}), so nothing can be learned of it. Correct `regions`, or the `split`."
                )


def is_first_rank() -> bool:
    """Asked of torch: Ignite talks to the other ranks at the first question, and they wait until the check is done."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _refuse_unlabelled(items: Sequence[Item]) -> None:
    if bare := [str(item["case_id"]) for item in items if not item.get("label")]:
        raise DataError(
            f"{len(bare)} of {len(items)} cases have no label: {first_few(bare)}. Training needs one for each image: "
            f"add them, or take the images out of the data's folder."
        )


def _refuse_few_cases(training: Sequence[Item], meta: float | str | None, batch_size: int) -> None:
    total = len(training)
    if meta is None or isinstance(meta, str):
        return
    try:
        held = len(hold_out(list(training), meta)[1])
    except MetaDataError as error:
        raise MetaDataError(
            f"meta is {meta!r}, and the training part has {total} case(s), of which at least one must be left to train "
            f"on. Set `meta` to a count below {total}, to a share such as 0.25, or to 'training' for meta batches from "
            f"the training data; or add cases."
        ) from error
    if held < batch_size:
        raise MetaDataError(
            f"meta is {meta!r}, which holds {held} of {total} training cases out: fewer than one batch. Set `meta` to "
            f"{batch_size} or more, or `batch_size` (now {batch_size}) to {held} or less."
        )


def too_small(volumes: Sequence[Volume], spacing: Sequence[float] | None, patch_size: Sequence[int]) -> Iterator[str]:
    """One sentence on the cases that are smaller than a patch, if there are any; not resampled without `spacing`."""
    sizes = {volume.case_id: _resampled(volume, spacing) for volume in volumes}
    small = {case: size for case, size in sizes.items() if any(np.less(size, patch_size))}
    if small:
        named = first_few([f"{case} ({times(size)})" for case, size in small.items()])
        resampled = "" if spacing is None else f" after resampling to {times(spacing)} mm"
        yield (
            f"{len(small)} of {len(sizes)} cases are smaller than patch_size {times(patch_size)}{resampled}, and are "
            f"padded with air: {named}"
        )


def _resampled(volume: Volume, spacing: Sequence[float] | None) -> tuple[int, ...]:
    """Voxels along R, A, S after `Orientationd` and, with `spacing`, `Spacingd`."""
    axes = [next(i for i, code in enumerate(volume.orientation) if code in pair) for pair in ("LR", "PA", "IS")]
    shape = [volume.shape[i] for i in axes]
    if spacing is not None:
        before, after = np.diag([*(volume.spacing[i] for i in axes), 1.0]), np.diag([*spacing, 1.0])
        shape, _ = compute_shape_offset(shape, before, after)
    return tuple(int(side) for side in shape)
