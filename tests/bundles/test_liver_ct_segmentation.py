"""The liver CT bundle by its own configs: each one runs, small, and leaves what its README says."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from metalr_monai import GenesisUNet3D, MetaLRError, write_lits_phantoms
from metalr_monai.data.ct_phantom import phantom
from metalr_monai.errors import DataError, WeightsError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "bundles/liver_ct_segmentation/configs"
METADATA = CONFIGS / "metadata.json"
SCHEMA = ROOT.parent / "shared/facts/meta_schema_20240725.json"
BLOCKS = [f"down_tr{n}" for n in (64, 128, 256, 512)] + [f"up_tr{n}" for n in (256, 128, 64)] + ["out_tr"]
GRID = {"width": 4, "spacing": [6, 6, 6], "patch_size": [32, 32, 16], "amp": False, "device": "cpu"}
TRAINING = {**GRID, "epochs": 2, "val_interval": 1, "meta": 2, "bounds": [1e-6, 0.1]}

pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),  # MONAI: configs run code
    # within MONAI's surface metrics
    pytest.mark.filterwarnings("ignore:.*always_return_as_numpy. has been deprecated:FutureWarning"),
]


def workflow(*names: str | Path, kind: str = "train", **options: object) -> ConfigWorkflow:
    return ConfigWorkflow([str(CONFIGS / name) for name in names], str(METADATA), False, workflow_type=kind, **options)


def run(*names: str | Path, root: Path, **options: object) -> None:
    """Run configs in this process, and leave its global state as it was."""
    kind = "inference" if names == ("inference.json",) else "train"
    bundle = workflow(*names, kind=kind, bundle_root=str(root), **options)
    try:
        bundle.initialize()
        bundle.run()
        bundle.finalize()
    finally:
        set_determinism(None)


def command(*names: str, root: Path, ranks: int = 1, **options: object) -> list[str]:
    """The bundle's command line."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    files = str([str(CONFIGS / name) for name in names])
    files_and_root = ["--config_file", files, "--meta_file", str(METADATA), "--bundle_root", str(root)]
    pairs = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [sys.executable, *launcher, "-m", "monai.bundle", "run", *files_and_root, *pairs]


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def call(arguments: list[str]) -> None:
    done = subprocess.run(arguments, env=one_thread(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def weights(root: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(root / "models/model.pt", weights_only=True)
    return state


def own_error(error: BaseException | None) -> MetaLRError:
    """The library's error behind MONAI's wrappers."""
    while not isinstance(error, MetaLRError):
        assert error is not None
        error = error.__cause__
    return error


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """The networks are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_lits_phantoms(folder, 8, progress=False)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    call(command("train.json", root=root, dataset_dir=data, **TRAINING))
    return root


@pytest.fixture(scope="module")
def balanced(trained: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained checkpoint, its last bias moved so that about half of a volume is foreground."""
    folder = tmp_path_factory.mktemp("balanced")
    scans, out = folder / "scans", folder / "out"
    scans.mkdir()
    (scans / "volume-0.nii.gz").symlink_to(data / "volume-0.nii.gz")
    run("inference.json", root=trained, dataset_dir=str(scans), output_dir=str(out), probabilities=True, **GRID)
    middle = torch.tensor(np.median(nib.load(out / "volume-0_probability.nii.gz").get_fdata()))
    state = weights(trained)
    state["out_tr.final_conv.bias"] -= torch.logit(middle).float()
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


def test_training_leaves_its_files(trained: Path) -> None:
    folder = trained / "runs/train"
    for name in ("report.html", "metrics.csv", "metrics.json", "rates.csv", "split.json", "run_report.json"):
        assert (folder / name).stat().st_size > 0, name
    report = json.loads((folder / "run_report.json").read_text(encoding="utf-8"))
    assert report["status"] == "completed"
    assert [entry["epoch"] for entry in report["epochs"]] == [1, 2]
    assert [entry["epoch"] for entry in report["validation"]] == [0, 1, 2]
    assert len(report["split"]["meta"]) == 2
    assert set(weights(trained)) == set(GenesisUNet3D(width=4, batch_statistics="standard").state_dict())


def test_rates_of_all_blocks_are_written_and_move(trained: Path) -> None:
    found = rows(trained / "runs/train/rates.csv")
    assert len(found) == 2 * 3  # 5 of 7 training cases in batches of 2, 2 epochs
    for block in BLOCKS:
        assert all(float(row[f"lr/{block}"]) > 0 for row in found)
        assert float(found[-1][f"lr/{block}"]) != 0.01


@pytest.mark.parametrize("names", [["train.json"], ["train.json", "evaluate.json"], ["inference.json"]], ids="+".join)
def test_configs_have_all_properties(names: list[str], trained: Path, data: Path, tmp_path: Path) -> None:
    options = {"bundle_root": str(trained), "output_dir": str(tmp_path), "dataset_dir": str(data), **TRAINING}
    bundle = workflow(*names, kind="inference" if names == ["inference.json"] else "train", **options)
    try:
        bundle.initialize()
        assert bundle.check_properties() == []
    finally:
        set_determinism(None)


@pytest.mark.parametrize("name", ["train.json", "inference.json"])
def test_network_fits_the_metadata(name: str) -> None:
    monai.bundle.verify_net_in_out(
        net_id="network_def", meta_file=str(METADATA), config_file=str(CONFIGS / name), device="cpu", n=2, width=4
    )


@pytest.mark.filterwarnings("ignore:No hash value provided:UserWarning")
def test_metadata_fits_monais_schema() -> None:
    pytest.importorskip("jsonschema")
    if not SCHEMA.is_file():
        pytest.skip(f"there is no {SCHEMA.name} beside the repository")
    monai.bundle.verify_metadata(meta_file=str(METADATA), filepath=str(SCHEMA))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the network's check of its input's shape
def test_checkpoint_exports_as_torchscript(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.ts"
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=str(trained / "models/model.pt"),
        meta_file=str(METADATA),
        config_file=str(CONFIGS / "inference.json"),
        use_trace=True,
        input_shape=[1, 1, 16, 16, 8],
        width=4,
    )
    network = GenesisUNet3D(width=4, batch_statistics="standard").eval()
    network.load_state_dict(weights(trained))
    patch = torch.randn(1, 1, 16, 16, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.jit.load(file)(patch), network(patch))


def test_evaluation_scores_the_test_cases_in_original_space(
    trained: Path, balanced: Path, data: Path, tmp_path: Path
) -> None:
    scores, labels, scans = tmp_path / "scores", tmp_path / "labels", tmp_path / "scans"
    options = {"ckpt_path": str(balanced), **GRID}
    both = ("train.json", "evaluate.json")
    run(*both, root=trained, dataset_dir=str(data), output_dir=str(scores), surface=True, **options)
    found = rows(scores / "metrics.csv")
    test = json.loads((trained / "runs/train/split.json").read_text(encoding="utf-8"))["test"]
    assert [row["case"] for row in found] == test
    assert float(found[0]["hd95_mm"]) > 0
    assert (scores / "slices" / f"{test[0]}.png").is_file()

    scans.mkdir()
    (scans / f"{test[0]}.nii.gz").symlink_to(data / f"{test[0]}.nii.gz")
    run("inference.json", root=trained, dataset_dir=str(scans), output_dir=str(labels), **options)
    pred = np.asarray(nib.load(labels / f"{test[0]}_label.nii.gz").dataobj) > 0
    reference = np.asarray(nib.load(data / f"{test[0].replace('volume', 'segmentation')}.nii.gz").dataobj) > 0
    assert 0.2 < pred.mean() < 0.8  # else the comparison says little
    dice = 2 * (pred & reference).sum() / (pred.sum() + reference.sum())
    assert float(found[0]["dice"]) == pytest.approx(dice, rel=1e-6)


def test_evaluation_without_a_training_runs_split_names_the_file(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        run("train.json", "evaluate.json", root=tmp_path, dataset_dir=str(data), **GRID)
    error = own_error(caught.value)
    assert isinstance(error, DataError)
    assert "runs/train/split.json" in str(error)


def oblique(axes_mm: tuple[float, float, float]) -> np.ndarray:
    """An affine turned about all axes; its first axis runs the other way."""
    a, b = 0.2, 0.15
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-axes_mm[0], axes_mm[1], axes_mm[2]])
    affine[:3, 3] = (91.25, -120.5, 33.75)
    return affine.astype(np.float32)  # as NIfTI keeps it


def test_inference_keeps_shape_and_affine_and_orientation(balanced: Path, tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    image, affine = phantom((44, 36, 20), seed=3).image, oblique((6.0, 7.0, 9.0))
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
    measure = pytest.importorskip("skimage.measure", reason="MONAI's largest component needs scikit-image")
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
        counts[largest] = measure.label(np.asarray(nib.load(out / "volume-0_label.nii.gz").dataobj)).max()
    assert counts[True] == 1 < counts[False]


def test_inference_takes_items_with_an_image_path(data: Path) -> None:
    """MONAI Label adds the key, which Spacingd would take for the image's meta data."""
    config = workflow("inference.json", kind="inference", **GRID)
    path = str(data / "volume-0.nii.gz")
    item = config.parser.get_parsed_content("preprocessing")({"image": path, "image_path": path})
    assert item["path_image"] == path
    assert "image_path" not in item


def test_two_processes_write_once(tmp_path: Path) -> None:
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch was built without gloo")
    options = {**TRAINING, "epochs": 1, "batch_size": 1, "phantoms": 8, "split": "fold 1 of 4"}
    del options["device"]
    both = ("train.json", "multi_gpu_train.json")
    call(command(*both, root=tmp_path, ranks=2, backend="gloo", **options))
    steps = [int(row["step"]) for row in rows(tmp_path / "runs/train/rates.csv")]
    assert steps == [0, 1]  # 4 training cases on 2 ranks
    test = json.loads((tmp_path / "runs/train/split.json").read_text(encoding="utf-8"))["test"]
    assert sorted(row["case"] for row in rows(tmp_path / "runs/train/metrics.csv")) == sorted(test)
    assert len(list((tmp_path / "phantoms").glob("volume-*"))) == 8
    assert all(not name.startswith("module.") for name in weights(tmp_path))


def epochs_done(report: Path) -> int:
    return len(json.loads(report.read_text(encoding="utf-8"))["epochs"]) if report.exists() else 0


@pytest.fixture
def killed(data: Path, tmp_path: Path) -> Iterator[Path]:
    """A run that was killed after its first epoch's checkpoint, which stands before the report."""
    arguments = command("train.json", root=tmp_path, dataset_dir=data, **TRAINING)
    process = subprocess.Popen(arguments, env=one_thread(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not epochs_done(tmp_path / "runs/train/run_report.json"):
            assert process.poll() is None, "the run ended before its first checkpoint"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    yield tmp_path


def test_killed_run_resumes_to_the_same_weights(killed: Path, trained: Path, data: Path) -> None:
    assert not (killed / "models/model.pt").exists()
    call(command("train.json", root=killed, dataset_dir=data, **TRAINING))
    report = json.loads((killed / "runs/train/run_report.json").read_text(encoding="utf-8"))
    assert report["resumed_after_epochs"] == [1]
    whole, resumed = weights(trained), weights(killed)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert rows(killed / "runs/train/rates.csv") == rows(trained / "runs/train/rates.csv")


@pytest.mark.parametrize("scheme", ["all_layers", "last_layer"])
def test_schemes_train_what_they_say(scheme: str, data: Path, tmp_path: Path) -> None:
    options = {**TRAINING, "epochs": 1, "dataset_dir": str(data), "bundle_root": str(tmp_path)}
    bundle = workflow("train.json", ROOT / "configs/schemes" / f"{scheme}.json", **options)
    try:
        bundle.initialize()
        network = bundle.parser.get_parsed_content("network_def")
        before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        bundle.run()
    finally:
        set_determinism(None)
    moved = {name for name, parameter in network.named_parameters() if not torch.equal(before[name], parameter)}
    wanted = set(before) if scheme == "all_layers" else {"out_tr.final_conv.weight", "out_tr.final_conv.bias"}
    # A bias in front of a batch norm has no gradient but rounding errors, which may be zero.
    assert {name for name in wanted if not name.endswith("conv1.bias")} <= moved <= wanted
    report = json.loads((tmp_path / "runs/train/run_report.json").read_text(encoding="utf-8"))
    assert report["metalr"] is None
    assert report["status"] == "completed"
    assert not (tmp_path / "runs/train/rates.csv").exists()


def test_missing_data_folder_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "no such folder"
    with pytest.raises(RuntimeError) as caught:
        run("train.json", root=tmp_path, dataset_dir=str(missing), **TRAINING)
    error = own_error(caught.value)
    assert isinstance(error, DataError)
    assert str(missing) in str(error)


def test_checkpoint_of_another_network_stops_before_training(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save(GenesisUNet3D(width=8, batch_statistics="standard").state_dict(), other)
    with pytest.raises(RuntimeError) as caught:
        run("train.json", root=tmp_path, dataset_dir=str(data), checkpoint=str(other), **TRAINING)
    error = own_error(caught.value)
    assert isinstance(error, WeightsError)
    assert "other.pt" in str(error)
    assert not (tmp_path / "runs").exists()
