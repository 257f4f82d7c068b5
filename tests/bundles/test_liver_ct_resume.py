"""The liver CT bundle goes on after a kill at any moment, and refuses to go on with other settings."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from liver_ct_bundle import TRAINING, WARNINGS, call, command, one_thread, own_error, rows, run

from metalr_monai.errors import StateError

pytestmark = WARNINGS
KILLS = 3


def report(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "runs/train/run_report.json").read_text(encoding="utf-8"))
    return found


def results(root: Path) -> dict[str, Any]:
    """What a run computed."""
    found = report(root)
    folder = root / "runs/train"
    return {
        "status": found["status"],
        "loss": [entry["train_loss"] for entry in found["epochs"]],
        "validation": found["validation"],
        "metalr": found["metalr"],
        "split": found["split"],
        "rates": rows(folder / "rates.csv"),
        "cases": rows(folder / "metrics.csv"),
        "model": (root / "models/model.pt").read_bytes(),
    }


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An uninterrupted run, and its seconds."""
    root, began = tmp_path_factory.mktemp("straight"), time.monotonic()
    call(command("train.json", root=root, dataset_dir=data, **TRAINING))
    return root, time.monotonic() - began


def kill_after(seconds: float, arguments: list[str]) -> None:
    process = subprocess.Popen(arguments, env=one_thread(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    straight: tuple[Path, float], data: Path, tmp_path: Path
) -> None:
    reference, seconds = straight
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6)))
    moments = [random.Random(seed + i).uniform(0, seconds) for i in range(KILLS)]
    about = f"KILL_SEED={seed}, killed after {', '.join(f'{s:.2f}' for s in moments)} of {seconds:.2f} s"
    arguments = command("train.json", root=tmp_path, dataset_dir=data, **TRAINING)
    for moment in moments:
        kill_after(moment, arguments)
    call(arguments)
    expected, found = results(reference), results(tmp_path)
    for name, value in expected.items():
        assert found[name] == value, f"{name}: {about}"
    assert files(tmp_path) == files(reference), about


def test_a_checkpoint_is_written_when_all_else_of_its_epoch_is(trained: Path) -> None:
    """Else a run killed in between would go on without its epoch's rates and scores."""
    folder = trained / "runs/train"
    before = [(folder / name).stat().st_mtime_ns for name in ("rates.csv", "metrics.csv", "metrics.json")]
    assert max(before) <= (folder / "resume_checkpoint_2.pt").stat().st_mtime_ns


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"lr": 0.02, "beta": 0.01}, "lr was 0.01 and is 0.02; beta was 0.003 and is 0.01"),
        ({"width": 8}, "width was 4 and is 8"),
        ({"split": "fold 1 of 4"}, "split was 'paper' and is 'fold 1 of 4'"),
    ],
)
def test_resuming_with_other_settings_is_refused_and_changes_nothing(
    changed: dict[str, Any], says: str, finished: Path, data: Path
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(RuntimeError) as caught:
        run("train.json", root=finished, dataset_dir=str(data), **{**TRAINING, **changed})
    error = own_error(caught.value)
    assert isinstance(error, StateError)
    assert says in str(error)
    assert "--resume False" in str(error)
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_a_finished_run_goes_on_for_more_epochs(finished: Path, data: Path) -> None:
    more = {**TRAINING, "epochs": 3, "cache_rate": 0.0, "dataset_dir": str(data)}
    run("train.json", root=finished, **more)
    found = report(finished)
    assert found["resumed_after_epochs"] == [2]
    assert [entry["epoch"] for entry in found["epochs"]] == [1, 2, 3]
    assert sorted(path.name for path in (finished / "runs/train").glob("*.pt")) == [
        f"resume_checkpoint_{epoch}.pt" for epoch in (2, 3)
    ]


def test_starting_anew_leaves_no_checkpoint_of_the_run_before(finished: Path, data: Path) -> None:
    anew = {**TRAINING, "epochs": 1, "lr": 0.02, "resume": False, "dataset_dir": str(data)}
    run("train.json", root=finished, **anew)
    assert [path.name for path in (finished / "runs/train").glob("*.pt")] == ["resume_checkpoint_1.pt"]
    assert report(finished)["resumed_after_epochs"] == []
