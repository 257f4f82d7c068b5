"""A loader over a part of its data keeps what it can and refuses what it cannot."""

from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader, Dataset, DistributedWeightedRandomSampler, ThreadDataLoader
from torch.utils.data import RandomSampler, Subset

from metalr_monai.data.loaders import loader_over
from metalr_monai.errors import MetaDataError

DATA = Dataset([{"x": i} for i in range(8)])
PART = Subset(DATA, [1, 3, 5, 7])


def test_settings_are_carried_over():
    def collate(items):
        return [item["x"] for item in items]

    for cls, extra in ((torch.utils.data.DataLoader, {}), (DataLoader, {}), (ThreadDataLoader, {"repeats": 2})):
        loader = cls(DATA, batch_size=2, shuffle=False, drop_last=True, collate_fn=collate, **extra)
        part = loader_over(PART, loader)
        assert type(part) is cls and part.drop_last and part.collate_fn is collate
        assert list(part) == [[1, 3]] * extra.get("repeats", 1) + [[5, 7]] * extra.get("repeats", 1)
    assert isinstance(loader_over(PART, DataLoader(DATA, shuffle=True)).sampler, RandomSampler)


class Own(DataLoader):
    pass


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Own(DATA), "a type of its own .Own."),
        (lambda: DataLoader(DATA, sampler=RandomSampler(DATA, replacement=True)), "with replacement"),
        (lambda: DataLoader(DATA, sampler=RandomSampler(DATA, num_samples=100)), "another number of items"),
        (lambda: DataLoader(DATA, batch_sampler=[[0, 1], [2, 3]]), "has a list, which"),
        (
            lambda: DataLoader(DATA, sampler=DistributedWeightedRandomSampler(DATA, [1.0] * 8, num_replicas=1, rank=0)),
            "a DistributedWeightedRandomSampler",
        ),
    ],
)
def test_an_order_of_its_own_is_refused_by_name(make, says):
    with pytest.raises(MetaDataError, match=says):
        loader_over(PART, make())


def test_making_it_advances_no_random_stream():
    loader = DataLoader(DATA, shuffle=True)
    before = torch.get_rng_state()
    loader_over(PART, loader)
    assert torch.equal(torch.get_rng_state(), before)
