"""Splits by group: nothing that belongs together is parted, every class is in every part in proportion."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from pictures import BUSI, busi_folder

from metalr_monai.data.group_splits import (
    apply_group_split,
    check_groups,
    make_group_split,
    split_counts,
    stratified,
)
from metalr_monai.data.image_lists import image_list
from metalr_monai.data.prepare_images import split_image_list
from metalr_monai.data.splits import PARTS, Split, read_split, write_split
from metalr_monai.errors import DataError, OptionError


def images(**sizes):
    """Items of classes by name, with groups of these sizes: images(a=[2, 1]) has 3 images in 2 groups."""
    return [
        {
            "image": f"{name}{g}_{n}.png",
            "label": c,
            "class_name": name,
            "group": f"{name}{g}",
            "case_id": f"{name}{g}_{n}",
        }
        for c, (name, groups) in enumerate(sizes.items())
        for g, size in enumerate(groups)
        for n in range(size)
    ]


ITEMS = images(a=[3, 1, 1, 1, 2, 2, 1, 1, 4, 1, 1, 2], b=[1] * 10, c=[5, 1, 2, 1, 1, 1])


def group_of(case):
    return case.partition("_")[0]


def message(items, split):
    with pytest.raises(DataError) as caught:
        check_groups(items, split)
    return str(caught.value)


# --- schemes ---


@pytest.mark.parametrize("scheme", ["fold 1 of 3", "fold 3 of 3", "test 0.3", "test .25"])
@pytest.mark.parametrize("seed", range(5))
def test_every_case_is_in_one_part_and_no_group_in_two(scheme, seed):
    split = make_group_split(ITEMS, scheme, seed=seed, meta=0.25, validation=0.2)
    cases = [case for part in PARTS for case in split[part]]
    assert sorted(cases) == sorted(item["case_id"] for item in ITEMS)
    inside = [{group_of(case) for case in split[part]} for part in PARTS]
    assert sum(map(len, inside)) == len(set().union(*inside)) == 28
    counts = split_counts(ITEMS, split)
    assert all(counts[part][name] for part in PARTS for name in "abc")


@pytest.mark.parametrize("n", [2, 3, 5])
def test_folds_are_a_partition_in_which_each_class_is_even(n):
    folds = [make_group_split(ITEMS, f"fold {k} of {n}", seed=3)["test"] for k in range(1, n + 1)]
    assert sorted(itertools.chain(*folds)) == sorted(item["case_id"] for item in ITEMS)
    for name, largest in (("a", 4), ("b", 1), ("c", 5)):
        sizes = [sum(case.startswith(name) for case in fold) for fold in folds]
        assert max(sizes) - min(sizes) <= largest


def test_the_remainders_of_the_classes_go_to_different_folds():
    items = images(a=[1] * 25, b=[1] * 25, c=[1] * 25)
    sizes = [len(make_group_split(items, f"fold {k} of 4")["test"]) for k in range(1, 5)]
    assert sorted(sizes) == [18, 19, 19, 19]


def test_the_same_seed_gives_the_same_split_in_whatever_order_and_another_seed_another():
    one = make_group_split(ITEMS, "fold 1 of 3", seed=1, meta=0.25)
    assert one == make_group_split(ITEMS[::-1], "fold 1 of 3", seed=1, meta=0.25)
    assert one != make_group_split(ITEMS, "fold 1 of 3", seed=2, meta=0.25)
    assert (one.scheme, one.seed) == ("fold 1 of 3", 1)


def test_a_quarter_of_the_training_images_is_held_out_in_whole_groups():
    items = images(a=[1, 2, 3] * 20, b=[1, 1, 4] * 20)
    split = make_group_split(items, "test 0.2", meta=0.25)
    counts = split_counts(items, split)
    for name, total in (("a", 120), ("b", 120)):
        assert abs(counts["test"][name] - 0.2 * total) <= 2
        assert abs(counts["meta"][name] - 0.25 * 0.8 * total) <= 2
    assert counts["meta"]["groups"] == len({group_of(case) for case in split["meta"]})
    shares = [counts[part]["groups"] / 120 for part in ("train", "meta", "test")]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.03)  # large groups in every part, not in training alone


def test_published_parts_stay_and_validation_can_be_drawn_in_place_of_val():
    parts = {0: "test", 1: "val", 2: "train"}
    items = [
        item | {"part": parts[min(int(item["group"][1:]), 2)]}
        for item in images(a=[1, 2] + [1] * 8, b=[2, 1] + [2] * 8)
    ]
    counts = split_counts(items, make_group_split(items, "published"))
    assert [counts[part]["images"] for part in PARTS] == [24, 0, 3, 3]
    drawn = split_counts(items, make_group_split(items, "published", validation=1 / 3, meta=0.25))
    assert drawn["test"] == counts["test"]
    assert [drawn[part]["a"] for part in ("train", "meta", "validation")] == [5, 2, 3]


# --- the greedy assignment ---


def cost(counts, shares, places):
    wanted = np.outer(shares, counts.sum(axis=0))
    found = np.array([counts[np.array(places) == part].sum(axis=0) for part in range(len(shares))])
    return ((found - wanted) ** 2 / wanted).sum(), (found > 0).all()


@pytest.mark.parametrize("seed", range(30))
def test_the_assignment_is_near_the_best_of_all(seed):
    draw = np.random.default_rng(seed)
    counts = np.zeros((8, 2), dtype=np.int64)
    counts[np.arange(8), np.arange(8) % 2] = draw.integers(1, 6, 8)
    shares = [0.7, 0.3] if seed % 2 else [1 / 3] * 3
    every = [cost(counts, shares, places) for places in itertools.product(range(len(shares)), repeat=8)]
    best = min(value for value, whole in every if whole)
    typical = float(np.median([value for value, whole in every if whole]))
    found, whole = cost(counts, shares, stratified(counts, shares, seed))
    assert whole
    assert found <= best + 0.25 * (typical - best)


@pytest.mark.parametrize("seed", range(20))
def test_folds_of_a_class_differ_by_no_more_than_its_largest_group(seed):
    draw = np.random.default_rng(seed)
    n, groups = int(draw.integers(2, 6)), int(draw.integers(12, 60))
    counts = np.zeros((groups, 3), dtype=np.int64)
    counts[np.arange(groups), np.arange(groups) % 3] = draw.geometric(0.3, groups)
    if (counts > 0).sum(axis=0).min() < n:
        pytest.skip("fewer groups than folds")
    places = stratified(counts, [1 / n] * n, seed)
    sizes = np.array([counts[places == part].sum(axis=0) for part in range(n)])
    assert (sizes.max(axis=0) - sizes.min(axis=0) <= counts.max(axis=0)).all()
    assert (sizes > 0).all()


def test_a_class_of_as_many_groups_as_parts_is_in_each_part_even_of_a_small_share():
    counts = np.array([[0, 50], [0, 50], [1, 0], [1, 0], [1, 3]])
    places = stratified(counts, [0.9, 0.05, 0.05], 0)
    assert all(counts[places == part][:, 0].sum() == 1 for part in range(3))


# --- bad input ---


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("paper", "Unknown split 'paper'"),
        ("fold 0 of 3", "expected K = 1"),
        ("fold 2 of 1", "N ≥ 2"),
        ("test 0.0", "tests on nothing"),
        ("test 1.5", "Unknown split"),
    ],
)
def test_unknown_schemes_are_refused(scheme, words):
    with pytest.raises(OptionError, match=words):
        make_group_split(ITEMS, scheme)


@pytest.mark.parametrize("bad", [{"seed": -1}, {"seed": 0.5}, {"meta": 1}, {"meta": -0.1}, {"validation": "0.2"}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(OptionError, match=next(iter(bad))):
        make_group_split(ITEMS, "fold 1 of 3", **bad)


def test_a_class_of_too_few_groups_is_named():
    with pytest.raises(DataError, match=r"class c has 6 group\(s\), too few to be in each of the 7 parts"):
        make_group_split(ITEMS, "fold 1 of 7")
    with pytest.raises(DataError, match=r"class c has 1 group.*parts train, meta"):
        make_group_split(images(a=[1] * 9, c=[9, 1]), "fold 1 of 2", meta=0.3)


def test_published_needs_published_parts():
    with pytest.raises(DataError, match=r"needs the data set's own parts.*'none'"):
        make_group_split(ITEMS, "published")
    with pytest.raises(DataError, match="no images in train"):
        make_group_split([item | {"part": "fold 1"} for item in ITEMS], "published fold 1")


def test_a_group_in_two_parts_is_refused_with_its_cases():
    split = Split({"train": ["a0_0", "a1_0", "b0_0"], "test": ["a0_1", "b1_0"]})
    assert "parts 1 group(s): a0 (a0_0 in train, a0_1 in test)" in message(ITEMS, split)
    with pytest.raises(DataError, match="a0"):
        apply_group_split(ITEMS, split)


@pytest.mark.parametrize("part", ["meta", "validation", "test"])
def test_a_class_that_training_never_sees_is_refused(part):
    split = Split({"train": ["a1_0"], "test": ["a2_0"], part: ["a3_0", "b0_0"]})
    assert message(ITEMS, split) == f"The split has the class b in {part}, which training never sees."


def test_a_file_is_read_and_refused_where_it_parts_a_group(tmp_path):
    split = make_group_split(ITEMS, "fold 1 of 3", meta=0.25)
    write_split(split, tmp_path / "split.json")
    assert make_group_split(ITEMS, tmp_path / "split.json") == split
    content = json.loads((tmp_path / "split.json").read_text())
    del content["counts"]
    moved = next(case for case in content["train"] if Counter(map(group_of, content["train"]))[group_of(case)] > 1)
    content["train"].remove(moved)
    content["test"].append(moved)
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"bad\.json parts 1 group.*{group_of(moved)}"):
        make_group_split(ITEMS, tmp_path / "bad.json")
    with pytest.raises(OptionError, match="which says both"):
        make_group_split(ITEMS, tmp_path / "split.json", meta=0.25)


def test_items_without_groups_twice_or_none_are_refused():
    with pytest.raises(DataError, match="lacks group"):
        make_group_split([{"case_id": "1", "class_name": "a"}], "fold 1 of 2")
    with pytest.raises(DataError, match="names cases twice: a0_0"):
        make_group_split([*ITEMS, ITEMS[0]], "fold 1 of 2")
    with pytest.raises(DataError, match="empty"):
        make_group_split([], "fold 1 of 2")


# --- a bundle's expression, and the published images ---


def test_a_folder_comes_split_with_its_split_file(tmp_path):
    busi_folder(tmp_path / "busi", (8, 8, 8))
    parts = split_image_list("busi", tmp_path / "busi", "fold 1 of 3", 0, tmp_path / "run", validation=0.25)
    split = read_split(tmp_path / "run/split.json")
    assert {part: [item["case_id"] for item in parts[part]] for part in PARTS} == split
    assert len(parts["validation"]) >= 3
    again = split_image_list("busi", tmp_path / "busi", str(tmp_path / "run/split.json"), 0, tmp_path / "again")
    assert again == parts


@pytest.mark.skipif(not BUSI.is_dir(), reason="the published BUSI images are not here")
def test_folds_of_the_published_breast_images_are_even_and_part_no_group():
    items = image_list("busi", BUSI)
    group = {item["case_id"]: item["group"] for item in items}
    folds = [split_counts(items, make_group_split(items, f"fold {k} of 5", meta=0.25))["test"] for k in range(1, 6)]
    for name, total in (("benign", 437), ("malignant", 210), ("normal", 133)):
        assert sum(fold[name] for fold in folds) == total
        assert max(abs(fold[name] - total / 5) for fold in folds) <= 2
    split = make_group_split(items, "fold 1 of 5", meta=0.25)
    inside = [{group[case] for case in split[part]} for part in ("train", "meta", "test")]
    assert sum(map(len, inside)) == len(set(group.values()))
