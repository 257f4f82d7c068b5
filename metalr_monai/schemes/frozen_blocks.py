"""Some blocks keep their pre-trained weights, the others train at one rate: most schemes of the papers' tables."""

from __future__ import annotations

from collections.abc import Sequence

from monai.engines import SupervisedTrainer

from .scheme import Scheme


class FrozenBlocks(Scheme):
    """Freeze these blocks for the whole run.

    All but the head: the "last layer" scheme. All but the last k: a candidate of the layer-wise search (Tajbakhsh,
    2016). Blocks m to n: a candidate of the bi-directional search (Chen et al., v1 preprint).

    Args:
        frozen: names of blocks.

    Raises:
        BlockError: when the run starts, a name is no block's, or all are frozen.
    """

    def __init__(self, frozen: Sequence[str]) -> None:
        super().__init__()
        self._names = tuple(frozen)

    def start(self, engine: SupervisedTrainer) -> None:
        """Freeze once."""
        self._check(self._names)
        self.tune([name for name in self.names if name not in self._names])
