"""Doubt in one number: by hand, and independent of size."""

from __future__ import annotations

import math

import pytest
import torch

from metalr_monai.evaluation.uncertainty import class_disagreement, class_doubt, mask_disagreement, mask_doubt


def test_a_sure_mask_has_no_doubt_and_an_empty_one_the_whole():
    sure = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    assert mask_doubt(sure) == 0
    assert mask_doubt(torch.full((1, 4, 4), 0.2)) == 1
    assert mask_doubt(torch.cat([sure, torch.zeros_like(sure)])) == 0.5  # the mean of two regions


def test_mask_doubt_is_one_minus_the_expected_dice():
    # the mask is the first two voxels: 2 (0.9 + 0.6) / (0.9 + 0.6 + 0.3 + 2)
    assert mask_doubt(torch.tensor([[0.9, 0.6, 0.3, 0.0]])) == pytest.approx(1 - 3.0 / 3.8)


def test_mask_doubt_does_not_know_how_much_air_is_around_or_how_fine_the_grid_is():
    region = torch.tensor([[0.9, 0.6, 0.3, 0.0]])
    wide = torch.cat([region, torch.zeros(1, 100)], dim=1)
    assert mask_doubt(wide) == pytest.approx(mask_doubt(region))
    assert mask_doubt(region.repeat_interleave(8, dim=1)) == pytest.approx(mask_doubt(region))


def test_mask_disagreement_is_one_minus_the_mean_dice_of_pairs():
    passes = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    assert mask_disagreement(passes) == pytest.approx(1 - (1 + 2 / 3 + 2 / 3) / 3)
    assert mask_disagreement(torch.zeros(3, 1, 5)) == 1


def test_classes_are_doubted_by_what_the_likeliest_lacks():
    assert class_doubt(torch.tensor([0.7, 0.2, 0.1])) == pytest.approx(0.3)


def test_passes_disagree_on_classes_only_where_they_differ():
    """An even coin that all passes call even is doubt, but no disagreement."""
    assert class_disagreement(torch.tensor([[0.5, 0.5], [0.5, 0.5]])) == pytest.approx(0)
    assert class_disagreement(torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(math.log(2))
