"""The plan of a fine-tuning: the checkpoint's contract rules, and the reasons say what that costs."""

from __future__ import annotations

import json
from math import prod

import pytest
import torch
from monai.bundle import ConfigParser
from monai.losses import DiceLoss
from monai.networks.nets import DynUNet, resnet18
from small_plan import REGIONS, build_planned, fingerprint, plan

from metalr_monai import GenesisUNet3D, blocks, check_settings, genesis_small_file
from metalr_monai.errors import OptionError, StateError, WeightsError
from metalr_monai.planning.from_checkpoint import plan_from_checkpoint
from metalr_monai.planning.input_contract import read_contract
from metalr_monai.planning.networks import dynunet_options, dynunet_options_of, network_config
from metalr_monai.planning.plan import Plan, read_plan, write_plan
from metalr_monai.planning.topology import levels

CONTRACT = {
    "hu_window": [-200, 300],
    "value_range": [-1.0, 2.0],
    "spacing": [2.0, 2.0, 4.0],
    "patch_size": [32, 32, 16],
}
TOPOLOGY = levels((1.0, 1.0, 3.0), (32, 32, 16))


def genesis_file(folder, beside=None, width=4):
    """A checkpoint as the published one is, with what stands beside it."""
    path = folder / "start.pt"
    state = GenesisUNet3D(width=width, batch_statistics="always").state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    if beside is not None:
        path.with_suffix(".json").write_text(json.dumps(beside))
    return path


def dynunet_file(folder, beside=None, **changes):
    path = folder / "model.pt"
    options = {**dynunet_options(TOPOLOGY), "filters": [4, 8, 12, 16, 20][: len(TOPOLOGY.strides)], **changes}
    torch.save(DynUNet(in_channels=1, out_channels=3, **options).state_dict(), path)
    if beside is not None:
        path.with_suffix(".json").write_text(json.dumps(beside))
    return path, options


def choices(data, path, regions=REGIONS, **options):
    return plan_from_checkpoint(
        data, checkpoint=path, regions=regions, **{"memory_gb": 4, "bfloat16": False, **options}
    )


# ---------------------------------------------------------------------- the contract


def test_the_published_weights_rule_window_range_and_patch(tmp_path):
    found = choices(fingerprint(), genesis_file(tmp_path))
    assert found["network"].value == "genesis_unet3d"
    assert found["width"].value == 4
    assert found["batch_statistics"].value == "always"
    assert found["hu_window"].value == [-1000, 1000]
    assert found["value_range"].value == [0, 1]
    assert found["patch_size"].value == [64, 64, 32]
    assert "100.0% without the head" in found["checkpoint"].reason


def test_norms_are_matched_where_they_can_be_and_the_plan_says_how_much(tmp_path):
    found = choices(fingerprint(), genesis_small_file())["match_norms"]
    assert found.value is True and found.reason.startswith("14 layers in front of a normalisation are scaled")
    path = tmp_path / "flat.pt"
    state = torch.load(genesis_file(tmp_path), weights_only=True)
    content = state.get("state_dict", state)
    for name in [name for name in content if name.endswith("conv1.weight")]:
        content[name] = content[name] * 1e-9  # next to the norm's epsilon nothing; scaled they would be something
    torch.save(state, path)
    refused = choices(fingerprint(), path)["match_norms"]
    assert refused.value is False and "match_norms would change what GenesisUNet3D computes" in refused.reason


def test_the_settings_beside_a_checkpoint_come_before_those_of_its_kind(tmp_path):
    found = choices(fingerprint(), genesis_file(tmp_path, {**CONTRACT, "batch_statistics": "standard", "width": 999}))
    assert {name: found[name].value for name in CONTRACT} == CONTRACT
    assert found["batch_statistics"].value == "standard"
    assert found["width"].value == 4  # what the weights say
    assert "start.json beside it" in found["spacing"].reason


def test_what_an_older_file_leaves_out_is_that_of_its_kind(tmp_path):
    contract = read_contract(genesis_file(tmp_path, {"spacing": [3, 3, 3]}))
    assert contract.spacing == (3, 3, 3)
    assert (contract.hu_window, contract.value_range, contract.patch_size) == ((-1000, 1000), (0, 1), (64, 64, 32))


def test_the_shipped_checkpoint_says_what_its_card_says():
    contract = read_contract(genesis_small_file())
    assert (contract.spacing, contract.patch_size) == ((3, 3, 3), (48, 48, 32))
    assert (contract.hu_window, contract.value_range) == ((-1000, 1000), (0, 1))
    assert contract.options == {"width": 8, "batch_statistics": "always"}


def test_a_dynunet_is_told_by_its_weights_and_its_input_by_what_stands_beside(tmp_path):
    path, options = dynunet_file(tmp_path, CONTRACT)
    found = choices(fingerprint(), path)
    assert found["network"].value == "dynunet"
    assert found["network_options"].value == options
    assert {name: found[name].value for name in CONTRACT} == CONTRACT
    assert "width" not in found


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("trans_bias", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 5.0), (4.0, 1.0, 1.0)])
def test_the_levels_of_any_dynunet_are_told_by_its_weights(prefix, trans_bias, spacing):
    topology = levels(spacing, (64, 64, 64))
    options = {**dynunet_options(topology), "trans_bias": trans_bias}
    options["filters"] = [2 * level + 2 for level in range(len(topology.strides))]
    state = DynUNet(in_channels=1, out_channels=2, **options).state_dict()
    assert dynunet_options_of({f"{prefix}{name}": tensor for name, tensor in state.items()}) == options


def test_what_weights_do_not_tell_of_a_dynunet_is_read_beside_it(tmp_path):
    theirs = {"act_name": ["leakyrelu", {"negative_slope": 0.2}], "out_channels": 3, "in_channels": 1}
    path, options = dynunet_file(tmp_path, {**CONTRACT, "network": "dynunet", "network_options": theirs})
    assert read_contract(path).options == {"network_options": {**options, "act_name": theirs["act_name"]}}


def test_a_dynunet_of_which_nothing_tells_the_input_is_refused_with_what_to_write(tmp_path):
    path, _ = dynunet_file(tmp_path, {"spacing": [1, 1, 1]})
    with pytest.raises(OptionError, match=r"Nothing tells hu_window, value_range, patch_size .*model\.json beside it"):
        read_contract(path)


def test_a_residual_dynunet_is_refused(tmp_path):
    path, _ = dynunet_file(tmp_path, CONTRACT, res_block=True)
    with pytest.raises(OptionError, match="a network that is not known here"):
        read_contract(path)


def test_a_network_for_pictures_is_refused_by_name(tmp_path):
    path = tmp_path / "resnet.pt"
    made = resnet18(spatial_dims=2, n_input_channels=3, num_classes=2, conv1_t_stride=2, bias_downsample=False)
    torch.save(made.state_dict(), path)
    with pytest.raises(OptionError, match=r"2D ResNet-18.*segments no CT volumes"):
        read_contract(path)


def test_a_missing_checkpoint_and_one_without_tensors_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="There is no file"):
        read_contract(tmp_path / "start.pt")
    torch.save({"epoch": 3}, tmp_path / "start.pt")
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_contract(tmp_path / "start.pt")


def test_faulty_settings_beside_a_checkpoint_are_named_with_their_file(tmp_path):
    with pytest.raises(OptionError, match=r"start\.json: hu_window is \[5, 1\]"):
        read_contract(genesis_file(tmp_path, {"hu_window": [5, 1]}))
    (tmp_path / "start.json").write_text("{")
    with pytest.raises(StateError, match=r"start\.json cannot be read"):
        read_contract(tmp_path / "start.pt")


def test_a_patch_that_the_network_cannot_take_is_refused(tmp_path):
    path, _ = dynunet_file(tmp_path, {**CONTRACT, "patch_size": [33, 32, 16]})
    with pytest.raises(OptionError, match=r"model\.json: patch_size is \[33, 32, 16\]; expected multiples of"):
        choices(fingerprint(), path)


# ---------------------------------------------------------------------- what it costs


def test_spacing_is_the_datas_median_where_the_patch_sees_enough(tmp_path):
    found = choices(fingerprint(spacing=(1.5, 1.5, 3.0), shape=(128, 128, 64)), genesis_file(tmp_path))
    assert found["spacing"].value == [1.5, 1.5, 3.0]
    assert "the data's median" in found["spacing"].reason


def test_spacing_is_coarsened_until_the_patch_sees_a_quarter_of_each_axis(tmp_path):
    # 400 × 400 × 150 mm: a quarter of 400 mm is 64 voxels of 1.5625 mm; of 150 mm, 32 voxels of 1.17 mm, finer than 3.
    found = choices(fingerprint(spacing=(0.8, 0.8, 3.0), shape=(500, 500, 50)), genesis_file(tmp_path))
    assert found["spacing"].value == [1.5625, 1.5625, 3.0]
    assert "x 1.95 times as coarse, y 1.95 times as coarse, z equal" in found["spacing"].reason
    assert "it sees 25% × 25% × 64%" in found["patch_size"].reason


def test_axes_are_those_of_the_patient_however_files_are_stored(tmp_path):
    upright = choices(fingerprint(spacing=(0.8, 0.9, 3.0), shape=(500, 400, 50)), genesis_file(tmp_path))
    lying = fingerprint(spacing=(3.0, 0.9, 0.8), shape=(50, 400, 500), axcodes="SPR")
    assert choices(lying, tmp_path / "start.pt")["spacing"] == upright["spacing"]


def test_a_known_spacing_is_kept_and_compared(tmp_path):
    found = choices(fingerprint(spacing=(1.0, 1.0, 8.0)), genesis_file(tmp_path, CONTRACT))
    assert found["spacing"].value == [2, 2, 4]
    assert "x 2 times as coarse, y 2 times as coarse, z 2 times as fine" in found["spacing"].reason


def test_the_window_says_how_much_it_clips(tmp_path):
    path = genesis_file(tmp_path, {"hu_window": [-200, 300]})
    counted = choices(fingerprint(hu_window=(-200.0, 300.0)), path)["hu_window"].reason
    assert "clips 2.5 % of the foreground's voxels" in counted
    assert "are -20 and 200 HU" in counted
    bounded = choices(fingerprint(hu_window=(-1.0, 1.0)), path)["hu_window"].reason  # counted for another window
    assert "clips less than 1 %" in bounded
    narrow = choices(fingerprint(), genesis_file(tmp_path, {"hu_window": [0, 300]}))["hu_window"].reason
    assert "clips more than 0.5 %" in narrow


def test_a_patch_larger_than_the_scans_says_that_they_are_padded(tmp_path):
    reason = choices(fingerprint(shape=(48, 48, 20)), genesis_file(tmp_path))["patch_size"].reason
    assert "100% × 100% × 100%" in reason
    assert "padded" in reason


# ---------------------------------------------------------------------- batch, length, the rest


def test_a_batch_is_at_most_five_percent_of_the_data_sets_voxels(tmp_path):
    # 50 scans of 128 × 128 × 64 voxels: 5 % are 20 patches of 64 × 64 × 32
    found = choices(fingerprint(shape=(128, 128, 64), cases=50), genesis_file(tmp_path))
    assert found["batch_size"].value == 20
    assert found["patches_per_volume"].value == 1
    assert "5 % of the data set's voxels" in found["batch_size"].reason


def test_more_patches_than_training_scans_are_drawn_from_each(tmp_path):
    # 4 scans of 256 × 256 × 128: 5 % are 12.8 patches; a fold trains on 3 scans, 5 patches from each of 2
    found = choices(fingerprint(shape=(256, 256, 128), cases=4), genesis_file(tmp_path))
    assert (found["batch_size"].value, found["patches_per_volume"].value) == (2, 5)
    assert found["folds"].value == 4


def test_a_batch_is_at_most_what_fits_in_memory_and_never_less_than_two(tmp_path):
    path, data = genesis_file(tmp_path), fingerprint(shape=(128, 128, 64), cases=50)
    sizes = {gb: choices(data, path, memory_gb=gb)["batch_size"].value for gb in (0.2, 0.4, 4.0)}
    assert 2 <= sizes[0.2] < sizes[0.4] < sizes[4.0]
    assert choices(fingerprint(shape=(32, 32, 32), cases=2), path)["batch_size"].value == 1  # two patches of one scan
    assert choices(fingerprint(shape=(32, 32, 32), cases=2), path)["patches_per_volume"].value == 2
    with pytest.raises(OptionError, match=r"memory_gb is 0\.01, and 2 patches of 64 × 64 × 32 voxels take"):
        choices(data, path, memory_gb=0.01)


def test_epochs_are_a_fixed_number_of_steps(tmp_path):
    data = fingerprint(shape=(128, 128, 64), cases=50)
    found = choices(data, genesis_file(tmp_path), iterations=1000)
    assert found["passes"].value == 25  # 40 training scans in batches of 20 are 2 steps, and an epoch is to have 50
    assert found["epochs"].value == 20
    assert found["val_interval"].value == 4
    assert "1,000 steps" in found["epochs"].reason


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folds": 1}, "folds is 1"),
        ({"iterations": 0}, "iterations is 0"),
        ({"memory_gb": -1}, "memory_gb is -1"),
    ],
)
def test_options_outside_of_their_range_are_refused(tmp_path, options, words):
    with pytest.raises(OptionError, match=words):
        choices(fingerprint(), genesis_file(tmp_path), **options)


def test_one_case_cannot_be_folded(tmp_path):
    with pytest.raises(OptionError, match="There is 1 case"):
        choices(fingerprint(cases=1), genesis_file(tmp_path))


@pytest.mark.parametrize("regions", [{"liver": [1, 2]}, REGIONS])
def test_the_loss_is_dice_and_binary_cross_entropy_of_each_region(tmp_path, regions):
    config = choices(fingerprint(), genesis_file(tmp_path), regions)["loss"].value
    loss = ConfigParser({"loss": config}).get_parsed_content("loss")
    torch.manual_seed(0)
    logits = torch.randn(2, len(regions), 8, 8, 8)
    target = (torch.rand_like(logits) > 0.7).float()
    dice = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0, batch=True)(logits, target)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(loss(logits, target), dice + cross_entropy)


# ---------------------------------------------------------------------- as a plan


def whole_plan(found):
    return Plan("checkpoint", plan().dataset, REGIONS, [1, 2], found)


@pytest.mark.parametrize("kind", ["genesis", "dynunet"])
def test_what_is_planned_is_a_plan_that_can_be_written_and_read(tmp_path, kind):
    path = genesis_file(tmp_path) if kind == "genesis" else dynunet_file(tmp_path, CONTRACT)[0]
    planned = whole_plan(choices(fingerprint(), path))
    write_plan(planned, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == planned
    assert all(choice.reason for choice in planned.choices.values())


@pytest.mark.parametrize("kind", ["genesis", "dynunet"])
def test_the_bundles_config_gets_the_network_that_is_planned_with_its_blocks_and_head(tmp_path, kind):
    path = genesis_file(tmp_path) if kind == "genesis" else dynunet_file(tmp_path, CONTRACT)[0]
    planned = whole_plan(choices(fingerprint(), path))
    config = network_config(planned)
    from_config = ConfigParser(config).get_parsed_content("network_def")
    network = build_planned(planned)
    assert str(from_config) == str(network)
    found = blocks(network, config["blocks"])
    assert sum(map(len, found.values())) == len(list(network.parameters()))
    assert config["head"] == found.names[-1]
    assert network(torch.zeros(2, 1, *planned["patch_size"])).shape == (2, 2, *planned["patch_size"])
    check_settings({name: config[name] for name in ("width",)})


def test_the_plan_has_the_checkpoints_content_in_its_identity(tmp_path):
    first = whole_plan(choices(fingerprint(), genesis_file(tmp_path)))
    torch.manual_seed(1)
    second = whole_plan(choices(fingerprint(), genesis_file(tmp_path)))
    assert first["checkpoint"] == second["checkpoint"]
    assert first.identity != second.identity
    assert prod(first["patch_size"]) == 64 * 64 * 32


def test_a_softmax_of_as_many_outputs_is_not_taken_for_the_regions(tmp_path):
    path = genesis_file(tmp_path)
    settings = {"activation": "softmax", "channels": ["background", "liver"], "axcodes": None}
    path.with_suffix(".json").write_text(json.dumps(settings))
    with pytest.raises(OptionError, match="tells background, liver by a softmax"):
        choices(fingerprint(), path)
    path.with_suffix(".json").write_text(json.dumps({**settings, "channels": ["background", "liver", "tumour"]}))
    assert "here sees them in RAS" in choices(fingerprint(), path)["checkpoint"].reason


@pytest.mark.parametrize("gains", [True, False])
def test_precision_is_bfloat16_where_the_machine_gains_by_it_and_nothing_is_asked_for(tmp_path, monkeypatch, gains):
    monkeypatch.setattr("metalr_monai.planning.shared_choices.gains_by_bfloat16", lambda: gains)
    data, path = fingerprint(), genesis_file(tmp_path)
    assert choices(data, path, bfloat16=None)["bfloat16"].value is gains
    assert choices(data, path, bfloat16=not gains)["bfloat16"].value is not gains
