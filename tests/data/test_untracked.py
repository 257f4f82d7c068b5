import pytest
import torch
from monai.data import CacheDataset, MetaTensor, get_track_meta
from monai.transforms import Compose, RandFlipd, RandScaleCropd, Resized, ScaleIntensityd

from metalr_monai import Untracked


def random_transforms():
    return [
        RandScaleCropd(keys="image", roi_scale=0.5, max_roi_scale=1.0, random_center=True, random_size=True),
        Resized(keys="image", spatial_size=(8, 8), mode="bilinear", anti_aliasing=True),
        RandFlipd(keys="image", spatial_axis=1, prob=0.5),
    ]


def test_the_numbers_are_those_of_compose_on_plain_tensors():
    torch.manual_seed(0)
    image = MetaTensor(torch.rand(1, 16, 16))
    tracked, untracked = Compose(random_transforms()), Untracked(random_transforms())
    for transform in (tracked, untracked):
        transform.set_random_state(seed=3)
    drawn = set()
    for _ in range(8):
        expected, found = tracked({"image": image})["image"], untracked({"image": image})["image"]
        assert isinstance(expected, MetaTensor) and type(found) is torch.Tensor
        assert torch.equal(found, expected.as_tensor())
        drawn.add(round(found.sum().item(), 4))
    assert len(drawn) > 4


@pytest.mark.parametrize("broken", [False, True])
def test_what_runs_afterwards_is_recorded_again(broken):
    def fail(item):
        if broken:
            raise ZeroDivisionError
        assert not get_track_meta()
        return item

    untracked = Untracked([fail])
    if broken:
        with pytest.raises(RuntimeError):
            untracked({"image": torch.zeros(1, 4, 4)})
    else:
        untracked({"image": torch.zeros(1, 4, 4)})
    assert get_track_meta()
    assert isinstance(ScaleIntensityd("image")({"image": MetaTensor(torch.rand(1, 4, 4))})["image"], MetaTensor)


def test_a_cache_keeps_what_is_before_it_alone():
    image = MetaTensor(torch.rand(1, 16, 16) * 9)
    transform = Compose([ScaleIntensityd("image"), Untracked(random_transforms())]).set_random_state(seed=0)
    cached = CacheDataset([{"image": image}], transform, progress=False)
    first, second = cached[0]["image"], cached[0]["image"]
    assert not torch.equal(first, second) and first.shape == (1, 8, 8) and float(first.max()) <= 1
