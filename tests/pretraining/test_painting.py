"""Noise inside or outside of boxes, as the loop over boxes paints it, and the boxes of the published sizes."""

from __future__ import annotations

from collections import Counter

import literal_deformations as literal
import pytest
import torch
from images import SHAPES, batch, seeded, within

from metalr_monai.pretraining.checks import DeformationError
from metalr_monai.pretraining.painting import apply_boxes, draw_boxes, painting

SHAPE = (40, 28, 21)
COUNT = 6000


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("outer", [0.0, 0.5, 1.0])
def test_the_result_is_that_of_one_box_after_the_other(shape, outer):
    images, noise = batch(shape, items=12, channels=2), 2 + batch(shape, items=12, channels=2, seed=1)
    boxes = draw_boxes(12, shape, seeded(0), outer)
    assert torch.equal(apply_boxes(images, boxes, noise), literal.apply_boxes(images, boxes, noise))


@pytest.mark.parametrize("outer", [True, False])
def test_sides_and_corners_are_uniform_in_the_published_ranges(outer):
    boxes = draw_boxes(COUNT, SHAPE, seeded(0), float(outer))
    assert (boxes.outer == outer).all()
    for axis, length in enumerate(SHAPE):
        low, high = (length - 4 * length // 7, length - 3 * length // 7) if outer else (length // 6, length // 3)
        sides = boxes.side[:, :, axis].flatten()
        counts = Counter(sides.tolist())
        assert set(counts) == set(range(low, high + 1))
        assert all(within(n / len(sides), 1 / (high - low + 1), len(sides)) for n in counts.values())
        for side in (low, high):
            corners = Counter(boxes.corner[:, :, axis].flatten()[sides == side].tolist())
            room, count = length - side - 3 - 3 + 1, int((sides == side).sum())
            assert set(corners) == set(range(3, length - side - 3 + 1))
            assert all(within(n / count, 1 / room, count) for n in corners.values())


def test_boxes_go_on_with_their_probability_and_out_painting_has_at_least_one():
    boxes = draw_boxes(COUNT, SHAPE, seeded(0), 0.5)
    assert within(boxes.outer.float().mean().item(), 0.5, COUNT)
    for outer in (True, False):
        present = boxes.present[boxes.outer == outer]
        assert (present[:, 1:] <= present[:, :-1]).all()  # none after the first that is missing
        for k in range(5):
            share = present[:, k].float().mean().item()
            goes_on = k if outer else k + 1
            assert share == 1 if goes_on == 0 else within(share, 0.95**goes_on, len(present))


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_is_uniform_and_new_in_every_voxel_and_channel(shape):
    images = torch.full((40, 2, *shape), 2.0)
    found = painting(images, seeded(0), 1.0, outer=1.0)
    noise = found[found != 2]
    assert noise.min() >= 0 and noise.max() < 1
    shares = torch.histc(noise, 10, 0, 1) / len(noise)
    assert all(within(share, 0.1, len(noise)) for share in shares.tolist())
    both = (found != 2).all(dim=1)
    assert ((found[:, 0] == 2) == (found[:, 1] == 2)).all() and (found[:, 0] != found[:, 1])[
        both
    ].float().mean() > 0.999


def test_an_item_is_painted_with_its_probability_and_mostly_from_outside():
    images = torch.full((1500, 1, 14, 14), 2.0)
    found = painting(images, seeded(0))
    outside = found[:, 0, 0, 0] != 2
    inside = ~outside & (found != 2).flatten(1).any(dim=1)
    assert within(outside.float().mean().item(), 0.9 * 0.8, 1500)
    assert within(inside.float().mean().item(), 0.9 * 0.2 * 0.95, 1500)  # the first box of in-painting may not come
    assert torch.equal(painting(images, seeded(0), 0.0), images)
    assert (painting(images, seeded(0), 1.0, outer=1.0)[:, 0, 0, 0] != 2).all()


def test_images_without_room_for_a_box_are_refused_whichever_way_the_coin_falls():
    for seed in range(3):
        with pytest.raises(DeformationError, match=r"Images of 64×64×13 are too small for painting; expected 14"):
            painting(batch((64, 64, 13)), seeded(seed), 0.5)
    assert painting(batch((14, 14, 14), items=50), seeded(0), 1.0).shape == (50, 1, 14, 14, 14)
    assert painting(batch((64, 64, 13)), seeded(0), 0.0).shape == (2, 1, 64, 64, 13)
