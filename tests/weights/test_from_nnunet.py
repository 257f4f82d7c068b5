"""A U-Net of nnU-Net becomes a DynUNet that is the same function, with axes x, y, z."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import DynUNet
from torch import Tensor
from torch.nn import functional as F

from metalr_monai.errors import WeightsError
from metalr_monai.weights.from_nnunet import convert_nnunet

KERNELS, STRIDES, WIDTHS = [[1, 3, 3], [3, 3, 3], [3, 3, 5]], [[1, 1, 1], [1, 2, 2], [2, 1, 2]], [3, 4, 5]
LABELS = {"background": 0, "liver": 1, "tumour": 2}


def architecture(**changes: object) -> dict[str, Any]:
    return {
        "n_stages": 3,
        "features_per_stage": WIDTHS,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": KERNELS,
        "strides": STRIDES,
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
        **changes,
    }


def checkpoint(
    *,
    arch_kwargs: dict[str, Any] | None = None,
    network: str = "PlainConvUNet",
    configuration: dict[str, Any] | None = None,
    plans: dict[str, Any] | None = None,
    dataset: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What nnU-Net 2.8 saves, as far as it matters; the configuration inherits from another."""
    planned = {
        "patch_size": [16, 20, 24],
        "spacing": [3.0, 0.7, 0.8],
        "normalization_schemes": ["CTNormalization"],
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
            "arch_kwargs": architecture() if arch_kwargs is None else arch_kwargs,
        },
        **(configuration or {}),
    }
    intensities = {"mean": 100.0, "std": 40.0, "percentile_00_5": -20.0, "percentile_99_5": 200.0}
    return {
        "network_weights": nnunet_tensors(),
        "inference_allowed_mirroring_axes": (0, 2),
        "init_args": {
            "configuration": "3d_fullres_small",
            "plans": {
                "transpose_forward": [0, 1, 2],
                "image_reader_writer": "SimpleITKIO",
                "configurations": {"3d_fullres": planned, "3d_fullres_small": {"inherits_from": "3d_fullres"}},
                "foreground_intensity_properties_per_channel": {"0": intensities},
                **(plans or {}),
            },
            "dataset_json": {"channel_names": {"0": "CT"}, "labels": LABELS, **(dataset or {})},
            "device": torch.device("cpu"),
        },
    }


def nnunet_tensors() -> dict[str, Tensor]:
    """Random tensors under nnU-Net's names, most of them under one of its two."""
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}

    def add(name: str, *shape: int, bias: int) -> None:
        tensors[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.4
        tensors[f"{name}.bias"] = torch.randn(bias, generator=generator)

    def add_stage(name: str, channels: int, width: int, kernel: list[int]) -> None:
        for i, incoming in enumerate((channels, width)):
            add(f"{name}.convs.{i}.conv", width, incoming, *kernel, bias=width)
            add(f"{name}.convs.{i}.norm", width, bias=width)

    for i, channels in enumerate([1, *WIDTHS[:-1]]):
        add_stage(f"encoder.stages.{i}.0", channels, WIDTHS[i], KERNELS[i])
    for i, below in enumerate((2, 1)):
        width = WIDTHS[below - 1]
        add(f"decoder.transpconvs.{i}", WIDTHS[below], width, *STRIDES[below], bias=width)
        add_stage(f"decoder.stages.{i}", 2 * width, width, KERNELS[below - 1])
        add(f"decoder.seg_layers.{i}", 3, width, 1, 1, 1, bias=3)
    shared = {f"decoder.{name}": tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    return {**tensors, **shared}


def nnunet_forward(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network in plain operations, every bias in it; (1, 1, D, H, W) → (1, 3, D, H, W)."""

    def stage(name: str, x: Tensor, stride: list[int]) -> Tensor:
        for i, step in enumerate((stride, [1, 1, 1])):
            weight, bias = (tensors[f"{name}.convs.{i}.conv.{kind}"] for kind in ("weight", "bias"))
            x = F.conv3d(x, weight, bias, step, [(k - 1) // 2 for k in weight.shape[2:]])
            gain, shift = (tensors[f"{name}.convs.{i}.norm.{kind}"] for kind in ("weight", "bias"))
            x = F.leaky_relu(F.instance_norm(x, weight=gain, bias=shift, eps=1e-5), 0.01)
        return x

    skips = []
    for i, stride in enumerate(STRIDES):
        x = stage(f"encoder.stages.{i}.0", x, stride)
        skips.append(x)
    for i, stride in enumerate(STRIDES[:0:-1]):
        weight, bias = (tensors[f"decoder.transpconvs.{i}.{kind}"] for kind in ("weight", "bias"))
        x = torch.cat([F.conv_transpose3d(x, weight, bias, stride), skips[-2 - i]], dim=1)
        x = stage(f"decoder.stages.{i}", x, [1, 1, 1])
    return F.conv3d(x, tensors["decoder.seg_layers.1.weight"], tensors["decoder.seg_layers.1.bias"])


def saved(folder: Path, **changes: Any) -> Path:  # noqa: ANN401 - those of checkpoint
    file = folder / "checkpoint_final.pth"
    torch.save(checkpoint(**changes), file)
    return file


@pytest.mark.parametrize("transpose", [[0, 1, 2], [1, 0, 2], [2, 0, 1], [1, 2, 0]])
def test_it_is_the_same_function_with_its_axes_turned(tmp_path: Path, transpose: list[int]) -> None:
    settings = convert_nnunet(
        saved(tmp_path, plans={"transpose_forward": transpose}), tmp_path / "dynunet.pt", trust_pickle=True
    )
    network = DynUNet(**settings["network_options"]).eval()
    network.load_state_dict(torch.load(tmp_path / "dynunet.pt", weights_only=True))

    volume = torch.randn(8, 16, 12, generator=torch.Generator().manual_seed(0))  # x, y, z
    as_read = volume.permute(2, 1, 0)  # z, y, x
    with torch.no_grad():
        expected = nnunet_forward(nnunet_tensors(), as_read.permute(transpose)[None, None])[0]
        found = network(volume[None, None])[0]
    back = [transpose.index(axis) for axis in range(3)]
    expected = expected.permute(0, *(1 + axis for axis in back)).permute(0, 3, 2, 1)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_settings_say_what_goes_in_and_comes_out(tmp_path: Path) -> None:
    settings = convert_nnunet(saved(tmp_path), tmp_path / "out" / "dynunet.pt", trust_pickle=True)
    assert json.loads((tmp_path / "out" / "dynunet.json").read_text(encoding="utf-8")) == settings
    assert settings["network"] == "dynunet"
    assert settings["network_options"]["kernel_size"] == [[3, 3, 1], [3, 3, 3], [5, 3, 3]]
    assert (settings["spacing"], settings["patch_size"]) == ([0.8, 0.7, 3.0], [24, 20, 16])
    assert (settings["hu_window"], settings["value_range"]) == ([-20.0, 200.0], [-3.0, 2.5])
    assert (settings["channels"], settings["activation"]) == (["background", "liver", "tumour"], "softmax")
    assert (settings["regions"], settings["output_values"]) == ({"liver": [1], "tumour": [2]}, [1, 2])
    assert (settings["mirror_axes"], settings["axcodes"]) == ([0, 2], None)
    assert settings["notes"] == [
        "10 biases of convolutions in front of an instance norm, which subtracts them",
        "2 tensors of segmentation layers at lower resolutions (deep supervision)",
        "4 kernels of the decoder stand in larger ones of DynUNet, with zeros around them",
    ]


def test_spacing_is_turned_by_nnunets_transposition_too(tmp_path: Path) -> None:
    plans = {"transpose_forward": [1, 0, 2], "image_reader_writer": "NibabelIOWithReorient"}
    settings = convert_nnunet(saved(tmp_path, plans=plans), tmp_path / "dynunet.pt", trust_pickle=True)
    assert (settings["spacing"], settings["patch_size"]) == ([0.8, 3.0, 0.7], [24, 16, 20])
    assert (settings["mirror_axes"], settings["axcodes"]) == ([0, 1], "RAS")


def test_regions_keep_nnunets_order(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "tumour": [2, 3], "core": [3], "ignore": 4}
    dataset = {"labels": labels, "regions_class_order": [1, 2, 3]}
    settings = convert_nnunet(saved(tmp_path, dataset=dataset), tmp_path / "dynunet.pt", trust_pickle=True)
    assert (settings["channels"], settings["activation"]) == (["whole", "tumour", "core"], "sigmoid")
    assert settings["regions"] == {"whole": [1, 2, 3], "tumour": [2, 3], "core": [3]}
    assert settings["output_values"] == [1, 2, 3]


def test_nothing_is_read_without_trust(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"checkpoint_final\.pth was not read: .* can run any code"):
        convert_nnunet(saved(tmp_path), tmp_path / "dynunet.pt")
    assert not (tmp_path / "dynunet.pt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "ResidualEncoderUNet"}, "the network is ResidualEncoderUNet, of another topology"),
        ({"dataset": {"channel_names": {"0": "CT", "1": "PET"}}}, r"it has 2 channels \(CT, PET\), not one"),
        ({"arch_kwargs": architecture(conv_op="torch.nn.modules.conv.Conv2d")}, "conv_op is .*Conv2d, not .*Conv3d"),
        ({"arch_kwargs": architecture(n_conv_per_stage=[2, 2, 3])}, r"n_conv_per_stage is \[2, 2, 3\], not 2"),
        ({"arch_kwargs": architecture(nonlin_first=True)}, "nonlin_first is True"),
        ({"arch_kwargs": architecture(strides=[[1, 1, 1], [1, 3, 3], [2, 2, 2]])}, "is padded otherwise"),
        ({"arch_kwargs": architecture(kernel_sizes=[[3, 3, 3], [1, 3, 3], [3, 3, 3]])}, "larger than .* lower"),
        ({"configuration": {"normalization_schemes": ["ZScoreNormalization"]}}, "not CTNormalization"),
        ({"configuration": {"previous_stage": "3d_lowres"}}, "second stage of a cascade"),
        ({"configuration": {"architecture": {}}}, "before 2.4"),
    ],
)
def test_what_dynunet_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        convert_nnunet(saved(tmp_path, **changes), tmp_path / "dynunet.pt", trust_pickle=True)
    assert not (tmp_path / "dynunet.pt").exists()


def test_weights_of_another_training_than_the_plans_are_refused(tmp_path: Path) -> None:
    wide = architecture(features_per_stage=[3, 4, 6])
    with pytest.raises(WeightsError, match="Weights and plans are not of one training"):
        convert_nnunet(saved(tmp_path, arch_kwargs=wide), tmp_path / "dynunet.pt", trust_pickle=True)


def test_a_folder_of_one_fold_is_enough(tmp_path: Path) -> None:
    fold = tmp_path / "fold_0"
    fold.mkdir()
    saved(fold)
    convert_nnunet(tmp_path, tmp_path / "dynunet.pt", trust_pickle=True)
    (tmp_path / "fold_1").mkdir()
    saved(tmp_path / "fold_1")
    with pytest.raises(WeightsError, match=r"holds 2: fold_0/.*, fold_1/.*; expected one checkpoint_final\.pth"):
        convert_nnunet(tmp_path, tmp_path / "dynunet.pt", trust_pickle=True)


def test_other_files_are_refused_in_words(tmp_path: Path) -> None:
    other, broken = tmp_path / "other.pth", tmp_path / "broken.pth"
    torch.save({"state_dict": nnunet_tensors()}, other)
    broken.write_bytes(b"no checkpoint")
    for file, message in (
        (other, "is no checkpoint of nnU-Net 2: it has no 'init_args'"),
        (broken, r"broken\.pth cannot be read"),
        (tmp_path / "none.pth", r"There is no file .*none\.pth"),
        (tmp_path, r"holds none; expected one checkpoint_final\.pth"),
    ):
        with pytest.raises(WeightsError, match=message):
            convert_nnunet(file, tmp_path / "dynunet.pt", trust_pickle=True)
