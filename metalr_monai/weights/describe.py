"""What is in a checkpoint file, without a network to load it into."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from torch import Tensor

from ..errors import first_few
from ..networks.registry import NETWORKS, NetworkKind, network_kind
from .read import find_state_dict, read_checkpoint
from .renaming import CONTRASTIVE_RULES, SEQUENTIAL_RESNET, rename

_BUFFERS: Final = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class CheckpointDescription:
    """What is in a checkpoint file.

    Attributes:
        path: the file.
        container: the key under which the state dict is, empty where it is plain.
        others: further keys with a state dict.
        tensors: number of tensors in the state dict.
        parameters: numbers in them, without batch norm's statistics.
        prefixes: the names' first component, behind what all names begin with → number of tensors.
        kind: the network, if it is one that is known; without its head where that is a projection.
        epoch: as stored in the file, or None.
    """

    path: str
    container: str
    others: tuple[str, ...]
    tensors: int
    parameters: int
    prefixes: Mapping[str, int]
    kind: NetworkKind | None
    epoch: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return {
            **asdict(self),
            "others": list(self.others),
            "prefixes": dict(self.prefixes),
            "network": None if self.kind is None else str(self.kind),
        }

    def __str__(self) -> str:
        prefixes = [f"{prefix} ({count})" for prefix, count in self.prefixes.items()]
        rows = {
            "checkpoint": self.path,
            "state dict": f"under {self.container!r}" if self.container else "plain",
            "also in it": ", ".join(self.others) or "no other state dict",
            "network": str(self.kind or "not one that is known here"),
            "tensors": f"{self.tensors:,}",
            "parameters": f"{self.parameters:,}",
            "names": first_few(prefixes, 12),
            "epoch": "not stored" if self.epoch is None else str(self.epoch),
        }
        return "\n".join(f"{name:<10}  {value}" for name, value in rows.items())


def describe_checkpoint(path: str | os.PathLike[str]) -> CheckpointDescription:
    """Read a checkpoint (tensors only, on the CPU) and say what it holds.

    Raises:
        WeightsError: the file cannot be read or holds no tensors.
    """
    content = read_checkpoint(path)
    state = find_state_dict(content, os.fspath(path))
    return CheckpointDescription(
        path=state.source,
        container=state.container,
        others=state.others,
        tensors=len(state.tensors),
        parameters=sum(t.numel() for name, t in state.tensors.items() if not name.endswith(_BUFFERS)),
        prefixes=_prefixes(state.tensors),
        kind=_kind(state.tensors),
        epoch=_epoch(content),
    )


def _kind(tensors: Mapping[str, Tensor]) -> NetworkKind | None:
    """The network, in whatever layout; classes are counted only where the file's head may be a classifier."""
    if kind := network_kind(tensors):
        return replace(kind, classes=None) if kind.prefix.endswith(tuple(CONTRASTIVE_RULES)) else kind
    for entry in NETWORKS.values():
        renaming = rename(tensors, {*entry.signature, *entry.absent})
        heads = {entry.head} if SEQUENTIAL_RESNET in renaming.rules else set()
        renamed = {renaming.names[name]: tensor for name, tensor in tensors.items() if name not in heads}
        if kind := network_kind(renamed):
            return kind
    return None


def _prefixes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    paths = [name.split(".") for name in tensors]
    depth = 0
    while all(len(path) > depth + 1 and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    counts: dict[str, int] = {}
    for path in paths:
        prefix = ".".join(path[: depth + 1])
        counts[prefix] = counts.get(prefix, 0) + 1
    return counts


def _epoch(content: object) -> int | None:
    epoch = content.get("epoch") if isinstance(content, Mapping) else None
    if isinstance(epoch, Tensor) and epoch.numel() == 1:
        epoch = epoch.item()
    return epoch if isinstance(epoch, int) else None
