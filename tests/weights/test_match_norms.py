import math

import pytest
import torch
from monai.networks.nets import DynUNet
from torch import nn

from metalr_monai import EfficientNetLite0, GenesisUNet3D, genesis_small_file, load_weights, resnet18
from metalr_monai.errors import OptionError, WeightsError
from metalr_monai.weights.match_norms import match_norms, normalized_layers, weight_norms

NETWORKS = {
    "genesis": (lambda: GenesisUNet3D(width=4, batch_statistics="always"), (2, 1, 16, 16, 16), 14),
    "genesis, running": (lambda: GenesisUNet3D(width=4, batch_statistics="standard"), (2, 1, 16, 16, 16), 14),
    "resnet18": (
        lambda: resnet18(spatial_dims=2, n_input_channels=1, num_classes=3, conv1_t_stride=2, bias_downsample=False),
        (2, 1, 64, 64),
        20,
    ),
    "efficientnet": (lambda: EfficientNetLite0(num_classes=3), (2, 3, 64, 64), 49),
    "dynunet": (
        lambda: DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], [4, 8, 16], norm_name=("INSTANCE", {"affine": True})),
        (2, 1, 32, 32),
        10,
    ),
}


def built(name, seed=0):
    """A network in float64 whose norms have next to no epsilon, which is the one thing that is not scaled."""
    torch.manual_seed(seed)
    network = NETWORKS[name][0]().double()
    for module in network.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-16
    return network


def grown(name):
    """The same network with other weights, larger norms, and running statistics of its own."""
    network = built(name, seed=1)
    with torch.no_grad():
        for i, parameter in enumerate(network.parameters()):
            parameter.mul_(1 + i % 5)
    network.train()
    network(torch.randn(NETWORKS[name][1], dtype=torch.float64))
    return network


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_network_computes_what_the_file_does(name, mode):
    source, network, shape = grown(name), built(name), NETWORKS[name][1]
    load_weights(network, source.state_dict(), match_norms_for=shape)
    x = torch.randn(shape, dtype=torch.float64)
    torch.manual_seed(2)
    expected = getattr(source, mode)()(x)
    torch.manual_seed(2)
    torch.testing.assert_close(getattr(network, mode)()(x), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_layer_in_front_of_a_norm_has_the_norm_that_it_was_built_with_and_no_other_was_touched(name):
    source, network, (_, shape, count) = grown(name), built(name), NETWORKS[name]
    own = {layer: module.weight.norm().item() for layer, module in network.named_modules() if is_layer(module)}
    report = load_weights(network, source.state_dict(), match_norms_for=shape)
    assert len(report.rescaled) == count
    assert len({round(factor, 3) for factor in report.rescaled.values()}) > 1
    for layer, norm in own.items():
        now, file = network.get_submodule(layer).weight, source.get_submodule(layer).weight
        if layer in report.rescaled:
            assert now.norm().item() == pytest.approx(norm)
            torch.testing.assert_close(now, file * report.rescaled[layer])
        else:
            assert torch.equal(now, file)


def is_layer(module):
    return isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d))


@pytest.mark.parametrize("power, optimizer", [(2, torch.optim.SGD), (1, torch.optim.Adam)])
def test_a_step_turns_the_weight_as_far_as_if_its_norm_had_never_grown(power, optimizer):
    """The claim in the module's docstring: turned by 1/c² (SGD), 1/c (Adam), of what the small weight is turned."""
    turned = {}
    for factor in (1.0, 8.0):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv1d(3, 4, 3, bias=False), nn.BatchNorm1d(4, eps=1e-16), nn.Tanh()).double()
        with torch.no_grad():
            network[0].weight.mul_(factor)
        before = network[0].weight.detach().clone()
        step = optimizer([network[0].weight], lr=1e-6)
        network(torch.randn(5, 3, 9, dtype=torch.float64)).square().sum().backward()
        step.step()
        turned[factor] = ((network[0].weight - before).norm() / before.norm()).item()
    assert turned[1.0] / turned[8.0] == pytest.approx(8**power, rel=1e-3)


def test_the_norms_of_the_file_stay_unless_asked():
    source, network = grown("genesis"), built("genesis")
    report = load_weights(network, source.state_dict())
    assert report.rescaled == {} and report.to_dict()["rescaled"] == {}
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), source.parameters(), strict=True))


def test_the_report_tells_the_factors():
    network = GenesisUNet3D(width=8, batch_statistics="always")
    report = load_weights(network, genesis_small_file(), match_norms_for=(1, 1, 32, 32, 16))
    assert "norms matched: 14 layers in front of a normalisation, × 0." in str(report)
    assert report.to_dict()["rescaled"] == report.rescaled
    assert "norms matched" not in str(load_weights(network, genesis_small_file()))


def test_finding_the_layers_leaves_no_trace():
    network = grown("genesis, running").train()
    network.up_tr256.dropout.p = 0.5
    network.down_tr64.eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    random = torch.get_rng_state()
    layers = normalized_layers(network, (1, 1, 16, 16, 16))
    assert layers["down_tr64.ops.0.conv1"] == "down_tr64.ops.0.bn1" and "up_tr256.up_conv" not in layers
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


class PreActivation(nn.Module):
    """The convolution's output goes into the norm, and past it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return x + self.norm(x)


def test_a_network_that_uses_such_an_output_elsewhere_is_refused_and_keeps_the_weights_of_the_file():
    torch.manual_seed(0)
    network, source = PreActivation(), PreActivation()
    nn.init.normal_(source.conv.weight)
    with pytest.raises(WeightsError, match=r"match_norms would change what PreActivation computes, by \d+%"):
        load_weights(network, source.state_dict(), match_norms_for=(2, 1, 8, 8))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), source.parameters(), strict=True))


class InAList(PreActivation):
    """As networks under deep supervision, which return several outputs."""

    def forward(self, x):
        return {"all": [super().forward(x)]}


class Silent(PreActivation):
    """Its head is built as 0."""

    def forward(self, x):
        return 0 * super().forward(x)


@pytest.mark.parametrize("kind, told", [(InAList, "would change what InAList computes"), (Silent, "nothing but 0")])
def test_a_difference_is_seen_in_any_output_or_the_network_refused(kind, told):
    torch.manual_seed(0)
    network, source = kind(), kind()
    nn.init.normal_(source.conv.weight)
    with pytest.raises(WeightsError, match=told):
        load_weights(network, source.state_dict(), match_norms_for=(2, 1, 8, 8))


def test_a_layer_that_was_built_as_0_keeps_the_norm_of_the_file():
    network, source = (nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)) for _ in range(2))
    nn.init.zeros_(network[0].weight)
    assert load_weights(network, source.state_dict(), match_norms_for=(2, 1, 4, 4)).rescaled == {}
    assert torch.equal(network[0].weight, source[0].weight)


@pytest.mark.parametrize("shape", ["auto", [], [2, 1, 0.5], 7])
def test_what_is_no_shape_is_refused(shape):
    with pytest.raises(OptionError, match=r"match_norms_for is .*; expected an input's shape"):
        load_weights(nn.Sequential(nn.Conv2d(1, 2, 1)), {}, match_norms_for=shape)


class Shared(nn.Module):
    """One convolution before two norms, one norm behind two convolutions, and a pair of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.one, self.other, self.norm = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.last, self.last_norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x):
        x = self.first(self.conv(x)) + self.second(self.conv(x))
        x = self.norm(self.one(x)) + self.norm(self.other(x))
        return self.last_norm(self.last(x))


def test_a_layer_or_norm_that_is_used_twice_is_left_out():
    assert normalized_layers(Shared(), (1, 1, 8, 8)) == {"last": "last_norm"}


def test_a_layer_of_zeros_stays_so():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    layers = normalized_layers(network, (1, 1, 4, 4))
    norms = weight_norms(network, layers)
    nn.init.zeros_(network[2].weight)
    assert match_norms(network, layers, norms, (1, 1, 4, 4)).keys() == {"0"}
    assert not network[2].weight.any() and math.isfinite(network(torch.ones(1, 1, 4, 4)).sum().item())
