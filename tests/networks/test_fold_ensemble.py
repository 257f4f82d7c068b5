"""The ensemble of folds and mirror images, compared with the literal loop."""

from __future__ import annotations

import itertools

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from metalr_monai.errors import OptionError
from metalr_monai.networks.fold_ensemble import FoldEnsemble
from metalr_monai.networks.genesis_unet3d import GenesisUNet3D


def folds(count: int, batch_statistics: str = "standard") -> list[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [GenesisUNet3D(out_channels=2, width=4, batch_statistics=batch_statistics).eval() for _ in range(count)]


def image(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def literal(networks: list[nn.Module], x: Tensor, mirror_axes: tuple[int, ...]) -> Tensor:
    outputs = []
    for network in networks:
        for mirrored in itertools.product((False, True), repeat=len(mirror_axes)):
            dims = [axis + 2 for axis, is_mirrored in zip(mirror_axes, mirrored, strict=True) if is_mirrored]
            outputs.append(torch.flip(network(torch.flip(x, dims)), dims))
    return torch.stack(outputs).mean(dim=0)


@torch.inference_mode()
@pytest.mark.parametrize("batch_statistics", ["standard", "always"])
@pytest.mark.parametrize("mirror_axes", [(), (0,), (2,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("count", [1, 3])
def test_it_is_the_mean_of_the_logits_over_networks_and_mirror_images(count, mirror_axes, batch_statistics):
    networks, x = folds(count, batch_statistics), image(1, 1, 16, 24, 8)
    before = x.clone()
    found = FoldEnsemble(networks, mirror_axes)(x)
    assert found.shape == (1, 2, 16, 24, 8)
    assert torch.allclose(found, literal(networks, x, mirror_axes), atol=1e-6)
    assert torch.equal(x, before)


@torch.inference_mode()
def test_each_mirror_axis_and_each_network_changes_the_result():
    networks, x = folds(2), image(1, 1, 16, 24, 8)
    results = [FoldEnsemble(networks, axes)(x) for axes in [(), (0,), (1,), (2,)]] + [FoldEnsemble(networks[:1])(x)]
    assert all(not torch.allclose(one, other) for one, other in itertools.combinations(results, 2))


@torch.inference_mode()
def test_a_sliding_window_over_the_ensemble_is_the_mean_of_sliding_windows():
    networks, x = folds(2), image(1, 1, 24, 20, 16)
    slide = SlidingWindowInferer((16, 16, 8), overlap=0.5, mode="gaussian")
    assert torch.allclose(
        slide(x, FoldEnsemble(networks)), torch.stack([slide(x, network) for network in networks]).mean(0), atol=1e-6
    )


@torch.inference_mode()
def test_logits_of_bfloat16_are_summed_in_float32():
    networks, x = folds(3), image(1, 1, 16, 16, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = FoldEnsemble(networks, (0,))(x)
        singles = [FoldEnsemble([network], (0,))(x) for network in networks]
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.stack(singles).mean(0), atol=1e-6)


@torch.inference_mode()
def test_images_in_the_plane_are_mirrored_too():
    network, x = nn.Conv2d(3, 2, 3, padding=1), image(2, 3, 8, 9)
    assert torch.allclose(FoldEnsemble([network], (0, 1))(x), literal([network], x, (0, 1)), atol=1e-6)


@torch.inference_mode()
def test_a_network_that_returns_its_input_does_not_have_it_written_over():
    x = image(1, 1, 4, 4, 4)
    before = x.clone()
    assert torch.allclose(FoldEnsemble([nn.Identity(), nn.Identity()], (0,))(x), before)
    assert torch.equal(x, before)


def test_its_state_is_that_of_its_networks_by_their_places():
    networks = folds(2)
    state = FoldEnsemble(networks).state_dict()
    assert set(state) == {f"networks.{i}.{key}" for i in range(2) for key in networks[i].state_dict()}


@pytest.mark.parametrize(
    ("networks", "mirror_axes", "message"),
    [
        ([], (), "networks is empty"),
        ([nn.Identity()], (3,), r"mirror_axes is \[3\]"),
        ([nn.Identity()], (0, 0), r"mirror_axes is \[0, 0\]"),
        ([nn.Identity()], (-1,), r"mirror_axes is \[-1\]"),
    ],
)
def test_what_cannot_be_averaged_is_refused(networks, mirror_axes, message):
    with pytest.raises(OptionError, match=message):
        FoldEnsemble(networks, mirror_axes)
