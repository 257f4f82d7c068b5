"""The 2D bundle has what MONAI's tools ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import monai.bundle
import pytest
import torch
from bundle_runs import ROOT, weights
from lesion_2d_bundle import CLASSES, LESION, SCHEMES, TRAINING, WARNINGS, WIDTH
from torch import Tensor, nn

import metalr_monai
from metalr_monai.networks.registry import network_entry

pytestmark = WARNINGS
READY = {name: value for name, value in TRAINING.items() if name != "split"}  # which evaluate.json has its own of
OVERLAYS = [None, LESION.configs / "evaluate.json", *sorted(SCHEMES.glob("*.json"))]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.stem if o else "train")
def test_training_configs_have_all_properties(
    overlay: Path | None, trained_classifier: Path, frames: Path, tmp_path: Path
) -> None:
    options = {"bundle_root": str(trained_classifier), "output_dir": str(tmp_path), "dataset_dir": str(frames)}
    assert LESION.faults("train.json", *[overlay] if overlay else [], **{**READY, **options}) == []


def test_inference_config_has_all_properties(trained_classifier: Path, frames: Path, tmp_path: Path) -> None:
    options = {"bundle_root": str(trained_classifier), "output_dir": str(tmp_path), "dataset_dir": str(frames)}
    assert LESION.faults("inference.json", kind="inference", device="cpu", **WIDTH, **options) == []


def test_config_for_several_processes_has_all_properties(frames: Path, tmp_path: Path, one_rank: None) -> None:
    options = {**TRAINING, "bundle_root": str(tmp_path), "dataset_dir": str(frames), "backend": "gloo"}
    assert LESION.faults("train.json", "multi_gpu_train.json", **options) == []


@pytest.mark.parametrize("name", ["train.json", "inference.json"])
@pytest.mark.parametrize("overlay", [None, "networks/efficientnet_lite0.yaml"], ids=["resnet18", "efficientnet_lite0"])
def test_network_fits_the_metadata(name: str, overlay: str | None) -> None:
    files = [str(LESION.configs / name)] + ([str(ROOT / "configs" / overlay)] if overlay else [])
    channels = {"_meta_#network_data_format#inputs#image#num_channels": 3} if overlay else {}
    monai.bundle.verify_net_in_out(
        net_id="network_def", meta_file=str(LESION.metadata), config_file=files, device="cpu", n=2, **channels
    )


def test_metadata_names_the_tested_versions_and_the_configs_classes() -> None:
    text = LESION.metadata.read_text(encoding="utf-8")
    found = json.loads(text)
    assert text == json.dumps(found, indent=4, ensure_ascii=False) + "\n"
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert (found["pytorch_version"], found["monai_version"]) == (tested["torch"], tested["monai"])
    assert found["required_packages_version"]["pytorch-ignite"] == tested["pytorch-ignite"]
    assert found["required_packages_version"]["metalr_monai"] == metalr_monai.__version__
    assert all(version(package) for package in found["required_packages_version"])
    assert found["version"] in found["changelog"]
    # MONAI Label names the probabilities by it.
    by_class = found["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert by_class == {str(i): name for i, name in enumerate(CLASSES)}
    for name in ("train.json", "inference.json"):
        assert LESION.workflow(name).parser.get_parsed_content("classes") == CLASSES


def test_the_table_of_keys_names_keys_that_the_configs_have() -> None:
    configs = [json.loads(path.read_text(encoding="utf-8")) for path in LESION.configs.glob("*.json")]
    page = (LESION.configs.parent / "docs/README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (`[^|]*`) \|", page, re.MULTILINE)
    named = {key for cell in table for key in re.findall(r"`(\w+)`", cell)}
    assert len(named) > 30
    assert named <= {key for config in configs for key in config}


def exported(exporter: Callable[..., None], trained: Path, file: Path, **options: object) -> Path:
    exporter(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=str(trained / "models/model.pt"),
        meta_file=str(LESION.metadata),
        config_file=str(LESION.configs / "inference.json"),
        **WIDTH,
        **options,
    )
    return file


def trained_network(trained: Path) -> nn.Module:
    network = network_entry("resnet18").build(1, 3, 8).eval()
    network.load_state_dict(weights(trained))
    return network


def picture(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_checkpoint_exports_as_torchscript(trained_classifier: Path, tmp_path: Path) -> None:
    file = exported(monai.bundle.ckpt_export, trained_classifier, tmp_path / "model.ts")
    x = picture(2, 1, 64, 96)
    torch.testing.assert_close(torch.jit.load(file)(x), trained_network(trained_classifier)(x))


# torch.export's own copying of its own class
@pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated:FutureWarning")
def test_checkpoint_exports_as_onnx_of_a_fixed_shape(trained_classifier: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="MONAI's onnx_export needs onnx and onnxscript")
    pytest.importorskip("onnxscript", reason="MONAI's onnx_export needs onnx and onnxscript")
    from onnx.reference import ReferenceEvaluator

    shape = [1, 1, 32, 32]
    file = exported(monai.bundle.onnx_export, trained_classifier, tmp_path / "model.onnx", input_shape=shape)
    model, x = onnx.load(file), picture(*shape)
    (found,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x.numpy()})
    network = trained_network(trained_classifier)
    with torch.no_grad():
        ours = network(x).double()
        exact = network.double()(x.double())
    # The same sums in another order: the error may be some times torch's own, which float64 shows.
    own = (ours - exact).abs().max()
    assert 0 < (torch.from_numpy(found).double() - exact).abs().max() < 10 * own < 1e-3 * exact.abs().max()
