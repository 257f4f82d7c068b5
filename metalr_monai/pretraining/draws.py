"""Random numbers on the images' device, without the host having to know any of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MANY = 1000  # from so many numbers on, a stream of NumPy's is faster, its making included


def seeded_generator(device: torch.device, *words: int) -> torch.Generator:
    """A generator whose stream depends on all of the words (whole numbers, 0 or more)."""
    high, low = np.random.SeedSequence(words).generate_state(2)
    return torch.Generator(device).manual_seed(int(high) << 32 | int(low))


def coins(shape: tuple[int, ...], probability: float, generator: torch.Generator) -> Tensor:
    """True with `probability`, never for 0, always for 1."""
    return torch.rand(shape, generator=generator, device=generator.device) < probability


def runs(items: int, length: int, probability: float, generator: torch.Generator) -> Tensor:
    """(items, length) of which the first few of a row are True: each goes on with `probability` while the last did."""
    return coins((items, length), probability, generator).cumprod(dim=1).bool()


def uniform_integers(low: int, high: Tensor, generator: torch.Generator) -> Tensor:
    """Whole numbers from `low` to `high`, both included, of the shape of `high`.

    A range of n is taken from 32 random bits, so that its numbers are equally likely up to n in 2³².
    """
    if generator.device.type == "cpu" and high.numel() >= MANY:
        wide = torch.from_numpy(random_bits(high.numel(), np.dtype(np.uint32), generator).astype(np.int64))
    else:
        wide = torch.randint(2**32, (high.numel(),), generator=generator, device=generator.device)
    return wide.view(high.shape).mul_(high - low + 1).bitwise_right_shift_(32).add_(low)


def on_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """A few whole numbers, (n,). `torch.tensor` would make the host wait for a GPU."""
    return torch.cat([torch.full((1,), number, device=device) for number in numbers])


def random_bits(number: int, dtype: np.dtype[Any], generator: torch.Generator) -> NDArray[Any]:
    """Whole numbers all of whose bits are random, (number,), on the CPU."""
    words = -(-number * dtype.itemsize // 8)
    drawn = _numpy_stream(generator).bit_generator.random_raw(words)
    return np.asarray(drawn).view(dtype)[:number]


def uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Float32 in [0, 1), on the CPU in steps of 2⁻¹⁶."""
    if generator.device.type != "cpu":
        return torch.rand(tuple(shape), generator=generator, device=generator.device)
    drawn = torch.from_numpy(random_bits(math.prod(shape), np.dtype(np.int16), generator))
    return drawn.view(tuple(shape)).float().mul_(2.0**-16).add_(0.5)


def _numpy_stream(generator: torch.Generator) -> np.random.Generator:
    """A stream seeded by the generator, for large draws on the CPU: it is twice to three times as fast."""
    seed = torch.randint(2**63 - 1, (2,), generator=generator).tolist()
    return np.random.Generator(np.random.SFC64(seed))
