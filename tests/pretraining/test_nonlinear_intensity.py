"""Intensities go along Bézier curves, as NumPy interpolates them."""

from __future__ import annotations

import literal_deformations as literal
import numpy as np
import pytest
import torch
from images import SHAPES, batch, seeded, within

from metalr_monai.pretraining.nonlinear_intensity import (
    CELLS,
    apply_curves,
    curve_tables,
    draw_curves,
    nonlinear_intensity,
)

EXACT = 2e-7  # three roundings of float32 at 1


@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_interpolated_as_numpy_does_it_in_the_same_table(shape):
    images = batch(shape, items=5, channels=2)
    tables = draw_curves(5, seeded(0))
    found = apply_curves(images, tables).numpy()
    places = np.linspace(0, 1, CELLS + 1)
    for item in range(5):
        expected = np.interp(images[item].numpy(), places, tables[item].numpy())
        # The place in the table is rounded too: to 1e-4 of a cell
        slack = EXACT + 1.3e-4 * np.abs(np.diff(tables[item].numpy())).max()
        assert np.abs(found[item] - expected).max() < slack


@pytest.mark.parametrize("falling", [False, True])
def test_tables_are_those_of_the_published_curve(falling):
    inner = torch.rand(40, 2, 2, generator=seeded(1), dtype=torch.float64)
    tables = curve_tables(inner, torch.full((40,), falling)).double().numpy()
    places = np.linspace(0, 1, CELLS + 1)
    for table, points in zip(tables, inner.numpy(), strict=True):
        assert np.abs(table - np.interp(places, *literal.curve(points, falling))).max() < 1e-3
        assert np.median(np.abs(table - np.interp(places, *literal.curve(points, falling)))) < 1e-6


def test_a_straight_curve_keeps_whole_hounsfield_units_and_a_falling_one_turns_them_about():
    straight = torch.tensor([[[1 / 3, 2 / 3], [1 / 3, 2 / 3]]], dtype=torch.float64).repeat(2, 1, 1)
    tables = curve_tables(straight, torch.tensor([False, True]))
    units = (torch.arange(2001) / 2000).view(1, 1, 1, -1).repeat(2, 1, 1, 1)
    found = apply_curves(units, tables)
    assert (found[0] - units[0]).abs().max() < 1e-6 and (found[1] - (1 - units[1])).abs().max() < 1e-6


@pytest.mark.parametrize("x", [(0, 0), (1, 1), (1, 0), (0, 1)])
@pytest.mark.parametrize("y", [(0, 0), (1, 1), (1, 0), (0, 1)])
def test_curves_of_the_corners_are_monotone_from_end_to_end(x, y):
    inner = torch.tensor([[x, y]] * 2, dtype=torch.float64)
    rising, falling = curve_tables(inner, torch.tensor([False, True]))
    assert torch.isfinite(rising).all() and (rising.diff() >= 0).all() and (falling.diff() <= 0).all()
    assert rising[[0, -1]].tolist() == [0, 1] and falling[[0, -1]].tolist() == [1, 0]


def test_half_of_the_curves_fall_and_their_mean_is_that_of_uniform_control_points():
    count = 4000
    tables = draw_curves(count, seeded(0))
    falls = tables[:, 0] == 1
    assert within(falls.float().mean().item(), 0.5, count)
    middle = tables[:, CELLS // 2]
    assert abs(middle.mean().item() - 0.5) < 5 * middle.std().item() / count**0.5  # by symmetry


def test_an_item_is_changed_with_its_probability():
    images = batch((20, 20), items=800)
    changed = (nonlinear_intensity(images, seeded(0)) != images).flatten(1).any(dim=1)
    assert within(changed.float().mean().item(), 0.9, 800)
    assert torch.equal(nonlinear_intensity(images, seeded(0), 0.0), images)
    assert (nonlinear_intensity(images, seeded(0), 1.0) != images).flatten(1).any(dim=1).all()


def test_values_beyond_the_ends_and_nan_break_nothing():
    images = torch.tensor([-1.0, 0.0, 1.0, 7.0, float("nan")]).view(1, 1, 1, 5)
    tables = draw_curves(1, seeded(0))
    found = apply_curves(images, tables).flatten()
    assert found[0] == found[1] == tables[0, 0] and found[2] == found[3] == tables[0, -1] and found[4].isnan()
