"""Which blocks to freeze: the candidates of the searching schemes, and the two readings of a U-Net's depth."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import OptionError, near_misses

DEPTH_ORDERS = ("I1", "I2")
CONTRACTING, EXPANDING = re.compile(r"down_tr(\d+)"), re.compile(r"up_tr(\d+)")  # the preset "genesis_unet3d"


def frozen_ranges(depth: int) -> list[tuple[int, int]]:
    """The candidates of bi-directional fine-tuning (Chen et al., v1 preprint): blocks m to n frozen, 1 ≤ m ≤ n < depth.

    Args:
        depth: number of blocks, or levels of blocks, the head among them, 2 or more.

    Returns:
        depth·(depth − 1)/2 pairs (m, n), counted from 1, both included.

    Raises:
        OptionError: there are fewer than two blocks.

    Example:
        >>> frozen_ranges(3)
        [(1, 1), (1, 2), (2, 2)]
        >>> len(frozen_ranges(10))
        45
    """
    _check_depth(depth)
    return [(m, n) for m in range(1, depth) for n in range(m, depth)]


def last_k(depth: int) -> list[tuple[int, int]]:
    """The candidates of layer-wise fine-tuning (Tajbakhsh et al., 2016): the last k = 1 … depth − 1 blocks train.

    Returns:
        The frozen range (1, depth − k) for each k, as of `frozen_ranges`.

    Raises:
        OptionError: there are fewer than two blocks.

    Example:
        >>> last_k(4)
        [(1, 3), (1, 2), (1, 1)]
    """
    _check_depth(depth)
    return [(1, depth - k) for k in range(1, depth)]


def levels(names: Sequence[str], depth_order: str = "I1") -> list[tuple[str, ...]]:
    """Blocks by depth, shallowest first; those of equal depth together.

    Args:
        names: of the blocks, in the network's order, the head last.
        depth_order: "I1": left to right, each block a level of its own; "I2": the top of the U first, a contracting
            block on one level with the expanding block of the same width (Amiri et al., 2020). A network without an
            expanding path has one reading only, I1.

    Raises:
        OptionError: there is no such order.

    Example:
        >>> levels(["down_tr64", "down_tr128", "up_tr64", "out_tr"], "I2")
        [('down_tr64', 'up_tr64'), ('down_tr128',), ('out_tr',)]
    """
    if depth_order not in DEPTH_ORDERS:
        raise OptionError(
            f"depth_order is {depth_order!r}; expected one of {', '.join(DEPTH_ORDERS)}."
            f"{near_misses(str(depth_order), DEPTH_ORDERS)}"
        )
    if depth_order == "I1":
        return [(name,) for name in names]
    found: dict[str, list[str]] = {}
    for name in names:
        match = CONTRACTING.fullmatch(name) or EXPANDING.fullmatch(name)
        found.setdefault(match[1] if match else name, []).append(name)
    return [tuple(level) for level in found.values()]


def frozen_range(names: Sequence[str], first: int, last: int, depth_order: str = "I1") -> list[str]:
    """The blocks of the levels `first` to `last`, counted from 1, both included; the head's level is never among them.

    Args:
        names, depth_order: as for `levels`.
        first, last: a candidate of `frozen_ranges` or `last_k`.

    Raises:
        OptionError: no such range, or no such order.

    Example:
        >>> frozen_range(["conv1", "layer1", "layer2", "fc"], 2, 3)
        ['layer1', 'layer2']
    """
    by_depth = levels(names, depth_order)
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in (first, last))
    if not whole or not 1 <= first <= last < len(by_depth):
        raise OptionError(
            f"first_frozen is {first!r} and last_frozen {last!r}; expected whole numbers with "
            f"1 ≤ first_frozen ≤ last_frozen ≤ {len(by_depth) - 1}, for there are {len(by_depth)} levels of depth "
            f"({', '.join('+'.join(level) for level in by_depth)}) and the last always trains."
        )
    return [name for level in by_depth[first - 1 : last] for name in level]


def expanding_path(names: Sequence[str]) -> list[str]:
    """What is frozen when the contracting path and the head of a U-Net are tuned (Amiri, Brooks & Rivaz, 2020).

    Where there is no expanding path it is the deeper half of the blocks, but for the head: the paper's point is that
    shallow blocks are to be tuned.

    Args:
        names: of the blocks, in the network's order, the head last.

    Example:
        >>> expanding_path(["down_tr64", "down_tr128", "up_tr64", "out_tr"])
        ['up_tr64']
        >>> expanding_path(["conv1", "layer1", "layer2", "fc"])
        ['layer2']
    """
    expanding = [name for name in names if EXPANDING.fullmatch(name)]
    return expanding or list(names[(len(names) + 1) // 2 : -1])


def _check_depth(depth: int) -> None:
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 2:
        raise OptionError(f"depth is {depth!r}; expected a number of blocks, the head among them, 2 or more.")
