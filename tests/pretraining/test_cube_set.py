"""The cubes that a pre-training learns from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ScaleIntensityRanged

from metalr_monai import RandOccupiedCubesd, cube_set, data_list
from metalr_monai.errors import DataError

KEYS = {"keys": "image"}


def preprocessing(count: int = 3) -> Compose:
    scale = ScaleIntensityRanged(a_min=-1000, a_max=1000, b_min=0, b_max=1, clip=True, **KEYS)
    cubes = RandOccupiedCubesd(size=(16, 16, 8), count=count, **KEYS)
    return Compose([LoadImaged(**KEYS), EnsureChannelFirstd(**KEYS), scale, cubes])


def test_each_scan_gives_its_cubes(data: Path) -> None:
    items = data_list("lits", data)[:2]
    cubes = cube_set(items, preprocessing())
    assert [cube["case_id"] for cube in cubes] == [item["case_id"] for item in items for _ in range(3)]
    assert all(type(cube["image"]) is torch.Tensor and cube["image"].shape == (1, 16, 16, 8) for cube in cubes)
    assert all(cube["image"].untyped_storage().nbytes() == 4 * 16 * 16 * 8 for cube in cubes)  # not its whole scan


def test_cubes_depend_on_the_seed_and_on_the_scans_place(data: Path) -> None:
    items = data_list("lits", data)[:2]

    def images(chosen: list[dict[str, object]], seed: int) -> list[torch.Tensor]:
        return [cube["image"] for cube in cube_set(chosen, preprocessing(), seed=seed)]

    both = images(items, 1)
    assert all(map(torch.equal, both, images(items, 1)))
    assert not any(map(torch.equal, both, images(items, 2)))
    assert all(map(torch.equal, both[:3], images(items[:1], 1)))  # a scan that is added changes no other's


def test_fewer_cubes_than_a_batch_are_refused(data: Path) -> None:
    with pytest.raises(DataError, match="3 cubes or pictures of 1 cases are fewer than a batch of 6"):
        cube_set(data_list("lits", data)[:1], preprocessing(), least=6)
