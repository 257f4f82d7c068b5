"""The check of scans without labels before a pre-training: errors stop the run, warnings go to log and report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import OptionError, near_misses
from .check_memory import CheckMemory
from .check_volumes import check_volumes
from .ct_lists import Item
from .data_check import LEVELS, MEMORY_FILE, is_first_rank, too_small

logger = logging.getLogger(__name__)


class UnlabelledCheck:
    """Refuse scans that cannot be learned from: unreadable, constant, not 3D. Labels are not read.

    Args:
        level: as of `DataCheck`.
        hu_window: what intensities are clipped to, HU.
        patch_size: voxels of a cube; smaller scans are padded, which is a warning.
        spacing: what scans are resampled to, mm; None leaves them as they are.
        progress: show a bar with the time left on standard error.

    Attributes:
        warnings: what was unusual, such as intensities unlike HU, a line each; empty until scans are checked.

    Raises:
        OptionError: an unknown level.
    """

    def __init__(
        self,
        level: str = "voxels",
        *,
        hu_window: Sequence[float],
        patch_size: Sequence[int],
        spacing: Sequence[float] | None = None,
        progress: bool = True,
    ) -> None:
        if level not in LEVELS:
            raise OptionError(f"check is {level!r}; expected {', '.join(LEVELS)}.{near_misses(str(level), LEVELS)}")
        self._level, self._hu_window = level, (float(hu_window[0]), float(hu_window[1]))
        self._patch_size, self._spacing = tuple(patch_size), None if spacing is None else tuple(spacing)
        self._progress = progress and is_first_rank()
        self.warnings: list[str] = []

    def __call__(self, parts: Mapping[str, Sequence[Item]], output_dir: str | Path) -> None:
        """Check the scans of all parts.

        Args:
            parts: part ("train", "test", …) → its items.
            output_dir: folder of the run, whose `data_check.json` remembers what passed.

        Raises:
            DataError: there are errors, all of them in one message.
        """
        if self._level == "none":
            return
        memory = None
        if self._level == "voxels":
            memory = CheckMemory(Path(output_dir) / MEMORY_FILE, {"labels": [], "hu_window": list(self._hu_window)})
        report = check_volumes(
            [{name: item[name] for name in ("image", "case_id")} for part in parts.values() for item in part],
            voxels=self._level == "voxels",
            hu_window=self._hu_window,
            memory=memory,
            progress=self._progress,
        )
        report.raise_if_bad()
        self.warnings[:] = [*report.told("warning"), *too_small(report.volumes, self._spacing, self._patch_size)]
        if self.warnings and is_first_rank():
            logger.warning("The scans can be learned from, but:\n%s", "\n".join(f"  {line}" for line in self.warnings))
