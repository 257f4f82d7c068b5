"""Blocks: named sets of parameters that share one learning rate.

Every parameter of a network belongs to exactly one block. A block partition comes from a preset (the ten blocks
of the published ResNet-18 study), from a mapping of names to patterns, or from ``"auto"``, which reads it off the
network's own structure.
"""

from __future__ import annotations

import fnmatch
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import BlockError, OptionError, first_few, near_misses
from .auto_blocks import auto_blocks
from .parameter_names import named_parameters

__all__ = ["PRESETS", "Blocks", "blocks", "param_groups"]

Patterns = str | Sequence[str]
Spec = str | Mapping[str, Patterns]

_RESNET_STAGES = [f"layer{stage}.{unit}" for stage in (1, 2, 3, 4) for unit in (0, 1)]
_GENESIS_STAGES = [f"down_tr{n}" for n in (64, 128, 256, 512)] + [f"up_tr{n}" for n in (256, 128, 64)] + ["out_tr"]

PRESETS: dict[str, dict[str, tuple[str, ...]]] = {
    "resnet18": {"conv1": ("conv1", "bn1"), **{name: (name,) for name in _RESNET_STAGES}, "fc": ("fc",)},
    "genesis_unet3d": {name: (name,) for name in _GENESIS_STAGES},
    "efficientnet_lite0": {
        "conv_stem": ("_conv_stem", "_bn0"),
        **{f"blocks.{stack}": (f"_blocks.{stack}",) for stack in range(7)},
        "conv_head": ("_conv_head", "_bn1"),
        "fc": ("_fc",),
    },
}


@dataclass(frozen=True, eq=False, repr=False)
class Blocks(Mapping[str, tuple[nn.Parameter, ...]]):
    """Immutable ordered mapping from block name to the block's parameters; made by `blocks`.

    Two `Blocks` are equal when they hold the same parameters (the same objects) under the same names and order.
    """

    _tensors: Mapping[str, Mapping[str, nn.Parameter]]  # block -> canonical parameter name -> parameter

    def __getitem__(self, block: str) -> tuple[nn.Parameter, ...]:
        return tuple(self._tensors[block].values())

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __eq__(self, other: object) -> bool:
        # Mapping's own comparison would compare tensors element by element.
        return isinstance(other, Blocks) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return f"Blocks({', '.join(self.names)})"

    def __str__(self) -> str:
        return self.table()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the blocks, in order."""
        return tuple(self._tensors)

    @property
    def parameter_names(self) -> dict[str, tuple[str, ...]]:
        """Canonical names of each block's parameters, in the order of ``self[block]``."""
        return {block: tuple(tensors) for block, tensors in self._tensors.items()}

    def table(self, rates: Mapping[str, float] | None = None) -> str:
        """Describe the blocks as text, one line each and a total; with a rate column when `rates` are given.

        Raises:
            BlockError: `rates` names a block that does not exist.
        """
        header = ["block", "tensors", "parameters", "trainable"]
        rows = [[name, *_counts(parameters)] for name, parameters in self.items()]
        total = ["total", *_counts([p for parameters in self.values() for p in parameters])]
        if rates is not None:
            _check_names("rates", rates, self.names)
            header.append("rate")
            for row in rows:
                row.append(f"{rates[row[0]]:.3g}" if row[0] in rates else "-")
            total.append("")
        return _aligned([header, *rows, total])

    def _identity(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple((name, tuple(id(p) for p in parameters)) for name, parameters in self.items())


def blocks(network: nn.Module, spec: Spec = "auto") -> Blocks:
    """Partition the parameters of `network` into named blocks.

    Names are matched behind wrappers: ``_orig_mod`` (torch.compile) is dropped anywhere, and a leading ``module.``
    (DataParallel) when every parameter has it. A shared parameter counts once, under its first name.

    Args:
        network: Any module with parameters.
        spec: ``"auto"``, the name of one of `PRESETS`, or a mapping from block name to one or several patterns. A
            pattern without ``*?[`` is a name prefix that ends at a dot (``layer1`` is not ``layer10``); any other is
            an fnmatch pattern on the whole parameter name.

    ``"auto"`` gives 4 to 24 blocks (fewer only if the network has fewer layers) in the order in which ``forward``
    uses them, so that the head comes last. The order is read from the source of ``forward``: where that is not
    available or names no children, it is the order of registration. A network of one layer is the block ``network``.

    Raises:
        BlockError: Unknown preset, a spec of the wrong type or empty, a pattern that matches nothing, a parameter
            in no block or in two, or a network without parameters or with lazy ones that have no shape yet.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
        >>> blocks(network).names
        ('0', '3')
        >>> print(blocks(network, {"body": ["0", "1"], "head": "3.*"}).table({"body": 1e-4, "head": 1e-3}))
        block  tensors  parameters  trainable    rate
        body         4          48         48  0.0001
        head         2          34         34   0.001
        total        6          82         82
    """
    return _partition(network, spec)


def param_groups(
    network: nn.Module, blocks: Blocks | Spec, lr: float, multipliers: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Optimizer groups, one per block in block order, each with its ``name``, its own ``lr`` and its ``multiplier``.

    Frozen parameters are in: they have no gradient and so do not move, and a block can be unfrozen later.

    Args:
        network: The network to optimise.
        blocks: Its blocks, or what `blocks` takes as spec.
        lr: Learning rate at the start.
        multipliers: Factors of `lr` for the blocks that start at another rate.

    Raises:
        OptionError: `lr` or a multiplier is not a finite number above 0.
        BlockError: The blocks do not fit the network, or `multipliers` names a block that does not exist.

    Example:
        >>> network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> groups = param_groups(network, "auto", 1e-3, {"2": 10})
        >>> [(group["name"], group["lr"]) for group in groups]
        [('0', 0.001), ('2', 0.01)]
    """
    partition = blocks if isinstance(blocks, Blocks) else _partition(network, blocks)
    _check_same_parameters(network, partition)
    multipliers = {} if multipliers is None else multipliers
    _check_names("multipliers", multipliers, partition.names)
    _check_positive("lr", lr)
    for name, factor in multipliers.items():
        _check_positive(f"multipliers[{name!r}]", factor)
    factors = {name: float(multipliers.get(name, 1.0)) for name in partition}
    return [
        {"params": list(parameters), "lr": lr * factors[name], "multiplier": factors[name], "name": name}
        for name, parameters in partition.items()
    ]


def _partition(network: nn.Module, spec: Spec) -> Blocks:
    tensors = named_parameters(network)
    if spec == "auto":
        return _ordered(auto_blocks(network, tensors), tensors)
    if isinstance(spec, str):
        return _matched(_preset(spec), tensors, f"preset {spec!r}")
    if isinstance(spec, Mapping):
        return _matched(spec, tensors, "spec")
    raise BlockError(
        f"spec is {spec!r} of type {type(spec).__name__}; expected 'auto', the name of a preset "
        f"({', '.join(PRESETS)}) or a mapping from block name to patterns."
    )


def _ordered(assigned: Mapping[str, Iterable[str]], tensors: Mapping[str, nn.Parameter]) -> Blocks:
    """Blocks from parameter names per block, each block's parameters in the network's order."""
    members = {block: set(names) for block, names in assigned.items()}
    return Blocks({block: {n: p for n, p in tensors.items() if n in names} for block, names in members.items()})


def _preset(name: str) -> Mapping[str, Patterns]:
    if name not in PRESETS:
        raise BlockError(
            f"There is no preset {name!r}.{near_misses(name, [*PRESETS, 'auto'])} "
            f"Presets are {', '.join(PRESETS)}; or give 'auto' or a mapping from block name to patterns."
        )
    return PRESETS[name]


def _matched(spec: Mapping[str, Patterns], tensors: Mapping[str, nn.Parameter], source: str) -> Blocks:
    """Blocks of a mapping, after a check that each parameter is in exactly one."""
    if not spec:
        raise BlockError("The mapping is empty; expected at least one block name with its patterns.")
    owner: dict[str, str] = {}
    for block, patterns in spec.items():
        for pattern in _patterns(block, patterns):
            for name in _matches(pattern, tensors, f"block {block!r} of {source}"):
                if owner.setdefault(name, block) != block:
                    raise BlockError(
                        f"Parameter {name!r} is in two blocks, {owner[name]!r} and {block!r} (by {pattern!r}); "
                        "each parameter belongs to one. Narrow one of the patterns."
                    )
    missing = [name for name in tensors if name not in owner]
    if missing:
        raise BlockError(
            f"{len(missing)} of {len(tensors)} parameters are in no block of {source}: {first_few(missing)}. "
            "Each parameter belongs to one block; add patterns for these."
        )
    return _ordered({block: [name for name in tensors if owner[name] == block] for block in spec}, tensors)


def _patterns(block: object, patterns: object) -> list[str]:
    """The patterns of one block as a list of strings."""
    found = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(block, str) or not block:
        raise BlockError(f"A block is named {block!r}; expected a string that is not empty.")
    if not isinstance(found, Sequence) or not found or not all(isinstance(pattern, str) for pattern in found):
        raise BlockError(f"Block {block!r} has the patterns {patterns!r}; expected one string or several.")
    return list(found)


def _matches(pattern: str, names: Iterable[str], place: str) -> list[str]:
    """Parameter names that `pattern` matches; at least one."""
    names = list(names)
    if any(character in pattern for character in "*?["):
        found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    else:
        found = [name for name in names if f"{name}.".startswith(f"{pattern}.")]
    if not found:
        paths = {prefix: None for name in names for prefix in _prefixes(name)}
        top = list(dict.fromkeys(name.split(".")[0] for name in names))
        raise BlockError(
            f"Pattern {pattern!r} in {place} matches no parameter.{near_misses(pattern, paths)} "
            f"Give a module path, a parameter name or a pattern with '*'; the network begins with {first_few(top)}."
        )
    return found


def _prefixes(name: str) -> list[str]:
    """``a.b.c`` -> ``a``, ``a.b``, ``a.b.c``."""
    components = name.split(".")
    return [".".join(components[:end]) for end in range(1, len(components) + 1)]


def _check_same_parameters(network: nn.Module, partition: Blocks) -> None:
    held = {id(parameter) for parameters in partition.values() for parameter in parameters}
    strange = [name for name, parameter in named_parameters(network).items() if id(parameter) not in held]
    surplus = len(held) + len(strange) - sum(1 for _ in network.parameters())
    if strange or surplus:
        raise BlockError(
            f"The blocks were made for another network: {len(strange)} parameters of this one are not in them"
            f"{f' ({first_few(strange)})' if strange else ''}, {surplus} in them are not in it. "
            "Make them again with blocks(network)."
        )


def _check_names(what: str, given: Iterable[str], names: Sequence[str]) -> None:
    for name in given:
        if name not in names:
            raise BlockError(
                f"{what} names the block {name!r}, which does not exist.{near_misses(name, names)} "
                f"Blocks are {', '.join(names)}."
            )


def _check_positive(what: str, value: object) -> None:
    if not isinstance(value, numbers.Real) or not math.isfinite(value) or value <= 0:
        raise OptionError(f"{what} is {value!r}; expected a finite number above 0, such as 1e-3.")


def _counts(parameters: Sequence[nn.Parameter]) -> list[str]:
    """Table cells: tensors, parameters, trainable parameters."""
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return [f"{len(parameters):,}", f"{sum(parameter.numel() for parameter in parameters):,}", f"{trainable:,}"]


def _aligned(rows: list[list[str]]) -> str:
    """Columns of equal width: the first to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
