"""A data loader made anew over a part of its data."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler, SequentialSampler

from ..errors import MetaDataError


def loader_over(part: Dataset[Any], loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader like `loader` (type, batch size, order, collation, workers) over `part`, a subset of its data set.

    Raises:
        MetaDataError: the loader has a sampler of its own, which cannot be carried over to a part of the data.
    """
    sampler = loader.sampler
    known = (RandomSampler, SequentialSampler, DistributedSampler)
    if loader.batch_size is None or not isinstance(sampler, known):
        raise MetaDataError(
            f"The training loader has a {type(sampler).__name__}, which cannot be taken over to a part of the data. "
            f"Split the data list first, train, meta = metalr_monai.hold_out(items, 23), and give MetaLRHandler a meta "
            f"DataLoader."
        )
    order: dict[str, Any] = {"shuffle": isinstance(sampler, RandomSampler)}
    if isinstance(sampler, DistributedSampler):
        order = {
            "sampler": DistributedSampler(
                part, sampler.num_replicas, sampler.rank, sampler.shuffle, sampler.seed, sampler.drop_last
            )
        }
    workers: dict[str, Any] = {}
    if loader.num_workers:
        workers = {
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers,
            "multiprocessing_context": loader.multiprocessing_context,
        }
    with torch.random.fork_rng(devices=[]):  # MONAI's loader draws a seed when it is made
        return type(loader)(
            part,
            batch_size=loader.batch_size,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            drop_last=loader.drop_last,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            generator=loader.generator,
            **order,
            **workers,
        )
