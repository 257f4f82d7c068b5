"""Which blocks the searching schemes freeze."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest

from metalr_monai import GenesisUNet3D, blocks, expanding_path, frozen_range
from metalr_monai.errors import OptionError
from metalr_monai.rates.blocks import PRESETS
from metalr_monai.schemes.block_ranges import frozen_ranges, last_k, levels

UNET, RESNET = tuple(PRESETS["genesis_unet3d"]), tuple(PRESETS["resnet18"])


def test_ten_blocks_have_the_45_candidates_of_the_preprint():
    found = frozen_ranges(10)
    assert found == sorted(combinations_with_replacement(range(1, 10), 2))
    assert len(found) == 45


def test_layer_wise_search_is_the_left_most_column_of_the_bidirectional_one():
    assert last_k(10) == [pair for pair in reversed(frozen_ranges(10)) if pair[0] == 1]
    # the last k of ten train
    assert [10 - len(frozen_range(RESNET, *pair)) for pair in last_k(10)] == [1, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("search", [frozen_ranges, last_k])
@pytest.mark.parametrize("depth", [1, 0, 2.0, True])
def test_a_depth_that_leaves_nothing_to_freeze_is_refused(search, depth):
    with pytest.raises(OptionError, match=f"depth is {depth!r}; expected a number of blocks"):
        search(depth)


def test_the_two_readings_of_a_unets_depth():
    assert levels(UNET, "I1") == [(name,) for name in UNET]
    assert levels(UNET, "I2") == [
        ("down_tr64", "up_tr64"),
        ("down_tr128", "up_tr128"),
        ("down_tr256", "up_tr256"),
        ("down_tr512",),
        ("out_tr",),
    ]


def test_a_network_without_an_expanding_path_has_one_reading():
    assert levels(RESNET, "I2") == levels(RESNET, "I1") == [(name,) for name in RESNET]


def test_a_range_is_counted_from_one_and_includes_both_ends():
    assert frozen_range(RESNET, 2, 4) == ["layer1.0", "layer1.1", "layer2.0"]
    assert frozen_range(UNET, 1, 7, "I1") == list(UNET[:-1])
    assert frozen_range(UNET, 2, 3, "I2") == ["down_tr128", "up_tr128", "down_tr256", "up_tr256"]


@pytest.mark.parametrize(("names", "order"), [(UNET, "I1"), (UNET, "I2"), (RESNET, "I1")])
def test_every_candidate_is_a_range_that_leaves_the_head(names, order):
    found = [tuple(frozen_range(names, m, n, order)) for m, n in frozen_ranges(len(levels(names, order)))]
    assert len(set(found)) == len(found)
    assert not any(names[-1] in frozen for frozen in found)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (3, 2), (1, 5), (1.0, 2), (True, 2)])
def test_a_range_outside_of_the_levels_is_refused(first, last):
    with pytest.raises(OptionError, match=r"1 ≤ first_frozen ≤ last_frozen ≤ 4, for there are 5 levels.*down_tr64\+up"):
        frozen_range(UNET, first, last, "I2")


def test_an_unknown_order_is_refused():
    with pytest.raises(OptionError, match="depth_order is 'I3'; expected one of I1, I2"):
        frozen_range(UNET, 1, 1, "I3")


def test_the_expanding_path_of_the_unet():
    network = GenesisUNet3D(width=4, batch_statistics="always")
    assert expanding_path(blocks(network, "genesis_unet3d").names) == ["up_tr256", "up_tr128", "up_tr64"]


def test_without_an_expanding_path_it_is_the_deeper_half_but_for_the_head():
    assert expanding_path(RESNET) == ["layer3.0", "layer3.1", "layer4.0", "layer4.1"]  # 5 shallow ones and fc train
    assert expanding_path(["a", "b", "c", "d", "head"]) == ["d"]  # the middle one is shallow
    assert expanding_path(["body", "head"]) == []
