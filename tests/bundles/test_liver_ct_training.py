"""The liver CT bundle trains, alone and in two processes, and its schemes train what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from liver_ct_bundle import BLOCKS, ROOT, TRAINING, WARNINGS, call, command, rows, weights, workflow
from monai.utils import set_determinism

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
    assert len(report["split"]["meta"]) == 2
    assert set(weights(trained)) == set(GenesisUNet3D(width=4, batch_statistics="standard").state_dict())


def test_rates_of_all_blocks_are_written_and_move(trained: Path) -> None:
    found = rows(trained / "runs/train/rates.csv")
    assert len(found) == 2 * 3  # 5 of 7 training cases in batches of 2, 2 epochs
    for block in BLOCKS:
        assert all(float(row[f"lr/{block}"]) > 0 for row in found)
        assert float(found[-1][f"lr/{block}"]) != 0.01


def test_two_processes_write_once(tmp_path: Path) -> None:
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch was built without gloo")
    options = {**TRAINING, "epochs": 1, "batch_size": 1, "phantoms": 8, "split": "fold 1 of 4"}
    del options["device"]
    both = ("train.json", "multi_gpu_train.json")
    call(command(*both, root=tmp_path, ranks=2, backend="gloo", **options))
    steps = [int(row["step"]) for row in rows(tmp_path / "runs/train/rates.csv")]
    assert steps == [0, 1]  # 4 training cases on 2 ranks
    test = json.loads((tmp_path / "runs/train/split.json").read_text(encoding="utf-8"))["test"]
    assert sorted(row["case"] for row in rows(tmp_path / "runs/train/metrics.csv")) == sorted(test)
    assert len(list((tmp_path / "phantoms").glob("volume-*"))) == 8
    assert all(not name.startswith("module.") for name in weights(tmp_path))


@pytest.mark.parametrize("scheme", ["all_layers", "last_layer"])
def test_schemes_train_what_they_say(scheme: str, data: Path, tmp_path: Path) -> None:
    options = {**TRAINING, "epochs": 1, "dataset_dir": str(data), "bundle_root": str(tmp_path)}
    bundle = workflow("train.json", ROOT / "configs/schemes" / f"{scheme}.json", **options)
    try:
        bundle.initialize()
        network = bundle.parser.get_parsed_content("network_def")
        before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        bundle.run()
    finally:
        set_determinism(None)
    moved = {name for name, parameter in network.named_parameters() if not torch.equal(before[name], parameter)}
    wanted = set(before) if scheme == "all_layers" else {"out_tr.final_conv.weight", "out_tr.final_conv.bias"}
    # A bias in front of a batch norm has no gradient but rounding errors, which may be zero.
    assert {name for name in wanted if not name.endswith("conv1.bias")} <= moved <= wanted
    report = json.loads((tmp_path / "runs/train/run_report.json").read_text(encoding="utf-8"))
    assert report["metalr"] is None
    assert report["status"] == "completed"
    assert not (tmp_path / "runs/train/rates.csv").exists()
