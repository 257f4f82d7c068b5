"""2D ResNet-18 from the files that people have: ImageNet, USCL, C2L, MoCo, and this project's own."""

from __future__ import annotations

import argparse

import pytest
import torch
import torchvision_resnet18
from monai.networks.nets import resnet18
from torch import nn
from torchvision_resnet18 import linear, random

from metalr_monai.errors import WeightsError
from metalr_monai.networks.registry import NETWORKS
from metalr_monai.weights.describe import describe_checkpoint
from metalr_monai.weights.load import load_weights
from metalr_monai.weights.renaming import SEQUENTIAL_RESNET, rename

CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}


@pytest.fixture(scope="module")
def imagenet():
    return torchvision_resnet18.state()


@pytest.fixture(scope="module")
def body(imagenet):
    return {name: tensor for name, tensor in imagenet.items() if not name.startswith("fc.")}


def network(in_channels=3, classes=3):
    return NETWORKS["resnet18"].build(in_channels, classes, 64).eval()


def images(channels=3):
    return torch.rand(2, channels, 64, 64, generator=torch.Generator().manual_seed(1))


def saved(folder, content):
    torch.save(content, folder / "file.pth")
    return folder / "file.pth"


def names(report, status):
    """Names of one status, without batch norm's counters, which torchvision's oldest files do not have."""
    return [tensor.name for tensor in report.with_status(status) if not tensor.is_counter]


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def in_sequential(body):
    """The names of `nn.Sequential(*list(resnet.children())[:-1])`."""
    parts = ((name.partition("."), tensor) for name, tensor in body.items())
    return {f"{CHILDREN[child]}.{rest}": tensor for (child, _, rest), tensor in parts}


def assert_features_equal(network, state, x, oracle_x=None):
    """The forward pass up to the head, against torchvision's written out."""
    head, network.fc = network.fc, nn.Identity()
    with torch.no_grad():
        found = network(x)
    network.fc = head
    expected = torchvision_resnet18.features(state, x if oracle_x is None else oracle_x)
    assert expected.std() > 0.01  # not a constant that any network gives
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# ImageNet, in torchvision's names


def test_an_imagenet_file_loads_whole_and_gives_torchvisions_logits(imagenet, tmp_path):
    ours = network(3, 1000)
    assert sum(p.numel() for p in ours.parameters()) == 11_689_512  # as torchvision documents
    report = load_weights(ours, saved(tmp_path, imagenet))
    assert report.coverage == 1.0 and report.rules == ()
    # The missing counters are in the report, but neither counted nor printed.
    assert all(tensor.is_counter for tensor in report.with_status("re-initialised"))
    assert "re-initialised" not in str(report)
    with torch.no_grad():
        found = ours(images())
    torch.testing.assert_close(found, torchvision_resnet18.logits(imagenet, images()), rtol=1e-5, atol=1e-5)


def test_for_other_classes_the_head_alone_stays_as_it_was_built(imagenet, tmp_path):
    ours = network(3, 3)
    before = ours.fc.weight.clone()
    report = load_weights(ours, saved(tmp_path, imagenet))
    assert names(report, "re-initialised") == ["fc.weight", "fc.bias"]
    assert report.coverage_without_head == 1.0 > report.coverage
    assert torch.equal(ours.fc.weight, before)
    assert "fc.weight (file 1000×512, network 3×512; head)" in str(report)
    assert_features_equal(ours, imagenet, images())


def test_for_grey_images_the_stem_is_adapted_and_gives_the_features_of_three_equal_channels(imagenet, tmp_path):
    ours = network(1, 3)
    report = load_weights(ours, saved(tmp_path, imagenet))
    assert names(report, "adapted") == ["conv1.weight"]
    assert "conv1.weight (file 64×3×7×7, network 64×1×7×7; input channels: sum over 3, divided by 1)" in str(report)
    assert report.coverage_without_head == 1.0
    assert_features_equal(ours, imagenet, images(1), images(1).expand(-1, 3, -1, -1))


def test_monais_own_defaults_whose_shortcuts_have_biases_get_zeros(imagenet):
    ours = resnet18(spatial_dims=2, n_input_channels=3, num_classes=1000, conv1_t_stride=2).eval()
    report = load_weights(ours, imagenet)
    assert names(report, "adapted") == [f"layer{stage}.0.downsample.0.bias" for stage in (2, 3, 4)]
    assert report.coverage == 1.0
    assert_features_equal(ours, imagenet, images())


# USCL: nn.Sequential of the ResNet's children, and heads of SimCLR


USCL_HEADS = {
    **linear("l1", 512, 512),
    **linear("l2", 512, 256),
    **linear("fc", 256, 2),
    **linear("fc1", 512, 512),
    **linear("fc2", 512, 2),
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    "heads",
    [USCL_HEADS, {**linear("linear", 512, 256), **linear("fc", 256, 12)}],
    ids=["as pre-trained", "as fine-tuned by its authors"],
)
def test_uscl_files_load_whole_and_their_heads_are_unused(prefix, heads, body, tmp_path):
    state = prefixed({**prefixed(in_sequential(body), "features."), **random(heads)}, prefix)
    ours = network(3, 2)
    before = {name: tensor.clone() for name, tensor in ours.fc.state_dict().items()}
    report = load_weights(ours, saved(tmp_path, state))
    assert report.rules == (*([prefix] if prefix else []), "features.", SEQUENTIAL_RESNET)
    assert sorted(names(report, "unused")) == sorted(heads)
    assert names(report, "re-initialised") == ["fc.weight", "fc.bias"]
    assert report.coverage_without_head == 1.0
    # Two classes here and two in USCL's own `fc`: nothing of a projection may slip into the classifier.
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.fc.state_dict().items())
    assert_features_equal(ours, body, images())


def test_the_report_of_a_uscl_file_names_rules_and_heads(body):
    report = load_weights(network(), {**prefixed(in_sequential(body), "features."), **random(USCL_HEADS)})
    lines = str(report).splitlines()
    assert lines[1].endswith("without the head 100.0%")
    assert lines[2] == "renaming rules: strip features., Sequential → ResNet"
    assert "fc.weight (projection head of contrastive training)" in report_line(report, "fc.weight", "unused")
    assert report_line(report, "fc.weight", "re-initialised") == "fc.weight (head, missing in the file)"


def report_line(report, name, status):
    (found,) = [str(tensor) for tensor in report.with_status(status) if tensor.name == name]
    return found


@pytest.mark.parametrize("prefix", ["", "backbone.", "encoder.", "features."])
def test_a_counted_resnet_loads_behind_other_prefixes_too(prefix, body):
    ours = network(1, 3)
    report = load_weights(ours, prefixed(in_sequential(body), prefix))
    assert report.rules[-1] == SEQUENTIAL_RESNET and report.coverage_without_head == 1.0
    assert_features_equal(ours, body, images(1), images(1).expand(-1, 3, -1, -1))


def test_a_counted_resnet_with_a_classifier_of_the_same_classes_keeps_it(imagenet, body):
    classifier = random(linear("fc", 512, 3))
    ours = network(3, 3)
    report = load_weights(ours, {**prefixed(in_sequential(body), "features."), **classifier})
    assert report.coverage == 1.0
    assert torch.equal(ours.fc.weight, classifier["fc.weight"])


def test_meta_uscl_files_have_plain_names_and_projections_that_are_unused(body, tmp_path):
    heads = {**linear("l1", 512, 512), **linear("l2", 512, 128)}
    report = load_weights(network(), saved(tmp_path, {"state_dict": {**body, **random(heads)}}))
    assert report.rules == () and sorted(names(report, "unused")) == sorted(heads)
    assert report.coverage_without_head == 1.0


# C2L and MoCo


def test_c2l_files_load_with_their_options_and_second_network_left_aside(body, tmp_path):
    state = prefixed({**body, **random(linear("fc", 512, 128))}, "encoder.module.")
    content = {
        "opt": argparse.Namespace(model="resnet18", epochs=120, lr_decay_epochs=[60, 80]),
        "model": state,
        "contrast": {"memory": torch.zeros(16, 128)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]},
        "epoch": 120,
        "model_ema": state,
    }
    path = saved(tmp_path, content)
    ours = network(3, 128)  # as many classes as the projection has outputs
    before = ours.fc.weight.clone()
    report = load_weights(ours, path)
    assert (report.container, report.others, report.rules) == ("model", ("model_ema",), ("encoder.module.",))
    assert names(report, "unused") == ["fc.weight", "fc.bias"] == names(report, "re-initialised")
    assert report.coverage_without_head == 1.0 and torch.equal(ours.fc.weight, before)
    assert_features_equal(ours, body, images())
    assert str(describe_checkpoint(path).kind) == "2D ResNet-18, width 64, 3 input channels, no head"


@pytest.mark.parametrize("prefix", ["encoder_q.", "module.encoder_q."])
def test_moco_files_load_the_query_encoder_and_leave_key_encoder_queue_and_mlp(prefix, body, tmp_path):
    mlp = random({**linear("fc.0", 512, 512), **linear("fc.2", 512, 128)})
    other = prefix.replace("_q", "_k")
    keys = prefixed({name: torch.zeros_like(tensor) for name, tensor in {**body, **mlp}.items()}, other)
    state = {**prefixed({**body, **mlp}, prefix), **keys, "module.queue": torch.zeros(128, 16)}
    ours = network()
    report = load_weights(ours, saved(tmp_path, {"epoch": 5, "arch": "resnet18", "state_dict": state}))
    assert report.rules[-1] == "encoder_q." and report.coverage_without_head == 1.0
    unused = names(report, "unused")
    assert set(mlp) < set(unused) and len(unused) == len(mlp) + len(keys) + 1
    assert_features_equal(ours, body, images())


# The rule for counted parts stays out of everything else


def test_counted_layers_that_are_no_resnet_are_left_alone():
    vgg = ["features.0.weight", "features.0.bias", "features.2.weight", "classifier.0.weight"]
    wanted = torchvision_resnet18.state()
    assert SEQUENTIAL_RESNET not in rename(vgg, wanted).rules
    with pytest.raises(WeightsError, match=r"covers 0\.0%"):
        load_weights(network(), {name: torch.zeros(64, 3, 3, 3) for name in vgg})


def test_a_network_that_counts_its_own_parts_loads_without_any_rule(body):
    counted = nn.Sequential(*list(network().children())[:-1])
    source = in_sequential(body)
    report = load_weights(counted, source)
    assert report.rules == ()
    assert torch.equal(counted[4][0].conv1.weight, source["4.0.conv1.weight"])


def test_counted_resnets_of_three_dimensions_are_refused_by_shape(body):
    ours = resnet18(spatial_dims=3, n_input_channels=3, num_classes=3, conv1_t_stride=2, bias_downsample=False)
    with pytest.raises(WeightsError, match="another number of spatial dimensions"):
        load_weights(ours, in_sequential(body))


# Files of this project


def test_a_network_trained_here_on_two_classes_starts_one_for_three_with_a_new_head(tmp_path):
    source = network(1, 2)
    for tensor in source.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) if tensor.is_floating_point() else 7)
    ours = network(1, 3)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    report = load_weights(ours, saved(tmp_path, source.state_dict()))
    head = ["fc.weight", "fc.bias"]
    assert [tensor.name for tensor in report.with_status("re-initialised")] == head
    assert report.coverage_without_head == 1.0 and report.rules == ()
    assert "fc.weight (file 2×512, network 3×512; head), fc.bias (file 2, network 3; head)" in str(report)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, before[name] if name in head else source.state_dict()[name])


# Description


def test_a_uscl_file_is_described_as_a_resnet18_without_a_head(body, tmp_path):
    path = saved(tmp_path, {**prefixed(in_sequential(body), "features."), **random(USCL_HEADS)})
    assert str(describe_checkpoint(path).kind) == "2D ResNet-18, width 64, 3 input channels, no head"


def test_a_deeper_counted_resnet_is_not_taken_for_a_resnet18(body, tmp_path):
    deeper = {**in_sequential(body), "4.2.conv1.weight": torch.zeros(64, 64, 3, 3)}
    assert describe_checkpoint(saved(tmp_path, deeper)).kind is None
