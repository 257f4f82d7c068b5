"""The plan of a training from scratch: nnU-Net's rules, by small figures; tests/nnunet holds them to nnU-Net itself."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from monai.transforms import ScaleIntensityRange
from small_plan import INTENSITIES, REGIONS, build_planned, fingerprint, plan

from metalr_monai import blocks, param_groups
from metalr_monai.errors import OptionError
from metalr_monai.planning.from_scratch import plan_from_scratch
from metalr_monai.planning.memory import training_memory
from metalr_monai.planning.networks import build, network_config
from metalr_monai.planning.plan import Plan, read_plan, write_plan
from metalr_monai.planning.topology import largest_topology, levels, median_shape, target_spacing


def choices(data, **options):
    return plan_from_scratch(data, **{"regions": REGIONS, "memory_gb": 2, "bfloat16": False, **options})


def whole_plan(found):
    return Plan("scratch", plan().dataset, REGIONS, [1, 2], found)


# ---------------------------------------------------------------------- nnU-Net's rules


def test_the_target_spacing_is_the_median():
    assert target_spacing([[1, 1, 1], [2, 1, 1.5], [3, 1, 4]], [[100, 100, 100]] * 3) == (2, 1, 1.5)


def test_along_a_far_coarser_axis_it_is_the_tenth_percentile():
    spacings = [[1, 1, z] for z in (2, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5)]
    assert target_spacing(spacings, [[300, 300, 60]] * 11) == (1, 1, 5)
    spacings = [[1, 1, z] for z in (2, 2, 5, 5, 5, 5, 5, 5, 5, 5, 5)]
    assert target_spacing(spacings, [[300, 300, 60]] * 11) == (1, 1, 2)
    assert target_spacing(spacings, [[300, 300, 150]] * 11) == (1, 1, 5)  # slices enough


def test_there_it_is_never_finer_than_the_others():
    spacings = [[2, 2, z] for z in (1, 1, 7, 7, 7)]
    assert target_spacing(spacings, [[300, 300, 60]] * 5) == (2, 2, 2 + 1e-5)


def test_the_median_shape_is_of_the_resampled_scans():
    assert median_shape([[1, 1, 2], [1, 1, 4]], [[100, 100, 50], [100, 100, 30]], (2, 1, 2)) == (50, 100, 55)


def test_a_cube_of_128_is_halved_five_times():
    found = levels((1, 1, 1), (128, 128, 128))
    assert found.patch_size == (128, 128, 128)
    assert found.strides == ((1, 1, 1), *((2, 2, 2),) * 5)
    assert found.kernel_size == ((3, 3, 3),) * 6
    assert found.divisors == (32, 32, 32)


def test_thick_slices_are_pooled_later_and_have_flat_kernels_until_then():
    found = levels((0.5, 0.5, 3.0), (256, 256, 20))
    # 0.5 → 1 → 2 mm: only then is 3 mm less than twice as long
    assert found.strides[:4] == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert found.kernel_size[:3] == ((3, 3, 1), (3, 3, 1), (3, 3, 3))
    assert found.divisors[2] == 4  # 20 → 10 → 5


def test_a_patch_is_padded_to_what_its_levels_divide():
    assert levels((1, 1, 1), (100, 50, 30)).patch_size == (112, 56, 32)


def test_a_patch_is_cut_where_it_is_largest_in_the_median_scan():
    seen = []

    def fits(topology):
        seen.append(topology.patch_size)
        return prod(topology.patch_size) <= 224 * 112 * 112

    # Equal shares at first: x, then y, then z, each by what its own shorter side divides (224 / 32, 112 / 16).
    assert largest_topology((1, 1, 1), (256, 128, 128), fits).patch_size == (224, 112, 112)
    assert seen == [(256, 128, 128), (224, 128, 128), (224, 112, 128), (224, 112, 112)]


# ---------------------------------------------------------------------- the choices


def test_the_patch_is_what_fits_twice_in_memory_and_fills_it():
    patches = {}
    for gb in (1, 3):
        found = choices(fingerprint(shape=(160, 160, 128), cases=50), memory_gb=gb)
        options = {"network_options": found["network_options"].value}
        counted = training_memory(lambda o=options: build("dynunet", 2, o), found["patch_size"].value)
        assert counted.largest_batch(gb) == found["batch_size"].value == 2
        patches[gb] = found["patch_size"].value
    assert prod(patches[1]) < prod(patches[3])


def test_a_batch_grows_only_up_to_five_percent_of_the_voxels():
    data = fingerprint(shape=(48, 48, 48), cases=100)
    assert choices(data)["patch_size"].value == [48, 48, 48]
    assert choices(data)["batch_size"].value == 5


def test_the_network_is_nnunets():
    options = choices(fingerprint(spacing=(1, 1, 1), shape=(128, 128, 128)), memory_gb=8)["network_options"].value
    assert options["filters"] == [32, 64, 128, 256, 320, 320][: len(options["strides"])]
    assert options["upsample_kernel_size"] == options["strides"][1:]
    assert options["norm_name"] == ["INSTANCE", {"eps": 1e-5, "affine": True}]
    assert options["deep_supervision"] is False


def test_intensities_are_clipped_and_standardised_as_nnunet_does():
    found = choices(fingerprint())
    low, high = found["hu_window"].value
    scale = ScaleIntensityRange(low, high, *found["value_range"].value, clip=True)
    voxels = torch.tensor([-500.0, -20.0, 100.0, 180.0, 900.0])
    expected = (np.clip(voxels.numpy(), -20, 200) - 100) / 40
    np.testing.assert_allclose(scale(voxels).numpy(), expected, atol=1e-5)


def test_a_foreground_of_one_intensity_is_refused():
    flat = {**INTENSITIES, "percentile_00_5": 0.0, "percentile_99_5": 0.0}
    with pytest.raises(OptionError, match=r"run from 0 to 0 HU .* constant"):
        choices(replace(fingerprint(), intensities=flat))


def test_the_reason_of_a_coarse_axis_names_it_and_its_median():
    cases = fingerprint(spacing=(0.8, 0.8, 5.0), shape=(150, 150, 30)).cases
    finer = tuple(replace(case, spacing=(0.8, 0.8, 3.0)) for case in cases[:3])
    reason = choices(replace(fingerprint(), cases=(*finer, *cases[3:])))["spacing"].reason
    assert "along z" in reason
    assert "instead of 5" in reason


def test_learning_is_nnunets():
    found = choices(fingerprint())
    names = ("scheme", "warmup", "lr", "momentum", "nesterov", "weight_decay", "foreground", "overlap", "mirror_axes")
    values = ["warmup_poly", 0.0, 0.01, 0.99, True, 3e-5, 0.5, 0.5, [0, 1, 2]]
    assert [found[name].value for name in names] == values
    assert "250,000 steps" in found["epochs"].reason


@pytest.mark.parametrize(("shape", "words"), [((12, 12, 12), "leave a U-Net 2 levels"), ((96, 96, 96), "Not even two")])
def test_scans_or_memory_that_are_too_small_are_refused(shape, words):
    with pytest.raises(OptionError, match=words):
        choices(fingerprint(shape=shape), memory_gb=0.01)


# ---------------------------------------------------------------------- as a plan


def test_what_is_planned_is_a_plan_that_can_be_written_and_read(tmp_path):
    planned = whole_plan(choices(fingerprint(spacing=(0.8, 0.8, 5.0), shape=(256, 256, 30))))
    write_plan(planned, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == planned
    assert all(choice.reason for choice in planned.choices.values())


def test_a_patch_set_by_hand_is_held_to_the_networks_own_levels(tmp_path):
    planned = whole_plan(choices(fingerprint(spacing=(0.8, 0.8, 5.0), shape=(256, 256, 30))))
    steps = levels(planned["spacing"], planned["patch_size"]).divisors
    assert steps[2] < 8  # so multiples of 8 are not what is asked
    near = [side + step for side, step in zip(planned["patch_size"], steps, strict=True)]
    good = {**planned.choices, "patch_size": replace(planned.choices["patch_size"], value=near)}
    write_plan(replace(planned, choices=good), tmp_path / "plan.json")
    bad = {**planned.choices, "patch_size": replace(planned.choices["patch_size"], value=[near[0] + 1, *near[1:]])}
    with pytest.raises(OptionError, match=f"expected multiples of {steps[0]} × {steps[1]} × {steps[2]} voxels"):
        write_plan(replace(planned, choices=bad), tmp_path / "plan.json")


def test_options_that_dynunet_refuses_are_refused_when_the_plan_is_read():
    planned = whole_plan(choices(fingerprint()))
    options = {**planned["network_options"], "filters": [32]}
    bad = {**planned.choices, "network_options": replace(planned.choices["network_options"], value=options)}
    with pytest.raises(OptionError, match=r"network_options is .*length of filters"):
        write_plan(replace(planned, choices=bad), "plan.json")


def test_each_level_of_encoder_and_decoder_is_a_block_and_so_is_the_head():
    planned = whole_plan(choices(fingerprint(shape=(64, 64, 64))))
    network, config = build_planned(planned), network_config(planned)
    count = len(planned["network_options"]["strides"])
    found = blocks(network, config["blocks"])
    assert len(found) == count + (count - 1) + 1
    assert found.names[0] == "input_block"
    assert found.names[-1] == config["head"] == "output_block"
    groups = param_groups(network, config["blocks"], 0.01)
    placed = [id(p) for group in groups for p in group["params"]]
    assert sorted(placed) == sorted(id(p) for p in network.parameters())
