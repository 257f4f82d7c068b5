"""The dictionary transforms do to an item what the functions do to a batch of one, from MONAI's random stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from images import batch
from monai.data import MetaTensor
from monai.transforms import Compose, CopyItemsd
from monai.utils import set_determinism

from metalr_monai.errors import OptionError, own_error
from metalr_monai.pretraining.checks import DeformationError
from metalr_monai.pretraining.dictionary import (
    RandGenesisFlipd,
    RandLocalShufflingd,
    RandNonlinearIntensityd,
    RandPaintingd,
)
from metalr_monai.pretraining.draws import seeded_generator
from metalr_monai.pretraining.local_shuffling import local_shuffling
from metalr_monai.pretraining.nonlinear_intensity import nonlinear_intensity
from metalr_monai.pretraining.painting import painting
from metalr_monai.pretraining.random_flips import random_flips

PAIRS = [
    (RandGenesisFlipd, random_flips),
    (RandLocalShufflingd, local_shuffling),
    (RandNonlinearIntensityd, nonlinear_intensity),
    (RandPaintingd, painting),
]
SHAPES = [(40, 24), (32, 24, 20)]


def item(shape=(32, 24, 20), seed=0):
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    image = MetaTensor(batch(shape, items=1, seed=seed)[0], affine=affine, meta={"filename_or_obj": "ct-7.nii.gz"})
    return {"image": image}


def chain():
    return Compose(
        [
            CopyItemsd("image", names="target"),
            RandGenesisFlipd(["image", "target"], prob=0.9),
            RandLocalShufflingd("image", prob=1.0),
            RandNonlinearIntensityd("image", prob=1.0),
            RandPaintingd("image", prob=1.0),
        ]
    )


@pytest.mark.parametrize(("transform", "function"), PAIRS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_item_is_a_batch_of_one_with_the_seed_that_monai_draws(transform, function, shape):
    found = transform("image", prob=1.0).set_random_state(5)(item(shape))["image"]
    seed = int(np.random.RandomState(5).randint(2**32 - 1, dtype="uint32"))
    images = item(shape)["image"].as_tensor()
    expected = function(images[None], seeded_generator(images.device, seed), 1.0)[0]
    assert torch.equal(found.as_tensor(), expected) and not torch.equal(expected, images)


@pytest.mark.parametrize("transform", [pair[0] for pair in PAIRS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_meta_data_type_and_shape_stay_and_the_given_item_too(transform, dtype):
    given = item()
    given["image"] = given["image"].to(dtype)
    kept = given["image"].clone()
    found = transform("image", prob=1.0).set_random_state(0)(given)["image"]
    assert isinstance(found, MetaTensor) and found.dtype == dtype and found.shape == kept.shape
    assert torch.equal(found.affine, kept.affine) and found.meta["filename_or_obj"] == "ct-7.nii.gz"
    assert torch.equal(given["image"], kept)
    array = transform("image", prob=1.0)({"image": kept.numpy()})["image"]
    assert isinstance(array, np.ndarray) and array.dtype == kept.numpy().dtype


def test_the_target_is_the_flipped_image_and_nothing_else():
    found = chain().set_random_state(1)(item())
    image, axes = item()["image"].as_tensor(), [(), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]
    flipped = [torch.equal(found["target"].as_tensor(), image.flip(axis)) for axis in axes]
    assert sum(flipped) == 1 and not flipped[0] and not torch.equal(found["image"], found["target"])


def test_a_chain_repeats_itself_under_its_seed_and_differs_from_item_to_item():
    def three(transform):
        return [transform(item())["image"].as_tensor() for _ in range(3)]

    first, again = (three(chain().set_random_state(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])
    try:
        under = []
        for _ in range(2):
            set_determinism(4)
            under.append(three(chain()))
    finally:
        set_determinism(None)
    assert all(torch.equal(a, b) for a, b in zip(*under, strict=True))


@pytest.mark.parametrize("transform", [pair[0] for pair in PAIRS])
def test_probability_zero_leaves_the_item(transform):
    assert torch.equal(transform("image", prob=0.0)(item())["image"], item()["image"])
    with pytest.raises(OptionError, match="prob is -1"):
        transform("image", prob=-1)


@pytest.mark.parametrize("transform", [RandNonlinearIntensityd, RandPaintingd])
def test_a_file_whose_range_is_not_zero_to_one_is_named(transform):
    wrong = {"image": item()["image"] * 2000 - 1000}
    with pytest.raises(RuntimeError) as raised:
        Compose([transform("image")])(wrong)
    error = own_error(raised.value)
    assert isinstance(error, DeformationError) and str(error).startswith(
        "ct-7.nii.gz: The images' values go from -1000"
    )


def test_integers_are_refused_by_file():
    with pytest.raises(DeformationError, match=r"case-3: The images are torch\.int16"):
        RandPaintingd("image")({"image": torch.zeros(1, 20, 20, dtype=torch.int16), "case_id": "case-3"})
