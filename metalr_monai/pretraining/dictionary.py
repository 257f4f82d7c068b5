"""The transformations of Models Genesis as MONAI's dictionary transforms, one item (C, H, W[, D]) at a time.

    Compose([
        CopyItemsd("image", names="target"),
        RandGenesisFlipd(["image", "target"]),
        RandLocalShufflingd("image"),
        RandNonlinearIntensityd("image"),
        RandPaintingd("image"),
    ])

Each draws from MONAI's stream, `self.R`, one number a call, which seeds all that it does to the item's keys.
`DeformBatch` does the same to a batch on its device.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from . import local_shuffling as shuffling
from . import nonlinear_intensity as intensity
from . import painting, random_flips
from .checks import DeformationError, check_range, checked_probability, checked_windows
from .draws import seeded_generator
from .item_names import item_name

SEEDS = 2**32 - 1


class _RandDeformd(Randomizable, MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """What the four share: the seed of a call, the batch of one, and an item's type, shape and meta data."""

    in_range = True  # the item's values must be in [0, 1]

    def __init__(self, keys: KeysCollection, prob: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self._prob = checked_probability("prob", prob)
        self._seed = 0

    def randomize(self, data: Any | None = None) -> None:  # noqa: ANN401 - as MONAI has it
        """Draw the seed of this call."""
        self._seed = int(self.R.randint(SEEDS, dtype="uint32"))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the images; all keys with the same draws."""
        item = dict(data)
        self.randomize()
        for key in self.key_iterator(item):
            images = convert_to_tensor(item[key], track_meta=False)[None]
            try:
                if self.in_range and images.is_floating_point() and images.numel():
                    check_range(images)
                deformed = self._deformed(images, seeded_generator(images.device, self._seed))
            except DeformationError as error:
                raise DeformationError(f"{item_name(item, key)}: {error}") from error
            item[key] = convert_to_dst_type(deformed[0], item[key])[0]
        return item

    @abstractmethod
    def _deformed(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The batch of one, deformed."""


class RandGenesisFlipd(_RandDeformd):
    """`random_flips` of the items (C, H, W[, D]) at `keys`, alike; of any range.

    Args:
        keys: of the images, and of the targets that are to be flipped with them.
        prob: of the first flip, and of another one after each, up to three.
    """

    in_range = False

    def __init__(
        self, keys: KeysCollection, prob: float = random_flips.PROBABILITY, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)

    def _deformed(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The batch of one, flipped."""
        return random_flips.random_flips(images, generator, self._prob)


class RandLocalShufflingd(_RandDeformd):
    """`local_shuffling` of the items (C, H, W[, D]) at `keys`; of any range.

    Args:
        keys: of the images.
        prob: that an item is shuffled.
        windows: an item; None takes as many for the image's size as 10,000 are for 64×64×32.
    """

    in_range = False

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = shuffling.PROBABILITY,
        windows: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self._windows = checked_windows(windows)

    def _deformed(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The batch of one, shuffled."""
        return shuffling.local_shuffling(images, generator, self._prob, self._windows)


class RandNonlinearIntensityd(_RandDeformd):
    """`nonlinear_intensity` of the items (C, H, W[, D]), in [0, 1], at `keys`.

    Args:
        keys: of the images.
        prob: that an item's intensities change.
    """

    def __init__(
        self, keys: KeysCollection, prob: float = intensity.PROBABILITY, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)

    def _deformed(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The batch of one along its curve."""
        return intensity.nonlinear_intensity(images, generator, self._prob)


class RandPaintingd(_RandDeformd):
    """`painting` of the items (C, H, W[, D]), in [0, 1], at `keys`.

    Args:
        keys: of the images.
        prob: that an item is painted.
        outer: share of out-painting; the rest is in-painting.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = painting.PROBABILITY,
        outer: float = painting.OUTER,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self._outer = checked_probability("outer", outer)

    def _deformed(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The batch of one, painted."""
        return painting.painting(images, generator, self._prob, self._outer)
