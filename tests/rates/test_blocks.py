"""Blocks: each parameter in exactly one, in depth order, and errors that name the culprit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.networks import nets
from torch import nn

from metalr_monai.errors import BlockError, OptionError
from metalr_monai.rates.blocks import PRESETS, Blocks, blocks, param_groups
from metalr_monai.rates.tuner import MetaLR

RESNET18_BLOCKS = (
    *("conv1", "layer1.0", "layer1.1", "layer2.0", "layer2.1"),
    *("layer3.0", "layer3.1", "layer4.0", "layer4.1", "fc"),
)


def resnet18() -> nn.Module:
    return nets.resnet18(spatial_dims=2, n_input_channels=3, num_classes=2)


def small() -> nn.Module:
    """Two convolutions, a norm and a head, in plain attributes."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, 4, 3)
            self.bn1 = nn.BatchNorm2d(4)
            self.conv10 = nn.Conv2d(4, 4, 3)
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv10(self.bn1(self.conv1(x))).mean((2, 3)))

    return Small()


SMALL_SPEC = {"stem": ["conv1", "bn1"], "body": "conv10", "head": "head.*"}


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def compiled(network: nn.Module) -> nn.Module:
    return torch.compile(network, backend="eager")  # the default backend warns on import, and nothing is run here


def assert_each_parameter_once(network: nn.Module, found: Blocks) -> None:
    held = [id(parameter) for parameters in found.values() for parameter in parameters]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in network.parameters()}


# Presets


def test_resnet18_preset_gives_the_ten_blocks_of_the_study() -> None:
    network = resnet18()
    found = blocks(network, "resnet18")
    assert found.names == RESNET18_BLOCKS
    assert found.parameter_names["conv1"] == ("conv1.weight", "bn1.weight", "bn1.bias")
    assert "layer2.0.downsample.0.weight" in found.parameter_names["layer2.0"]
    assert_each_parameter_once(network, found)


def test_genesis_preset_gives_eight_blocks_in_depth_order() -> None:
    names = ["down_tr64", "down_tr128", "down_tr256", "down_tr512", "up_tr256", "up_tr128", "up_tr64", "out_tr"]
    network = nn.Module()
    for name in reversed(names):
        setattr(network, name, nn.Conv3d(1, 1, 1))
    found = blocks(network, "genesis_unet3d")
    assert found.names == tuple(names)
    assert found["out_tr"] == (network.out_tr.weight, network.out_tr.bias)


def test_unknown_preset_lists_near_misses_and_presets() -> None:
    with pytest.raises(BlockError, match=r"no preset 'resnet81'\. Did you mean resnet18\?"):
        blocks(small(), "resnet81")
    with pytest.raises(BlockError, match=r"no preset 'xyz'\. Presets are resnet18, genesis_unet3d, eff"):
        blocks(small(), "xyz")


def test_preset_of_another_network_names_pattern_and_preset() -> None:
    with pytest.raises(BlockError, match="Pattern 'down_tr64' in block 'down_tr64' of preset 'genesis_unet3d'"):
        blocks(small(), "genesis_unet3d")


# Mappings


def test_prefix_ends_at_a_component_boundary() -> None:
    found = blocks(small(), SMALL_SPEC)
    assert found.parameter_names == {
        "stem": ("conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"),
        "body": ("conv10.weight", "conv10.bias"),
        "head": ("head.weight", "head.bias"),
    }


def test_prefix_matches_a_whole_parameter_name() -> None:
    found = blocks(nn.Linear(2, 2), {"w": "weight", "b": "bias"})
    assert found.parameter_names == {"w": ("weight",), "b": ("bias",)}


def test_glob_matches_the_whole_name_and_keeps_network_order() -> None:
    found = blocks(small(), {"biases": "*.bias", "weights": ["head.weigh?", "conv*.weight", "[b]n1.weight"]})
    assert found.names == ("biases", "weights")
    assert found.parameter_names["weights"] == ("conv1.weight", "bn1.weight", "conv10.weight", "head.weight")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({**SMALL_SPEC, "body": "conv2"}, r"'conv2' in block 'body' of spec matches no parameter\. Did you mean conv1"),
        ({"all": "*.kernel"}, r"'\*\.kernel' in block 'all' .* begins with conv1, bn1, conv10, head"),
        ({"all": ""}, r"Pattern '' in block 'all'"),
        ({"stem": "conv1"}, r"6 of 8 parameters are in no block of spec: bn1\.weight, .*head\.weight and 1 more"),
        ({"a": "*", "b": "head"}, r"Parameter 'head\.weight' is in two blocks, 'a' and 'b' \(by 'head'\)"),
        ({}, "mapping is empty"),
        ({"a": []}, r"Block 'a' has the patterns \[\]"),
        ({"a": [1]}, r"Block 'a' has the patterns \[1\]"),
        ({"a": None}, "Block 'a' has the patterns None"),
        ({1: "*"}, "block is named 1"),
        (["*"], r"spec is \['\*'\] of type list"),
        (None, "spec is None of type NoneType"),
    ],
)
def test_wrong_spec_names_the_culprit(spec: object, message: str) -> None:
    with pytest.raises(BlockError, match=message):
        blocks(small(), spec)  # type: ignore[arg-type]


def test_network_without_parameters_is_an_error() -> None:
    with pytest.raises(BlockError, match="ReLU has no parameters"):
        blocks(nn.ReLU())


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")  # torch says so on construction
def test_lazy_parameters_ask_for_one_batch_first() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2))
    with pytest.raises(BlockError, match=r"1\.weight, 1\.bias of Sequential have no shape yet.*run one batch"):
        blocks(network)
    network(torch.ones(1, 2))
    assert blocks(network).names == ("0", "1")


# Wrappers, ties, frozen parameters


@pytest.mark.parametrize(
    "wrap",
    [compiled, nn.DataParallel, Wrapper, lambda n: Wrapper(compiled(n)), lambda n: compiled(Wrapper(n))],
    ids=["compile", "data_parallel", "attribute", "attribute_compile", "compile_attribute"],
)
@pytest.mark.parametrize("spec", ["auto", SMALL_SPEC], ids=["auto", "mapping"])
def test_wrapped_network_has_the_same_blocks(wrap: Callable[[nn.Module], nn.Module], spec: object) -> None:
    network = small()
    assert blocks(wrap(network), spec) == blocks(network, spec)  # type: ignore[arg-type]
    assert blocks(wrap(network), spec).parameter_names == blocks(network, spec).parameter_names  # type: ignore[arg-type]


def test_compiled_part_inside_a_network_leaves_no_trace_in_names() -> None:
    network = nn.Sequential(compiled(nn.Linear(2, 2)), nn.Linear(2, 2))
    assert blocks(network).parameter_names == {"0": ("0.weight", "0.bias"), "1": ("1.weight", "1.bias")}


def test_module_stays_in_names_when_only_some_begin_with_it() -> None:
    network = Wrapper(nn.Linear(2, 2))
    network.head = nn.Linear(2, 2)
    assert blocks(network).names == ("module", "head")


@pytest.mark.parametrize("spec", ["auto", {"in": "0", "rest": ["1", "2"]}], ids=["auto", "mapping"])
def test_tied_parameters_count_once_under_their_first_name(spec: object) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    network[2].weight = network[0].weight
    found = blocks(network, spec)  # type: ignore[arg-type]
    assert_each_parameter_once(network, found)
    names = found.parameter_names
    assert names[found.names[0]] == ("0.weight", "0.bias")
    assert "2.bias" in names[found.names[-1]]


def test_frozen_parameters_are_in_their_block_but_not_trainable() -> None:
    network = small()
    network.conv1.requires_grad_(False)
    found = blocks(network, SMALL_SPEC)
    assert found["stem"] == (network.conv1.weight, network.conv1.bias, network.bn1.weight, network.bn1.bias)
    stem = str(found).splitlines()[1].split()
    assert stem == ["stem", "4", "48", "8"]


# Blocks


def test_blocks_are_an_immutable_mapping() -> None:
    found = blocks(small(), SMALL_SPEC)
    assert list(found) == ["stem", "body", "head"]
    assert len(found) == 3
    with pytest.raises(TypeError):
        found["stem"] = ()  # type: ignore[index]
    with pytest.raises(AttributeError):
        found.names = ()  # type: ignore[misc]
    with pytest.raises(KeyError):
        found["tail"]


def test_blocks_are_equal_only_for_the_same_parameters_and_names() -> None:
    network = small()
    assert blocks(network, SMALL_SPEC) == blocks(network, dict(SMALL_SPEC))
    assert hash(blocks(network, SMALL_SPEC)) == hash(blocks(network, SMALL_SPEC))
    assert blocks(network, SMALL_SPEC) != blocks(network, dict(reversed(SMALL_SPEC.items())))
    assert blocks(network, SMALL_SPEC) != blocks(small(), SMALL_SPEC)


def test_table_has_one_line_per_block_and_a_total() -> None:
    lines = [line.split() for line in str(blocks(small(), SMALL_SPEC)).splitlines()]
    assert lines == [
        ["block", "tensors", "parameters", "trainable"],
        ["stem", "4", "48", "48"],
        ["body", "2", "148", "148"],
        ["head", "2", "10", "10"],
        ["total", "8", "206", "206"],
    ]


def test_table_shows_rates_when_given() -> None:
    lines = blocks(small(), SMALL_SPEC).table({"stem": 1e-4, "head": 0.0123}).splitlines()
    assert [line.split()[-1] for line in lines] == ["rate", "0.0001", "-", "0.0123", "206"]


def test_table_with_a_rate_for_an_unknown_block_lists_near_misses() -> None:
    with pytest.raises(BlockError, match=r"rates names the block 'heat', .*Did you mean head\?"):
        blocks(small(), SMALL_SPEC).table({"heat": 1.0})


# Auto: order and shape on small networks


def test_single_layer_is_one_block() -> None:
    assert blocks(nn.Linear(2, 2)).parameter_names == {"network": ("weight", "bias")}


@pytest.mark.parametrize("layers", [2, 3, 4, 24])
def test_each_layer_of_a_sequence_is_a_block(layers: int) -> None:
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))
    assert blocks(network).names == tuple(str(i) for i in range(layers))


def test_modules_are_opened_until_there_are_four_blocks() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.b = nn.Linear(2, 2)

    assert blocks(nn.Sequential(Pair(), Pair())).names == ("0.a", "0.b", "1.a", "1.b")
    assert blocks(nn.Sequential(*(Pair() for _ in range(4)))).names == ("0", "1", "2", "3")


def test_norm_joins_the_layer_before_it() -> None:
    assert blocks(small()).names == ("conv1", "conv10", "head")
    assert "bn1.weight" in blocks(small()).parameter_names["conv1"]


def test_norm_at_the_beginning_joins_the_layer_after_it() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.Linear(2, 2))
    assert blocks(network).parameter_names["1"] == ("0.weight", "0.bias", "1.weight", "1.bias")


def test_norm_before_a_container_does_not_hide_its_layers() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(*(nn.Linear(2, 2) for _ in range(5))))
    assert blocks(network).names == ("1.0", "1.1", "1.2", "1.3", "1.4")


def test_many_layers_are_merged_evenly_and_the_head_stays_alone() -> None:
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(70)))
    found = blocks(network)
    assert len(found) == 24
    assert found.names[0] == "0-2"
    assert found.names[-1] == "69"
    assert {len(parameters) // 2 for parameters in list(found.values())[:-1]} == {3}
    assert_each_parameter_once(network, found)


def test_longest_row_is_merged_and_others_are_kept() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
            self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(30))
            self.tail = nn.Linear(2, 2)
            self.head = nn.Linear(2, 2)

    names = blocks(Net()).names
    assert len(names) == 24
    assert names[:3] == ("stem.0", "stem.1", "stem.2")
    assert names[-2:] == ("tail", "head")
    assert "layers.28-29" in names


def test_order_is_that_of_forward_not_of_registration() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)
            self.aux = nn.Linear(2, 2)
            self.second = nn.Linear(2, 2)
            self.first = nn.Linear(2, 2)

        def features(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.aux is not None:
                x = self.features(x)
            x = self.aux(x) if self.head is not None else x
            return self.head(x)

    assert blocks(Net()).names == ("first", "second", "aux", "head")


def test_children_that_forward_does_not_name_stay_behind_their_sibling() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(2, 2)
            self.stage0 = nn.Linear(2, 2)
            self.stage1 = nn.Linear(2, 2)
            self.head = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for i in range(2):
                x = getattr(self, f"stage{i}")(x)
            return self.head(x)

    assert blocks(Net()).names == ("stem", "stage0", "stage1", "head")


def test_order_without_source_is_that_of_registration() -> None:
    namespace: dict[str, object] = {}
    exec("def forward(self, x):\n    return self.first(self.head(x))", namespace)
    net = type("Net", (nn.Module,), {"forward": namespace["forward"]})()
    net.first, net.head = nn.Linear(2, 2), nn.Linear(2, 2)
    assert blocks(net).names == ("first", "head")


def test_lists_of_one_loop_alternate_and_lists_of_two_loops_do_not() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("encoder", "conv", "up"):
                setattr(self, name, nn.ModuleList(nn.Linear(2, 2) for _ in range(2)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.encoder:
                x = layer(x)
            for i in range(2):
                x = self.conv[i](self.up[i](x))
            return x

    assert blocks(Net()).names == ("encoder.0", "encoder.1", "up.0", "conv.0", "up.1", "conv.1")


def test_own_parameters_of_a_split_module_join_its_first_part() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 2))
            self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))

    assert blocks(Net()).parameter_names["layers.0"] == ("token", "layers.0.weight", "layers.0.bias")


# Auto: MONAI's networks, each checked against a real forward pass


def unet() -> nn.Module:
    return nets.UNet(3, 1, 2, (4, 8, 16, 32), (2, 2, 2), num_res_units=2)


def dynunet(deep_supervision: bool) -> nn.Module:
    strides = [1, 2, 2, 2]
    return nets.DynUNet(
        3,
        1,
        2,
        [3] * 4,
        strides,
        strides[1:],
        filters=[4, 8, 16, 32],
        deep_supervision=deep_supervision,
        deep_supr_num=2,
    )


def segresnet() -> nn.Module:
    return nets.SegResNet(3, 8, 1, 2, blocks_down=(1, 2, 2), blocks_up=(1, 1))


def swin_unetr() -> nn.Module:
    pytest.importorskip("einops")
    return nets.SwinUNETR(in_channels=1, out_channels=2, feature_size=12, spatial_dims=2)


def densenet() -> nn.Module:
    return nets.DenseNet121(spatial_dims=2, in_channels=3, out_channels=2)


def efficientnet() -> nn.Module:
    return nets.EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=3, num_classes=2)


def vit() -> nn.Module:
    pytest.importorskip("einops")
    size = {"hidden_size": 48, "mlp_dim": 64, "num_heads": 4}
    return nets.ViT(1, (16, 16, 16), (8, 8, 8), num_layers=12, classification=True, **size)


NETWORKS = [
    pytest.param(unet, (1, 1, 16, 16, 16), "model.2.1.conv.unit0.conv.weight", id="UNet"),
    pytest.param(lambda: dynunet(False), (1, 1, 16, 16, 16), "output_block.conv.conv.weight", id="DynUNet"),
    pytest.param(lambda: dynunet(True), (1, 1, 16, 16, 16), "output_block.conv.conv.weight", id="DynUNet-deep"),
    pytest.param(segresnet, (1, 1, 16, 16, 16), "conv_final.2.conv.weight", id="SegResNet"),
    pytest.param(swin_unetr, (1, 1, 64, 64), "out.conv.conv.weight", id="SwinUNETR"),
    pytest.param(densenet, (2, 3, 64, 64), "class_layers.out.weight", id="DenseNet121"),
    pytest.param(efficientnet, (2, 3, 64, 64), "_fc.weight", id="EfficientNetBN"),
    pytest.param(vit, (1, 1, 16, 16, 16), "classification_head.0.weight", id="ViT"),
    pytest.param(resnet18, (2, 3, 64, 64), "fc.weight", id="resnet18"),
]


def first_uses(network: nn.Module, shape: tuple[int, ...]) -> list[int]:
    """Ids of all parameters in the order in which a forward pass reaches the modules that own them."""
    seen: dict[int, None] = {}

    def remember(module: nn.Module, _inputs: object) -> None:
        seen.update(dict.fromkeys(id(parameter) for parameter in module.parameters(recurse=False)))

    handles = [m.register_forward_pre_hook(remember) for m in network.modules() if not list(m.children())]
    with torch.no_grad():
        network.train()(torch.rand(shape))
    for handle in handles:
        handle.remove()
    return list(seen)


@pytest.mark.parametrize(("make", "shape", "head"), NETWORKS)
def test_auto_blocks_follow_the_forward_pass(make: Callable[[], nn.Module], shape: tuple[int, ...], head: str) -> None:
    network = make()
    found = blocks(network)
    assert_each_parameter_once(network, found)
    assert 4 <= len(found) <= 24
    assert head in found.parameter_names[found.names[-1]]
    position = {parameter: i for i, parameter in enumerate(first_uses(network, shape))}
    first = [min(position[id(p)] for p in parameters if id(p) in position) for parameters in found.values()]
    assert first == sorted(first), dict(zip(found.names, first, strict=True))


def test_auto_gives_the_ten_blocks_of_the_study_on_resnet18() -> None:
    network = resnet18()
    assert blocks(network) == blocks(network, "resnet18")


def test_auto_opens_a_large_encoder_and_interleaves_deep_supervision_heads() -> None:
    assert blocks(dynunet(True)).names == (
        *("input_block", "downsamples.0", "downsamples.1", "bottleneck", "upsamples.0", "deep_supervision_heads.1"),
        *("upsamples.1", "deep_supervision_heads.0", "upsamples.2", "output_block"),
    )
    network = nets.SwinUNETR(in_channels=1, out_channels=2, feature_size=12, spatial_dims=2)
    assert blocks(network).names[:6] == (
        "swinViT.patch_embed",
        *(f"swinViT.layers{i}" for i in (1, 2, 3, 4)),
        "encoder1",
    )


# Optimizer groups


def test_groups_are_in_block_order_with_names_rates_and_all_parameters() -> None:
    network = small()
    network.conv1.requires_grad_(False)
    groups = param_groups(network, SMALL_SPEC, 1e-3, {"head": 10})
    assert [(group["name"], group["lr"]) for group in groups] == [("stem", 1e-3), ("body", 1e-3), ("head", 1e-2)]
    assert [id(p) for group in groups for p in group["params"]] == [id(p) for p in network.parameters()]


def test_the_classifier_starts_at_another_rate_by_its_blocks_name() -> None:
    network = resnet18()
    groups = param_groups(network, "resnet18", 1e-3, {"fc": 10})  # 1e-2 and 1e-3, as in the MetaLR preprint
    assert {group["name"]: group["lr"] for group in groups} == {**dict.fromkeys(RESNET18_BLOCKS, 1e-3), "fc": 1e-2}
    rates = MetaLR(torch.optim.Adam(groups), network).lrs
    assert rates["fc"] == 1e-2 and rates["layer4.1"] == 1e-3
    with pytest.raises(BlockError, match=r"multipliers names the block 'layer4\.2', .*Did you mean .*layer4\.1"):
        param_groups(network, "resnet18", 1e-3, {"layer4.2": 10})


def test_groups_drive_an_optimizer_in_which_only_the_frozen_block_rests() -> None:
    network = small()
    network.conv10.requires_grad_(False)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.SGD(param_groups(network, blocks(network, SMALL_SPEC), lr=0.1))
    network(torch.rand(2, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    moved = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    assert {"head.weight", "head.bias", "bn1.weight"} <= moved
    assert not {"conv10.weight", "conv10.bias"} & moved


@pytest.mark.parametrize("lr", [0, -1e-3, float("nan"), float("inf"), "1e-3", None])
def test_rate_that_is_not_finite_and_positive_is_an_error(lr: object) -> None:
    with pytest.raises(OptionError, match=f"lr is {lr!r}"):
        param_groups(small(), "auto", lr)  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [0, -1.0, float("nan"), float("inf")])
def test_multiplier_that_is_not_finite_and_positive_is_an_error(factor: float) -> None:
    with pytest.raises(OptionError, match=rf"multipliers\['head'\] is {factor!r}"):
        param_groups(small(), SMALL_SPEC, 1e-3, {"head": factor})


def test_multiplier_of_an_unknown_block_lists_near_misses() -> None:
    with pytest.raises(BlockError, match=r"multipliers names the block 'haed', .*Did you mean head\? Blocks are stem"):
        param_groups(small(), SMALL_SPEC, 1e-3, {"haed": 10})


def test_blocks_of_another_network_are_an_error() -> None:
    with pytest.raises(BlockError, match=r"made for another network: 8 parameters .* 8 in them are not in it"):
        param_groups(small(), blocks(small()), 1e-3)


def test_blocks_made_before_a_layer_was_added_are_an_error() -> None:
    network = small()
    found = blocks(network)
    network.extra = nn.Linear(2, 2)
    with pytest.raises(BlockError, match=r"2 parameters .*\(extra\.weight, extra\.bias\), 0 in them"):
        param_groups(network, found, 1e-3)


def test_every_preset_is_a_mapping_of_distinct_patterns() -> None:
    for preset in PRESETS.values():
        patterns = [pattern for group in preset.values() for pattern in group]
        assert len(patterns) == len(set(patterns))
