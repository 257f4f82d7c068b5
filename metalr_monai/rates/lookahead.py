"""The tentative step: θ kept aside, the step measured and rescaled, and a meta pass that leaves no trace.

Every optimizer in use moves a parameter by an amount linear in its rate. So the optimizer's own step *is* the
look-ahead θ̂ of Eq. 2, and Eq. 4 with new rates is the same step rescaled: θ ← θ − (α_new/α)·(θ − θ̂).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import OptimizerError


class Displacement:
    """θ before a step, then Δ = θ − θ̂ = α·u: one tensor a moving parameter, the method's only extra memory.

    Attributes:
        block: block number of each moving parameter, shape (n,), int64, on the first one's device.
    """

    def __init__(self, blocks: Sequence[Sequence[nn.Parameter]]) -> None:
        self._parameters: list[Tensor] = [p for block in blocks for p in block]
        self._block = [j for j, block in enumerate(blocks) for _ in block]
        self._buffers: list[Tensor | None] = [None] * len(self._parameters)
        self._moving: list[int] = []
        self.block = torch.zeros(0, dtype=torch.int64)

    @torch.no_grad()
    def save(self) -> None:
        """Keep θ of every parameter that has a gradient, the ones that the next step moves."""
        self._set_moving([i for i, p in enumerate(self._parameters) if p.grad is not None])
        if any(p.grad is not None and p.grad.is_sparse for p in self.parameters):
            raise OptimizerError("A gradient is sparse, which MetaLR does not handle; use nn.Embedding(sparse=False).")
        for i in self._moving:
            if self._buffers[i] is None:
                self._buffers[i] = torch.empty_like(self._parameters[i])
        if self._moving:
            torch._foreach_copy_(self.tensors, self.parameters)

    @torch.no_grad()
    def measure(self) -> None:
        """Turn the kept θ into Δ = θ − θ̂, in place."""
        if self._moving:
            torch._foreach_sub_(self.tensors, self.parameters)

    @torch.no_grad()
    def rescale(self, ratios: Sequence[float]) -> None:
        """θ ← θ − ratio_j·Δ_j, from θ̂ = θ − Δ; blocks with a ratio of exactly 1 are left bit for bit as they are."""
        for j, ratio in enumerate(ratios):
            mine = [i for i in self._moving if self._block[i] == j]
            if mine and ratio != 1:
                torch._foreach_add_([self._parameters[i] for i in mine], self._kept(mine), alpha=1 - ratio)

    @torch.no_grad()
    def descend(self, rates: Sequence[float]) -> None:
        """θ̂_j = θ_j − rate_j·g_j with the raw gradient: Eq. 2 to the letter. Undone by `restore`."""
        for j, rate in enumerate(rates):
            mine = [self._parameters[i] for i in self._moving if self._block[i] == j]
            if mine:
                torch._foreach_add_(mine, [p.grad for p in mine if p.grad is not None], alpha=-rate)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the kept θ back, bit for bit."""
        if self._moving:
            torch._foreach_copy_(self.parameters, self.tensors)

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that the step moves, in block order."""
        return [self._parameters[i] for i in self._moving]

    @property
    def tensors(self) -> list[Tensor]:
        """θ after `save`, Δ after `measure`; one tensor for each of `parameters`."""
        return self._kept(self._moving)

    @property
    def moving_blocks(self) -> set[int]:
        """Numbers of the blocks in which something moves and can be judged; frozen parameters have no g_v."""
        return {self._block[i] for i in self._moving if self._parameters[i].requires_grad}

    def state_dict(self) -> dict[int, Tensor]:
        """Parameter number → its tensor."""
        return {i: tensor.clone() for i, tensor in zip(self._moving, self.tensors, strict=True)}

    def load_state_dict(self, state: dict[int, Tensor]) -> None:
        """Take over `state_dict()` of an equal set of blocks."""
        self._set_moving(sorted(state))
        for i, tensor in state.items():
            self._buffers[i] = tensor.detach().to(self._parameters[i].device, copy=True)

    def _set_moving(self, moving: list[int]) -> None:
        if moving != self._moving:  # seldom; the copy to the device would wait for it at every step
            self._moving = moving
            device = self._parameters[moving[0]].device if moving else None
            self.block = torch.tensor([self._block[i] for i in moving], dtype=torch.int64, device=device)

    def _kept(self, indices: Sequence[int]) -> list[Tensor]:
        return [b for i in indices if (b := self._buffers[i]) is not None]


class MetaRandomStream:
    """Random numbers for the meta pass, apart from those of training, on every device that the parameters live on."""

    def __init__(self, devices: Sequence[torch.device], seed: int) -> None:
        self._cuda = sorted({d for d in devices if d.type == "cuda"}, key=str)
        self._states = {"cpu": torch.Generator().manual_seed(seed).get_state()}
        for number, device in enumerate(self._cuda):
            self._states[f"cuda#{number}"] = torch.Generator(device).manual_seed(seed).get_state()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this stream; training's own goes on afterwards as if nothing had been drawn."""
        with torch.random.fork_rng(devices=self._cuda):
            torch.set_rng_state(self._states["cpu"])
            for number, device in enumerate(self._cuda):
                torch.cuda.set_rng_state(self._states[f"cuda#{number}"], device)
            yield
            self._states["cpu"] = torch.get_rng_state()
            for number, device in enumerate(self._cuda):
                self._states[f"cuda#{number}"] = torch.cuda.get_rng_state(device)

    def state_dict(self) -> dict[str, Tensor]:
        """Device → generator state; GPUs by their place among ours, for another rank or run may have another index."""
        return dict(self._states)

    def load_state_dict(self, states: dict[str, Tensor]) -> None:
        """Go on where `state_dict()` was taken, for the devices that are in both."""
        self._states.update({name: state.cpu() for name, state in states.items() if name in self._states})


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Put every buffer back afterwards (batch norm's running statistics among them), value and identity."""
    kept = [
        (module, name, buffer, None if buffer is None or _is_expanded(buffer) else buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in kept:
                if buffer is not None and value is not None:
                    buffer.copy_(value)
                module._buffers[name] = buffer


def _is_expanded(buffer: Tensor) -> bool:
    """Whether several elements share one place in memory, so that nothing can write into it."""
    return any(stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True))


@contextmanager
def without_synchronisation(network: nn.Module) -> Iterator[None]:
    """Under DDP: no gradient reduction and no buffer broadcast. ⟨mean g_v, u⟩ is the mean of d scalars instead."""
    replicas = find_ddp(network)
    broadcasts = [ddp.require_forward_param_sync for ddp in replicas]
    with ExitStack() as stack:
        for ddp in replicas:
            stack.enter_context(ddp.no_sync())
            ddp.require_forward_param_sync = False
        try:
            yield
        finally:
            for ddp, broadcast in zip(replicas, broadcasts, strict=True):
                ddp.require_forward_param_sync = broadcast


def find_ddp(network: nn.Module) -> list[DistributedDataParallel]:
    """The DDP wrappers in a network: around it, behind `torch.compile`, or around parts of it."""
    return [module for module in network.modules() if isinstance(module, DistributedDataParallel)]
