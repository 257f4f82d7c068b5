"""Label values to regions that may lie inside each other, and back: liver = label ≥ 1, tumour = label 2."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from ..errors import DataError

Regions = Mapping[str, Sequence[int]]


class LabelToRegionsd(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """A label map (1, H, W, D) to one binary channel a region, (R, H, W, D), float32, in the order of `regions`.

    Args:
        keys: of the label maps.
        regions: region name → label values in it: {"liver": [1, 2], "tumour": [2]}.

    Raises:
        DataError: the label map has a value of no region.
    """

    def __init__(self, keys: KeysCollection, regions: Regions, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self._regions = {name: tuple(values) for name, values in regions.items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the label maps."""
        item = dict(data)
        for key in self.key_iterator(item):
            labels: Tensor = item[key]
            self._refuse_unknown(labels, item)
            masks = [
                sum((labels == value for value in values), torch.zeros_like(labels, dtype=torch.bool))
                for values in self._regions.values()
            ]
            item[key] = torch.cat(masks).float()
        return item

    def _refuse_unknown(self, labels: Tensor, item: Mapping[Hashable, Any]) -> None:
        known = {0.0, *(float(v) for values in self._regions.values() for v in values)}
        unknown = sorted(set(torch.unique(labels).tolist()) - known)
        if unknown:
            raise DataError(
                f"The label of case {item.get('case_id', '?')} has the values {unknown}; the regions know 0 and "
                f"{sorted(known - {0.0})}. Correct the label, or add the values to `regions`."
            )


class RegionsToLabeld(MapTransform):  # type: ignore[misc]
    """Probabilities of regions (R, H, W, D) to a label map (1, H, W, D), uint8: i + 1 for region i, later ones on top.

    Args:
        keys: of the probabilities.
        threshold: a voxel is in a region from this probability on.
    """

    def __init__(self, keys: KeysCollection, threshold: float = 0.5, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self._threshold = threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the probabilities."""
        item = dict(data)
        for key in self.key_iterator(item):
            probabilities: Tensor = item[key]
            labels = torch.zeros_like(probabilities[:1], dtype=torch.uint8)
            for i in range(len(probabilities)):
                labels[probabilities[i : i + 1] >= self._threshold] = i + 1
            item[key] = labels
        return item
