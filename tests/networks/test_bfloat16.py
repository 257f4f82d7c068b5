"""Bfloat16Inferer against the inferer that it wraps."""

import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer

from metalr_monai import Bfloat16Inferer, GenesisUNet3D


def _seen_types(network, inferer, inputs):
    """The types that come out of the convolutions."""
    seen = set()
    hooks = [
        layer.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
        for layer in network.modules()
        if isinstance(layer, torch.nn.Conv3d)
    ]
    found = inferer(inputs, network)
    for hook in hooks:
        hook.remove()
    return seen, found


def test_convolutions_run_in_bfloat16_and_the_answer_is_float32_near_the_exact_one():
    torch.manual_seed(0)
    network = GenesisUNet3D(1, 2, 4, batch_statistics="always")
    inputs = torch.rand(2, 1, 16, 16, 16)
    seen, found = _seen_types(network, Bfloat16Inferer(SimpleInferer(), True), inputs)
    assert seen == {torch.bfloat16} and found.dtype == torch.float32
    exact = network(inputs)
    assert not torch.equal(found, exact)
    # 8 bits of mantissa, through some 20 layers
    assert (found - exact).abs().mean() < 0.05 * exact.std()


def test_switched_off_it_is_the_inferer_itself():
    network = torch.nn.Conv3d(1, 1, 3)
    inputs = torch.rand(1, 1, 8, 8, 8)
    seen, found = _seen_types(network, Bfloat16Inferer(SimpleInferer(), False), inputs)
    assert seen == {torch.float32}
    assert torch.equal(found, network(inputs))


def test_weights_and_gradients_stay_float32():
    network = torch.nn.Conv3d(1, 1, 3)
    Bfloat16Inferer(SimpleInferer(), True)(torch.rand(1, 1, 8, 8, 8), network).sum().backward()
    assert network.weight.dtype == network.weight.grad.dtype == torch.float32


def test_sliding_windows_of_a_meta_tensor():
    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    windows = SlidingWindowInferer(roi_size=(8, 8, 8), overlap=0.5, mode="gaussian")
    image = MetaTensor(torch.rand(1, 1, 16, 8, 8))
    found = Bfloat16Inferer(windows, True)(image, network)
    assert found.shape == (1, 2, 16, 8, 8) and found.dtype == torch.float32
    torch.testing.assert_close(found.as_tensor(), windows(image, network).as_tensor(), atol=0.02, rtol=0)
