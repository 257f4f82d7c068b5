"""Local shuffling gives what the loop over windows gives, and draws windows and permutations uniformly."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import literal_deformations as literal
import numpy as np
import pytest
import torch
from images import SHAPES, batch, seeded, within
from torch.utils._python_dispatch import TorchDispatchMode

from metalr_monai.errors import OptionError
from metalr_monai.pretraining.checks import DeformationError
from metalr_monai.pretraining.local_shuffling import (
    Windows,
    apply_windows,
    default_windows,
    draw_windows,
    local_shuffling,
    permuted_by_keys,
    permuted_by_rows,
    voxel_bits,
)

WAYS = [permuted_by_rows, permuted_by_keys]


def windows(items, shape, number, permuted, seed=0):
    generator = seeded(seed)
    drawn = draw_windows(items, shape, number, generator)
    return Windows(drawn.corner, drawn.side, *permuted(drawn.corner, drawn.side, shape, generator))


@pytest.mark.parametrize("permuted", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", [1, 300])
def test_the_result_is_that_of_one_window_after_the_other(shape, permuted, number):
    images = batch(shape, items=3, channels=2)
    drawn = windows(3, shape, number, permuted)
    found = apply_windows(images, drawn)
    assert torch.equal(found, literal.apply_windows(images, drawn)) and not torch.equal(found, images)


@pytest.mark.parametrize("permuted", WAYS)
@pytest.mark.parametrize("shape", [*SHAPES, (19, 23), (70, 9, 41)])
def test_every_window_reads_each_of_its_voxels_once_and_writes_each_once(shape, permuted):
    drawn = windows(2, shape, 200, permuted)
    for (item, number), (written, read) in literal.entries(drawn, shape).items():
        inside = np.zeros(shape, bool)
        inside[literal.slices(drawn.corner[item, number], drawn.side[item, number])] = True
        voxels = np.flatnonzero(inside).tolist()
        assert sorted(written) == voxels and sorted(read) == voxels


def test_the_published_cube_has_ten_thousand_windows_and_as_many_are_taken_for_other_sizes():
    assert default_windows((64, 64, 32)) == 10_000
    for shape in [(64, 64), (224, 224), (96, 96, 96), (64, 64, 32)]:
        drawn = draw_windows(1, shape, default_windows(shape), seeded(0))
        assert len(drawn.written) / math.prod(shape) == pytest.approx(1.869, rel=0.12)


def test_sides_and_corners_are_uniform():
    shape, number = (40, 30, 20), 60_000
    drawn = draw_windows(1, shape, number, seeded(1))
    for axis, length in enumerate(shape):
        for side in range(1, length // 10 + 1):
            chosen = drawn.side[0, :, axis] == side
            assert within(chosen.float().mean().item(), 1 / (length // 10), number)
            places = Counter(drawn.corner[0, chosen, axis].tolist())
            assert set(places) == set(range(length - side + 1))
            assert all(within(n / chosen.sum().item(), 1 / (length - side + 1), chosen.sum()) for n in places.values())


@pytest.mark.parametrize("permuted", WAYS)
def test_all_permutations_of_a_window_are_as_likely(permuted):
    number, shape = 60_000, (30, 20)
    side = torch.tensor([1, 2]).expand(1, number, 2).clone()
    side[:, : number // 2] = torch.tensor([2, 2])
    drawn = Windows(torch.zeros_like(side), side, *permuted(torch.zeros_like(side), side, shape, seeded(2)))
    order = {4: Counter(), 2: Counter()}
    for written, read in literal.entries(drawn, shape).values():
        order[len(read)][tuple(r for _, r in sorted(zip(written, read, strict=True)))] += 1
    for size, voxels in {4: (0, 1, 20, 21), 2: (0, 1)}.items():
        counts = [order[size][p] for p in itertools.permutations(voxels)]
        assert sum(counts) == number // 2
        assert all(within(count / (number // 2), 1 / math.factorial(size), number // 2) for count in counts)


def test_windows_of_one_form_are_permuted_each_in_its_own_way():
    drawn = draw_windows(2, (40, 40), 400, seeded(0))
    orders = [
        tuple(np.argsort(read))
        for (item, number), (_, read) in literal.entries(drawn, (40, 40)).items()
        if drawn.side[item, number].tolist() == [4, 4]
    ]
    assert len(orders) > 20 and len(set(orders)) == len(orders)


def test_a_later_window_overwrites_an_earlier_one_which_reads_from_the_original():
    side = torch.tensor([[[1, 2], [1, 2]]])
    corner = torch.tensor([[[0, 0], [0, 1]]])
    images = torch.arange(600.0).view(1, 1, 30, 20)
    bits = 1 << voxel_bits((30, 20))
    # The first window turns 0 and 1 about, the second one 1 and 2
    read = torch.tensor([bits + 1, bits + 0, 2 * bits + 2, 2 * bits + 1])
    found = apply_windows(images, Windows(corner, side, torch.tensor([0, 1, 1, 2]), read))
    assert found.flatten()[:4].tolist() == [1, 2, 1, 3]


def test_an_item_is_shuffled_with_its_probability_and_keeps_its_voxels():
    images = batch((24, 20), items=600)
    found = local_shuffling(images, seeded(0))
    changed = (found != images).flatten(1).any(dim=1)
    assert within(changed.float().mean().item(), 0.5, 600)
    # Voxels are copied within windows, so that no value is new
    assert all(set(a.flatten().tolist()) <= set(b.flatten().tolist()) for a, b in zip(found, images, strict=True))
    assert (local_shuffling(images, seeded(0), 1.0) != images).flatten(1).any(dim=1).all()
    assert torch.equal(local_shuffling(images, seeded(0), 0.0), images)


def test_too_small_images_are_refused_whichever_way_the_coin_falls():
    with pytest.raises(DeformationError, match=r"Images of 19×19×16 are too small for local shuffling"):
        local_shuffling(batch((19, 19, 16)), seeded(0), 1e-9)
    assert local_shuffling(batch((19, 19, 16)), seeded(0), 0.0).shape == (2, 1, 19, 19, 16)
    with pytest.raises(OptionError, match="windows is 0; expected a whole number, 1 or more"):
        local_shuffling(batch((32, 32)), seeded(0), windows=0)


def test_on_a_device_nothing_is_asked_of_it():
    class Recorder(TorchDispatchMode):
        called: set[str] = set()  # noqa: RUF012

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.called.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    drawn = draw_windows(2, (24, 20), 50, seeded(0))
    with Recorder() as recorder:
        written, read = permuted_by_keys(drawn.corner, drawn.side, (24, 20), seeded(0))
        apply_windows(batch((24, 20)), Windows(drawn.corner, drawn.side, written, read))
    assert "scatter_reduce_" in recorder.called
    assert not recorder.called & {"_local_scalar_dense", "nonzero", "repeat_interleave", "masked_select"}
