"""A study through Ray, on this machine: what is left is run, and what goes wrong is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import study_in

from metalr_monai.errors import StudyError
from metalr_monai.study.definition import Study
from metalr_monai.study.job import run_folder
from metalr_monai.study.matrix import Matrix
from metalr_monai.study.ray_executor import execute_on_ray

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs ray, of the extra cluster")


def through_ray(study: Study, output: Path) -> subprocess.CompletedProcess[str]:
    """By the command line: Ray leaves processes behind that a test's own process would have to answer for."""
    file = study.bundle.parents[1] / "configs/studies/small.yaml"
    words = [sys.executable, "-m", "metalr_monai", "study", str(file), str(output), "--executor", "ray"]
    here = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(words, env=here, capture_output=True, text=True, check=False)


def times(output: Path) -> dict[str, int]:
    """When each training's report was last written."""
    return {str(file.relative_to(output)): file.stat().st_mtime_ns for file in output.rglob("run_report.json")}


def test_what_a_kill_has_left_is_completed_alone_and_a_spoiled_search_is_its_own_failure(
    small_study: Study, finished: Path, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    before = times(output)
    killed, spoiled = (run_folder(output, name, 0) for name in ("all layers", "tuned rate"))
    for folder in (killed, spoiled):
        (folder / "runs/evaluate/metrics.json").unlink()
    (spoiled / "search/lr_0.003/runs/train/split.json").write_text("{")
    done = through_ray(small_study, output)
    assert done.returncode == 2, done.stderr[-2000:]
    [failed] = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert failed.startswith("failed: tuned rate, seed 0: The split ")
    assert failed.endswith(f"Remove {spoiled}/search/lr_0.003 to have it run again.")
    assert (killed / "runs/evaluate/metrics.json").exists()
    assert times(output) == before


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="needs a machine without a GPU")
def test_a_study_that_needs_a_gpu_is_refused_where_the_cluster_has_none(tmp_path: Path) -> None:
    done = through_ray(study_in(tmp_path, needs_gpu=True), tmp_path / "out")
    assert done.returncode == 2
    assert "This study needs a GPU (needs_gpu), and the Ray cluster has none." in done.stderr
    assert not (tmp_path / "out/runs").exists() and not (tmp_path / "out/source").exists()


def test_an_address_without_a_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    with pytest.raises(StudyError, match=r"Ray could not be reached at RAY_ADDRESS, which is 'nonsense': Invalid"):
        execute_on_ray(Matrix(None, []))
