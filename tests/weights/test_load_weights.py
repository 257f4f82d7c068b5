"""Checkpoints as users meet them: wrapped, prefixed, of another width, of another head, damaged, malicious."""

from __future__ import annotations

import argparse
import json
import os
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchvision_resnet18
from monai.networks.nets import DenseNet121, SwinUNETR, UNet
from torch import nn

from metalr_monai.errors import MetaLRError, OptionError, WeightsError
from metalr_monai.networks.genesis_unet3d import GenesisUNet3D
from metalr_monai.rates.blocks import PRESETS
from metalr_monai.weights.adapt import adapt_stem
from metalr_monai.weights.describe import describe_checkpoint
from metalr_monai.weights.load import load_weights
from metalr_monai.weights.renaming import rename


def genesis(width=8, **settings):
    return GenesisUNet3D(width=width, batch_statistics="standard", **settings).eval()


def randomised(network, seed=0):
    """Random values everywhere, running statistics included, so that nothing fits by accident."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.1 + 0.05 if tensor.is_floating_point() else 7)
    return network


def prefixed(network, prefix):
    return {prefix + name: tensor for name, tensor in network.state_dict().items()}


def official_file(path, network, epoch=123):
    """The layout of the published Models Genesis file."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9)
    content = {
        "epoch": epoch,
        "state_dict": prefixed(network, "module."),
        "optimizer_state_dict": optimizer.state_dict(),
    }
    torch.save(content, path)
    return path


def snapshot(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_untouched(network, before):
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def image(channels=1):
    return torch.rand(1, channels, 16, 16, 8, generator=torch.Generator().manual_seed(5))


def names(report, status):
    return [tensor.name for tensor in report.with_status(status)]


# Layouts


def test_official_genesis_layout_loads_whole_and_gives_the_same_output(tmp_path):
    source, network = randomised(genesis()), randomised(genesis(), seed=1)
    path = official_file(tmp_path / "Genesis_Chest_CT.pt", source)
    report = load_weights(network, path)
    assert report.coverage == report.coverage_without_head == 1.0
    assert (report.source, report.container, report.rules) == (str(path), "state_dict", ("module.",))
    assert len(names(report, "loaded")) == len(report.tensors) == 106
    assert torch.equal(network(image()), source(image()))


def test_another_number_of_classes_leaves_the_head_alone_as_it_was_built(tmp_path):
    source, network = randomised(genesis()), genesis(out_channels=3)
    before = snapshot(network)
    report = load_weights(network, official_file(tmp_path / "genesis.pt", source))
    head = ["out_tr.final_conv.weight", "out_tr.final_conv.bias"]
    assert names(report, "re-initialised") == head
    assert report.coverage_without_head == 1.0 > report.coverage
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in head)
    assert "file 1×8×1×1×1, network 3×8×1×1×1; head" in str(report)
    source.out_tr, network.out_tr = nn.Identity(), nn.Identity()
    assert torch.equal(network(image()), source(image()))


def test_full_width_counts_the_published_number_of_parameters(tmp_path):
    source = genesis(64)
    torch.save({"epoch": 5, "state_dict": prefixed(source, "module.")}, tmp_path / "genesis.pt")
    description = describe_checkpoint(tmp_path / "genesis.pt")
    assert description.parameters == 19_073_665
    assert str(description.kind) == "Models Genesis 3D U-Net, width 64, 1 input channel, 1 class"
    report = load_weights(genesis(64), tmp_path / "genesis.pt")
    assert report.coverage == 1.0
    assert "100.0% of 19,073,665 parameters" in str(report)


LAYOUTS = {
    "plain": lambda network: network.state_dict(),
    "SuPreM": lambda network: {"net": prefixed(network, "module.backbone."), "epoch": 3},
    "Lightning": lambda network: {"state_dict": prefixed(network, "model."), "global_step": 10},
    "compiled, then DDP": lambda network: {"model": prefixed(network, "module._orig_mod.")},
    "DDP, then compiled": lambda network: {"model": prefixed(network, "_orig_mod.module.")},
    "two containers": lambda network: {"ema": {"state_dict": prefixed(network, "module.")}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_whole(layout, tmp_path):
    source, network = randomised(genesis(4)), genesis(4)
    torch.save(LAYOUTS[layout](source), tmp_path / "file.pt")
    report = load_weights(network, tmp_path / "file.pt")
    assert report.coverage == 1.0
    assert_untouched(network, source.state_dict())


def test_suprem_prefix_is_one_rule_and_its_missing_head_is_reported(tmp_path):
    source, network = randomised(genesis(4)), genesis(4)
    state = {k: v for k, v in prefixed(source, "module.backbone.").items() if "out_tr" not in k}
    torch.save({"net": state}, tmp_path / "suprem_unet.pth")
    report = load_weights(network, tmp_path / "suprem_unet.pth")
    assert (report.container, report.rules) == ("net", ("module.backbone.",))
    assert names(report, "re-initialised") == ["out_tr.final_conv.weight", "out_tr.final_conv.bias"]
    assert report.coverage_without_head == 1.0 > report.coverage


def test_names_are_matched_behind_the_networks_own_wrappers():
    source, plain = randomised(genesis(4)), genesis(4)
    wrapped = torch.compile(nn.DataParallel(plain))
    report = load_weights(wrapped, source.state_dict())
    assert report.coverage == 1.0 and report.rules == ()
    assert_untouched(plain, source.state_dict())


def test_no_rule_fires_where_the_network_itself_bears_the_prefix():
    class Wrapping(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

    source, network = randomised(Wrapping()), Wrapping()
    report = load_weights(network, source.state_dict())
    assert report.rules == () and report.coverage == 1.0


def test_a_rule_that_renames_part_of_the_names_leaves_the_rest():
    renaming = rename(["encoder.a", "encoder.b", "head"], ["encoder.a", "b", "head"])
    assert renaming.rules == ("encoder.",)
    assert renaming.names == {"encoder.a": "encoder.a", "encoder.b": "b", "head": "head"}


def test_renaming_never_makes_two_tensors_one():
    renaming = rename(["encoder_q.a", "encoder.a"], ["a", "b"])
    assert sorted(renaming.names.values()) == ["a", "encoder.a"]


def test_further_state_dicts_in_the_file_are_named_and_not_used():
    source, average = randomised(nn.Linear(2, 2)), randomised(nn.Linear(2, 2), seed=1)
    network = nn.Linear(2, 2)
    report = load_weights(network, {"ema": average.state_dict(), "model": source.state_dict()})
    assert (report.container, report.others) == ("model", ("ema",))
    assert_untouched(network, source.state_dict())


def test_half_precision_and_tied_weights_load():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    state = {name: tensor.half() for name, tensor in randomised(network).state_dict().items()}
    assert load_weights(network, state).coverage == 1.0
    assert network[0].weight.dtype == torch.float32 and network[0].weight is network[1].weight


def test_loading_keeps_parameters_trainable_and_in_their_optimizer():
    network = nn.Linear(2, 2)
    weight = network.weight
    load_weights(network, randomised(nn.Linear(2, 2)).state_dict())
    assert network.weight is weight and weight.requires_grad and weight.is_leaf


# First convolution and head


@pytest.mark.parametrize(("old", "new"), [(1, 3), (3, 1), (3, 2)])
def test_another_number_of_input_channels_adapts_the_stem(old, new, tmp_path):
    source, network = randomised(genesis(in_channels=old)), genesis(in_channels=new)
    report = load_weights(network, official_file(tmp_path / "genesis.pt", source))
    assert names(report, "adapted") == ["down_tr64.ops.0.conv1.weight"]
    assert report.coverage == 1.0
    assert f"input channels: sum over {old}, divided by {new}" in str(report)
    weight = network.down_tr64.ops[0].conv1.weight
    expected = source.down_tr64.ops[0].conv1.weight.sum(1) / new
    assert all(torch.equal(weight[:, channel], expected) for channel in range(new))


def test_an_adapted_stem_gives_the_same_output_for_the_same_image_in_all_channels():
    conv = nn.Conv2d(3, 4, 3, bias=False).double()
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    for channels in (1, 2, 5):
        output = F.conv2d(x.expand(-1, channels, -1, -1), adapt_stem(conv.weight, channels))
        torch.testing.assert_close(output, conv(x.expand(-1, 3, -1, -1)))


def test_adapt_input_never_leaves_the_stem_as_it_was_built():
    source, network = randomised(genesis(4)), genesis(4, in_channels=3)
    before = network.down_tr64.ops[0].conv1.weight.clone()
    report = load_weights(network, source.state_dict(), adapt_input="never")
    assert names(report, "shape mismatch") == ["down_tr64.ops.0.conv1.weight"]
    assert torch.equal(network.down_tr64.ops[0].conv1.weight, before)


def test_parallel_first_convolutions_are_all_adapted():
    settings = {"out_channels": 2, "feature_size": 12, "spatial_dims": 2}
    source, network = SwinUNETR(in_channels=1, **settings), SwinUNETR(in_channels=3, **settings)
    report = load_weights(network, source.state_dict())
    assert report.coverage == 1.0
    taking_the_image = ["swinViT.patch_embed.proj.weight"] + [f"encoder1.layer.conv{i}.conv.weight" for i in (1, 3)]
    assert names(report, "adapted") == taking_the_image


def test_a_head_of_several_tensors_is_left_out_as_a_whole():
    settings = {"spatial_dims": 2, "in_channels": 1, "channels": (8, 16), "strides": (2,), "num_res_units": 1}
    source, network = UNet(out_channels=2, **settings), UNet(out_channels=5, **settings)
    report = load_weights(network, source.state_dict())
    assert report.coverage_without_head == 1.0 > report.coverage
    assert {name.split(".")[1] for name in names(report, "re-initialised")} == {"2"}
    assert names(report, "shape mismatch") == []


def test_a_transposed_convolution_can_be_the_head():
    source = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 2, 2))
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 3, 2))
    report = load_weights(network, source.state_dict())
    assert [tensor.name for tensor in report.tensors if tensor.head] == ["1.weight", "1.bias"]


def test_a_head_that_is_missing_in_the_file_is_left_out_of_the_coverage_without_the_head():
    source = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(400, 5))
    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(400, 5))
    body = {name: tensor for name, tensor in source.state_dict().items() if name.startswith("0.")}
    report = load_weights(network, body)
    assert report.coverage < 0.01 and report.coverage_without_head == 1.0
    assert "2.weight (head, missing in the file)" in str(report)
    with pytest.raises(WeightsError, match=r"covers 0\.0%"):
        load_weights(network, {"other.weight": torch.zeros(2)})


def test_any_other_network_loads_by_its_state_dict(tmp_path):
    settings = {"spatial_dims": 2, "in_channels": 1, "init_features": 8, "growth_rate": 4, "block_config": (2, 2)}
    source = randomised(DenseNet121(out_channels=2, **settings)).eval()
    network = DenseNet121(out_channels=3, **settings).eval()
    torch.save({"epoch": 3, "model": prefixed(source, "module.")}, tmp_path / "densenet121.pt")
    report = load_weights(network, tmp_path / "densenet121.pt")
    assert report.coverage_without_head == 1.0 and report.rules == ("module.",)
    assert [t.name for t in report.tensors if t.head] == ["class_layers.out.weight", "class_layers.out.bias"]
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(network.features(x), source.features(x), rtol=0, atol=0)


# What does not fit


def test_another_width_is_an_error_with_both_shapes_and_the_network_is_untouched(tmp_path):
    path = official_file(tmp_path / "genesis.pt", randomised(genesis(8)))
    network = randomised(genesis(16, out_channels=3), seed=1)
    before = snapshot(network)
    with pytest.raises(WeightsError, match=r"file 4×1×3×3×3, network 8×1×3×3×3") as error:
        load_weights(network, path)
    assert "another width" in str(error.value) and str(path) in str(error.value)
    assert_untouched(network, before)


def test_layers_of_another_width_are_neither_adapted_nor_taken_for_a_head():
    source, network = genesis(8, in_channels=1), genesis(16, in_channels=3)
    report = load_weights(network, source.state_dict(), minimum_coverage=0.0)
    assert names(report, "adapted") == [] and not any(tensor.head for tensor in report.tensors)
    loaded = [name for name in names(report, "loaded") if not name.endswith("num_batches_tracked")]
    assert loaded == ["out_tr.final_conv.bias"]  # one class on both sides


def test_a_later_layer_with_other_input_channels_than_the_stem_is_not_adapted():
    source = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(6, 4, 3), nn.Conv2d(4, 2, 1))
    report = load_weights(network, source.state_dict(), minimum_coverage=0.0)
    assert names(report, "adapted") == ["0.weight"] and names(report, "shape mismatch") == ["1.weight"]


def test_only_a_whole_is_called_100_percent():
    source = nn.Linear(10_000, 1)
    report = load_weights(nn.Linear(10_000, 1), {"weight": source.weight.detach(), "bias": torch.zeros(3)})
    assert report.coverage > 0.9995 and "coverage 99.9% of 10,001" in str(report)


def test_another_number_of_spatial_dimensions_is_named_as_the_cause():
    settings = {"in_channels": 1, "out_channels": 2, "channels": (4, 8), "strides": (2,)}
    with pytest.raises(WeightsError, match="weights of 4 dimensions in the file, of 5 in the network"):
        load_weights(UNet(spatial_dims=3, **settings), UNet(spatial_dims=2, **settings).state_dict())


def test_an_unknown_prefix_is_an_error_with_near_misses_and_the_prefix():
    network = genesis(4)
    before = snapshot(network)
    with pytest.raises(WeightsError, match=r"begin with 'foo\.'") as error:
        load_weights(network, prefixed(randomised(genesis(4)), "foo."))
    assert "Did you mean foo.down_tr64.ops.0.conv1.weight" in str(error.value)
    assert_untouched(network, before)


def test_weights_of_a_part_of_the_network_say_which_part():
    network = nn.ModuleDict({"trunk": genesis(4)})
    with pytest.raises(WeightsError, match=r"network's names begin with 'trunk\.'"):
        load_weights(network, randomised(genesis(4)).state_dict())


def test_another_network_is_named_as_the_cause():
    with pytest.raises(WeightsError, match="another network") as error:
        load_weights(genesis(4), torchvision_resnet18.state())
    assert "covers 0.0%" in str(error.value) and "at least 90.0%" in str(error.value)


def test_the_minimum_coverage_decides():
    source, network = randomised(genesis(4)), genesis(4)
    state = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("up_tr256")}
    before = snapshot(network)
    with pytest.raises(WeightsError, match="Missing in the file: up_tr256"):
        load_weights(network, state)
    assert_untouched(network, before)
    report = load_weights(network, state, minimum_coverage=0.5)
    assert 0.5 < report.coverage < 0.6
    assert torch.equal(network.down_tr64.ops[0].conv1.weight, source.down_tr64.ops[0].conv1.weight)


def test_buffers_do_not_count_but_are_reported():
    state = {name: p for name, p in randomised(genesis(4)).named_parameters()}
    report = load_weights(genesis(4), state, minimum_coverage=1.0)
    assert report.coverage == 1.0
    assert len(names(report, "re-initialised")) == 42  # 14 batch norms


def test_bad_options_and_networks_without_weights_are_refused():
    with pytest.raises(OptionError, match="minimum_coverage is 90"):
        load_weights(genesis(4), {}, minimum_coverage=90)
    with pytest.raises(OptionError, match="'auto' or 'never'"):
        load_weights(genesis(4), {}, adapt_input="sum")
    with pytest.raises(WeightsError, match="ReLU has no parameters"):
        load_weights(nn.ReLU(), torchvision_resnet18.state())
    with pytest.raises(WeightsError, match="lazy"):
        load_weights(nn.LazyLinear(2), torchvision_resnet18.state())


# Files that cannot be read


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("writer", ["torch", "legacy torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(writer, protocol, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    content = {"state_dict": {"a": torch.zeros(2)}, "args": Malicious(marker)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        new = writer == "torch"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    with pytest.raises(WeightsError, match=r"evil\.pt") as error:
        load_weights(genesis(4), path)
    assert not marker.exists()
    if writer == "torch" and protocol == 2:
        assert "system" in str(error.value) and "weights_only=False" in str(error.value)


def test_options_beside_the_weights_are_read_but_no_code_in_them_is_run(tmp_path):
    source, network, marker = randomised(genesis(2)), genesis(2), tmp_path / "marker"
    options = argparse.Namespace(lr=0.1, crops=[1, 2], nested=argparse.Namespace(name="a"))
    torch.save({"args": options, "model": source.state_dict()}, tmp_path / "plain.pt")
    assert load_weights(network, tmp_path / "plain.pt").coverage == 1.0
    options.callback = Malicious(marker)
    torch.save({"args": options, "model": source.state_dict()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"evil\.pt holds more than tensors"):
        load_weights(network, tmp_path / "evil.pt")
    assert not marker.exists()


def test_a_file_cut_anywhere_is_an_error_that_says_so(tmp_path):
    network = genesis(2)
    before = snapshot(network)
    for new_format in (True, False):
        path = tmp_path / "cut.pt"
        torch.save(randomised(genesis(2)).state_dict(), path, _use_new_zipfile_serialization=new_format)
        whole = path.read_bytes()
        for share in (0.0, 0.001, 0.01, 0.1, 0.5, 0.999):
            path.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(WeightsError, match=r"cut\.pt \([\d,]+ bytes\) is damaged, cut short"):
                load_weights(network, path)
    assert_untouched(network, before)


@pytest.mark.parametrize("content", [b"\x89HDF\r\n\x1a\n", b"hello world, this is text", b"PK\x03\x04abcd"])
def test_other_formats_are_an_error(content, tmp_path):
    (tmp_path / "other.h5").write_bytes(content)
    with pytest.raises(WeightsError, match=r"not a checkpoint of torch\.save"):
        load_weights(genesis(4), tmp_path / "other.h5")


def test_a_missing_file_and_a_folder_are_errors_that_help(tmp_path):
    torch.save({}, tmp_path / "genesis.pt")
    with pytest.raises(WeightsError, match=r"Did you mean genesis\.pt"):
        load_weights(genesis(4), tmp_path / "genesi.pt")
    with pytest.raises(WeightsError, match="is a folder"):
        load_weights(genesis(4), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "lr": 0.1}, r"the keys epoch \(int\), lr \(float\)"),
        ({"weird": {"a": torch.zeros(2)}}, "There are some under weird"),
        ({}, "no keys at all"),
        (torch.zeros(3), "holds a Tensor; expected a dict"),
        ({"state_dict": {"a": [1, 2]}}, "holds no tensors"),
    ],
)
def test_a_file_without_a_state_dict_is_an_error_that_says_what_is_in_it(content, message, tmp_path):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(WeightsError, match=message):
        load_weights(genesis(4), tmp_path / "file.pt")


def test_every_error_is_a_child_of_the_projects_own():
    assert issubclass(WeightsError, MetaLRError)


# Report and description


def test_the_report_is_a_short_table_by_part(tmp_path):
    report = load_weights(genesis(out_channels=3), official_file(tmp_path / "genesis.pt", randomised(genesis())))
    lines = str(report).splitlines()
    assert len(lines) == 13
    assert [line.split()[0] for line in lines[4:12]] == list(PRESETS["genesis_unet3d"])
    assert lines[4].split()[-1] == "100.0%" and lines[11].split() == ["out_tr", "27", "0.0%"]


def test_the_report_of_a_network_with_one_child_is_by_grandchildren_and_never_long():
    source = nn.Sequential(nn.Sequential(*[nn.Linear(1, 1) for _ in range(100)]))
    text = str(load_weights(source, source.state_dict()))
    assert "\n0.1 " in text and "and 70 more parts" in text
    assert len(text.splitlines()) < 40


def test_report_and_description_go_to_json_and_back(tmp_path):
    path = official_file(tmp_path / "genesis.pt", randomised(genesis()))
    report = load_weights(genesis(out_channels=3), path)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["coverage_without_head"] == 1.0 and data["rules"] == ["module."]
    assert data["tensors"][-2] == {
        "name": "out_tr.final_conv.weight",
        "status": "re-initialised",
        "network_shape": [3, 8, 1, 1, 1],
        "file_shape": [1, 8, 1, 1, 1],
        "note": "head",
    }
    description = describe_checkpoint(path)
    data = json.loads(json.dumps(description.to_dict()))
    assert data["kind"]["width"] == 8 and data["epoch"] == 123 and data["container"] == "state_dict"
    assert data["prefixes"]["module.out_tr"] == 2 and data["tensors"] == 106
    assert "Models Genesis 3D U-Net, width 8, 1 input channel, 1 class" in str(description)


def test_a_checkpoint_of_an_unknown_network_is_described_too(tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "linear.pt")
    description = describe_checkpoint(tmp_path / "linear.pt")
    assert description.kind is None and description.epoch is None and description.parameters == 8
    assert "not one that is known here" in str(description) and "plain" in str(description)
