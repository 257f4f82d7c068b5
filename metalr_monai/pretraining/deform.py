"""The four transformations of Models Genesis one after the other: what goes in, and what the network is to restore.

Source: Zhou et al., "Models Genesis", Medical Image Analysis 2021; order and probabilities of the published code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..errors import OptionError
from . import local_shuffling as shuffling
from . import nonlinear_intensity as intensity
from . import painting, random_flips
from .checks import check_range, checked_images, checked_probability, checked_windows
from .draws import seeded_generator


@dataclass(frozen=True)
class Deformations:
    """How often an item is deformed in which way. Defaults are the published ones.

    Attributes:
        flip: probability of a flip, and of another one after each, up to three.
        shuffle: probability of local shuffling.
        windows: of local shuffling, an item; None takes as many for the image's size as 10,000 are for 64×64×32.
        intensity: probability of a non-linear intensity curve.
        paint: probability of painting.
        outer: share of out-painting in painting; the rest is in-painting.

    Raises:
        OptionError: a probability is not in [0, 1], or `windows` below 1.
    """

    flip: float = random_flips.PROBABILITY
    shuffle: float = shuffling.PROBABILITY
    windows: int | None = None
    intensity: float = intensity.PROBABILITY
    paint: float = painting.PROBABILITY
    outer: float = painting.OUTER

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "windows":
                checked_probability(field.name, getattr(self, field.name))
        checked_windows(self.windows)


PUBLISHED = Deformations()


def deform(images: Tensor, generator: torch.Generator, deformations: Deformations = PUBLISHED) -> tuple[Tensor, Tensor]:
    """Flip, shuffle, change the intensities and paint.

    Args:
        images: (B, C, H, W[, D]), floating point, in [0, 1].
        generator: on the images' device.
        deformations: how often.

    Returns:
        The deformed batch, and the one to restore, which is flipped alike and nothing else. Both are plain tensors.

    Raises:
        DeformationError: the images have other dimensions, are not floating point, or are too small for a
            transformation whose probability is not 0.
    """
    target = random_flips.random_flips(images, generator, deformations.flip)
    deformed = shuffling.local_shuffling(target, generator, deformations.shuffle, deformations.windows)
    deformed = intensity.nonlinear_intensity(deformed, generator, deformations.intensity)
    return painting.painting(deformed, generator, deformations.paint, deformations.outer), target


class DeformBatch:
    """`deform` as a training loop calls it: what it draws depends on seed, rank and iteration alone.

    A run that is interrupted and resumed therefore draws the same. The first batch's range is checked; that of the
    others is not, for it would make the host wait for the device.

    Args:
        seed: of the run, 0 or more.
        deformations: how often which.
        rank: of the process, where several train one network: each draws its own.

    Raises:
        OptionError: `seed` or `rank` is not a whole number, 0 or more.

    Example:
        >>> images = torch.rand(2, 1, 64, 64, 32)
        >>> deformed, target = DeformBatch(seed=0)(images, iteration=1)
        >>> deformed.shape == target.shape == images.shape
        True
    """

    def __init__(self, seed: int = 0, deformations: Deformations = PUBLISHED, rank: int = 0) -> None:
        self._seed, self._rank = _whole("seed", seed), _whole("rank", rank)
        self._deformations = deformations
        self._checked = False

    def __call__(self, images: Tensor, iteration: int) -> tuple[Tensor, Tensor]:
        """The deformed batch and the one to restore.

        Args:
            images: (B, C, H, W[, D]), floating point, in [0, 1], on any device.
            iteration: number of the batch. A validation batch that is to be deformed alike in every epoch has its
                number in the epoch.

        Raises:
            DeformationError: see `deform`; and values outside of [0, 1] in the first batch.
        """
        images = checked_images(images)
        if not self._checked:
            check_range(images)
            self._checked = True
        generator = seeded_generator(images.device, self._seed, self._rank, _whole("iteration", iteration))
        return deform(images, generator, self._deformations)


def _whole(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise OptionError(f"{name} is {value!r}; expected a whole number, 0 or more.")
    return value
