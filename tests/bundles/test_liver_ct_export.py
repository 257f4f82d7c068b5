"""The liver CT bundle has what MONAI's tools ask for."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import monai.bundle
import pytest
import torch
from liver_ct_bundle import CONFIGS, LIVER, METADATA, ROOT, TRAINING, WARNINGS, weights
from torch import Tensor

import metalr_monai
from metalr_monai import GenesisUNet3D

pytestmark = WARNINGS
SCHEMES = sorted((ROOT / "configs/schemes").glob("*.json"))


def faults(*names: str | Path, kind: str = "train", **options: object) -> object:
    return LIVER.faults(*names, kind=kind, **{**TRAINING, **options})


@pytest.mark.parametrize("overlay", [None, CONFIGS / "evaluate.json", *SCHEMES], ids=lambda o: o.stem if o else "train")
def test_training_configs_have_all_properties(overlay: Path | None, trained: Path, data: Path, tmp_path: Path) -> None:
    options = {"bundle_root": str(trained), "output_dir": str(tmp_path), "dataset_dir": str(data)}
    own = json.loads(overlay.read_text(encoding="utf-8")) if overlay else {}
    options |= {name: value for name, value in TRAINING.items() if name not in own}
    assert LIVER.faults("train.json", *[overlay] if overlay else [], **options) == []


def test_inference_config_has_all_properties(trained: Path, data: Path, tmp_path: Path) -> None:
    options = {"bundle_root": str(trained), "output_dir": str(tmp_path), "dataset_dir": str(data)}
    assert faults("inference.json", kind="inference", **options) == []


def test_config_for_several_processes_has_all_properties(data: Path, tmp_path: Path, one_rank: None) -> None:
    options = {"bundle_root": str(tmp_path), "dataset_dir": str(data), "backend": "gloo"}
    assert faults("train.json", "multi_gpu_train.json", **options) == []


@pytest.mark.parametrize("name", ["train.json", "inference.json"])
def test_network_fits_the_metadata(name: str) -> None:
    monai.bundle.verify_net_in_out(
        net_id="network_def", meta_file=str(METADATA), config_file=str(CONFIGS / name), device="cpu", n=2, width=4
    )


def test_metadata_names_the_tested_versions_and_the_label_map_values() -> None:
    text = METADATA.read_text(encoding="utf-8")
    found = json.loads(text)
    assert text == json.dumps(found, indent=4, ensure_ascii=False) + "\n"
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert (found["pytorch_version"], found["monai_version"]) == (tested["torch"], tested["monai"])
    assert found["required_packages_version"]["pytorch-ignite"] == tested["pytorch-ignite"]
    assert found["required_packages_version"]["metalr_monai"] == metalr_monai.__version__
    assert all(version(package) for package in found["required_packages_version"])
    assert found["version"] in found["changelog"]
    # MONAI Label takes these numbers for the values of the label map, of which 0 must be the background.
    assert found["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "liver"}


def exported(exporter: Callable[..., None], trained: Path, file: Path, **options: object) -> Path:
    exporter(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=str(trained / "models/model.pt"),
        meta_file=str(METADATA),
        config_file=str(CONFIGS / "inference.json"),
        width=4,
        **options,
    )
    return file


def trained_network(trained: Path) -> GenesisUNet3D:
    network = GenesisUNet3D(width=4, batch_statistics="always").eval()
    network.load_state_dict(weights(trained))
    return network


def patch(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the network's check of its input's shape
@pytest.mark.parametrize(
    "options", [{}, {"use_trace": True, "input_shape": [1, 1, 16, 16, 8]}], ids=["script", "trace"]
)
def test_checkpoint_exports_as_torchscript(options: dict[str, object], trained: Path, tmp_path: Path) -> None:
    file = exported(monai.bundle.ckpt_export, trained, tmp_path / "model.ts", **options)
    network, x = trained_network(trained), patch(2, 1, 16, 24, 8)  # not the traced shape
    torch.testing.assert_close(torch.jit.load(file)(x), network(x))


# torch.export's own copying of its own class
@pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated:FutureWarning")
def test_checkpoint_exports_as_onnx_of_a_fixed_shape(trained: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="MONAI's onnx_export needs onnx and onnxscript")
    pytest.importorskip("onnxscript", reason="MONAI's onnx_export needs onnx and onnxscript")
    from onnx.reference import ReferenceEvaluator

    shape = [1, 1, 16, 16, 8]
    file = exported(monai.bundle.onnx_export, trained, tmp_path / "model.onnx", input_shape=shape)
    model = onnx.load(file)
    for tensor in (model.graph.input[0], model.graph.output[0]):
        assert [side.dim_value for side in tensor.type.tensor_type.shape.dim] == shape
    x = patch(*shape)
    (found,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x.numpy()})
    network = trained_network(trained)
    with torch.no_grad():
        ours = network(x).double()
        exact = network.double()(x.double())
    # The same sums in another order: the error may be some times torch's own, which float64 shows.
    own = (ours - exact).abs().max()
    assert 0 < (torch.from_numpy(found).double() - exact).abs().max() < 10 * own < 1e-3 * exact.abs().max()
