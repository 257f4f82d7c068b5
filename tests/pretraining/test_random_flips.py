"""Flips of random axes, several of an item at times, in the same way on every device."""

from __future__ import annotations

import literal_deformations as literal
import pytest
import torch
from images import SHAPES, batch, seeded, within

from metalr_monai.errors import OptionError
from metalr_monai.pretraining.random_flips import _by_item, _by_mask, draw_flips, random_flips


@pytest.mark.parametrize("shape", SHAPES)
def test_flips_are_those_of_the_loop_whether_the_host_knows_them_or_not(shape):
    images = batch(shape, items=9, channels=2)
    flips = draw_flips(9, len(shape), seeded(3))
    assert flips.any() and not flips.all()
    expected = literal.apply_flips(images, flips)
    assert torch.equal(_by_item(images, flips), expected) and torch.equal(_by_mask(images, flips), expected)
    assert torch.equal(random_flips(images, seeded(3)), expected)


@pytest.mark.parametrize("axes", [2, 3])
def test_an_axis_is_flipped_as_often_as_up_to_three_draws_with_a_chance_of_two_fifths_do_it(axes):
    count = 40_000
    found = draw_flips(count, axes, seeded(0)).float().mean(dim=0)
    # k draws happen with (1 - p) p^k, the third ends it; after k draws an axis is flipped with (1 - (1 - 2/axes)^k) / 2
    chances = [0.6, 0.24, 0.096, 0.064]
    expected = sum(chance * (1 - (1 - 2 / axes) ** k) / 2 for k, chance in enumerate(chances))
    for share in found.tolist():
        assert within(share, expected, count)


def test_no_flip_for_zero_and_always_three_draws_for_one():
    images = batch((32, 32), items=50)
    assert torch.equal(random_flips(images, seeded(0), 0.0), images)
    assert draw_flips(50, 3, seeded(0), 1.0).any(dim=1).all()  # three draws of three axes flip at least one


def test_a_probability_beyond_one_is_refused():
    with pytest.raises(OptionError, match=r"probability is 1\.5; expected a probability, 0 to 1"):
        random_flips(batch((32, 32)), seeded(0), 1.5)
