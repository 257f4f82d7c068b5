"""nnU-Net's own training with learned rates: its commands, its checkpoints, its schedule."""

from __future__ import annotations

import csv
import functools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import pytest
import torch
from nnunet_command import DATASET, SHORT, batches, call, fold_folder, make_trainer, train

from metalr_monai.errors import OptionError, StateError

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    MakeTrainer = Callable[..., nnUNetTrainer]

pytestmark = pytest.mark.filterwarnings("default")  # nnU-Net's own warnings are not ours


def block_names(stages: int) -> list[str]:
    decoder = [f"decoder.stages.{i}" for i in range(stages - 1)]
    return [*(f"encoder.stages.{i}" for i in range(stages)), *decoder, "decoder.seg_layers"]


def rows(lines: list[str]) -> list[dict[str, float]]:
    return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(lines)]


def rates(row: dict[str, float]) -> list[float]:
    return [value for name, value in row.items() if name.startswith("lr/")]


def log_of(folder: Path) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("training_log_*.txt")))


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


# ---------------------------------------------------------------------- by nnU-Net's commands


def test_the_blocks_rates_move_apart_around_nnunets_schedule(trained: Path) -> None:
    first, second = rows((trained / "rates.csv").read_text(encoding="utf-8").splitlines())
    for row, common in ((first, 0.01), (second, 0.01 * 0.5**0.9)):
        assert geometric_mean(rates(row)) == pytest.approx(common)
        assert max(rates(row)) / min(rates(row)) > 1.05
    assert len({*rates(second)}) == len(rates(second))


def test_a_stopped_training_goes_on_with_its_rates(interrupted: list[str], trained: Path) -> None:
    lines = (trained / "rates.csv").read_text(encoding="utf-8").splitlines()
    assert len(interrupted) == 2
    assert lines[:2] == interrupted
    state = torch.load(trained / "checkpoint_final.pth", weights_only=False)["optimizer_state"]["metalr"]["tuner"]
    assert (state["steps"], state["epoch"], state["learned"]["counts"]["meta_steps"]) == (8, 2, 7)


def test_nnunet_writes_the_rates_into_its_log_and_validates(trained: Path) -> None:
    log = log_of(trained)
    assert "MetaLR learns the rates of these blocks with" in log
    assert "MetaLR: 1.00e-02 became encoder.stages.0" in log
    assert "WARNING" not in log
    assert "foreground_mean" in json.loads((trained / "validation" / "summary.json").read_text(encoding="utf-8"))


def test_the_state_in_the_checkpoint_is_of_plain_containers(trained: Path, tmp_path: Path) -> None:
    state = torch.load(trained / "checkpoint_final.pth", weights_only=False)["optimizer_state"]
    torch.save(state, tmp_path / "state.pt")
    assert "metalr" in torch.load(tmp_path / "state.pt", weights_only=True)


def test_nnunet_predicts_with_it(nnunet: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    scan = nnunet / "nnUNet_raw" / DATASET / "imagesTr" / "case_0_0000.nii.gz"
    shutil.copy(scan, tmp_path / "scans")
    given = ("-i", str(tmp_path / "scans"), "-o", str(tmp_path / "out"), "-d", "1", "-c", "3d_fullres", "-f", "0")
    call("nnUNetv2_predict", *given, *("-tr", SHORT, "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"))
    assert nib.load(tmp_path / "out" / "case_0.nii.gz").shape == nib.load(scan).shape


def test_pretrained_weights_are_fine_tuned_by_two_passes_too(nnunet: Path, trained: Path) -> None:
    weights = str(trained / "checkpoint_final.pth")
    options = '{"one_pass": false, "beta": 0.2}'
    output = train(1, "-pretrained_weights", weights, status=3, STOP_AFTER="0", nnUNet_metalr=options)
    assert "Loading pretrained weights" in output
    (row,) = rows((fold_folder(nnunet, 1) / "rates.csv").read_text(encoding="utf-8").splitlines())
    assert 0 < row["meta_loss"] < 10
    assert max(rates(row)) / min(rates(row)) > 1.05


# ---------------------------------------------------------------------- in this process


@pytest.fixture
def short(nnunet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeTrainer:
    """Make trainers with a narrow network and results of their own."""
    import nnUNetTrainerMetaLRShort as trainers

    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return lambda kind=SHORT, **options: make_trainer(getattr(trainers, kind), nnunet, **options)


def weights_of(trainer: nnUNetTrainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.network.parameters()]


def steps(trainer: nnUNetTrainer, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [trainer.train_step(batch) for batch in data]


def next_epoch(trainer: nnUNetTrainer, outputs: list[dict[str, Any]]) -> None:
    trainer.on_train_epoch_end(outputs)
    trainer.current_epoch += 1
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()


def test_without_learning_it_trains_as_nnunet_does(short: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_metalr", '{"beta": 0, "renormalize": false}')
    ours, stock = short(), short("nnUNetTrainerShort")
    data = batches(stock, 3)
    for trainer in (ours, stock):
        next_epoch(trainer, steps(trainer, data[:2]))
        steps(trainer, data[2:])
    assert all(torch.equal(a, b) for a, b in zip(weights_of(ours), weights_of(stock), strict=True))


@pytest.mark.parametrize("options", ["{}", '{"one_pass": false}'])
def test_a_continued_training_is_the_uninterrupted_one(
    short: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    monkeypatch.setenv("nnUNet_metalr", options)

    whole, part = short(), short()
    data = batches(whole, 6)
    for trainer in (whole, part):
        trainer.dataloader_train = iter(data)  # of the meta batches
        next_epoch(trainer, steps(trainer, data[:3]))
    steps(whole, data[3:])

    part.current_epoch -= 1  # nnU-Net saves at an epoch's end
    part.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    torch.manual_seed(5)
    continued = short()
    continued.dataloader_train = iter(data[3:])
    continued.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    continued.on_train_epoch_start()
    assert continued.tuner.steps == 3
    steps(continued, data[3:])

    assert continued.tuner.lrs == whole.tuner.lrs
    assert len(set(whole.tuner.lrs.values())) > 1
    assert all(torch.equal(a, b) for a, b in zip(weights_of(continued), weights_of(whole), strict=True))


def test_rates_do_not_depend_on_the_loss_scale_and_skipped_steps_do_not_move_them(short: MakeTrainer) -> None:
    plain, scaled = short(), short(scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))
    data = batches(plain, 3)
    for trainer in (plain, scaled):
        steps(trainer, data)
    assert scaled.tuner.lrs == pytest.approx(plain.tuner.lrs, rel=1e-4)
    before = (scaled.tuner.lrs, dict(scaled.tuner.counts), weights_of(scaled))
    steps(scaled, [{**data[0], "data": torch.full_like(data[0]["data"], torch.inf)}])
    assert (scaled.tuner.lrs, scaled.tuner.counts) == before[:2]
    assert all(torch.equal(a, b) for a, b in zip(weights_of(scaled), before[2], strict=True))


def test_a_compiled_network_has_the_same_blocks_and_rates(short: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    import nnUNetTrainerMetaLRShort as trainers

    plain = short()
    data = batches(plain, 2)
    monkeypatch.setattr(trainers.nnUNetTrainerMetaLRShort, "_do_i_compile", lambda self: True)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    compiled = short()
    assert hasattr(compiled.network, "_orig_mod")
    for trainer in (plain, compiled):
        steps(trainer, data)
    assert compiled.tuner.lrs == pytest.approx(plain.tuner.lrs, rel=1e-4)


def test_every_parameter_is_in_one_block(short: MakeTrainer) -> None:
    trainer = short()
    tuner, network = trainer.tuner, trainer.network
    names = [name for block in tuner.blocks.parameter_names.values() for name in block]
    assert len(names) == len(set(names)) == len(list(network.parameters()))
    assert list(tuner.names) == block_names(len(network.encoder.stages))
    assert "decoder.transpconvs.1.weight" in tuner.blocks.parameter_names["decoder.stages.1"]


def test_the_residual_encoder_has_a_block_for_its_stem(short: MakeTrainer) -> None:
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 6, 8],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * 3,
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
            "n_blocks_per_stage": [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }
    trainer = short(architecture=architecture)
    assert list(trainer.tuner.names) == ["encoder.stem", *block_names(3)]
    steps(trainer, batches(trainer, 3))
    assert len(set(trainer.tuner.lrs.values())) > 1


def test_a_network_of_another_build_gets_the_automatic_blocks() -> None:
    from metalr_monai.nnunet_trainers.nnUNetTrainerMetaLR import _block_patterns

    assert _block_patterns(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))) == "auto"


def test_rates_that_never_move_are_said_aloud(short: MakeTrainer) -> None:
    trainer = short()
    broken = [{**batch, "data": torch.full_like(batch["data"], torch.nan)} for batch in batches(trainer, 3)]
    trainer.on_train_epoch_end(steps(trainer, broken))
    assert "WARNING: MetaLR: No rate has moved in 2 meta steps (2 of them not finite)" in log_of(
        Path(trainer.output_folder)
    )


def test_another_trainers_checkpoint_is_refused(short: MakeTrainer, tmp_path: Path) -> None:
    short("nnUNetTrainerShort").save_checkpoint(str(tmp_path / "stock.pth"))
    with pytest.raises(StateError, match="give it to -pretrained_weights instead of --c"):
        short().load_checkpoint(str(tmp_path / "stock.pth"))


def test_a_training_goes_on_with_its_own_options_alone(
    short: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_metalr", '{"beta": 0.2}')
    short().save_checkpoint(str(tmp_path / "own.pth"))
    short().load_checkpoint(str(tmp_path / "own.pth"))
    monkeypatch.delenv("nnUNet_metalr")
    with pytest.raises(StateError, match=r'"beta": 0\.2.*Set nnUNet_metalr to the former'):
        short().load_checkpoint(str(tmp_path / "own.pth"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("one_pass", "is no JSON"),
        ("[1]", "expected options of MetaLR"),
        ('{"schedule": 1}', "schedule, which is nnU-Net's"),
        ('{"one_pas": true}', "Did you mean one_pass"),
    ],
)
def test_wrong_options_are_refused(
    short: MakeTrainer, monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    monkeypatch.setenv("nnUNet_metalr", value)
    with pytest.raises(OptionError, match=message):
        short()
