"""Every scheme in both bundles with two seeds, by the command line: killed half-way and completed, and through Ray."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from metalr_monai.study.study_file import read_study

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "configs/studies"
EXTRAS = ("prodigyopt", "schedulefree", "ray")
pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in EXTRAS),
    reason=f"needs {', '.join(EXTRAS)}, of the extras rivals and cluster",
)


def command(name: str, output: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "metalr_monai", "study", str(STUDIES / f"{name}.yaml"), str(output), *flags]


def ended(output: Path) -> dict[Path, int]:
    """The trainings that have ended, and when."""
    reports = [file for file in output.rglob("run_report.json") if '"status": "completed"' in file.read_text()]
    return {file: file.stat().st_mtime_ns for file in reports}


def assert_all_is_there(name: str, output: Path) -> None:
    study = read_study(STUDIES / f"{name}.yaml")
    with (output / "results.csv").open(newline="") as file:
        assert [row["scheme"] for row in csv.DictReader(file)] == list(study.schemes)
    results = json.loads((output / "results.json").read_text())
    assert results
    for scheme in study.schemes:
        assert scheme in (output / "report.html").read_text()
    runs = [file.parents[2] for file in output.glob("runs/*/seed_*/runs/evaluate/metrics.json")]
    assert len(runs) == 2 * len(study.schemes)


def test_every_scheme_runs_on_ultrasound_and_a_study_killed_half_way_is_completed(tmp_path: Path) -> None:
    words = command("smoke_lesion", tmp_path, "--workers", "2")
    study = subprocess.Popen(words, start_new_session=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    while len(list(tmp_path.glob("runs/*/seed_*/runs/evaluate/metrics.json"))) < 21:
        assert study.poll() is None
        time.sleep(0.2)
    os.killpg(study.pid, signal.SIGKILL)
    study.wait()
    time.sleep(1)
    before = ended(tmp_path)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {file: moment for file, moment in ended(tmp_path).items() if file in before} == before
    assert_all_is_there("smoke_lesion", tmp_path)


def test_every_scheme_runs_on_ct_through_ray(tmp_path: Path) -> None:
    words = command("smoke_liver", tmp_path, "--workers", "2", "--executor", "ray")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_all_is_there("smoke_liver", tmp_path)
