"""From probabilities on the network's grid to a label map on the image's own, without holding them there."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Invertd, InvertibleTransform, MapTransform
from monai.utils import TraceKeys, convert_to_tensor, ensure_tuple_rep

from ..errors import DataError, OptionError
from .regions import RegionsToLabeld
from .resample import TO_LABEL, AxisResample


class InvertToLabeld(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """`Invertd` (linear), then `RegionsToLabeld`, in the memory of the label map: probabilities of regions,
    (R, H, W, D), to labels (1, H', W', D'), uint8, on the grid of the image's file.

    The inverse of `AxisSpacingd` makes a few slices at a time, which become labels before the next are made, and only
    in the box where there are any. Other inverses are given the labels: they must turn, flip, crop or pad alone.

    Args:
        keys: of the probabilities.
        transform: what was done to the image, as in `Invertd`: a `Compose` with one `AxisSpacingd`.
        orig_keys: of the image.
        threshold: a voxel is in a region from this probability on, in (0, 1).
        values: the label written for each region, as in `RegionsToLabeld`; by default 1, 2, …

    Raises:
        OptionError: the threshold, or `values`, is out of range; or (on a call) these are not one a region.
        DataError: the image has not gone through `AxisSpacingd`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: InvertibleTransform,
        orig_keys: KeysCollection,
        threshold: float = 0.5,
        values: Sequence[int] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 < threshold < 1:
            raise OptionError(f"threshold is {threshold!r}; expected a probability between 0 and 1, such as 0.5.")
        self._regions_to_label = RegionsToLabeld(keys, threshold, allow_missing_keys, values)
        self._to_label = {"threshold": threshold, "values": values}
        self._orig_keys = ensure_tuple_rep(orig_keys, len(self.keys))
        self._transform = transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the probabilities."""
        item = dict(data)
        for key, orig_key in self.key_iterator(item, self._orig_keys):
            invert = Invertd(key, self._transform, orig_key, nearest_interp=False, to_tensor=True)
            asks = self._that_asks_for_labels(item[orig_key], orig_key)
            item[key] = invert({key: convert_to_tensor(item[key], track_meta=True), orig_key: asks})[key]
        return item

    def _that_asks_for_labels(self, image: object, key: Hashable) -> MetaTensor:
        """An image without voxels, with the record of what was done to it, from which `Invertd` works."""
        tracked = image if isinstance(image, MetaTensor) else MetaTensor(torch.empty(0))
        steps = deepcopy(tracked.applied_operations)
        resampled = [step for step in steps if step[TraceKeys.CLASS_NAME] == AxisResample.__name__]
        if len(resampled) != 1:
            raise DataError(
                f"{key} has been resampled by AxisSpacingd {len(resampled)} times; InvertToLabeld expects once. Use "
                f"AxisSpacingd in place of Spacingd in the preprocessing, or Invertd and RegionsToLabeld here."
            )
        resampled[0][TraceKeys.EXTRA_INFO][TO_LABEL] = self._to_label
        return MetaTensor(torch.empty(0), meta=tracked.meta, applied_operations=steps)
