"""Transforms of a training sample without MONAI's record of them."""

from __future__ import annotations

from typing import Any

from monai.data import get_track_meta, set_track_meta
from monai.transforms import Compose


class Untracked(Compose):  # type: ignore[misc]  # MONAI is untyped
    """`Compose` whose transforms give plain tensors: the same numbers, without affine and list of what was applied.

    Nothing inverts the transforms of a training sample, and of small images keeping the record takes longer than the
    transforms. MONAI has one switch for it in a process: do not run this in threads, beside transforms that are to be
    recorded.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as Compose has it
        """As `Compose`."""
        before = get_track_meta()
        set_track_meta(False)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            set_track_meta(before)
