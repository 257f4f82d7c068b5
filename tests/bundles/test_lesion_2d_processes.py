"""The 2D bundle in two processes: one set of files and rates, and the scores of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bundle_runs import call, rows, weights
from lesion_2d_bundle import BLOCKS, LESION, SMALL, TRAINING, WARNINGS
from two_ranks import needs_gloo

from metalr_monai import image_list, make_group_split, write_split

ONE_BY_ONE = {"validate#dataloader#batch_size": 1}  # the size of a batch moves the last digit of its predictions
pytestmark = [WARNINGS, needs_gloo]


@pytest.fixture(scope="module")
def uneven(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split file with 11 frames to test, which two processes cannot halve."""
    split, file = (
        make_group_split(image_list("pocus", frames), "fold 1 of 3"),
        tmp_path_factory.mktemp("split") / "11.json",
    )
    split["test"].pop()
    write_split(split, file)
    return file


@pytest.fixture(scope="module")
def in_two_processes(
    frames: Path, uneven: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A training of one epoch on two ranks, validated before it, and its options; each rank writes its rates."""
    root = tmp_path_factory.mktemp("two")
    options = {**TRAINING, "epochs": 1, "batch_size": 2, "dataset_dir": str(frames), "split": str(uneven)}
    options |= {**ONE_BY_ONE, **LESION.scored_before_training_alone}
    del options["device"]
    rates = (
        "$pathlib.Path(@bundle_root, f'rates_{dist.get_rank()}.json').write_text(json.dumps(@train#metalr.tuner.lrs))"
    )
    overlay = root / "write_rates.json"
    overlay.write_text(json.dumps({"+imports": ["$import json", "$import pathlib"], "+run": [rates]}))
    files = ("train.json", "multi_gpu_train.json", overlay)
    call(LESION.command(*files, root=root, ranks=2, backend="gloo", **options))
    return root, options


def test_two_processes_leave_the_files_of_one(
    in_two_processes: tuple[Path, dict[str, Any]], trained_classifier: Path
) -> None:
    root, _ = in_two_processes
    one = {path.name for path in (trained_classifier / "runs/train").iterdir()} - {"resume_checkpoint_2.pt"}
    assert {path.name for path in (root / "runs/train").iterdir()} == one
    assert all(not name.startswith("module.") for name in weights(root))
    report = json.loads((root / "runs/train/run_report.json").read_text(encoding="utf-8"))
    assert (report["status"], report["machine"]["processes"]) == ("completed", 2)


def test_two_processes_learn_the_same_rates(in_two_processes: tuple[Path, dict[str, Any]]) -> None:
    root, _ = in_two_processes
    first, second = (json.loads((root / f"rates_{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    assert list(first) == BLOCKS
    assert first == second
    assert 0.001 not in first.values()


def test_two_processes_score_as_one_before_training(
    in_two_processes: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    root, options = in_two_processes
    LESION.run("train.json", root=tmp_path, **{**options, "device": "cpu", "run": ["$@validate#evaluator.run()"]})
    assert_equal_scores(root / "runs/train", tmp_path / "runs/train")


def test_two_processes_evaluate_as_one(
    in_two_processes: tuple[Path, dict[str, Any]], frames: Path, uneven: Path, tmp_path: Path
) -> None:
    root, _ = in_two_processes
    options = {**SMALL, **ONE_BY_ONE, "dataset_dir": str(frames)}
    files, one, two = ("train.json", "evaluate.json"), tmp_path / "one", tmp_path / "two"
    LESION.run(*files, root=root, output_dir=str(one), **options)
    del options["device"]
    call(LESION.command(*files, "multi_gpu_train.json", root=root, ranks=2, backend="gloo", output_dir=two, **options))
    assert_equal_scores(two, one)
    test = json.loads(uneven.read_text(encoding="utf-8"))["test"]
    assert {row["case_id"] for row in rows(two / "metrics.csv")} == set(test)
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}


def assert_equal_scores(two: Path, one: Path) -> None:
    """The table of predictions and the scores, to the last digit."""
    assert len(rows(one / "metrics.csv")) == 11
    assert rows(two / "metrics.csv") == rows(one / "metrics.csv")
    assert (two / "metrics.json").read_text(encoding="utf-8") == (one / "metrics.json").read_text(encoding="utf-8")
