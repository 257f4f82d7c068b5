"""An endless stream of meta batches that disturbs no other random stream and can be resumed at any batch."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count, islice
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Sampler

from ..errors import MetaDataError

IndexBatches = Callable[[], Iterator[list[int]]]  # batches of item numbers, for ever, from the stream's first on
ItemKey = tuple[tuple[int, ...], int]


class MetaBatches(Iterator[Any]):
    """Meta batches, one a call of `next`, for ever.

    Every item is drawn with random numbers of its own, seeded by (seed, rank, batch, place), so a batch is the same
    whatever the number of workers, and the stream goes on from its position alone. Random transforms are copies.

    Args:
        loader: gives data set, batch size, collation, workers and pinning. Its own stream is not advanced.
        order: "shuffled": all items, shuffled anew each time round, incomplete batches dropped; "loader": the loader's
            own batch sampler, as for weighted sampling; "first": the first batch, always (the published code).
        batch_size: items a batch; the loader's own by default.
        seed: of the order and of the random transforms.
        rank, world_size: "shuffled" deals the items out to the ranks, "loader" the batches (a `DistributedSampler`
            already gives each rank its own).

    Raises:
        MetaDataError: the loader has no items, fewer than a batch (on each rank), or cannot be indexed.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        *,
        order: str = "shuffled",
        batch_size: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._loader = loader
        self._seed = (seed, rank)
        self._batches = _index_batches(loader, order, batch_size, seed, rank, world_size)
        self._dataset = _SeededItems(loader.dataset)
        self._position = 0
        self._iterator: Iterator[Any] | None = None

    def __next__(self) -> Any:  # noqa: ANN401 - a batch is what the collation makes
        if self._iterator is None:
            self._iterator = self._iterate()
        batch = next(self._iterator)
        self._position += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """The number of batches drawn so far."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind that many batches; none of them is loaded."""
        self._position, self._iterator = state["position"], None

    def _iterate(self) -> Iterator[Any]:
        loader = self._loader
        workers: dict[str, Any] = {}
        if loader.num_workers:
            names = ("multiprocessing_context", "prefetch_factor", "worker_init_fn", "timeout")
            workers = {name: getattr(loader, name) for name in names}
        return iter(
            DataLoader(
                self._dataset,
                batch_sampler=_EndlessKeys(self._batches, self._seed, self._position),
                collate_fn=loader.collate_fn,
                num_workers=loader.num_workers,
                pin_memory=loader.pin_memory,
                generator=torch.Generator(),  # or it would draw its seed from the training stream
                **workers,
            )
        )


def with_own_randomness(holder: Any, found: list[Randomizable]) -> Any:  # noqa: ANN401 - data sets, transforms, lists of them
    """A copy that shares items and caches with `holder` but draws its random transforms apart.

    Data sets are copied shallowly, through `Subset`, `ConcatDataset` and the like; what is `Randomizable` in them
    deeply, and appended to `found`. Other attributes are shared, but for `transform`, which may hold anything.
    """
    twin = copy.copy(holder) if isinstance(holder, Dataset) else copy.deepcopy(holder)
    if isinstance(twin, Randomizable):
        found.append(twin)
    if isinstance(holder, Dataset):
        for name, value in vars(holder).items():
            if isinstance(value, (list, tuple)) and any(isinstance(v, (Dataset, Randomizable)) for v in value):
                setattr(twin, name, [with_own_randomness(v, found) for v in value])
            elif isinstance(value, (Dataset, Randomizable)) or name == "transform":
                setattr(twin, name, with_own_randomness(value, found))
    return twin


class _SeededItems(Dataset[Any]):
    """Items by (seed, number): the seed fixes every random number that loading the item draws."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._random: list[Randomizable] = []
        self._dataset = with_own_randomness(dataset, self._random)

    def __getitem__(self, key: ItemKey) -> Any:  # noqa: ANN401 - an item is what the data set makes
        seed, index = key
        number = int(np.random.SeedSequence(seed).generate_state(1)[0])
        with _seeded(number):
            for randomizable in self._random:
                randomizable.set_random_state(seed=number)
            return self._dataset[index]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Python, NumPy and torch (CPU) seeded inside, and as before outside."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def _seeded_generators(loader: DataLoader[Any], seed: int) -> Iterator[None]:
    """The generators of a loader and its samplers seeded inside, and as before outside; training may share them."""
    holders = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    found = {id(g): g for h in holders if isinstance(g := getattr(h, "generator", None), torch.Generator)}
    states = [(generator, generator.get_state()) for generator in found.values()]
    for generator, _ in states:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


class _EndlessKeys(Sampler[list[ItemKey]]):
    """Batches of item keys from batch number `start` on, for ever."""

    def __init__(self, batches: IndexBatches, seed: tuple[int, ...], start: int) -> None:
        self._batches, self._seed, self._start = batches, seed, start

    def __iter__(self) -> Iterator[list[ItemKey]]:
        for number, batch in enumerate(self._batches()):
            if number >= self._start:
                yield [((*self._seed, number, place), index) for place, index in enumerate(batch)]


def _index_batches(
    loader: DataLoader[Any], order: str, batch_size: int | None, seed: int, rank: int, world_size: int
) -> IndexBatches:
    total, size = _sizes(loader, batch_size)
    if total == 0:
        raise MetaDataError("The meta loader's data set is empty; give it at least one batch of items.")
    if order == "first":
        first = list(range(min(size, total)))
        return _endless(lambda epoch: [first])
    if order == "loader":
        _refuse_short(total, size, "the meta loader")
        if batch_size is not None and batch_size != loader.batch_size:
            raise MetaDataError(
                f"meta_batch_size is {batch_size}, but the meta loader makes its own batches of {loader.batch_size}; "
                f"set the size in the loader."
            )
        _refuse_short(len(_sampled(loader, seed, 0)[0]), size, "the meta loader's first batch")
        own_share = isinstance(_sampler(loader), DistributedSampler)
        return _endless(lambda epoch: _sampled(loader, seed, epoch), *((0, 1) if own_share else (rank, world_size)))
    _refuse_short(total // world_size, size, "each rank's share of the meta set" if world_size > 1 else "the meta set")
    return _endless(lambda epoch: _shuffled(total, size, seed, epoch, rank, world_size))


def _endless(of_epoch: Callable[[int], list[list[int]]], first: int = 0, step: int = 1) -> IndexBatches:
    """The batches epoch after epoch; of them number `first` and each `step`-th one behind it."""
    return lambda: islice(chain.from_iterable(map(of_epoch, count())), first, None, step)


def _sizes(loader: DataLoader[Any], batch_size: int | None) -> tuple[int, int]:
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise MetaDataError(f"meta_batch_size is {batch_size!r}; expected a whole number of items, 1 or more.")
    size = batch_size or loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    map_style = hasattr(loader.dataset, "__len__") and not isinstance(loader.dataset, IterableDataset)
    if loader.batch_sampler is None or not map_style or size is None:
        raise MetaDataError(
            f"The meta loader over {type(loader.dataset).__name__} cannot be indexed in batches; expected a map-style "
            f"data set and a batch size."
        )
    return len(loader.dataset), int(size)  # type: ignore[arg-type]  # map-style, so it has a length


def _refuse_short(total: int, size: int, what: str) -> None:
    if total < size:
        raise MetaDataError(
            f"{what[0].upper()}{what[1:]} has {total} items, which is shorter than one batch of {size}. "
            f"Hold out more, or give a smaller meta batch size."
        )


def _shuffled(total: int, size: int, seed: int, epoch: int, rank: int, world_size: int) -> list[list[int]]:
    order = np.random.default_rng((seed, epoch)).permutation(total)[rank::world_size].tolist()
    return [order[start : start + size] for start in range(0, len(order) - size + 1, size)]


def _sampler(loader: DataLoader[Any]) -> object:
    """Its batch sampler's: a loader that was given a batch sampler has one more, which it does not use."""
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


def _sampled(loader: DataLoader[Any], seed: int, epoch: int) -> list[list[int]]:
    """An epoch's batches by the loader's own batch sampler, the same on all ranks unless it tells them apart."""
    number = int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
    sampler = _sampler(loader)
    if isinstance(sampler, DistributedSampler):
        sampler.set_epoch(epoch)
    batches: Sequence[list[int]] | Any = loader.batch_sampler
    with _seeded(number), _seeded_generators(loader, number):
        found = [list(batch) for batch in batches]
    if not found:
        raise MetaDataError("The meta loader's sampler gives no batch; is it shorter than a batch with drop_last=True?")
    return found
