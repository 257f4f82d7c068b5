"""How much memory training takes, counted without spending any, and how much there is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..errors import OptionError

GIGABYTE: Final = 2**30  # as graphics cards' tools count

# Weights, gradients, the optimizer's momentum, and MetaLR's displacement of the last step.
_COPIES_OF_WEIGHTS: Final = 4
# While the largest layer is differentiated: gradients of its input and output, and copies of both in the layout that
# the convolution's kernel wants.
_LARGEST_LAYER_TIMES: Final = 2


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training step takes at its peak, beside the process itself and the data that it keeps.

    Attributes:
        fixed: whatever the batch: weights, gradients, momentum, MetaLR's displacement.
        per_patch: what the forward pass keeps for the backward one, and the largest layer's gradients, for one patch.
    """

    fixed: int
    per_patch: int

    def total(self, batch_size: int) -> int:
        """Bytes with `batch_size` patches."""
        return self.fixed + batch_size * self.per_patch

    def largest_batch(self, gigabytes: float) -> int:
        """Patches that fit in `gigabytes` of 2³⁰ bytes; 0 where not one does."""
        return max(0, int((gigabytes * GIGABYTE - self.fixed) // self.per_patch))


def training_memory(
    build: Callable[[], nn.Module], patch_size: Sequence[int], *, in_channels: int = 1, bfloat16: bool = False
) -> TrainingMemory:
    """Count what a training step keeps, on torch's meta device: shapes alone, so that no size costs anything.

    Counted is what autograd saves (each storage once), not what the layers are thought to. The loss is left out: a few
    maps of as many channels as there are regions. A step's peak on a CPU was 0.83 to 0.99 times this
    (tests/planning/test_memory.py), and up to 1.4 times with tensors below 32 MB, which the C library keeps in a heap
    with gaps.

    Args:
        build: makes the network.
        patch_size: voxels (x, y, z).
        in_channels: of the image.
        bfloat16: activations as under autocast: half the size, beside a copy of the weights of half the size.

    Example:
        >>> memory = training_memory(lambda: nn.Conv3d(1, 8, 3, padding=1), (16, 16, 16))
        >>> memory.per_patch  # the image that is saved; twice the image and the 8 maps
        311296
    """
    number = torch.bfloat16 if bfloat16 else torch.float32
    with torch.device("meta"):
        network = build().to(number)
        # Two, since batch norm wants more than one value for each channel, which a small patch may not have left.
        images = torch.empty((2, in_channels, *patch_size), dtype=number)
    saved, largest = _counted(network, images)
    weights = sum(p.numel() for p in network.parameters())
    return TrainingMemory(
        fixed=weights * (4 * _COPIES_OF_WEIGHTS + (2 if bfloat16 else 0)),
        per_patch=(saved + _LARGEST_LAYER_TIMES * largest) // 2,
    )


def _counted(network: nn.Module, images: Tensor) -> tuple[int, int]:
    """Bytes that autograd saves in a forward pass, without the weights; bytes of the largest layer's in- and output."""
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    # The storages are kept, so that none is taken for a later one at the same address.
    storages: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage
        return tensor

    with _layer_sizes(network) as sizes, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(images)
    return sum(storage.nbytes() for storage in storages.values()), max(sizes)


@contextmanager
def _layer_sizes(network: nn.Module) -> Iterator[list[int]]:
    """Bytes of each layer's input and output, as it is run."""
    sizes: list[int] = []

    def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in (*inputs, output)))

    handles = [
        module.register_forward_hook(record) for module in network.modules() if not any(True for _ in module.children())
    ]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


def memory_at_hand() -> float:
    """What training may take now, in units of 2³⁰ bytes: free memory of the GPU, or where there is none of the machine.

    In a container that limits memory it is what is left below the limit.

    Raises:
        OptionError: this system does not say.
    """
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return free / GIGABYTE
    return min(_available_ram(), _left_in_container()) / GIGABYTE


def _available_ram() -> float:
    """Bytes; on Linux without swapping, elsewhere half of all there is."""
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return 1024 * float(line.split()[1])
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    raise OptionError("This system does not say how much memory is free; give memory_gb, what training may take.")


def _left_in_container(folder: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes below the limit of control group v2, infinite without one; files' cached pages are given up when needed."""
    limit = "".join(_lines(folder / "memory.max")).strip()
    if not limit.isdigit():  # none, or "max"
        return float("inf")
    used = int("".join(_lines(folder / "memory.current")))
    cached = [int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.startswith("inactive_file ")]
    return int(limit) - used + sum(cached)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:  # another system has no such file
        return []
