"""A partition into blocks for any network, read off its own structure.

The network is a tree of modules. Start with the root as the only unit and split units into their parts until the
partition is good; then join norms to the layer before them and merge neighbours if there are too many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

from torch import nn

from .forward_order import children_in_order
from .parameter_names import canonical, wrapper_depth

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_FEWEST, _ENOUGH, _MOST = 4, 7, 24  # the stages of a U-Net with four levels are seven

# A unit with a larger share of all parameter tensors (a measure of depth) is split even if there are enough.
# A container's parts are stages by construction; those of another module may be details, so it must be most of
# the network (a pre-trained encoder inside a segmentation network).
_CONTAINER_SHARE, _MODULE_SHARE = 1 / 3, 1 / 2


def auto_blocks(network: nn.Module, tensors: dict[str, nn.Parameter]) -> dict[str, list[str]]:
    """Parameter names per block."""
    wrappers = wrapper_depth(name for name, _ in network.named_parameters())
    paths = {module: canonical(path, wrappers) for path, module in network.named_modules()}
    units = [_Unit(network, tensors, paths)]
    while chosen := _units_to_split(units, len(tensors)):
        units = [part for unit in units for part in (unit.parts if unit in chosen else (unit,))]
    return {run.name: list(run.tensors) for run in _merged(_joined(units))}


@dataclass(frozen=True, eq=False)
class _Unit:
    """A module that is a block, or a part of one, as long as it is not split."""

    module: nn.Module
    tensors: Mapping[str, nn.Parameter]
    paths: Mapping[nn.Module, str]  # canonical path of each module of the network
    parent: nn.Module | None = None

    @property
    def name(self) -> str:
        return self.paths[self.module] or "network"

    @property
    def is_thin(self) -> bool:
        """Only norms, scales or biases: not a layer of its own."""
        return all(parameter.ndim <= 1 for parameter in self.tensors.values())

    @property
    def is_alias(self) -> bool:
        """Its parameters are all registered elsewhere (DynUNet's ``skip_layers``), so its path says nothing."""
        path = self.paths[self.module]
        return bool(path) and not any(name.startswith(f"{path}.") for name in self.tensors)

    @cached_property
    def core(self) -> nn.Module:
        """The module behind wrappers that have one part, such as MONAI's SkipConnection."""
        module = self.module
        while len(children := children_in_order(module)) == 1:
            module = children[0]
        return module

    @property
    def is_container(self) -> bool:
        return type(self.core) in _CONTAINERS

    @cached_property
    def parts(self) -> tuple[_Unit, ...]:
        """What a split gives, in order of use; empty if nothing is won by it."""
        parts: list[_Unit] = []
        rest = dict(self.tensors)
        for child in children_in_order(self.core):
            inside = {id(parameter) for parameter in child.parameters()}
            taken = {name: parameter for name, parameter in rest.items() if id(parameter) in inside}
            if taken:
                rest = {name: parameter for name, parameter in rest.items() if name not in taken}
                parts.append(_Unit(child, taken, self.paths, self.core))
        if len(_joined(parts)) < 2 and not any(part.parts for part in parts):
            return ()
        # Parameters of the module itself, such as class tokens and position embeddings, are used at its beginning.
        parts[0] = _Unit(parts[0].module, {**rest, **parts[0].tensors}, self.paths, self.core)
        return tuple(parts)


def _units_to_split(units: list[_Unit], total: int) -> list[_Unit]:
    """The units to split next; none when the partition is good."""
    count = len(_joined(units))
    largest_first = sorted((unit for unit in units if unit.parts), key=lambda unit: -len(unit.tensors))
    for unit in largest_first:
        share = len(unit.tensors) / total
        if unit.is_container and (count < _ENOUGH or share > _CONTAINER_SHARE):
            return [u for u in largest_first if u.parent is unit.parent and type(u.module) is type(unit.module)]
        if unit.is_alias or share > _MODULE_SHARE:
            return [unit]
    return largest_first[:1] if count < _FEWEST else []


@dataclass
class _Run:
    """Neighbouring units that make one block."""

    first: str
    last: str
    tensors: dict[str, nn.Parameter]

    @property
    def parent(self) -> str:
        return self.first.rpartition(".")[0]

    @property
    def name(self) -> str:
        if self.first == self.last:
            return self.first
        parent, _, last = self.last.rpartition(".")
        return f"{self.first}-{last if parent == self.parent else self.last}"


def _joined(units: Iterable[_Unit]) -> list[_Run]:
    """Units as blocks, where a thin one joins the block before it (or, at the very beginning, the one after)."""
    runs: list[_Run] = []
    only_thin = True
    for unit in units:
        if runs and (unit.is_thin or only_thin):
            runs[-1].tensors.update(unit.tensors)
            if only_thin and not unit.is_thin:
                runs[-1].first = runs[-1].last = unit.name
        else:
            runs.append(_Run(unit.name, unit.name, dict(unit.tensors)))
        only_thin = only_thin and unit.is_thin
    return runs


def _merged(runs: list[_Run]) -> list[_Run]:
    """At most `_MOST` blocks: the longest rows of siblings are merged into even pieces, never the head."""
    if len(runs) <= _MOST:
        return runs
    *body, head = runs
    rows = [list(row) for _, row in groupby(body, key=lambda run: run.parent)]
    if len(rows) >= _MOST:
        rows = [body]
    pieces = [len(row) for row in rows]
    while sum(pieces) >= _MOST:
        pieces[pieces.index(max(pieces))] -= 1
    return [*(run for row, count in zip(rows, pieces, strict=True) for run in _even(row, count)), head]


def _even(row: list[_Run], count: int) -> list[_Run]:
    """A row of blocks merged into `count` pieces of about equal length."""
    cuts = [piece * len(row) // count for piece in range(count + 1)]
    chunks = [row[start:end] for start, end in pairwise(cuts)]
    return [_Run(c[0].first, c[-1].last, {n: p for run in c for n, p in run.tensors.items()}) for c in chunks]
