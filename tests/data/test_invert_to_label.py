"""A label map on the file's grid, compared with MONAI's inverse of the probabilities, the slow way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, Invertd, Orientationd, Spacingd

from metalr_monai import RegionsToLabeld
from metalr_monai.data.invert_to_label import InvertToLabeld
from metalr_monai.data.resample import AxisSpacingd
from metalr_monai.errors import DataError, OptionError, own_error

SHAPE = (26, 31, 14)
LPS = torch.diag(torch.tensor([-0.7, -0.9, 2.5, 1.0], dtype=torch.float64))
SIDEWAYS = torch.tensor([[0, -0.7, 0, 3], [0.9, 0, 0, -8], [0, 0, -2.5, 50], [0, 0, 0, 1]], dtype=torch.float64)
TILTED = LPS + torch.tensor([[0, 0, 0, 0], [0, 0, 0.3, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def preprocessing(spacing_transform, pixdim):
    return Compose([Orientationd("image", "RAS", labels=None), spacing_transform("image", pixdim)])


def item_of(affine, transform, regions=2, seed=0):
    """An image, and smooth probabilities of as many regions on the grid that the transform puts it on."""
    image = transform({"image": MetaTensor(torch.rand(1, *SHAPE), affine=affine)})["image"]
    noise = torch.randn(1, regions, 4, 4, 4, generator=torch.Generator().manual_seed(seed)) * 4 - 1
    smooth = F.interpolate(noise, image.shape[1:], mode="trilinear", align_corners=True)[0]
    return {"image": image, "pred": MetaTensor(torch.sigmoid(smooth))}


def literal(affine, pixdim, probabilities, threshold=0.5):
    """The label map by MONAI, and the interpolated probabilities."""
    transform = preprocessing(Spacingd, pixdim)
    item = {"image": transform({"image": MetaTensor(torch.rand(1, *SHAPE), affine=affine)})["image"]}
    item = Invertd("pred", transform, "image", nearest_interp=False)(item | {"pred": MetaTensor(probabilities)})
    return RegionsToLabeld("pred", threshold)(item)["pred"], item["pred"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pixdim", [(1.5, 1.5, 2.0), (0.4, 1.2, 3.7), (0.7, 0.9, 2.5)])
@pytest.mark.parametrize("affine", [LPS, SIDEWAYS, TILTED], ids=["LPS", "sideways", "tilted"])
def test_it_is_the_label_map_of_the_inverted_probabilities_voxel_by_voxel(affine, pixdim, seed):
    transform = preprocessing(AxisSpacingd, pixdim)
    item = item_of(affine, transform, seed=seed)
    found = InvertToLabeld("pred", transform, "image")(item)["pred"]
    wanted, probabilities = literal(affine, pixdim, item["pred"].as_tensor())
    assert found.dtype == torch.uint8 and found.shape == wanted.shape == (1, *SHAPE)
    assert torch.allclose(found.affine, affine) and torch.equal(found.affine, wanted.affine)
    tie = ((probabilities - 0.5).abs() < 1e-6).any(dim=0, keepdim=True)
    assert tie.sum() < 3 and torch.equal(found[~tie], wanted[~tie])
    assert len(torch.unique(found)) == 3


@pytest.mark.parametrize("threshold", [0.05, 0.95])
def test_other_thresholds_and_label_values(threshold):
    transform = preprocessing(AxisSpacingd, (1.5, 1.5, 2.0))
    item = item_of(LPS, transform)
    found = InvertToLabeld("pred", transform, "image", threshold=threshold, values=[6, 3])(item)["pred"]
    wanted, _ = literal(LPS, (1.5, 1.5, 2.0), item["pred"].as_tensor(), threshold)
    assert torch.equal(found, torch.tensor([0, 6, 3], dtype=torch.uint8)[wanted.long()])


def test_a_single_voxel_is_found_wherever_it_lies():
    transform = preprocessing(AxisSpacingd, (1.5, 1.5, 2.0))
    item = item_of(SIDEWAYS, transform, regions=1)
    size = item["pred"].shape[1:]
    for place in [(0, 0, 0), (size[0] - 1, 0, size[2] - 1), (5, size[1] - 1, 3), (7, 8, 9)]:
        probabilities = torch.zeros(1, *size)
        probabilities[(0, *place)] = 20  # so that of the voxels around it, too, some come to the threshold
        found = InvertToLabeld("pred", transform, "image")(item | {"pred": probabilities})["pred"]
        wanted, _ = literal(SIDEWAYS, (1.5, 1.5, 2.0), probabilities)
        assert torch.equal(found, wanted) and found.any()


def test_where_there_is_nothing_the_label_map_is_empty():
    transform = preprocessing(AxisSpacingd, (1.5, 1.5, 2.0))
    item = item_of(LPS, transform)
    found = InvertToLabeld("pred", transform, "image")(item | {"pred": torch.full_like(item["pred"], 0.4)})["pred"]
    assert found.shape == (1, *SHAPE) and not found.any()


def test_a_voxel_between_two_slices_that_no_new_slice_touches_is_lost_as_by_monai():
    transform = preprocessing(AxisSpacingd, (0.1, 0.9, 2.5))  # the file has one voxel for seven of the network's
    item = item_of(LPS, transform, regions=1)
    probabilities = torch.zeros(1, *item["pred"].shape[1:])
    probabilities[0, 3] = 1
    found = InvertToLabeld("pred", transform, "image")(item | {"pred": probabilities})["pred"]
    assert torch.equal(found, literal(LPS, (0.1, 0.9, 2.5), probabilities)[0]) and not found.any()


def test_it_works_on_what_an_evaluator_decollates_and_leaves_the_image_as_it_was():
    transform = preprocessing(AxisSpacingd, (1.5, 1.5, 2.0))
    data = Dataset([{"image": MetaTensor(torch.rand(1, *SHAPE), affine=SIDEWAYS)}], transform)
    batch = next(iter(DataLoader(data, batch_size=1)))
    batch["pred"] = torch.sigmoid(4 * torch.randn_like(batch["image"]))
    for item in decollate_batch(batch):
        before = item["image"].clone()
        found = InvertToLabeld("pred", transform, "image")(item)
        assert found["pred"].shape == (1, *SHAPE) and torch.allclose(found["pred"].affine, SIDEWAYS)
        again = InvertToLabeld("pred", transform, "image")(item)
        assert torch.equal(found["pred"], again["pred"]) and torch.equal(found["image"], before)
        inverted = Invertd("pred", transform, "image", nearest_interp=False)(item)["pred"]
        assert inverted.dtype == torch.float32 and len(torch.unique(inverted)) > 2
        assert torch.equal(found["pred"], (inverted >= 0.5).byte())


def test_spacingd_is_refused_by_name():
    transform = preprocessing(Spacingd, (1.5, 1.5, 2.0))
    with pytest.raises(DataError, match="image has been resampled by AxisSpacingd 0 times"):
        InvertToLabeld("pred", transform, "image")(item_of(LPS, transform))


@pytest.mark.parametrize("threshold", [0, 1, -1, 50])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(OptionError, match="threshold"):
        InvertToLabeld("pred", Compose([]), "image", threshold=threshold)


def test_values_must_be_one_a_region():
    transform = preprocessing(AxisSpacingd, (1.5, 1.5, 2.0))
    with pytest.raises(RuntimeError) as caught:  # of MONAI's Compose
        InvertToLabeld("pred", transform, "image", values=[1])(item_of(LPS, transform))
    assert "values names 1 labels, [1], but there are 2 regions" in str(own_error(caught.value))
