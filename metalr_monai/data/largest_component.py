"""Keep the largest connected piece of a label map."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from ..errors import DataError


class LargestComponentd(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """Sets a label map, (1, H, W[, D]), to 0 outside the largest connected piece of `applied_labels` taken together.

    As MONAI's `KeepLargestConnectedComponentd(independent=False)`, by SimpleITK in place of scikit-image. A tumour of
    label 2 inside a liver of label 1 stays, since it is connected with it. Other labels, type, device and meta data
    stay. Of several largest pieces of equal size one is kept.

    Args:
        keys: of the label maps.
        applied_labels: the label values that count as one object.
        fully_connected: voxels that share an edge or a corner are connected too (26 neighbours in 3D, 8 in 2D).

    Raises:
        DataError: a map has more than one channel.
    """

    def __init__(
        self,
        keys: KeysCollection,
        applied_labels: Sequence[int],
        fully_connected: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self._labels = tuple(applied_labels)
        self._fully_connected = fully_connected

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the label maps."""
        item = dict(data)
        for key in self.key_iterator(item):
            labels: Tensor = item[key]
            if labels.ndim not in (3, 4) or len(labels) != 1:
                raise DataError(
                    f"{key} has the shape {tuple(labels.shape)}; the largest component expects a label map of one "
                    f"channel, (1, H, W) or (1, H, W, D). Make one of the channels first, as RegionsToLabeld does."
                )
            item[key] = self._largest(labels)
        return item

    def _largest(self, labels: Tensor) -> Tensor:
        voxels = labels.detach().cpu().numpy()[0]
        mask = np.isin(voxels, self._labels)
        pieces = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), self._fully_connected)
        by_size = sitk.GetArrayFromImage(sitk.RelabelComponent(pieces))  # 1 is the largest
        kept = labels.clone()
        kept[torch.from_numpy(mask & (by_size != 1))[None].to(labels.device)] = 0
        return kept
