"""The rules of a bundle's settings."""

from __future__ import annotations

import pytest

from metalr_monai import check_settings
from metalr_monai.errors import OptionError

GOOD = {
    "dataset_kind": "msd",
    "check": "headers",
    "regions": {"liver": [1, 2], "tumour": [2], "vessel": [3]},
    "width": 64,
    "patch_size": [64, 64, 32],
    "spacing": [1.5, 1.5, 2],
    "hu_window": [-1000, 1000],
    "epochs": 1,
    "val_interval": 5,
    "batch_size": 1,
    "patches_per_volume": 2,
    "lr": 0.01,
    "momentum": 0,
    "rule": "proportional",
    "beta": 0.003,
    "scale": "none",
    "bounds": [1e-6, 0.01],
    "one_pass": False,
    "meta": 23,
    "seed": 0,
    "overlap": 0.25,
}


def refused(**changes):
    with pytest.raises(OptionError) as caught:
        check_settings({**GOOD, **changes})
    return str(caught.value)


def test_good_settings_pass_and_unknown_ones_are_passed_over():
    check_settings(GOOD)
    check_settings({"scheme": "last layer only"})


@pytest.mark.parametrize("meta", [1, 0.5, "training", None])
def test_meta_may_be_a_count_a_share_a_word_or_nothing(meta):
    check_settings({"meta": meta})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("epochs", "val_interval", "width") for value in (0, -1, 2.0, True, "3", None)),
        *(("lr", value) for value in (0, -0.1, float("nan"), float("inf"), "0.01", True)),
        *(("momentum", value) for value in (-0.1, 1)),
        *(("spacing", value) for value in (1.5, [1, 1], [1, 1, -2], [1, 1, "2"])),
        *(("hu_window", value) for value in ([0, 0], [1, 2, 3], "-1000,1000")),
        *(("meta", value) for value in (0, 1.0, "trainin", True)),
        *(("seed", value) for value in (-1, 2**32)),
        *(("patch_size", value) for value in (64, [64, 64], [64, 64, 0], [64, 64, 32.0], "64")),
        ("overlap", 1),
        ("regions", {}),
        ("regions", [1, 2]),
    ],
)
def test_a_bad_value_is_shown_beside_its_name(name, value):
    assert refused(**{name: value}).startswith(f"{name} is {value!r}; expected ")


@pytest.mark.parametrize(
    ("size", "near"),
    [
        ([60, 64, 30], "[56, 64, 24] or [64, 64, 32]"),
        ([4, 8, 8], "[8, 8, 8]."),
        ([65, 8, 8], "[64, 8, 8] or [72, 8, 8]"),
    ],
)
def test_the_nearest_patch_sizes_are_given(size, near):
    assert f"expected three multiples of 8, as {near}" in refused(patch_size=size)


@pytest.mark.parametrize(
    ("regions", "says"),
    [
        ({"liver": [0, 1]}, "'liver' has the values [0, 1]"),
        ({"liver": []}, "'liver' has the values []"),
        ({"liver": [1, 1]}, "'liver' has the values [1, 1]"),
        ({"liver": 1}, "'liver' has the values 1"),
        ({"liver": [1.0]}, "'liver' has the values [1.0]"),
        ({"liver": [True]}, "'liver' has the values [True]"),
        ({"liver": [1, 2], "organ": [2, 1]}, "'liver' and 'organ' have the same values, [1, 2]"),
        (
            {"tumour": [2], "liver": [1, 2]},
            "'tumour' lies inside 'liver', which would cover it; put the inner one last",
        ),
        ({"a": [1, 2], "b": [2, 3]}, "'a' and 'b' share [2]; expected one inside the other, or nothing shared"),
    ],
)
def test_regions_are_disjoint_or_nested_with_the_inner_one_last(regions, says):
    assert says in refused(regions=regions)


def test_the_first_rate_lies_within_the_bounds():
    assert "lr is 0.02, outside of bounds [1e-06, 0.01]" in refused(lr=0.02)
    check_settings({"lr": 0.02})
    check_settings({"lr": 0.02, "bounds": [1e-6, None]})


def test_options_of_the_learned_rates_are_those_of_metalr():
    assert "bounds are (0.1, 0.01)" in refused(bounds=[0.1, 0.01])
    assert "Did you mean proportional?" in refused(rule="proportinal")


def test_all_faults_come_at_once():
    assert len(refused(epochs=0, lr=0, dataset_kind="lit", check=None).splitlines()) == 4
