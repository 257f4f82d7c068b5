"""Named splits, their files, and what is refused."""

from __future__ import annotations

import json
import os
import random
from itertools import chain
from pathlib import Path

import pytest

from metalr_monai.data.ct_lists import data_list
from metalr_monai.data.splits import PARTS, Split, apply_split, make_split, read_split, write_split
from metalr_monai.errors import DataError, MetaDataError, OptionError

DATA = Path(__file__).parents[2] / "../shared/data/ct_liver"


def items(count=131, name="volume-{}"):
    return [{"image": f"{name.format(n)}.nii", "case_id": name.format(n)} for n in range(count)]


def sizes(split):
    return [len(split[part]) for part in PARTS]


def cases(split):
    return list(chain.from_iterable(split.values()))


HAND = {"train": ["volume-0", "volume-2"], "test": ["volume-1"]}


# --- schemes ---


def test_the_paper_s_split_has_the_paper_s_sizes():
    split = make_split(items(), "paper")
    assert sizes(split) == [88, 23, 0, 20]
    assert sorted(cases(split)) == sorted(item["case_id"] for item in items())
    assert (split.scheme, split.seed) == ("paper", 0)


@pytest.mark.parametrize(("count", "expected"), [(3, [1, 1, 0, 1]), (10, [6, 2, 0, 2]), (262, [176, 46, 0, 40])])
def test_the_paper_s_proportions_hold_for_other_numbers_of_cases(count, expected):
    assert sizes(make_split(items(count), "paper")) == expected


def test_a_split_depends_on_the_seed_but_not_on_the_order_of_the_list():
    shuffled = items()
    random.Random(1).shuffle(shuffled)
    assert make_split(items(), "paper", seed=5) == make_split(shuffled, "paper", seed=5)
    assert make_split(items(), "paper", seed=5) != make_split(items(), "paper", seed=6)
    assert make_split(items(), "fold 1 of 5", seed=5) == make_split(shuffled, "fold 1 of 5", seed=5)
    assert make_split(items(), "fold 1 of 5", seed=5) != make_split(items(), "fold 1 of 5", seed=6)


def test_the_size_of_the_meta_part_can_be_given_and_leaves_the_test_part_alone():
    test = make_split(items(), "paper")["test"]
    for meta, size in [(0, 0), (5, 5), (0.5, 56)]:
        split = make_split(items(), "paper", meta=meta)
        assert sizes(split) == [111 - size, size, 0, 20]
        assert split["test"] == test


def test_the_genesis_split_goes_by_number():
    split = make_split(list(reversed(items())), "genesis")
    assert split["train"] == [f"volume-{n}" for n in range(100)]
    assert split["validation"] == [f"volume-{n}" for n in range(100, 115)]
    assert split["test"] == [f"volume-{n}" for n in range(115, 130)]
    assert split["meta"] == []
    assert sizes(make_split(items(), "genesis", meta=23)) == [77, 23, 15, 15]


def test_the_folds_cover_every_case_once():
    folds = [make_split(items(), f"fold {k} of 5", seed=3) for k in range(1, 6)]
    assert sorted(chain.from_iterable(fold["test"] for fold in folds)) == sorted(item["case_id"] for item in items())
    assert sorted(len(fold["test"]) for fold in folds) == [26, 26, 26, 26, 27]
    for fold in folds:
        assert not set(fold["train"]) & set(fold["test"])
        assert len(cases(fold)) == 131


def test_cases_without_case_id_go_by_file_name():
    bare = [{"image": f"/somewhere/{n}.nii.gz"} for n in range(10)]
    assert len(set(cases(make_split(bare, "paper")))) == 10


# --- applying ---


@pytest.mark.parametrize("scheme", ["paper", "genesis", "fold 2 of 3"])
def test_the_parts_are_disjoint_items_of_the_list(scheme):
    listed = items()
    split = make_split(listed, scheme)
    parts = apply_split(listed, split)
    assert {part: [item["case_id"] for item in chosen] for part, chosen in parts.items()} == split
    assert all(any(item is known for known in listed) for chosen in parts.values() for item in chosen)


def test_a_plain_dict_is_a_split_too_and_unnamed_items_are_left_out():
    parts = apply_split(items(5), HAND)
    assert [item["case_id"] for item in parts["train"]] == ["volume-0", "volume-2"]
    assert parts["meta"] == parts["validation"] == []


FAULTS = [
    ({"train": ["volume-0", "volume-1"], "test": ["volume-1"]}, r"two parts: volume-1 \(volume-1: train, test\)"),
    ({"train": ["volume-0", "volume-0"], "test": ["volume-1"]}, "part 'train', names cases twice: volume-0"),
    ({"train": ["volume-0"]}, "no cases in test"),
    ({"train": [], "meta": ["volume-0"], "test": ["volume-1"]}, "no cases in train"),
    (
        {"training": ["volume-0"], "test": ["volume-1"]},
        "unknown parts training; expected train, meta, validation, test",
    ),
    ({"train": "volume-0", "test": ["volume-1"]}, "no list of case ids in 'train', but 'volume-0'"),
    ({"train": [0], "test": ["volume-1"]}, "no list of case ids in 'train'"),
]


@pytest.mark.parametrize(("split", "message"), FAULTS)
def test_a_faulty_split_is_neither_applied_nor_written_nor_read(tmp_path, split, message):
    path = tmp_path / "split.json"
    with pytest.raises(DataError, match=message):
        apply_split(items(3), split)
    with pytest.raises(DataError, match=message):
        write_split(split, path)
    assert not path.exists()
    path.write_text(json.dumps(split))
    with pytest.raises(DataError, match=message) as caught:
        read_split(path)
    assert str(path) in str(caught.value)


def test_unknown_cases_are_named(tmp_path):
    with pytest.raises(DataError, match=r"names 1 case\(s\) that the data list of 2 lacks: volume-2"):
        apply_split(items(2), HAND)
    write_split(HAND, tmp_path / "split.json")
    with pytest.raises(DataError, match=r"split.json names 1 case\(s\) that the data list of 2 lacks: volume-2"):
        make_split(items(2), tmp_path / "split.json")


def test_a_data_list_with_a_case_twice_is_refused():
    twice = [*items(5), *items(1)]
    for use in (lambda: make_split(twice, "paper"), lambda: apply_split(twice, HAND)):
        with pytest.raises(DataError, match="The data list names cases twice: volume-0"):
            use()


# --- too little, or not what the scheme needs ---


def test_too_few_cases_are_refused_with_what_to_do():
    with pytest.raises(DataError, match=r"'paper' needs at least 3 cases.*; found 2\. Add cases"):
        make_split(items(2), "paper")
    with pytest.raises(
        DataError, match=r"hold 23 cases and train at least one more, .* leaves 23 for both.*\(meta=0\)"
    ):
        make_split(items(27), "paper", meta=23)
    with pytest.raises(DataError, match="5 folds need at least 5 cases; found 4"):
        make_split(items(4), "fold 1 of 5")
    assert sizes(make_split(items(28), "paper", meta=23)) == [1, 23, 0, 4]
    assert sizes(make_split(items(2), "paper", meta=0)) == [1, 0, 0, 1]


def test_genesis_needs_the_numbering_of_lits():
    with pytest.raises(DataError, match=r"1 of 130 are missing: volume-7\. Found 130 cases"):
        make_split([item for item in items() if item["case_id"] != "volume-7"], "genesis")
    with pytest.raises(DataError, match=r"130 of 130 are missing.*Found 131 cases: liver_0"):
        make_split(items(name="liver_{}"), "genesis")


@pytest.mark.parametrize("scheme", ["papers", "fold 1", "fold 0 of 5", "fold 6 of 5", "fold 1 of 1", "split.txt"])
def test_unknown_schemes_are_refused(scheme):
    with pytest.raises(OptionError, match=scheme):
        make_split(items(), scheme)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, None])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(OptionError, match="seed"):
        make_split(items(), "paper", seed=seed)


@pytest.mark.parametrize("meta", [-1, 1.5])
def test_a_meta_part_that_is_no_size_is_refused(meta):
    with pytest.raises(MetaDataError):
        make_split(items(), "paper", meta=meta)


# --- files ---


def test_a_written_split_is_read_back_as_it_was(tmp_path):
    split = make_split(items(), "paper", seed=4)
    path = tmp_path / "new folder" / "split.json"
    write_split(split, path)
    for read in (read_split(path), make_split(items(), str(path), seed=9)):
        assert read == split
        assert (read.scheme, read.seed) == ("paper", 4)
    content = json.loads(path.read_text())
    assert list(content) == ["counts", "meta", "scheme", "seed", "test", "train", "validation"]
    assert content["counts"] == {"train": 88, "meta": 23, "validation": 0, "test": 20}


def test_the_same_split_gives_the_same_bytes(tmp_path):
    write_split(Split({"test": ["b"], "train": ["a"]}), tmp_path / "1.json")
    write_split({"train": ["a"], "meta": [], "test": ["b"]}, tmp_path / "2.json")
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "split.json"
    write_split(HAND, path)
    old = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_split({"train": ["x"], "test": ["y"]}, path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["split.json"]


def test_a_file_by_hand_needs_only_the_parts(tmp_path):
    path = tmp_path / "hand.json"
    path.write_text(json.dumps(HAND))
    split = make_split(items(3), path)
    assert sizes(split) == [2, 0, 0, 1]
    assert (split.scheme, split.seed) == ("by hand", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        (json.dumps(HAND | {"counts": {"train": 3, "meta": 0, "validation": 0, "test": 1}}), "says counts"),
    ],
)
def test_a_file_that_is_no_split_is_refused(tmp_path, content, message):
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_split(path)


def test_a_missing_file_and_a_meta_size_beside_a_file_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_split(tmp_path / "nowhere.json")
    write_split(HAND, tmp_path / "split.json")
    with pytest.raises(OptionError, match="the file itself says"):
        make_split(items(3), tmp_path / "split.json", meta=1)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real CT at {DATA}")
def test_three_real_scans_are_split_into_one_each():
    listed = data_list("pairs", DATA)
    parts = apply_split(listed, make_split(listed, "paper"))
    assert [len(parts[part]) for part in PARTS] == [1, 1, 0, 1]
