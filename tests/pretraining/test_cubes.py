"""Random cubes that are occupied as they should be, and what is said where there are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose

from metalr_monai.errors import MetaLRError, OptionError
from metalr_monai.pretraining.cubes import CubeError, RandOccupiedCubesd

SIZE = (8, 8, 4)
TISSUE, LUNG, AIR = (40 + 1000) / 2000, (-850 + 1000) / 2000, 0.0


def volume(shape=(40, 20, 12), body=20, value=TISSUE):
    """Body up to a place along the first axis, then air; each voxel's own number in the second channel."""
    image = torch.full(shape, AIR)
    image[:body] = value
    numbers = torch.arange(image.numel(), dtype=torch.float32).view(shape)
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    return MetaTensor(torch.stack((image, numbers)), affine=affine, meta={"filename_or_obj": "ct-1.nii.gz"})


def cubes(seed=0, **settings):
    return RandOccupiedCubesd(**{"keys": "image", "size": SIZE, "count": 6, **settings}).set_random_state(seed)


def corner(cube, shape=(40, 20, 12)):
    return np.unravel_index(int(cube["image"][1].min()), shape)


def test_cubes_are_cut_out_of_the_volume_and_at_least_half_of_each_is_body():
    found = cubes(count=40)({"image": volume()})
    assert len(found) == 40 and len({corner(cube) for cube in found}) > 20
    for number, cube in enumerate(found):
        at = corner(cube)
        inside = tuple(slice(a, a + s) for a, s in zip(at, SIZE, strict=True))
        assert torch.equal(cube["image"].as_tensor(), volume()[(slice(None), *inside)].as_tensor())
        assert at[0] <= 16 and cube["image"].meta["patch_index"] == number
        assert cube["image"].affine[:3, 3].tolist() == [at[0], 2 * at[1], 3 * at[2]]
        assert cube["image"].meta["filename_or_obj"] == "ct-1.nii.gz"
    assert max(corner(cube)[0] for cube in found) == 16  # half of it


def test_lung_is_body_by_default_and_no_tissue_as_published():
    assert len(cubes()({"image": volume(value=LUNG)})) == 6
    published = cubes(counted=(-150, 1000), share=(0, 0.15))
    assert len(published({"image": volume(value=LUNG)})) == 6
    assert all(corner(cube)[0] >= 19 for cube in published({"image": volume()}))


def test_every_place_is_drawn():
    found = cubes(count=200)({"image": volume((10, 9, 5), body=10)})
    places = {corner(cube, (10, 9, 5)) for cube in found}
    assert places == {(x, y, z) for x in range(3) for y in range(2) for z in range(2)}


def test_all_keys_are_cut_alike_and_the_rest_is_copied():
    item = {"image": volume(), "label": volume()[1:], "case_id": ["a"]}
    found = cubes(keys=["image", "label"])(item)
    assert all(torch.equal(cube["image"][1], cube["label"][0]) for cube in found)
    assert found[0]["case_id"] == ["a"] and found[0]["case_id"] is not item["case_id"]
    with pytest.raises(CubeError, match=r"different sizes: (40×20×12, 30×20×12|30×20×12, 40×20×12)"):
        cubes(keys=["image", "label"])(item | {"label": volume((30, 20, 12))})


def test_a_seed_repeats_the_cubes_and_the_next_call_has_others():
    first, again, other = (cubes(seed) for seed in (0, 0, 1))
    places = [[corner(cube) for cube in transform({"image": volume()})] for transform in (first, again, other, first)]
    assert places[0] == places[1] and places[0] != places[2] and places[0] != places[3]


def test_a_volume_without_such_a_cube_is_named_with_what_was_found():
    transform = cubes(count=2, tries=10)
    with pytest.raises(CubeError, match=r"ct-1\.nii\.gz: none of 20 cubes of 8×8×4 had 50% to 100% .* 0\.0% to 0\.0%"):
        transform({"image": volume(body=0)})
    assert issubclass(CubeError, MetaLRError)


def test_fewer_cubes_than_asked_for_are_told():
    with pytest.warns(UserWarning, match=r"ct-1\.nii\.gz: \d+ of 40 cubes .* Expected 20"):
        found = cubes(count=20, tries=2)({"image": volume(body=14)})
    assert 0 < len(found) < 20


def test_a_volume_smaller_than_a_cube_is_padded_with_air_and_named():
    with pytest.warns(UserWarning, match=r"ct-1\.nii\.gz has 40×20×2 voxels, which is smaller than a cube of 8×8×4"):
        found = cubes(count=3)({"image": volume((40, 20, 2), body=40)})
    for cube in found:
        assert tuple(cube["image"].shape) == (2, *SIZE)
        assert (cube["image"][0, :, :, 0] == AIR).all() and (cube["image"][0, :, :, 1] > AIR).all()


def test_pictures_and_arrays_are_cut_too_and_a_loader_batches_them():
    data = Dataset(
        [{"image": volume((20, 16, 4), body=20)[:, :, :, 0].numpy()}] * 2, Compose([cubes(size=(8, 8), count=3)])
    )
    (both,) = DataLoader(data, batch_size=2)
    assert tuple(both["image"].shape) == (6, 2, 8, 8)
    with pytest.raises(CubeError, match=r"shape \(2, 40, 20, 12\); expected \(C, …\) for 8×8"):
        cubes(size=(8, 8))({"image": volume()})


@pytest.mark.parametrize(
    "settings",
    [
        {"size": (0, 4, 4)},
        {"count": 0},
        {"tries": 0},
        {"counted": (5, 5)},
        {"share": (0.5, 1.5)},
        {"hu_window": (1, 0)},
    ],
)
def test_options_out_of_range_are_named(settings):
    with pytest.raises(OptionError, match=rf"{next(iter(settings))} is "):
        cubes(**settings)
