"""The bundle's inference by AxisSpacingd and InvertToLabeld writes the files that Spacingd and Invertd lead to."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from liver_ct_bundle import CONFIGS, WARNINGS, run

from metalr_monai import GenesisUNet3D, write_lits_phantoms

pytestmark = WARNINGS

OPTIONS = {
    "regions": {"liver": [1, 2], "tumour": [2]},
    "width": 4,
    "spacing": [7.0, 8.0, 9.0],
    "patch_size": [32, 32, 16],
    "overlap": 0.25,
    "amp": False,
    "device": "cpu",
}
OWN = "metalr_monai.AxisSpacingd"
SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
BACK = {"keys": "pred", "orig_keys": "image", "transform": "@preprocessing"}
OWN_BACK = [{"_target_": "metalr_monai.InvertToLabeld", **BACK}]
MONAIS_BACK = [
    {"_target_": "Invertd", **BACK, "nearest_interp": False},
    {"_target_": "metalr_monai.RegionsToLabeld", "keys": "pred"},
]
MONAIS_PROBABILITIES = MONAIS_BACK[:1]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Scans in all kinds of orientations, some oblique, and a network whose labels lie everywhere."""
    root = tmp_path_factory.mktemp("bundle")
    write_lits_phantoms(root / "lits", 2, size=(48, 40, 30), progress=False)
    (root / "images").mkdir()
    for file in (root / "lits").glob("volume-*"):
        file.rename(root / "images" / file.name)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = GenesisUNet3D(out_channels=2, width=4, batch_statistics="always")
    with torch.no_grad():
        network.out_tr.final_conv.weight.mul_(8)
    (root / "models").mkdir()
    torch.save(network.state_dict(), root / "models/model.pt")
    return root


def predicted(root: Path, name: str, spacing: str, back: list[dict[str, object]], dtype: str = "uint8"):
    """Case → the image that the bundle's inference writes with these transforms."""
    config = json.loads((CONFIGS / "inference.json").read_text(encoding="utf-8"))
    steps = config["preprocessing"]["transforms"]
    save = next(step for step in config["postprocessing"]["transforms"][::-1] if step["_target_"] == "SaveImaged")
    overlay = {
        "preprocessing#transforms": [
            {**step, "_target_": spacing} if step["_target_"].endswith("Spacingd") else step for step in steps
        ],
        "postprocessing#transforms": [SIGMOID, *back, {**save, "output_dtype": dtype}],
        "output_dir": str(root / name),
    }
    run("inference.json", root=root, **OPTIONS, **overlay)
    return {file.name: nib.load(file) for file in sorted((root / name).rglob("*.nii.gz"))}


def test_the_label_files_are_equal_voxel_by_voxel_but_for_ties(root):
    own = predicted(root, "own", OWN, OWN_BACK)
    monais = predicted(root, "monais", "Spacingd", MONAIS_BACK)
    probabilities = predicted(root, "probabilities", "Spacingd", MONAIS_PROBABILITIES, "float32")
    scans = {file.name: nib.load(file) for file in sorted((root / "images").iterdir())}
    assert len(own) == len(monais) == len(scans) == 2
    for found, wanted, probability, scan in zip(
        *(images.values() for images in (own, monais, probabilities, scans)), strict=True
    ):
        assert found.shape == wanted.shape == scan.shape
        assert np.array_equal(found.affine, wanted.affine) and np.allclose(found.affine, scan.affine, atol=1e-4)
        assert nib.aff2axcodes(found.affine) == nib.aff2axcodes(scan.affine)
        labels = np.asanyarray(found.dataobj)
        assert labels.dtype == np.uint8 and set(np.unique(labels)) == {0, 1, 2}
        # float32's rounding of HU goes through the network, so that a probability may differ in its fifth place
        tie = (np.abs(np.asanyarray(probability.dataobj) - 0.5) < 1e-5).any(axis=-1)
        different = labels != np.asanyarray(wanted.dataobj)
        assert not (different & ~tie).any()
        assert different.mean() < 1e-4
