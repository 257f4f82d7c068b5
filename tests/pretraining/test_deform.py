"""All four in their order, on a batch; what is drawn depends on seed, rank and iteration alone."""

from __future__ import annotations

import pytest
import torch
from images import SHAPES, batch, seeded
from monai.data import MetaTensor

from metalr_monai.errors import OptionError
from metalr_monai.pretraining.checks import DeformationError
from metalr_monai.pretraining.deform import Deformations, DeformBatch, deform
from metalr_monai.pretraining.local_shuffling import local_shuffling
from metalr_monai.pretraining.nonlinear_intensity import nonlinear_intensity
from metalr_monai.pretraining.painting import painting
from metalr_monai.pretraining.random_flips import random_flips
from metalr_monai.pretraining.some_items import _by_index, _by_mask

ALWAYS = Deformations(flip=1.0, shuffle=1.0, intensity=1.0, paint=1.0)
NEVER = Deformations(flip=0.0, shuffle=0.0, intensity=0.0, paint=0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_order_is_flip_shuffle_intensity_paint_and_the_target_is_flipped_only(shape):
    images = batch(shape, items=6, channels=2)
    deformed, target = deform(images, seeded(4), ALWAYS)
    generator = seeded(4)
    expected = flipped = random_flips(images, generator, 1.0)
    expected = local_shuffling(expected, generator, 1.0)
    expected = nonlinear_intensity(expected, generator, 1.0)
    expected = painting(expected, generator, 1.0)
    assert torch.equal(target, flipped) and not torch.equal(target, images)
    assert torch.equal(deformed, expected) and deformed.min() >= 0 and deformed.max() <= 1


def test_nothing_is_done_with_probability_zero_and_nothing_is_shared_with_the_batch():
    images = batch((32, 24, 20))
    kept = images.clone()
    deformed, target = deform(images, seeded(0), NEVER)
    assert torch.equal(deformed, images) and torch.equal(target, images)
    deformed.zero_(), target.zero_()
    assert torch.equal(images, kept)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_type_stays_and_precision_alone_differs(shape, dtype):
    images = batch(shape, items=4).to(dtype)
    deformed, target = deform(images, seeded(1), ALWAYS)
    expected, _ = deform(images.float(), seeded(1), ALWAYS)
    assert deformed.dtype == target.dtype == dtype
    assert (deformed.float() - expected).abs().max() <= max(torch.finfo(dtype).eps, 1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_strides_do_not_matter(shape):
    images = batch(shape, items=4, channels=3)
    strided = images.transpose(1, -1).contiguous().transpose(1, -1)
    assert not strided.is_contiguous()
    for found, expected in zip(deform(strided, seeded(0), ALWAYS), deform(images, seeded(0), ALWAYS), strict=True):
        assert torch.equal(found, expected)


def test_items_of_a_batch_are_deformed_each_in_its_own_way():
    images = batch((32, 24, 20), items=1).expand(4, -1, -1, -1, -1)
    deformed, _ = deform(images, seeded(0), Deformations(flip=0, shuffle=1, intensity=1, paint=1))
    assert all(not torch.equal(deformed[i], deformed[j]) for i in range(4) for j in range(i))
    shuffled = local_shuffling(images, seeded(0), 1.0)
    assert all(not torch.equal(shuffled[i], shuffled[j]) for i in range(4) for j in range(i))


def test_working_on_the_chosen_items_alone_gives_what_working_on_all_gives():
    images = batch((8, 8), items=5)
    for chosen in ([True, False, True, False, False], [False] * 5, [True] * 5):
        by_both = [way(images, torch.tensor(chosen), torch.neg) for way in (_by_index, _by_mask)]
        assert torch.equal(*by_both) and (by_both[0] < 0).flatten(1).any(dim=1).tolist() == chosen


def test_a_run_that_is_resumed_draws_what_the_whole_run_draws():
    images = batch((32, 24, 20), items=3)
    whole, resumed = DeformBatch(7), DeformBatch(7)
    expected = [whole(images, n)[0] for n in range(4)]
    assert not torch.equal(expected[0], expected[1])
    torch.manual_seed(99)
    assert all(torch.equal(resumed(images, n)[0], expected[n]) for n in (2, 3))


def test_seeds_ranks_and_iterations_draw_differently_and_leave_torch_alone():
    images = batch((32, 24, 20), items=3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = [
        DeformBatch(seed, ALWAYS, rank)(images, n)[0] for seed, rank, n in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert all(not torch.equal(found[i], found[j]) for i in range(4) for j in range(i))
    assert torch.equal(torch.get_rng_state(), before)


def test_meta_tensors_come_back_as_plain_ones():
    deformed, target = DeformBatch(0)(MetaTensor(batch((24, 20))), 0)
    assert type(deformed) is type(target) is torch.Tensor


def test_a_range_other_than_zero_to_one_is_told_with_the_first_batch():
    images = batch((24, 20))
    with pytest.raises(DeformationError, match=r"go from -1000 to -1\.0416\d; expected \[0, 1\]\. Clip and scale"):
        DeformBatch(0)(images * 1000 - 1000, 0)
    with pytest.raises(DeformationError, match="nan"):
        DeformBatch(0)(torch.full((1, 1, 24, 20), float("nan")), 0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 24, 20), r"shape \(3, 24, 20\); expected a batch"),
        (torch.rand(1, 1, 4, 24, 20, 20), r"expected a batch \(B, C, H, W\) or \(B, C, H, W, D\)"),
        (torch.zeros(1, 1, 24, 20, dtype=torch.int16), r"torch\.int16; expected floating point"),
        (torch.rand(0, 1, 24, 20), r"batch is empty"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(images, message):
    with pytest.raises(DeformationError, match=message):
        DeformBatch(0)(images, 0)
    for one in (random_flips, local_shuffling, nonlinear_intensity, painting):
        with pytest.raises(DeformationError, match=message):
            one(images, seeded(0))


def test_options_out_of_range_are_named():
    with pytest.raises(OptionError, match="shuffle is 2; expected a probability"):
        Deformations(shuffle=2)
    with pytest.raises(OptionError, match=r"windows is 2\.5; expected a whole number"):
        Deformations(windows=2.5)
    for settings in ({"seed": -1}, {"rank": None}):
        with pytest.raises(OptionError, match="expected a whole number, 0 or more"):
            DeformBatch(**settings)
    with pytest.raises(OptionError, match="iteration is -1; expected a whole number, 0 or more"):
        DeformBatch(0)(batch((24, 20)), -1)
