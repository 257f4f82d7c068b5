"""A classification network that learns to restore pictures, and stays what it is."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import resnet18
from torch import nn

from metalr_monai import EfficientNetLite0, PictureRestorer, RestorationLoss
from metalr_monai.errors import OptionError


def small_resnet(stride: int = 2, **options: object) -> nn.Module:
    network: nn.Module = resnet18(
        spatial_dims=2, n_input_channels=1, num_classes=3, conv1_t_stride=stride, widen_factor=0.125, **options
    )
    return network


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("no_max_pool", [False, True])
def test_a_resnet_restores_pictures_of_their_size(stride: int, no_max_pool: bool) -> None:
    restorer = PictureRestorer(small_resnet(stride, no_max_pool=no_max_pool), width=4)
    assert restorer(torch.rand(2, 1, 96, 64)).shape == (2, 1, 96, 64)


def test_an_efficientnet_restores_colour_pictures() -> None:
    restorer = PictureRestorer(EfficientNetLite0(in_channels=3, num_classes=2, width=8), channels=3, width=4)
    assert restorer(torch.rand(2, 3, 64, 64)).shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("encoder", "channels", "head"),
    [(small_resnet(), 1, "encoder.fc."), (EfficientNetLite0(in_channels=1, num_classes=2, width=8), 1, "encoder._fc.")],
)
def test_all_but_the_classifier_is_trained(encoder: nn.Module, channels: int, head: str) -> None:
    restorer = PictureRestorer(encoder, channels, width=4)
    for _ in range(5):  # EfficientNet leaves branches out at random
        images = torch.rand(4, channels, 64, 64)
        RestorationLoss()(restorer(images), images).backward()
    idle = {name for name, p in restorer.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle == {f"{head}weight", f"{head}bias"}
    assert not any(p.requires_grad for name, p in restorer.named_parameters() if name in idle)


def test_the_encoder_keeps_its_names_and_its_state() -> None:
    encoder = small_resnet()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    restorer = PictureRestorer(encoder)
    assert restorer.encoder is encoder
    assert encoder.training
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


def test_the_encoder_sees_normalised_pictures() -> None:
    encoder, images = small_resnet().eval(), torch.rand(2, 1, 64, 64)
    plain = PictureRestorer(encoder, width=4).eval()
    normalising = PictureRestorer(encoder, mean=0.2, std=0.5, width=4).eval()
    normalising.load_state_dict(plain.state_dict())
    assert torch.equal(normalising(images), plain((images - 0.2) / 0.5))
    assert not torch.equal(normalising(images), plain(images))


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(OptionError, match=r"encoder is a Linear; expected MONAI's ResNet or EfficientNet"):
        PictureRestorer(nn.Linear(2, 2))
    with pytest.raises(OptionError, match=r"pictures have 48×64 pixels; expected multiples of 32"):
        PictureRestorer(small_resnet())(torch.rand(2, 1, 48, 64))


def test_it_learns() -> None:
    torch.manual_seed(0)
    restorer, images = PictureRestorer(small_resnet(), width=4), torch.zeros(4, 1, 64, 64)
    images[:2, :, 16:48, :32], images[2:, :, :, 40:] = 1, 1
    optimizer = torch.optim.Adam(restorer.parameters(), 0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(RestorationLoss()(restorer(images), images))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
