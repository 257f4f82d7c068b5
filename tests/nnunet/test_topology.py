"""The same levels, patches and spacings as the real nnU-Net plans."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("nnunetv2", reason="the environment of `make test-nnunet` has it")

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

from metalr_monai.planning.topology import largest_topology, levels, median_shape, target_spacing

LABELS = {"background": 0, "liver": 1}


def draws(count):
    """Spacings (mm) and patches, isotropic to strongly anisotropic, whichever axis is the coarse one."""
    random = np.random.default_rng(0)
    for _ in range(count):
        spacing = random.uniform(0.5, 1.5, 3)
        spacing[random.integers(3)] *= random.choice([1, 1, 2, 3, 5, 8])
        yield tuple(spacing.tolist()), tuple(random.integers(9, 320, 3).tolist())


@pytest.mark.parametrize(("spacing", "patch"), list(draws(50)))
def test_levels_are_those_of_nnunet(spacing, patch):
    pools, strides, kernels, padded, divisors = get_pool_and_conv_props(spacing, patch, 4, 999999)
    found = levels(spacing, patch)
    assert found.strides == strides
    assert found.kernel_size == kernels
    assert found.patch_size == tuple(map(int, padded))
    assert found.divisors == tuple(divisors) == tuple(2**pool for pool in pools)


def planner(spacings, shapes):
    """nnU-Net's own planner, without files; axes z, y, x."""
    made = ExperimentPlanner.__new__(ExperimentPlanner)
    defaults = {"anisotropy_threshold": 3, "UNet_base_num_features": 32, "UNet_max_features_3d": 320}
    defaults |= {"UNet_reference_val_3d": 560000000, "UNet_reference_val_corresp_GB": 8, "UNet_vram_target_GB": 8}
    defaults |= {"UNet_reference_val_corresp_bs_3d": 2, "UNet_featuremap_min_edge_length": 4, "UNet_min_batch_size": 2}
    defaults |= {"UNet_blocks_per_stage_encoder": (2,) * 14, "UNet_blocks_per_stage_decoder": (2,) * 13}
    defaults |= {"max_dataset_covered": 0.05, "overwrite_target_spacing": None, "preprocessor_name": ""}
    defaults |= {"suppress_transpose": False}
    made.__dict__.update(defaults)
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    made.UNet_class = PlainConvUNet
    made.dataset_json = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": len(spacings)}
    made.dataset_fingerprint = {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "median_relative_size_after_cropping": 1.0,
    }
    return made


def nnunet_fits(topology):
    """nnU-Net's estimate: the number of feature maps' voxels against that of its reference, 8 GB at a batch of 2."""
    convolution = {"conv_op": "torch.nn.modules.conv.Conv3d", "norm_op": "torch.nn.InstanceNorm3d"}
    stages = len(topology.strides)
    kwargs = {
        "n_stages": stages,
        "features_per_stage": tuple(min(320, 32 * 2**i) for i in range(stages)),
        "kernel_sizes": topology.kernel_size,
        "strides": topology.strides,
        "n_conv_per_stage": (2,) * stages,
        "n_conv_per_stage_decoder": (2,) * (stages - 1),
        "conv_bias": True,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
        **convolution,
    }
    network = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    needed = ("conv_op", "norm_op", "dropout_op", "nonlin")
    return ExperimentPlanner.static_estimate_VRAM_usage(topology.patch_size, 1, 2, network, kwargs, needed) <= 560000000


DATA_SETS = {  # x, y, z
    "liver": ((0.77, 0.77, 1.0), (512, 512, 432)),
    "thick slices": ((0.8, 0.8, 5.0), (512, 512, 60)),
    "coarse x": ((4.0, 0.9, 0.9), (40, 300, 300)),
    "coarse y": ((0.7, 3.5, 0.7), (400, 50, 400)),
    "small": ((2.0, 2.0, 3.0), (96, 96, 48)),
    "isotropic": ((1.0, 1.0, 1.0), (200, 200, 200)),
}


def cases(spacing, shape, count=7):
    random = np.random.default_rng(1)
    spacings = np.array(spacing) * random.uniform(0.7, 1.4, (count, 3))
    shapes = np.array(shape) * random.uniform(0.8, 1.2, (count, 3))
    return spacings, shapes.astype(int)


@pytest.mark.parametrize("name", DATA_SETS)
def test_spacing_patch_and_levels_of_a_data_set_are_what_nnunet_plans(name):
    spacings, shapes = cases(*DATA_SETS[name])
    theirs = planner(spacings[:, ::-1].tolist(), shapes[:, ::-1].tolist())
    order, _ = theirs.determine_transpose()
    full = theirs.determine_fullres_target_spacing()
    new = [compute_new_shape(shape[::-1], spacing[::-1], full) for shape, spacing in zip(shapes, spacings, strict=True)]
    median = np.median(new, 0)
    plan = theirs.get_plans_for_configuration(full[order], median[order], "3d_fullres", float(np.prod(median)), {})

    target = target_spacing(spacings, shapes)
    shape = median_shape(spacings, shapes, target)
    found = largest_topology(target, shape, nnunet_fits)

    assert target == tuple(full[::-1])
    assert shape == tuple(median[::-1])
    ours = lambda values: tuple(np.array(values)[::-1][order].tolist())  # noqa: E731 - x, y, z as they have their axes
    assert ours(found.patch_size) == tuple(plan["patch_size"])
    architecture = plan["architecture"]["arch_kwargs"]
    assert tuple(map(ours, found.strides)) == architecture["strides"]
    assert tuple(map(ours, found.kernel_size)) == architecture["kernel_sizes"]
