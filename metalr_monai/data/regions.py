"""Label values to regions that may lie inside each other, and back: liver = label ≥ 1, tumour = label 2."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from ..errors import DataError, OptionError

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
    """Probabilities of regions (R, H, W, D) to a label map (1, H, W, D), uint8, later regions on top of earlier ones.

    Args:
        keys: of the probabilities.
        threshold: a voxel is in a region from this probability on.
        values: the label written for each region, ints from 1 to 255; by default i + 1 for region i.

    Raises:
        OptionError: `values` holds other than such ints, or (on a call) is not one a region.
    """

    def __init__(
        self,
        keys: KeysCollection,
        threshold: float = 0.5,
        allow_missing_keys: bool = False,
        values: Sequence[int] | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if values is not None and not all(type(value) is int and 1 <= value <= 255 for value in values):
            raise OptionError(f"values is {values!r}; expected one label a region, ints from 1 to 255, such as [1, 2].")
        self._threshold = threshold
        self._values = None if values is None else tuple(values)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the probabilities."""
        item = dict(data)
        for key in self.key_iterator(item):
            probabilities: Tensor = item[key]
            labels = torch.zeros_like(probabilities[:1], dtype=torch.uint8)
            for i, value in enumerate(self._values_of(len(probabilities))):
                labels[probabilities[i : i + 1] >= self._threshold] = value
            item[key] = labels
        return item

    def _values_of(self, regions: int) -> Sequence[int]:
        if self._values is None:
            return range(1, regions + 1)
        if len(self._values) != regions:
            raise OptionError(
                f"values names {len(self._values)} labels, {list(self._values)}, but there are {regions} regions; "
                f"expected one label a region."
            )
        return self._values
