"""How unsure a network is of an image, in one number: which image a reader should label next.

All are 0 where the network is sure and grow with its doubt, whatever the image's size and the organ's.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

THRESHOLD = 0.5


def mask_doubt(probabilities: Tensor) -> float:
    """1 − the Dice that the network expects of its own mask, from one pass; in [0, 1].

    The soft Dice of probabilities p and mask m = [p ≥ 0.5], 2 Σ p·m / (Σ p + Σ m), is what p promises of m. Where
    nothing is found the doubt is 1: an organ that was missed is worth a look.

    Args:
        probabilities: of regions, (R, *spatial), in [0, 1]; the mean over the regions is returned.

    Example:
        >>> mask_doubt(torch.tensor([[1.0, 1.0, 0.0]])), mask_doubt(torch.tensor([[0.6, 0.6, 0.4]])) > 0.3
        (0.0, True)
    """
    doubts = []
    for region in probabilities.double().flatten(1):
        mask = region >= THRESHOLD
        doubts.append(1 - float(2 * region[mask].sum() / (region.sum() + mask.sum())) if mask.any() else 1.0)
    return sum(doubts) / len(doubts)


def class_doubt(probabilities: Tensor) -> float:
    """1 − the probability of the likeliest class, from one pass.

    Args:
        probabilities: of classes, (K,), of sum 1.
    """
    return 1 - float(probabilities.max())


def mask_disagreement(passes: Tensor) -> float:
    """1 − the mean Dice of two Monte Carlo passes' masks (Roy et al., MICCAI 2018, Sec. 2.3); in [0, 1].

    Two empty masks count as a Dice of 0, as in `mask_doubt`.

    Args:
        passes: probabilities of regions, (T, R, *spatial), T ≥ 2 passes with dropout.
    """
    masks = (passes >= THRESHOLD).flatten(2)
    dice = []
    for one, other in combinations(masks, 2):
        sizes = one.sum(1) + other.sum(1)
        dice.append(2 * (one & other).sum(1) / sizes.clamp(min=1))
    return 1 - float(torch.stack(dice).mean())


def class_disagreement(passes: Tensor) -> float:
    """What the passes do not agree on: entropy of their mean − mean of their entropies (Houlsby et al. 2011), in nats.

    Args:
        passes: probabilities of classes, (T, K), T ≥ 2 passes with dropout.
    """
    passes = passes.double()
    return float(_entropy(passes.mean(0)) - _entropy(passes).mean())


def _entropy(probabilities: Tensor) -> Tensor:
    entropy: Tensor = -torch.special.xlogy(probabilities, probabilities).sum(-1)
    return entropy
