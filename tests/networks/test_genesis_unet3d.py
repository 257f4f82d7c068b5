"""GenesisUNet3D: the published parameter names and counts, the wiring, both kinds of batch norm, and the errors."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from metalr_monai.errors import OptionError
from metalr_monai.networks.genesis_unet3d import GenesisUNet3D

PARAMETERS = {
    "down_tr64": 56_448,
    "down_tr128": 332_352,
    "down_tr256": 1_328_256,
    "down_tr512": 5_310_720,
    "up_tr256": 9_177_088,
    "up_tr128": 2_294_784,
    "up_tr64": 573_952,
    "out_tr": 65,
}
DOWN = ("down_tr64", "down_tr128", "down_tr256", "down_tr512")
UP = ("up_tr256", "up_tr128", "up_tr64")
MODES = ("always", "standard")
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def small(batch_statistics: str = "always", **options: object) -> GenesisUNet3D:
    return GenesisUNet3D(**{"width": 4, "batch_statistics": batch_statistics, **options})


def image(batch: int = 2, *, size: tuple[int, int, int] = (16, 16, 8), channels: int = 1) -> Tensor:
    return torch.rand(batch, channels, *size)


def running(network: nn.Module) -> State:
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


def equal(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def published_keys() -> set[str]:
    keys = {"out_tr.final_conv.weight", "out_tr.final_conv.bias"}
    for block in UP:
        keys |= {f"{block}.up_conv.weight", f"{block}.up_conv.bias"}
    for block in DOWN + UP:
        for unit in (0, 1):
            keys |= {f"{block}.ops.{unit}.conv1.{name}" for name in ("weight", "bias")}
            keys |= {
                f"{block}.ops.{unit}.bn1.{name}"
                for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            }
    return keys


def reference(state: State, x: Tensor, *, batch_statistics: bool) -> Tensor:
    """The network as the facts state it, layer by layer from the state dict alone: the oracle."""

    def units(x: Tensor, block: str) -> Tensor:
        for unit in (f"{block}.ops.0", f"{block}.ops.1"):
            x = F.conv3d(x, state[f"{unit}.conv1.weight"], state[f"{unit}.conv1.bias"], padding=1)
            if batch_statistics:
                mean, var = x.mean((0, 2, 3, 4)), x.var((0, 2, 3, 4), correction=0)
            else:
                mean, var = state[f"{unit}.bn1.running_mean"], state[f"{unit}.bn1.running_var"]
            scale, shift = state[f"{unit}.bn1.weight"], state[f"{unit}.bn1.bias"]
            x = (x - mean.view(1, -1, 1, 1, 1)) / (var.view(1, -1, 1, 1, 1) + 1e-5).sqrt()
            x = (x * scale.view(1, -1, 1, 1, 1) + shift.view(1, -1, 1, 1, 1)).clamp(min=0)
        return x

    skips = []
    for block in DOWN[:-1]:
        skips.append(units(x, block))
        x = F.max_pool3d(skips[-1], 2)
    x = units(x, DOWN[-1])
    for block in UP:
        up = F.conv_transpose3d(x, state[f"{block}.up_conv.weight"], state[f"{block}.up_conv.bias"], stride=2)
        x = units(torch.cat((up, skips.pop()), dim=1), block)
    return F.conv3d(x, state["out_tr.final_conv.weight"], state["out_tr.final_conv.bias"])


@pytest.fixture(scope="module")
def original() -> GenesisUNet3D:
    with torch.device("meta"):  # counts and names need no storage
        return GenesisUNet3D(batch_statistics="always")


def test_each_block_has_the_published_number_of_parameters(original: GenesisUNet3D) -> None:
    counts = {name: sum(p.numel() for p in block.parameters()) for name, block in original.named_children()}
    assert counts == PARAMETERS


def test_whole_network_has_the_published_number_of_parameters(original: GenesisUNet3D) -> None:
    assert sum(p.numel() for p in original.parameters()) == 19_073_665
    assert len(list(original.parameters())) == 64


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [2, 64])
def test_state_dict_has_the_106_published_keys_at_any_width(mode: str, width: int) -> None:
    with torch.device("meta"):
        keys = list(GenesisUNet3D(width=width, batch_statistics=mode).state_dict())
    assert len(keys) == 106
    assert set(keys) == published_keys()


def test_width_scales_every_channel_count_in_proportion(original: GenesisUNet3D) -> None:
    narrow = small(width=8).state_dict()
    for name, full in original.state_dict().items():
        expected = [side // 8 if side >= 32 else side for side in full.shape]  # kernel sides and C = 1 stay
        assert list(narrow[name].shape) == expected, name


def test_in_and_out_channels_change_only_the_first_and_last_convolution(original: GenesisUNet3D) -> None:
    with torch.device("meta"):
        state = GenesisUNet3D(in_channels=3, out_channels=5, batch_statistics="always").state_dict()
    changed = {name for name, value in original.state_dict().items() if value.shape != state[name].shape}
    assert changed == {"down_tr64.ops.0.conv1.weight", "out_tr.final_conv.weight", "out_tr.final_conv.bias"}
    assert state["down_tr64.ops.0.conv1.weight"].shape == (32, 3, 3, 3, 3)
    assert state["out_tr.final_conv.weight"].shape == (5, 64, 1, 1, 1)


@pytest.mark.parametrize("size", [(16, 16, 8), (8, 24, 32)])
def test_logits_have_the_spatial_size_of_the_image(size: tuple[int, int, int]) -> None:
    network = small(in_channels=2, out_channels=3)
    assert network(image(channels=2, size=size)).shape == (2, 3, *size)


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_equals_the_network_computed_layer_by_layer(mode: str) -> None:
    network = small(mode, out_channels=2).double()
    x = image().double()
    network(x)  # move the running statistics away from 0 and 1
    state = copy.deepcopy(network.state_dict())
    expected = reference(state, x, batch_statistics=mode == "always")
    torch.testing.assert_close(network.eval()(x), expected)


def test_output_is_logits_without_sigmoid() -> None:
    network = small()
    with torch.no_grad():
        network.out_tr.final_conv.weight.zero_()
        network.out_tr.final_conv.bias.fill_(-3.0)
    assert torch.equal(network(image()), torch.full((2, 1, 16, 16, 8), -3.0))


@pytest.mark.parametrize(
    ("up", "down"), [("up_tr256", "down_tr256"), ("up_tr128", "down_tr128"), ("up_tr64", "down_tr64")]
)
def test_decoder_joins_the_upsampled_features_first_and_the_unpooled_skip_second(up: str, down: str) -> None:
    network = small()
    seen: State = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: seen.update({name: output})

    block = network.get_submodule(up)
    block.up_conv.register_forward_hook(keep("upsampled"))
    network.get_submodule(down).register_forward_hook(keep("skip"))
    block.ops.register_forward_pre_hook(lambda _module, inputs: seen.update({"joined": inputs[0]}))
    network(image())

    channels = seen["upsampled"].shape[1]
    assert channels == 2 * seen["skip"].shape[1]
    assert torch.equal(seen["joined"][:, :channels], seen["upsampled"])
    assert torch.equal(seen["joined"][:, channels:], seen["skip"])


def test_both_modes_give_the_same_output_and_statistics_in_training() -> None:
    always, standard = small("always"), small("standard")
    standard.load_state_dict(always.state_dict())
    x = image()
    assert torch.equal(always(x), standard(x))
    assert equal(running(always), running(standard))


def test_the_modes_differ_in_evaluation() -> None:
    always, standard = small("always").eval(), small("standard").eval()
    standard.load_state_dict(always.state_dict())
    x = image()
    assert not torch.allclose(always(x), standard(x), atol=1e-3)


def test_always_mode_computes_the_same_function_in_training_and_evaluation() -> None:
    network, x = small("always"), image()
    assert torch.equal(network.train()(x), network.eval()(x))


def test_always_mode_updates_every_running_statistic_in_evaluation() -> None:
    network = small("always").eval()
    before = running(network)
    with torch.no_grad():
        network(image())
    after = running(network)
    assert len(before) == 42
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_standard_mode_leaves_running_statistics_alone_in_evaluation() -> None:
    network = small("standard").eval()
    before = running(network)
    network(image())
    assert equal(running(network), before)


def test_standard_mode_updates_running_statistics_in_training() -> None:
    network = small("standard")
    before = running(network)
    network(image())
    assert not equal(running(network), before)


def test_untracked_running_statistics_stay_and_the_output_does_not_change() -> None:
    network, x = small("always"), image()
    tracked = network(x)
    before = running(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.track_running_stats = False
    assert torch.equal(network(x), tracked)
    assert equal(running(network), before)


def test_recomputed_running_statistics_are_the_plain_average_over_batches_in_both_modes() -> None:
    always, standard = small("always"), small("standard")
    standard.load_state_dict(always.state_dict())
    batches = [image() for _ in range(3)]
    update_bn(batches, always)
    update_bn(batches, standard)
    assert equal(running(always), running(standard))


@pytest.mark.parametrize(("source", "target"), [("always", "standard"), ("standard", "always"), ("always", "always")])
def test_checkpoint_loads_strictly_once_module_is_stripped(source: str, target: str) -> None:
    trained = small(source)
    trained(image())
    checkpoint = {f"module.{name}": value for name, value in trained.state_dict().items()}
    loaded = small(target)
    loaded.load_state_dict({name.removeprefix("module."): value for name, value in checkpoint.items()}, strict=True)
    assert equal(dict(loaded.state_dict()), dict(trained.state_dict()))


def test_dropout_changes_no_key() -> None:
    assert list(small(dropout=0.3).state_dict()) == list(small().state_dict())


def test_dropout_makes_training_passes_differ() -> None:
    network, x = small(dropout=0.5), image()
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("mode", MODES)
def test_dropout_is_off_in_evaluation(mode: str) -> None:
    network = small(mode, dropout=0.5).eval()
    without = small(mode).eval()
    without.load_state_dict(network.state_dict())
    x = image()
    assert torch.equal(network(x), without(x))


def test_dropout_zeroes_whole_channels_before_each_up_convolution_only() -> None:
    network = small(dropout=0.5)
    entering: list[Tensor] = []
    for name in UP:
        network.get_submodule(f"{name}.up_conv").register_forward_pre_hook(
            lambda _m, inputs: entering.append(inputs[0])
        )
    network(image(8))
    for x in entering:
        dead = (x == 0).flatten(2).all(-1).float().mean()
        assert 0.25 < dead < 0.75
    assert sum(isinstance(module, nn.Dropout3d) for module in network.modules()) == len(UP) == len(entering)


def test_no_dropout_makes_training_passes_repeat() -> None:
    network, x = small(dropout=0), image()
    assert torch.equal(network(x), network(x))


def test_every_parameter_receives_a_gradient() -> None:
    network = small()
    network(image()).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_a_pickled_network_computes_the_same() -> None:
    network, x = small("always").eval(), image()
    again = pickle.loads(pickle.dumps(network))
    assert torch.equal(network(x), again(x))


@pytest.mark.parametrize("mode", MODES)
def test_the_graph_compiles_without_a_break(mode: str) -> None:
    network, x = small(mode, dropout=0.1).eval(), image()
    before = running(network)
    compiled = torch.compile(copy.deepcopy(network), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x))
    assert equal(running(network), before) == (mode == "standard")


def test_batch_statistics_has_no_default() -> None:
    with pytest.raises(TypeError, match="batch_statistics"):
        GenesisUNet3D()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels is 0; expected a positive integer: give the number of channels"),
        ({"out_channels": 2.0}, "out_channels is 2.0; expected a positive integer: give the number of channels"),
        ({"in_channels": True}, "in_channels is True; expected a positive integer"),
        ({"width": 7}, "width is 7; expected a positive multiple of 2"),
        ({"width": 0}, "width is 0; expected a positive multiple of 2"),
        ({"width": "64"}, "width is '64'; expected a positive multiple of 2"),
        ({"dropout": 1.0}, "dropout is 1.0; expected a probability, 0 <= dropout < 1: use 0.0 for none"),
        ({"dropout": -0.1}, "dropout is -0.1; expected a probability"),
        ({"dropout": float("nan")}, "dropout is nan; expected a probability"),
        ({"dropout": "0.2"}, "dropout is '0.2'; expected a probability"),
        ({"batch_statistics": "eval"}, "batch_statistics is 'eval'; expected 'always'"),
        ({"batch_statistics": None}, "batch_statistics is None; expected 'always'"),
        ({"batch_statistics": ["always"]}, "batch_statistics is ['always']; expected 'always'"),
    ],
)
def test_a_bad_option_is_refused_with_what_came_and_what_was_expected(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        small(**options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 16, 16, 8), "the input has 4 dimensions, shape (1, 16, 16, 8); GenesisUNet3D expects 5, (B, C, H, W, D)"),
        ((1, 3, 16, 16, 8), "the input has 3 channels, shape (1, 3, 16, 16, 8); this GenesisUNet3D expects 1"),
        (
            (1, 1, 30, 16, 9),
            "spatial size (30, 16, 9); GenesisUNet3D expects positive multiples of 8: pad it to (32, 16, 16)",
        ),
        (
            (1, 1, 16, 0, 8),
            "spatial size (16, 0, 8); GenesisUNet3D expects positive multiples of 8: pad it to (16, 8, 8)",
        ),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_a_bad_input_is_refused_with_what_to_do(mode: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        small(mode).eval()(torch.zeros(shape))


@pytest.mark.parametrize(("mode", "training"), [("always", False), ("always", True), ("standard", True)])
def test_batch_statistics_of_a_single_bottleneck_voxel_are_refused(mode: str, training: bool) -> None:
    network = small(mode).train(training)
    with pytest.raises(OptionError, match=r"one voxel is left at the bottleneck.*larger patch or a larger batch"):
        network(image(1, size=(8, 8, 8)))
    assert network(image(2, size=(8, 8, 8))).shape == (2, 1, 8, 8, 8)


def test_running_statistics_take_a_single_bottleneck_voxel() -> None:
    assert small("standard").eval()(image(1, size=(8, 8, 8))).shape == (1, 1, 8, 8, 8)
