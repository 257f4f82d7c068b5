"""Splitting a meta set off."""

from __future__ import annotations

import numpy as np
import pytest
from monai.data import CacheDataset
from torch.utils.data import IterableDataset, Subset

from metalr_monai import hold_out
from metalr_monai.data.hold_out import case_names
from metalr_monai.errors import MetaDataError


@pytest.mark.parametrize(("amount", "held"), [(23, 23), (0.25, 28), (1, 1), (110, 110)])
def test_the_two_parts_are_disjoint_whole_and_in_order(amount, held):
    items = [f"volume-{i}" for i in range(111)]
    train, meta = hold_out(items, amount)
    assert len(meta) == held and not set(train) & set(meta) and sorted(train + meta) == sorted(items)
    assert train == [i for i in items if i in set(train)] and meta == [i for i in items if i in set(meta)]


def test_the_seed_chooses_the_cases():
    items = list(range(20))
    assert hold_out(items, 5, seed=1) == hold_out(items, 5, seed=1) != hold_out(items, 5, seed=2)


def test_a_data_set_is_split_into_subsets_that_share_its_cache():
    data = CacheDataset([{"case_id": f"case_{i}"} for i in range(6)], transform=lambda item: item, progress=False)
    train, meta = hold_out(data, 2)
    assert isinstance(train, Subset) and train.dataset is data and meta.dataset is data
    names = case_names(train) + case_names(meta)
    assert sorted(names) == [f"case_{i}" for i in range(6)] and case_names(meta) == [m["case_id"] for m in meta]


@pytest.mark.parametrize(
    ("amount", "says"),
    [
        (0, "would be empty"),
        (-3, "would be empty"),
        (0.001, "would be empty"),
        (10, "leave nothing to train on"),
        (0.99, "leave nothing to train on"),
        (1.0, "between 0 and 1"),
        ("23", "expected a count"),
        (True, "expected a count"),
    ],
)
def test_a_size_that_cannot_be_is_refused(amount, says):
    with pytest.raises(MetaDataError, match=says):
        hold_out(list(range(10)), amount)


def test_a_refusal_counts_cases_and_says_how_many_items_they_are():
    frames = [{"group": f"video {i % 3}"} for i in range(12)]
    for amount, says in ((3, "would take 3"), (0.1, "would be empty: 0.1")):
        with pytest.raises(MetaDataError, match=rf"{says} of 3 cases \(12 items; those of one group"):
            hold_out(frames, amount)
    with pytest.raises(MetaDataError, match="would take 3 of 3 cases and leave"):
        hold_out(frames[:3], 3)


def test_cases_are_named_by_id_by_file_or_by_number():
    items = [{"case_id": 7}, {"image": "/data/volume-3.nii.gz"}, {"image": ["/data/a_0000.nii.gz"]}, {"image": 1}, "x"]
    assert case_names(items) == ["7", "volume-3.nii.gz", "a_0000.nii.gz", "3", "4"]
    assert case_names(range(2)) == ["0", "1"]


def test_items_of_one_case_stay_together():
    items = [{"case_id": f"patient_{i % 4}", "slice": i} for i in range(20)]
    train, meta = hold_out(items, 1)
    assert len(meta) == 5 and len({m["case_id"] for m in meta}) == 1
    assert not {m["case_id"] for m in meta} & {t["case_id"] for t in train}


def test_iterable_data_has_nothing_to_hold_out():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([1, 2, 3])

    with pytest.raises(MetaDataError, match="Stream has no items by number"):
        hold_out(Stream(), 2)


def test_a_numpy_count_is_a_count():
    assert len(hold_out(list(range(9)), np.int64(4))[1]) == 4


def test_no_group_is_torn_apart() -> None:
    items = [{"case_id": f"image {i}", "group": f"patient {i // 3}"} for i in range(30)]
    train, meta = hold_out(items, 0.3, seed=1)
    assert len(meta) == 9
    assert not {item["group"] for item in train} & {item["group"] for item in meta}
