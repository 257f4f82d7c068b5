"""The liver CT bundle writes label maps on the scans' own grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dicom_writer import UID, turned, write_series
from liver_ct_bundle import CONFIGS, GRID, WARNINGS, own_error, run, workflow
from monai.transforms import Compose
from scipy import ndimage

from metalr_monai import GenesisUNet3D
from metalr_monai.cli.verbs import predict
from metalr_monai.data.ct_phantom import phantom
from metalr_monai.errors import DataError

pytestmark = WARNINGS

FINE = {**GRID, "spacing": [3.0, 3.0, 3.0]}
SHAPE = (40, 36, 24)
TURNED = turned((3.0, -2.5, -4.0))  # to anterior and down; right-handed in LPS, as DICOM is
MIRRORED = TURNED @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 23], [0, 0, 0, 1]])  # as DICOM never is
TILTED = np.array([[-3.0, 0, 0, 60], [0, -2.5, 0.8, 40], [0, 0, 4, -50], [0, 0, 0, 1]])


def liver(mm: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Whether points, (…, 3) in mm (RAS) from the middle of a scan, lie in a liver that no mirror maps on itself."""
    big = (((mm - (18, 10, -9)) / (np.array([22, 15, 17]) + margin)) ** 2).sum(-1) <= 1
    lobe = (((mm - (-2, 16, 2)) / (np.array([16, 10, 9]) + margin)) ** 2).sum(-1) <= 1
    return big | lobe


def to_mm(affine: np.ndarray) -> np.ndarray:
    """Where each voxel is, (*SHAPE, 3), from the middle of the scan."""
    indices = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    return (indices - (np.array(SHAPE) - 1) / 2) @ affine[:3, :3].T


def scan(affine: np.ndarray) -> np.ndarray:
    """HU: the liver is 200, all else 0 but a rim of air."""
    voxels = np.where(liver(to_mm(affine)), 200, 0).astype(np.int16)
    voxels[0] = voxels[:, -1] = -1000
    return voxels


@pytest.fixture(scope="module")
def over_100_hu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that finds what is above 100 HU: the image goes through the first skip, all else is 0."""
    network = GenesisUNet3D(width=4, batch_statistics="standard")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(float(".bn1.weight" in name))
        units = (*network.down_tr64.ops, *network.up_tr64.ops)
        from_skip = network.up_tr64.up_conv.out_channels
        for unit, channel in zip(units, (0, 0, from_skip, 0), strict=True):
            unit.conv1.weight[0, channel, 1, 1, 1] = 1
        network.out_tr.final_conv.weight[0, 0] = 200
        network.out_tr.final_conv.bias[0] = -200 * (100 + 1000) / 2000  # of the window
    path = tmp_path_factory.mktemp("over_100_hu") / "model.pt"
    torch.save(network.state_dict(), path)
    return path


def assert_on_the_liver(mask: nib.Nifti1Image, affine: np.ndarray) -> None:
    assert mask.shape == SHAPE
    np.testing.assert_allclose(mask.affine, affine, atol=1e-4)
    found, mm = np.asarray(mask.dataobj) == 1, to_mm(mask.affine)
    assert found[liver(mm, margin=-4)].all()
    assert not found[~liver(mm, margin=4)].any()
    assert liver(mm, margin=-4).sum() > 300


def test_inference_keeps_shape_and_affine_and_orientation(balanced: Path, tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    image = phantom((44, 36, 20), seed=3).image
    affine = turned((-6.0, 7.0, 9.0), (0.2, 0.15, 0.0)).astype(np.float32)  # as NIfTI keeps it
    mirrored = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 19], [0, 0, 0, 1]])  # the same patient
    for name, voxels, where in (("a", image, affine), ("b", image[:, :, ::-1], mirrored)):
        (scans / name).mkdir(parents=True)  # one folder a case: equal file names must not meet in the output
        nib.save(nib.Nifti1Image(voxels, where), scans / name / "image.nii.gz")
    run(
        "inference.json",
        root=tmp_path,
        dataset_dir=str(scans),
        output_dir=str(out),
        ckpt_path=str(balanced),
        probabilities=True,
        **GRID,
    )
    for name in ("a", "b"):
        source, label = nib.load(scans / name / "image.nii.gz"), nib.load(out / name / "image_label.nii.gz")
        assert label.shape == source.shape
        assert np.array_equal(label.affine, source.affine)
        assert label.get_data_dtype() == np.uint8
        assert set(np.unique(np.asarray(label.dataobj))) == {0, 1}
    first, second = (nib.load(out / name / "image_probability.nii.gz").get_fdata() for name in ("a", "b"))
    assert not np.allclose(first, second, atol=1e-3)
    np.testing.assert_allclose(first, second[:, :, ::-1], atol=1e-4)


def test_largest_component_leaves_one(balanced: Path, data: Path, tmp_path: Path) -> None:
    scans, counts = tmp_path / "scans", {}
    scans.mkdir()
    (scans / "volume-0.nii.gz").symlink_to(data / "volume-0.nii.gz")
    for largest in (False, True):
        out = tmp_path / str(largest)
        run(
            "inference.json",
            root=tmp_path,
            dataset_dir=str(scans),
            output_dir=str(out),
            ckpt_path=str(balanced),
            largest_component=largest,
            **GRID,
        )
        label = np.asarray(nib.load(out / "volume-0_label.nii.gz").dataobj)
        counts[largest] = ndimage.label(label, np.ones((3, 3, 3)))[1]
    assert counts[True] == 1 < counts[False]


def test_inference_takes_items_with_an_image_path(data: Path) -> None:
    """MONAI Label adds the key, which Spacingd would take for the image's meta data."""
    config = workflow("inference.json", kind="inference", **GRID)
    path = str(data / "volume-0.nii.gz")
    item = config.parser.get_parsed_content("preprocessing")({"image": path, "image_path": path})
    assert item["path_image"] == path
    assert "image_path" not in item


def test_masks_lie_on_the_liver_in_files_and_in_series(over_100_hu: Path, tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    affines = {"turned": TURNED, "mirrored": MIRRORED, "anna": TURNED, "bert_1": MIRRORED, "bert_2": TILTED}
    for name in ("turned", "mirrored"):
        nib.save(nib.Nifti1Image(scan(affines[name]), affines[name]), scans / f"{name}.nii.gz")
    write_series(scans / "anna" / "1.2.840.1" / "1.2.840.2", scan(TURNED), TURNED, ending="")
    write_series(scans / "anna" / "scout", scan(TURNED)[:, :, :1], TURNED)
    write_series(scans / "bert" / "1", scan(MIRRORED), MIRRORED)
    write_series(scans / "bert" / "2", scan(TILTED), TILTED, uid=f"{UID}.2")
    run(
        "inference.json", root=tmp_path, dataset_dir=str(scans), output_dir=str(out), ckpt_path=str(over_100_hu), **FINE
    )
    assert {path.name for path in out.iterdir()} == {f"{name}_label.nii.gz" for name in affines}
    affines["bert_1"] = TURNED  # a series runs along its slices' normal, whatever the order it was written in
    for name, affine in affines.items():
        assert_on_the_liver(nib.load(out / f"{name}_label.nii.gz"), affine)


def assert_within_a_voxel(found: np.ndarray, wanted: np.ndarray) -> None:
    around = np.ones((3, 3, 3))
    core = ndimage.binary_erosion(wanted, around)
    assert core.sum() > 200
    assert found[core].all()
    assert not found[~ndimage.binary_dilation(wanted, around)].any()


def small_bundle(root: Path, checkpoint: Path) -> Path:
    """The bundle's folder, with the settings of the tests."""
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    config = json.loads((CONFIGS / "inference.json").read_text(encoding="utf-8")) | FINE
    (root / "configs/inference.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("metadata.json", "logging.conf"):
        (root / "configs" / name).symlink_to(CONFIGS / name)
    (root / "models/model.pt").symlink_to(checkpoint)
    return root


def test_predict_takes_a_folder_of_slices(over_100_hu: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "dicom_study", scan(TURNED), TURNED)
    bundle = small_bundle(tmp_path / "bundle", over_100_hu)
    answer = predict(str(bundle), str(tmp_path / "dicom_study"), str(tmp_path / "masks"))
    assert answer.data["files"] == [str(tmp_path / "masks" / "dicom_study_label.nii.gz")]
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "dicom_study")))
    theirs, ours = reader.Execute(), sitk.ReadImage(answer.data["files"][0])
    assert ours.GetSize() == theirs.GetSize()
    for corner in ((0, 0, 0), (SHAPE[0] - 1, 0, SHAPE[2] - 1), tuple(side - 1 for side in SHAPE)):
        np.testing.assert_allclose(
            ours.TransformIndexToPhysicalPoint(corner), theirs.TransformIndexToPhysicalPoint(corner), atol=1e-3
        )
    assert_within_a_voxel(sitk.GetArrayFromImage(ours) == 1, sitk.GetArrayFromImage(theirs) > 100)


def test_predict_writes_a_dicom_seg_of_a_series_alone(over_100_hu: Path, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    write_series(tmp_path / "scans" / "a", scan(TURNED), TURNED, tags={"0020|0052": f"{UID}.9"})
    nib.save(nib.Nifti1Image(scan(MIRRORED), MIRRORED), tmp_path / "scans" / "b.nii.gz")
    bundle = small_bundle(tmp_path / "bundle", over_100_hu)
    answer = predict(str(bundle), str(tmp_path / "scans"), str(tmp_path / "masks"), dicom_seg=True)
    names = [Path(file).name for file in answer.data["files"]]
    assert names == ["a_label.nii.gz", "a_seg.dcm", "b_label.nii.gz"]
    volume = highdicom.seg.segread(tmp_path / "masks" / "a_seg.dcm").get_volume(combine_segments=True)
    mask = nib.load(tmp_path / "masks" / "a_label.nii.gz")
    to_voxels = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ mask.affine) @ volume.affine
    places = nib.affines.apply_affine(to_voxels, np.argwhere(volume.array == 1)).round().astype(int)
    assert set(map(tuple, places)) == set(map(tuple, np.argwhere(np.asarray(mask.dataobj) == 1)))


def test_predict_refuses_a_series_with_a_gap_before_it_writes(over_100_hu: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "study" / "a", scan(TURNED), TURNED)
    write_series(tmp_path / "study" / "b", scan(TURNED), TURNED)[9].unlink()
    bundle = small_bundle(tmp_path / "bundle", over_100_hu)
    with pytest.raises(DataError, match="b: about 1 slice"):
        predict(str(bundle), str(tmp_path / "study"), str(tmp_path / "masks"))
    assert list((tmp_path / "masks").iterdir()) == []


def test_a_series_that_goes_bad_is_named(over_100_hu: Path, tmp_path: Path) -> None:
    """MONAI Label loads without the check that goes before a run."""
    write_series(tmp_path / "a", scan(TURNED), TURNED)[9].unlink()
    config = workflow("inference.json", kind="inference", **FINE)
    with pytest.raises(RuntimeError) as caught:
        config.parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "a")})
    assert "missing" in str(own_error(caught.value))


def test_training_takes_series_with_nifti_labels(tmp_path: Path) -> None:
    write_series(tmp_path / "images" / "p1", scan(TURNED), TURNED)
    (tmp_path / "labels").mkdir()
    label = liver(to_mm(MIRRORED)).astype(np.uint8)  # the same place, on a grid that runs the other way
    nib.save(nib.Nifti1Image(label, MIRRORED), tmp_path / "labels" / "p1.nii.gz")
    config = workflow("train.json", dataset_dir=str(tmp_path), dataset_kind="pairs", **FINE)
    transforms: list[Callable[..., object]] = config.parser.get_parsed_content("train#deterministic_transforms")
    item = Compose(transforms)(
        {"image": str(tmp_path / "images" / "p1"), "label": str(tmp_path / "labels" / "p1.nii.gz")}
    )
    assert item["image"].shape == item["label"].shape
    assert_within_a_voxel(item["image"][0].numpy() > (100 + 1000) / 2000, item["label"][0].numpy() == 1)


def test_predict_knows_what_the_network_was_trained_with(trained: Path, data: Path, tmp_path: Path) -> None:
    bundle, scans = tmp_path / "bundle", tmp_path / "scans"
    bundle.mkdir()
    (bundle / "configs").symlink_to(CONFIGS)
    (bundle / "models").symlink_to(trained / "models")  # of another width and spacing than the bundle's defaults
    scans.mkdir()
    (scans / "volume-0.nii.gz").symlink_to(data / "volume-0.nii.gz")
    answer = predict(str(bundle), str(scans), str(tmp_path / "masks"))
    assert nib.load(answer.data["files"][0]).shape == nib.load(data / "volume-0.nii.gz").shape
