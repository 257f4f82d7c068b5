"""Resampling along the axes, compared with MONAI's Spacingd, the slow way."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, Spacingd
from scipy.spatial.transform import Rotation

from metalr_monai.data.resample import SLAB, AxisSpacingd
from metalr_monai.errors import OptionError

SHAPES = [(17, 23, 12), (16, 9, 31), (20, 1, 15), (1, 1, 8), (40, 30, 2)]
SPACINGS = [(1.5, 1.5, 2.0), (0.4, 0.7, 0.9), (0.8, 3.1, 1.1), (0.7, 1.0, 2.6), (1.4, 2.0, 1.25)]
PLAIN, OBLIQUE, VERY_OBLIQUE = (0, 0, 0), (7, -12, 4), (31, 18, -26)  # degrees
ROUNDING = 4 * torch.finfo(torch.float32).eps * 3000  # of a few float32 operations on HU


def affine_of(spacing=(0.7, 1.0, 2.5), degrees=PLAIN, origin=(-120.3, 44.0, 7.7)):
    affine = torch.eye(4, dtype=torch.float64)
    turn = torch.from_numpy(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix())
    affine[:3, :3] = turn @ torch.tensor(spacing, dtype=torch.float64).diag()
    affine[:3, 3] = torch.tensor(origin, dtype=torch.float64)
    return affine


def volume(shape, affine, channels=1, seed=0):
    values = torch.randn((channels, *shape), generator=torch.Generator().manual_seed(seed)) * 500
    return MetaTensor(values, affine=affine)


def labels(shape, affine):
    return MetaTensor(torch.randint(0, 9, (1, *shape), generator=torch.Generator().manual_seed(3)), affine=affine)


def both(image, pixdim, mode="bilinear"):
    """What the two transforms and their inverses give."""
    made = []
    for transform in (AxisSpacingd("image", pixdim, mode), Spacingd("image", pixdim, mode=mode)):
        there = transform({"image": image})
        back = transform.inverse({"image": there["image"].clone()})
        made.append((there["image"], back["image"]))
    return zip(*made, strict=True)


@pytest.mark.parametrize("degrees", [PLAIN, OBLIQUE, VERY_OBLIQUE])
@pytest.mark.parametrize("pixdim", SPACINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_shape_and_affine_are_those_of_spacingd_there_and_back(shape, pixdim, degrees):
    for found, wanted in both(volume(shape, affine_of(degrees=degrees), channels=2), pixdim):
        assert found.shape == wanted.shape
        assert found.dtype == wanted.dtype == torch.float32
        assert torch.equal(found.affine, wanted.affine)
        assert (found - wanted).abs().max() < ROUNDING


@pytest.mark.parametrize("pixdim", [(1.4, 2.0, 1.25), (0.35, 0.5, 5.0), (1.05, 0.4, 1.0)])  # half-way between slices
@pytest.mark.parametrize("shape", SHAPES)
def test_nearest_takes_the_same_voxels_also_half_way_between_two(shape, pixdim):
    for found, wanted in both(labels(shape, affine_of()), pixdim, "nearest"):
        assert torch.equal(found.as_tensor(), wanted.as_tensor())
        assert torch.equal(found.affine, wanted.affine)


@pytest.mark.parametrize("pixdim", SPACINGS[:3])
def test_nearest_takes_the_same_voxels_of_an_oblique_volume(pixdim):
    for found, wanted in both(labels((17, 23, 12), affine_of((0.71, 1.03, 2.63), OBLIQUE)), pixdim, "nearest"):
        assert torch.equal(found.as_tensor(), wanted.as_tensor())


def test_slices_that_do_not_fit_into_a_slab_together_are_the_same(monkeypatch):
    image = volume((17, 23, 12), affine_of())
    whole = AxisSpacingd("image", (1.5, 1.5, 2.0))({"image": image})["image"]
    monkeypatch.setattr("metalr_monai.data.resample.SLAB", 1)
    by_slice = AxisSpacingd("image", (1.5, 1.5, 2.0))({"image": image})["image"]
    assert torch.equal(whole, by_slice)


@pytest.mark.parametrize("order", [(0, 3, 2, 1), (0, 2, 3, 1), (0, 1, 2, 3)])
def test_the_order_of_the_axes_in_memory_stays_and_does_not_matter(order):
    image = volume((17, 23, 12), affine_of())
    back = [order.index(axis) for axis in range(4)]
    turned = MetaTensor(image.as_tensor().permute(order).contiguous().permute(back), affine=image.affine)
    wanted = AxisSpacingd("image", (1.5, 1.5, 2.0))({"image": image})["image"]
    found = AxisSpacingd("image", (1.5, 1.5, 2.0))({"image": turned})["image"]
    assert torch.equal(found, wanted)
    assert found.as_tensor().permute(order).is_contiguous()


def test_image_and_label_each_have_their_mode_and_their_input_stays():
    image, label = volume((17, 23, 12), affine_of()), labels((17, 23, 12), affine_of())
    item = {"image": image.clone(), "label": label.clone()}
    keys, modes = ["image", "label"], ["bilinear", "nearest"]
    found = AxisSpacingd(keys, (1.5, 1.5, 2.0), modes)(item)
    wanted = Spacingd(keys, (1.5, 1.5, 2.0), mode=modes)(item)
    assert (found["image"] - wanted["image"]).abs().max() < ROUNDING
    assert torch.equal(found["label"], wanted["label"])
    assert torch.equal(item["image"], image) and torch.equal(item["label"], label)


def test_invertd_brings_a_prediction_back_onto_the_grid_of_the_file():
    turn = torch.tensor([[0, -1.0, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    affine = affine_of(degrees=OBLIQUE) @ turn
    image = volume((17, 23, 12), affine)
    results = []
    for spacing in (AxisSpacingd("image", (1.5, 1.5, 2.0)), Spacingd("image", (1.5, 1.5, 2.0))):
        transform = Compose([Orientationd("image", "RAS", labels=None), spacing])
        item = transform({"image": image})
        item["pred"] = MetaTensor(torch.tanh(item["image"].as_tensor() / 500))
        for nearest in (False, True):
            found = Invertd("pred", transform, "image", nearest_interp=nearest)(dict(item))["pred"]
            assert found.shape == image.shape
            assert torch.allclose(found.affine, affine)
            results.append(found)
    assert (results[0] - results[2]).abs().max() < 1e-6
    assert (results[1] - results[3]).abs().max() < 1e-6


def test_nothing_is_recorded_for_or_done_to_a_volume_of_that_spacing():
    image = volume((17, 23, 12), affine_of((1.5, 1.5, 2.0)))
    for found, wanted in both(image, (1.5, 1.5, 2.0)):
        assert torch.equal(found, wanted) and torch.equal(found, image)


def test_a_sheared_volume_is_resampled_as_by_spacingd():
    tilted = affine_of()
    tilted[1, 2] += 0.4  # a gantry's tilt
    for found, wanted in both(volume((17, 23, 12), tilted), (1.5, 1.5, 2.0)):
        assert torch.equal(found, wanted) and torch.equal(found.affine, wanted.affine)


def test_images_in_the_plane_are_resampled_too():
    affine = torch.diag(torch.tensor([0.5, 0.8, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(2, 20, 31), affine=affine)
    for found, wanted in both(image, (0.9, 0.6)):
        assert found.shape == wanted.shape and (found - wanted).abs().max() < 1e-6


def test_it_takes_part_in_lazy_resampling():
    image = volume((17, 23, 12), affine_of())
    lazy = Compose([AxisSpacingd("image", (1.5, 1.5, 2.0))], lazy=True)({"image": image})["image"]
    assert (lazy - Spacingd("image", (1.5, 1.5, 2.0))({"image": image})["image"]).abs().max() < 0.1


def test_other_modes_are_refused():
    with pytest.raises(OptionError, match="mode is 'bicubic'"):
        AxisSpacingd(["image", "label"], (1, 1, 1), ["bicubic", "nearest"])


def test_it_is_several_times_as_fast_as_spacingd():
    image, seconds = volume((128, 128, 64), affine_of((0.8, 0.8, 1.5))), {}
    for transform in (AxisSpacingd("image", (1.5, 1.5, 2.0)), Spacingd("image", (1.5, 1.5, 2.0))):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            transform.inverse(transform({"image": image}))
            times.append(time.perf_counter() - start)
        seconds[type(transform)] = min(times)
    assert seconds[AxisSpacingd] < seconds[Spacingd] / 3


MEMORY = """
import torch
from pathlib import Path
from monai.data import MetaTensor
from metalr_monai.data.resample import AxisSpacingd
def peak():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
torch.set_num_threads(1)
AxisSpacingd("image", (2, 2, 2))({"image": MetaTensor(torch.rand(1, 8, 8, 8))})  # the libraries' own pages
image = MetaTensor(torch.rand(1, 256, 256, 128), affine=torch.diag(torch.tensor([0.8, 0.8, 1.5, 1])))
before = peak()
made = AxisSpacingd("image", (0.7, 0.7, 1.5))({"image": image})["image"]
print((peak() - before) * 1024, made.numel() * 4)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux's /proc")
def test_it_needs_the_memory_of_its_output_and_of_a_few_slabs():
    told = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout
    needed, output = map(int, told.split())
    assert 0.9 * output < needed < output + 8 * 4 * SLAB


@pytest.mark.parametrize("affine", [None, torch.diag(torch.tensor([0.5, 0.8, 1.0]))])
def test_an_image_has_the_affine_of_two_axes_or_of_three(affine):
    image = MetaTensor(torch.rand(1, 13, 9), affine=affine)
    ours, theirs = (
        kind("image", (0.7, 1.3), mode="bilinear")({"image": image.clone()})["image"]
        for kind in (AxisSpacingd, Spacingd)
    )
    assert torch.equal(ours.affine, theirs.affine)
    torch.testing.assert_close(ours.as_tensor(), theirs.as_tensor(), atol=1e-5, rtol=0)
