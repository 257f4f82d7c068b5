"""Blocks: named sets of parameters that share one learning rate.

Every parameter of a network belongs to exactly one block. A block partition comes from a preset (the ten blocks
of the published ResNet-18 study), from a mapping of names to patterns, or from ``"auto"``, which reads it off the
network's own structure.
"""

from __future__ import annotations

import ast
import difflib
import fnmatch
import inspect
import math
import numbers
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise, zip_longest
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from metalr_monai.errors import BlockError, OptionError

__all__ = ["PRESETS", "Blocks", "blocks", "param_groups"]

Patterns = str | Sequence[str]
Spec = str | Mapping[str, Patterns]

_RESNET_STAGES = [f"layer{stage}.{unit}" for stage in (1, 2, 3, 4) for unit in (0, 1)]
_GENESIS_STAGES = [f"down_tr{n}" for n in (64, 128, 256, 512)] + [f"up_tr{n}" for n in (256, 128, 64)] + ["out_tr"]

PRESETS: dict[str, dict[str, tuple[str, ...]]] = {
    "resnet18": {"conv1": ("conv1", "bn1"), **{name: (name,) for name in _RESNET_STAGES}, "fc": ("fc",)},
    "genesis_unet3d": {name: (name,) for name in _GENESIS_STAGES},
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
    """Optimizer groups, one per block in block order, each with its ``name`` and its own ``lr``.

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
    return [
        {"params": list(parameters), "lr": lr * multipliers.get(name, 1.0), "name": name}
        for name, parameters in partition.items()
    ]


def _partition(network: nn.Module, spec: Spec) -> Blocks:
    tensors = _named_parameters(network)
    if spec == "auto":
        return _ordered(_auto(network, tensors), tensors)
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


# Canonical names ------------------------------------------------------------------------------------------------


def _named_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters under their canonical names, shared ones once."""
    tensors = dict(network.named_parameters())
    if not tensors:
        raise BlockError(f"{type(network).__name__} has no parameters; expected a network that can be trained.")
    lazy = [name for name, parameter in tensors.items() if isinstance(parameter, UninitializedParameter)]
    if lazy:
        raise BlockError(
            f"{_some(lazy)} of {type(network).__name__} have no shape yet (lazy modules); "
            "run one batch through the network first, then make the blocks."
        )
    wrappers = _wrapper_depth(tensors)
    return {_canonical(name, wrappers): parameter for name, parameter in tensors.items()}


def _wrapper_depth(names: Iterable[str]) -> int:
    """Number of ``module`` components that begin every name."""
    paths = [_components(name)[:-1] for name in names]  # the last component is the parameter's own name
    depth = 0
    while all(path[depth : depth + 1] == ["module"] for path in paths):
        depth += 1
    return depth


def _components(name: str) -> list[str]:
    return [component for component in name.split(".") if component not in ("", "_orig_mod")]


def _canonical(name: str, wrappers: int) -> str:
    return ".".join(_components(name)[wrappers:])


# Presets and mappings -------------------------------------------------------------------------------------------


def _preset(name: str) -> Mapping[str, Patterns]:
    if name not in PRESETS:
        raise BlockError(
            f"There is no preset {name!r}.{_near(name, [*PRESETS, 'auto'])} "
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
            f"{len(missing)} of {len(tensors)} parameters are in no block of {source}: {_some(missing)}. "
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
            f"Pattern {pattern!r} in {place} matches no parameter.{_near(pattern, paths)} "
            f"Give a module path, a parameter name or a pattern with '*'; the network begins with {_some(top)}."
        )
    return found


def _prefixes(name: str) -> list[str]:
    """``a.b.c`` -> ``a``, ``a.b``, ``a.b.c``."""
    components = name.split(".")
    return [".".join(components[:end]) for end in range(1, len(components) + 1)]


# Auto -----------------------------------------------------------------------------------------------------------
#
# The network is a tree of modules. Start with the root as the only unit and split units into their parts until
# the partition is good; then join norms to the layer before them and merge neighbours if there are too many.

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_FEWEST, _ENOUGH, _MOST = 4, 7, 24  # the stages of a U-Net with four levels are seven

# A unit with a larger share of all parameter tensors (a measure of depth) is split even if there are enough.
# A container's parts are stages by construction; those of another module may be details, so it must be most of
# the network (a pre-trained encoder inside a segmentation network).
_CONTAINER_SHARE, _MODULE_SHARE = 1 / 3, 1 / 2


def _auto(network: nn.Module, tensors: dict[str, nn.Parameter]) -> dict[str, list[str]]:
    """Parameter names per block."""
    wrappers = _wrapper_depth(name for name, _ in network.named_parameters())
    paths = {module: _canonical(path, wrappers) for path, module in network.named_modules()}
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
        while len(children := _children(module)) == 1:
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
        for child in _children(self.core):
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


# Order of use ---------------------------------------------------------------------------------------------------
#
# Registration order is often not depth order: SegResNet registers two lists that run alternately, DynUNet its
# auxiliary heads after the output. A forward pass would tell but needs an input; the source of `forward` does not.


def _children(module: nn.Module) -> list[nn.Module]:
    """Children that have parameters, in the order in which ``forward`` uses them."""
    named = {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}
    if len(named) < 2:
        return list(named.values())
    reader = _ForwardReader(type(module), named)
    together = _alternating(reader.loops, named)
    ordered: dict[nn.Module, None] = {}
    for name in _use_order(reader.uses, named):
        stages = [list(named[sibling].children()) for sibling in together.get(name, ())]
        alternating = [stage for step in zip_longest(*stages) for stage in step if stage is not None]
        ordered.update(dict.fromkeys(alternating or [named[name]]))
    return list(ordered)


def _use_order(uses: Iterable[str], named: Mapping[str, nn.Module]) -> list[str]:
    """Names as used; a child that ``forward`` does not name stays behind the sibling registered before it."""
    order = list(dict.fromkeys(uses))
    covered = {id(parameter) for name in order for parameter in named[name].parameters()}
    position = 0
    for name, child in named.items():
        if name in order:
            position = order.index(name) + 1
        elif any(id(parameter) not in covered for parameter in child.parameters()):
            order.insert(position, name)
            position += 1
    return order


def _alternating(loops: Iterable[list[str]], named: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    """ModuleLists that one loop runs through together: name -> names of all lists of that loop, in order."""
    together: dict[str, list[str]] = {}
    for loop in loops:
        lists = [name for name in dict.fromkeys(loop) if type(named[name]) is nn.ModuleList]
        if len(lists) > 1:
            for name in lists:
                together.setdefault(name, lists)
    return together


class _ForwardReader(ast.NodeVisitor):
    """Reads which children ``forward``, and the methods it calls, use: in order (`uses`) and by loop (`loops`)."""

    def __init__(self, module_type: type[nn.Module], children: Iterable[str]) -> None:
        self.uses: list[str] = []
        self.loops: list[list[str]] = []
        self._type = module_type
        self._children = set(children)
        self._read: set[str] = set()
        self._read_method("forward")

    def _read_method(self, name: str) -> None:
        method = getattr(self._type, name, None)
        if inspect.isfunction(method) and name not in self._read:
            self._read.add(name)
            for statement in _body(method):
                self.visit(statement)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            self.visit(node.value)
        elif node.attr in self._children:
            self.uses.append(node.attr)
        else:
            self._read_method(node.attr)

    def visit_Call(self, node: ast.Call) -> None:
        # In self.head(self.body(x)) the body runs first.
        for argument in [*node.args, *node.keywords]:
            self.visit(argument)
        self.visit(node.func)

    def visit_If(self, node: ast.If) -> None:
        # A test looks at a module (`is not None`), it does not run it.
        for statement in [*node.body, *node.orelse]:
            self.visit(statement)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.body)
        self.visit(node.orelse)

    def visit_For(self, node: ast.For) -> None:
        before = len(self.uses)
        self.generic_visit(node)
        self.loops.append(self.uses[before:])


def _body(function: Callable[..., object]) -> list[ast.stmt]:
    """Statements of a function; none if its source is not at hand (built at run time, compiled)."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return []
    return tree.body


# Checks and text ------------------------------------------------------------------------------------------------


def _check_same_parameters(network: nn.Module, partition: Blocks) -> None:
    held = {id(parameter) for parameters in partition.values() for parameter in parameters}
    strange = [name for name, parameter in _named_parameters(network).items() if id(parameter) not in held]
    surplus = len(held) + len(strange) - sum(1 for _ in network.parameters())
    if strange or surplus:
        raise BlockError(
            f"The blocks were made for another network: {len(strange)} parameters of this one are not in them"
            f"{f' ({_some(strange)})' if strange else ''}, {surplus} in them are not in it. "
            "Make them again with blocks(network)."
        )


def _check_names(what: str, given: Iterable[str], names: Sequence[str]) -> None:
    for name in given:
        if name not in names:
            raise BlockError(
                f"{what} names the block {name!r}, which does not exist.{_near(name, names)} "
                f"Blocks are {', '.join(names)}."
            )


def _check_positive(what: str, value: object) -> None:
    if not isinstance(value, numbers.Real) or not math.isfinite(value) or value <= 0:
        raise OptionError(f"{what} is {value!r}; expected a finite number above 0, such as 1e-3.")


def _near(name: str, candidates: Iterable[str]) -> str:
    """A sentence with the near misses, or nothing."""
    near = difflib.get_close_matches(name, list(candidates), n=5)
    return f" Did you mean {', '.join(near)}?" if near else ""


def _some(names: Sequence[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


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
