"""The meta stream: endless, seeded, resumable, and without a trace in any other stream."""

from __future__ import annotations

import random
from itertools import chain

import numpy as np
import pytest
import torch
from monai.data import ArrayDataset, CacheDataset, DataLoader, Dataset
from monai.transforms import Compose, EnsureTyped, RandGaussianNoise, RandGaussianNoised
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DistributedSampler,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from metalr_monai import MetaBatches
from metalr_monai.errors import MetaDataError


def dataset(count=7, cls=CacheDataset):
    transform = Compose([EnsureTyped("image"), RandGaussianNoised("image", prob=1.0)])
    settings = {"progress": False} if cls is CacheDataset else {}
    return cls([{"image": np.full(3, i, "float32"), "case_id": i} for i in range(count)], transform, **settings)


def loader(data=None, **settings):
    return DataLoader(dataset() if data is None else data, **{"batch_size": 2, "shuffle": True, **settings})


def cases(stream, count):
    return [next(stream)["case_id"].tolist() for _ in range(count)]


def test_every_round_has_each_case_once_in_an_order_of_its_own():
    found = cases(MetaBatches(loader()), 9)
    rounds = [list(chain(*found[start : start + 3])) for start in (0, 3, 6)]
    assert all(len(set(r)) == 6 for r in rounds)  # 7 cases, whole batches of 2
    assert len({tuple(r) for r in rounds}) == 3


def test_the_stream_depends_on_its_seed_alone():
    torch.manual_seed(0)
    first = [next(MetaBatches(loader(), seed=5))["image"] for _ in range(1)]
    torch.manual_seed(1)
    random.random(), np.random.random()
    again, other = next(MetaBatches(loader(), seed=5))["image"], next(MetaBatches(loader(), seed=6))["image"]
    assert torch.equal(first[0], again) and not torch.equal(again, other)


def test_drawing_a_meta_batch_advances_no_stream_of_anybody_else():
    data = dataset()
    training = loader(data)
    stream = MetaBatches(training)

    def draws():
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        data.transform.set_random_state(0)
        found = [batch["image"] for batch in training]
        return [*found, torch.rand(1), torch.tensor(np.random.random()), torch.tensor(random.random())]

    before = draws()
    for _ in range(3):
        next(stream)
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    data.transform.set_random_state(0)
    after = []
    for batch in training:
        next(stream)
        after.append(batch["image"])
    after += [torch.rand(1), torch.tensor(np.random.random()), torch.tensor(random.random())]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loaded_position_goes_on_with_the_same_batches_and_augmentations(workers):
    straight = MetaBatches(loader(num_workers=workers), seed=2)
    batches = [next(straight) for _ in range(8)]
    resumed = MetaBatches(loader(), seed=2)
    resumed.load_state_dict({"position": 5})
    for expected in batches[5:]:
        assert torch.equal(next(resumed)["image"], expected["image"])
    assert resumed.state_dict() == {"position": 8}


class OwnDataset(torch.utils.data.Dataset):
    """Keeps its transform under a name of its own."""

    def __init__(self):
        self.items, self.augment = np.zeros((6, 3), "float32"), RandGaussianNoise(prob=1.0)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.augment(torch.as_tensor(self.items[index]))


@pytest.mark.parametrize(
    "data", [OwnDataset(), ConcatDataset([OwnDataset(), OwnDataset()])], ids=["own", "concatenated"]
)
def test_random_transforms_are_found_wherever_a_data_set_keeps_them(data):
    training = torch.utils.data.DataLoader(data, batch_size=2)
    holders = getattr(data, "datasets", [data])
    before = [d.augment.R.get_state()[1].copy() for d in holders]
    stream = MetaBatches(training, seed=1)
    batches = [next(stream) for _ in range(4)]
    assert all(np.array_equal(d.augment.R.get_state()[1], b) for d, b in zip(holders, before, strict=True))
    resumed = MetaBatches(training, seed=1)
    resumed.load_state_dict({"position": 2})
    assert torch.equal(next(resumed), batches[2]) and not torch.equal(batches[2], batches[3])


def test_a_generator_that_training_shares_is_left_where_it_was():
    generator = torch.Generator().manual_seed(0)
    data = dataset()
    training = DataLoader(data, batch_size=2, shuffle=True, generator=generator)
    before = generator.get_state()
    stream = MetaBatches(training, order="loader", seed=3)
    found = cases(stream, 5)
    assert torch.equal(generator.get_state(), before)
    generator.manual_seed(7)
    assert cases(MetaBatches(training, order="loader", seed=3), 5) == found


@pytest.mark.parametrize("cls", [CacheDataset, Dataset])
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Subset(d, [5, 1, 3, 0])], ids=["whole", "subset"])
def test_transforms_are_copies_also_behind_a_subset(cls, wrap):
    data = dataset(cls=cls)
    training = loader(wrap(data))
    data.transform.set_random_state(4)  # after MONAI's loader, which seeds the transforms when it is made
    state = data.transform.transforms[1].R.get_state()[1].copy()
    batch = next(MetaBatches(training))
    assert batch["image"].shape == (2, 3)
    assert np.array_equal(data.transform.transforms[1].R.get_state()[1], state)


def test_array_data_sets_work():
    arrays = ArrayDataset(np.zeros((4, 1, 3), "float32"), RandGaussianNoise(prob=1.0))
    first, again = (next(MetaBatches(DataLoader(arrays, batch_size=2), seed=1)) for _ in range(2))
    assert torch.equal(first, again) and first.abs().sum() > 0


def test_ranks_share_a_round_without_overlap():
    streams = [MetaBatches(loader(dataset(8)), rank=rank, world_size=2) for rank in range(2)]
    first, second = (list(chain(*cases(stream, 2))) for stream in streams)
    assert sorted(first + second) == list(range(8))


def on_ranks(make_loader, count, world_size=2):
    """What the ranks draw, each from a loader of its own, in the order of its sampler."""
    settings = {"order": "loader", "world_size": world_size}
    return [cases(MetaBatches(make_loader(rank), rank=rank, **settings), count) for rank in range(world_size)]


@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_take_turns_with_the_batches_of_a_loaders_own_order(shuffle):
    data = dataset(6)
    first, second = on_ranks(lambda rank: loader(data, shuffle=shuffle), 3)
    alone = cases(MetaBatches(loader(data, shuffle=shuffle), order="loader"), 6)
    assert (first, second) == (alone[::2], alone[1::2])
    assert all(sorted(chain(*alone[start : start + 3])) == list(range(6)) for start in (0, 3))


def test_ranks_draw_other_cases_by_weight():
    data, weights = dataset(8), [1.0] * 4 + [0.0] * 4
    first, second = on_ranks(lambda rank: loader(data, shuffle=False, sampler=WeightedRandomSampler(weights, 8)), 8)
    assert first != second
    assert set(chain(*first, *second)) == {0, 1, 2, 3}


def test_more_ranks_than_batches_have_one_each():
    found = on_ranks(lambda rank: loader(dataset(4), shuffle=False), 2, world_size=3)
    assert found == [[[0, 1], [2, 3]], [[2, 3], [0, 1]], [[0, 1], [2, 3]]]


@pytest.mark.parametrize(
    "settings",
    [lambda own: {"sampler": own, "batch_size": 2}, lambda own: {"batch_sampler": BatchSampler(own, 2, False)}],
    ids=["sampler", "batch sampler"],
)
def test_a_distributed_sampler_deals_by_itself_and_is_reshuffled_each_round(settings):
    data = dataset(8)

    def make_loader(rank):
        return DataLoader(data, **settings(DistributedSampler(data, num_replicas=2, rank=rank)))

    ranks = on_ranks(make_loader, 6)
    rounds = [[list(chain(*found[start : start + 2])) for found in ranks] for start in (0, 2, 4)]
    assert all(sorted(first + second) == list(range(8)) for first, second in rounds)
    assert len({tuple(first) for first, _ in rounds}) == 3


def test_the_first_batch_always_is_the_published_codes_stream():
    assert cases(MetaBatches(loader(), order="first"), 3) == [[0, 1]] * 3


def test_a_batch_size_of_its_own():
    assert len(next(MetaBatches(loader(), batch_size=5))["case_id"]) == 5
    with pytest.raises(MetaDataError, match="makes its own batches of 2"):
        MetaBatches(loader(), order="loader", batch_size=5)


def few(indices, batch_size, **settings):
    return loader(dataset(8), batch_size=batch_size, shuffle=False, sampler=SubsetRandomSampler(indices), **settings)


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MetaBatches(loader(dataset(0), shuffle=False)), "data set is empty"),
        (lambda: MetaBatches(loader(dataset(1))), "The meta set has 1 items, which is shorter than one batch of 2"),
        (lambda: MetaBatches(loader(dataset(3)), world_size=2), "Each rank's share of the meta set has 1 items"),
        (lambda: MetaBatches(loader(dataset(1)), order="loader"), "The meta loader has 1 items"),
        (lambda: MetaBatches(few([0, 1], 4, drop_last=True), order="loader"), "sampler gives no batch"),
        (lambda: MetaBatches(few([0, 1], 4), order="loader"), "first batch has 2 items, which is shorter"),
        (lambda: MetaBatches(torch.utils.data.DataLoader(Endless(), batch_size=2)), "Endless cannot be indexed"),
    ],
)
def test_a_loader_that_cannot_give_a_batch_is_refused(make, says):
    with pytest.raises(MetaDataError, match=says):
        make()
