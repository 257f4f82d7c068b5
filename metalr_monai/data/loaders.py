"""A data loader made anew over a part of its data."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import DataLoader as MonaiDataLoader
from monai.data import DistributedSampler as MonaiDistributedSampler
from monai.data import ThreadDataLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from ..errors import MetaDataError


def loader_over(part: Dataset[Any], loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader like `loader` (batch size, order, collation, workers) over `part`, a subset of its data set.

    Raises:
        MetaDataError: the loader or its sampler is of a kind that cannot be carried over to a part of the data.
    """
    culprit = _cannot_be_carried_over(loader)
    if culprit:
        raise MetaDataError(
            f"The training loader has {culprit}, which cannot be taken over to a part of the data. Split the data list "
            f"first, train, meta = metalr_monai.hold_out(items, 23), and give MetaLRHandler a meta DataLoader."
        )
    sampler = loader.sampler
    order: dict[str, Any] = {"shuffle": isinstance(sampler, RandomSampler)}
    if isinstance(sampler, DistributedSampler):
        order = {
            "sampler": DistributedSampler(
                part, sampler.num_replicas, sampler.rank, sampler.shuffle, sampler.seed, sampler.drop_last
            )
        }
    names = ["collate_fn", "pin_memory", "drop_last", "timeout", "worker_init_fn", "generator", "in_order"]
    if loader.num_workers:
        names += ["prefetch_factor", "persistent_workers", "multiprocessing_context"]
    if isinstance(loader, ThreadDataLoader):
        names += ["buffer_size", "buffer_timeout", "repeats"]
    settings = {name: getattr(loader, name) for name in names if hasattr(loader, name)}
    with torch.random.fork_rng(devices=[]):  # MONAI's loader draws a seed when it is made
        return type(loader)(part, batch_size=loader.batch_size, num_workers=loader.num_workers, **order, **settings)


def _cannot_be_carried_over(loader: DataLoader[Any]) -> str | None:
    """What is in the way, or None. Subclasses may mean anything, so types are compared exactly."""
    sampler = loader.sampler
    if type(loader) not in (DataLoader, MonaiDataLoader, ThreadDataLoader):
        return f"a type of its own ({type(loader).__name__})"
    if isinstance(loader.dataset, IterableDataset):
        return f"an iterable data set ({type(loader.dataset).__name__})"
    if type(loader.batch_sampler) is not BatchSampler:
        return f"a {type(loader.batch_sampler).__name__}"
    if type(sampler) not in (RandomSampler, SequentialSampler, DistributedSampler, MonaiDistributedSampler):
        return f"a {type(sampler).__name__}"
    total = len(loader.dataset)  # type: ignore[arg-type]  # map-style, so it has a length
    if isinstance(sampler, RandomSampler) and (sampler.replacement or sampler.num_samples != total):
        return "a RandomSampler that draws another number of items, or with replacement"
    return None
