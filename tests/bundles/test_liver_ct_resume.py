"""The liver CT bundle goes on after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from liver_ct_bundle import TRAINING, WARNINGS, call, command, one_thread, rows, weights

pytestmark = WARNINGS


def epochs_done(report: Path) -> int:
    return len(json.loads(report.read_text(encoding="utf-8"))["epochs"]) if report.exists() else 0


@pytest.fixture
def killed(data: Path, tmp_path: Path) -> Iterator[Path]:
    """A run that was killed after its first epoch's checkpoint, which stands before the report."""
    arguments = command("train.json", root=tmp_path, dataset_dir=data, **TRAINING)
    process = subprocess.Popen(arguments, env=one_thread(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not epochs_done(tmp_path / "runs/train/run_report.json"):
            assert process.poll() is None, "the run ended before its first checkpoint"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    yield tmp_path


def test_killed_run_resumes_to_the_same_weights(killed: Path, trained: Path, data: Path) -> None:
    assert not (killed / "models/model.pt").exists()
    call(command("train.json", root=killed, dataset_dir=data, **TRAINING))
    report = json.loads((killed / "runs/train/run_report.json").read_text(encoding="utf-8"))
    assert report["resumed_after_epochs"] == [1]
    whole, resumed = weights(trained), weights(killed)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert rows(killed / "runs/train/rates.csv") == rows(trained / "runs/train/rates.csv")
