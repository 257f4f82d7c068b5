"""Rates that fall from the head to the first block by one factor a block."""

from __future__ import annotations

from collections.abc import Mapping

from monai.engines import SupervisedTrainer

from .options import checked_number
from .scheme import Scheme


def decayed(start_rates: Mapping[str, float], factor: float) -> dict[str, float]:
    """Block → its start rate × factor^(L − l); l is its place by depth, and L that of the head, the last one.

    Example:
        >>> decayed({"stem": 0.1, "body": 0.1, "head": 0.2}, 0.5)
        {'stem': 0.025, 'body': 0.05, 'head': 0.2}
    """
    last = len(start_rates) - 1
    return {name: rate * factor ** (last - place) for place, (name, rate) in enumerate(start_rates.items())}


class LayerwiseDecay(Scheme):
    """Layer-wise learning rate decay: lr_l = lr·γ^(L−l), for the whole run; the head keeps its rate.

    Bao et al., "BEiT: BERT Pre-Training of Image Transformers", 2022; `layer_decay` of timm.

    Args:
        decay: γ, above 0, at most 1; 0.65 to 0.75 is usual.

    Raises:
        OptionError: `decay` is outside of its range.
    """

    def __init__(self, decay: float = 0.75) -> None:
        super().__init__()
        self._decay = checked_number("decay", decay, "a number above 0, at most 1", lambda value: 0 < value <= 1)

    def start(self, engine: SupervisedTrainer) -> None:
        """Set the rates once."""
        self.set_rates(decayed(self.start_rates, self._decay))
