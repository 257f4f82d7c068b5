"""The liver CT bundle trains, alone and in two processes, and its schemes train what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from liver_ct_bundle import (
    BLOCKS,
    CONFIGS,
    GRID,
    LIVER,
    ROOT,
    TRAINING,
    WARNINGS,
    call,
    command,
    rows,
    run,
    weights,
)
from monai.bundle import ConfigParser
from monai.losses import DiceLoss
from two_ranks import needs_gloo

from metalr_monai import GenesisUNet3D

pytestmark = WARNINGS


def test_training_leaves_its_files(trained: Path) -> None:
    folder = trained / "runs/train"
    for name in ("report.html", "metrics.csv", "metrics.json", "rates.csv", "split.json", "run_report.json"):
        assert (folder / name).stat().st_size > 0, name
    report = json.loads((folder / "run_report.json").read_text(encoding="utf-8"))
    assert report["status"] == "completed"
    assert [entry["epoch"] for entry in report["epochs"]] == [1, 2]
    assert [entry["epoch"] for entry in report["validation"]] == [0, 1, 2]
    assert {part: len(cases) for part, cases in report["split"].items()} == {"train": 5, "meta": 2, "test": 1}
    assert set(weights(trained)) == set(GenesisUNet3D(width=4, batch_statistics="standard").state_dict())


def test_rates_of_all_blocks_are_written_and_move(trained: Path) -> None:
    found = rows(trained / "runs/train/rates.csv")
    assert len(found) == 2 * 3  # 5 of 7 training cases in batches of 2, 2 epochs
    for block in BLOCKS:
        assert all(float(row[f"lr/{block}"]) > 0 for row in found)
        assert float(found[-1][f"lr/{block}"]) != 0.01


def test_a_loader_that_monai_label_puts_before_the_handlers_disturbs_none(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    handlers = json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))["train"]["handlers"]
    assert all("_target_" in handler for handler in handlers)
    load = {"load_path": str(trained / "models/model.pt"), "load_dict": {"model": "$@network"}, "strict": False}
    options = {**TRAINING, "epochs": 1, "val_interval": 2, "cache_rate": 0.0, "dataset_dir": str(data)}
    run(
        "train.json",
        root=tmp_path,
        **{**options, "train#handlers": [{"_target_": "CheckpointLoader", **load}, *handlers]},
    )
    assert set(rows(tmp_path / "runs/train/rates.csv")[0]) >= {f"lr/{block}" for block in BLOCKS}
    report = json.loads((tmp_path / "runs/train/run_report.json").read_text(encoding="utf-8"))
    assert report["status"] == "completed"
    assert [block["name"] for block in report["metalr"]["blocks"]] == BLOCKS


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A training of one epoch on two ranks, validated before it, and its options; each rank writes its rates."""
    root = tmp_path_factory.mktemp("two")
    options = {**TRAINING, "epochs": 1, "batch_size": 1, "phantoms": 8, "split": "fold 1 of 3"}
    options |= LIVER.scored_before_training_alone
    del options["device"]
    rates = (
        "$pathlib.Path(@bundle_root, f'rates_{dist.get_rank()}.json').write_text(json.dumps(@train#metalr.tuner.lrs))"
    )
    overlay = root / "write_rates.json"
    overlay.write_text(json.dumps({"+imports": ["$import json", "$import pathlib"], "+run": [rates]}))
    call(command("train.json", "multi_gpu_train.json", overlay, root=root, ranks=2, backend="gloo", **options))
    return root, options


@needs_gloo
def test_two_processes_write_one_set_of_files(in_two_processes: tuple[Path, dict[str, Any]], trained: Path) -> None:
    root, _ = in_two_processes
    steps = [int(row["step"]) for row in rows(root / "runs/train/rates.csv")]
    assert steps == [0, 1]  # 5 of 8 cases to train, 2 of them to learn the rates from, over 2 ranks
    assert len(list((root / "phantoms").glob("volume-*"))) == 8
    assert all(not name.startswith("module.") for name in weights(root))
    one = {path.name for path in (trained / "runs/train").iterdir()} - {"resume_checkpoint_2.pt"}
    assert {path.name for path in (root / "runs/train").iterdir()} == one
    report = json.loads((root / "runs/train/run_report.json").read_text(encoding="utf-8"))
    assert report["machine"]["processes"] == 2
    assert report["wall_seconds"] > sum(entry["seconds"] for entry in report["epochs"]) > 0
    assert report["peak_memory_bytes"]["process"] > 2**26
    assert '<th scope="row">processes</th><td>2' in (root / "runs/train/report.html").read_text().replace("\n", "")


@needs_gloo
def test_two_processes_learn_the_same_rates(in_two_processes: tuple[Path, dict[str, Any]]) -> None:
    root, _ = in_two_processes
    first, second = (json.loads((root / f"rates_{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    assert list(first) == BLOCKS
    assert first == second
    assert set(first.values()) != {0.01}


@needs_gloo
def test_two_processes_score_as_one_before_training(
    in_two_processes: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    root, options = in_two_processes
    once = {**options, "device": "cpu", "dataset_dir": str(root / "phantoms"), "run": ["$@validate#evaluator.run()"]}
    run("train.json", root=tmp_path, **once)
    ours, one = root / "runs/train", tmp_path / "runs/train"
    assert len(rows(one / "metrics.csv")) == 3
    assert rows(ours / "metrics.csv") == rows(one / "metrics.csv")
    assert (ours / "metrics.json").read_text() == (one / "metrics.json").read_text()


@needs_gloo
def test_two_processes_evaluate_as_one(
    in_two_processes: tuple[Path, dict[str, Any]], balanced: Path, data: Path, tmp_path: Path
) -> None:
    split = str(in_two_processes[0] / "runs/train/split.json")
    options = {**GRID, "dataset_dir": str(data), "split": split, "ckpt_path": str(balanced)}
    run("train.json", "evaluate.json", root=tmp_path, output_dir=str(tmp_path / "one"), **options)
    del options["device"]
    names = ("train.json", "evaluate.json", "multi_gpu_train.json")
    two = tmp_path / "two"
    call(command(*names, root=tmp_path, ranks=2, backend="gloo", output_dir=two, **options))
    assert [float(row["dice"]) > 0 for row in rows(two / "metrics.csv")] == [True] * 3
    assert rows(two / "metrics.csv") == rows(tmp_path / "one/metrics.csv")
    assert (two / "metrics.json").read_text() == (tmp_path / "one/metrics.json").read_text()


def test_norms_are_matched_by_a_key_and_the_report_has_the_factors(data: Path, trained: Path, tmp_path: Path) -> None:
    start = trained / "models/model.pt"
    for matched in (False, True):
        keys = {**TRAINING, "epochs": 1, "checkpoint": str(start), "match_norms": matched, "meta": "training"}
        run("train.json", root=tmp_path / str(matched), dataset_dir=str(data), **keys)
    plain, scaled = (
        json.loads((tmp_path / str(matched) / "runs/train/run_report.json").read_text(encoding="utf-8"))
        for matched in (False, True)
    )
    assert plain["weights"]["rescaled"] == {} and len(scaled["weights"]["rescaled"]) == 14
    assert scaled["settings"]["match_norms"] is True
    before, after = (report["validation"][0]["metrics"]["liver_sensitivity"] for report in (plain, scaled))
    assert before == pytest.approx(after, rel=0.02)


def test_tumours_and_soft_dice_are_a_key_each(data: Path, tmp_path: Path) -> None:
    regions = {"liver": [1, 2], "tumour": [2]}
    keys = {**TRAINING, "epochs": 1, "regions": regions, "loss#_target_": "DiceLoss", "meta": "training"}
    run("train.json", root=tmp_path, dataset_dir=str(data), **keys)
    found = rows(tmp_path / "runs/train/metrics.csv")
    assert {row["class"] for row in found} == set(regions)
    assert weights(tmp_path)["out_tr.final_conv.bias"].shape == (2,)
    report = json.loads((tmp_path / "runs/train/run_report.json").read_text(encoding="utf-8"))
    assert (
        report["epochs"][0]["train_loss"] < 1
    )  # soft Dice has no more; with cross-entropy an untrained network is above


@pytest.mark.parametrize("regions", [{"liver": [1, 2]}, {"liver": [1, 2], "tumour": [2]}])
def test_the_loss_is_soft_dice_and_binary_cross_entropy_of_each_region(regions: dict[str, list[int]]) -> None:
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "train.json"))
    parser["regions"] = regions
    torch.manual_seed(0)
    logits = torch.randn(2, len(regions), 4, 4, 4)
    target = (torch.rand_like(logits) > 0.7).float()
    dice = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0, batch=True)(logits, target)
    expected = dice + torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(parser.get_parsed_content("loss")(logits, target), expected)


def test_the_size_for_two_cores_trains(data: Path, tmp_path: Path) -> None:
    small = {"epochs": 1, "width": 4, "amp": False, "device": "cpu"}
    run("train.json", ROOT / "configs/sizes/two_cores.json", root=tmp_path, dataset_dir=str(data), **small)
    found = rows(tmp_path / "runs/train/rates.csv")
    assert len(found) == 4  # 7 cases in batches of 2, none held out
    assert len({found[-1][f"lr/{block}"] for block in BLOCKS}) == len(BLOCKS)
    report = json.loads((tmp_path / "runs/train/run_report.json").read_text(encoding="utf-8"))
    assert [entry["epoch"] for entry in report["validation"]] == [0, 1]  # though val_interval is beyond the last epoch
