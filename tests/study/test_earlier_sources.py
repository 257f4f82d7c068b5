"""Runs that started from another source network than the study's stand beside others only where told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import SMALL, study_in

from metalr_monai.errors import StudyError
from metalr_monai.study.definition import Study
from metalr_monai.study.job import Job, run_folder
from metalr_monai.study.matrix import make_matrix
from metalr_monai.study.study import report_study, run_study


def of_another_source(finished: Path, folder: Path) -> tuple[Study, Path]:
    """The finished study without its source network, as its refusal asks for, and a study with another one."""
    output = Path(shutil.copytree(finished, folder / "out"))
    source = {**SMALL["source"], "keys": {**SMALL["source"]["keys"], "lr": 0.01}}
    study = study_in(folder / "study", source=source)
    with pytest.raises(StudyError, match=r"out/source: was run with lr='not set', and the study has 0\.01.*remove"):
        run_study(study, output, command="study")
    shutil.rmtree(output / "source")
    return study, output


def test_finished_runs_of_another_source_are_refused_unless_told(finished: Path, tmp_path: Path) -> None:
    study, output = of_another_source(finished, tmp_path)
    with pytest.raises(StudyError, match=r"differ in their source .*all_layers/seed_0.*--mixed"):
        run_study(study, output, command="study", seeds=2, schemes=["all layers"])
    assert not (output / "source").exists()
    assert run_study(study, output, command="study", mixed=True).failures == []


def test_reports_refuse_runs_of_two_sources(finished: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    file = run_folder(output, "all layers", 0) / "study_run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "source": "0123456789abcdef"}))
    with pytest.raises(StudyError, match=r"differ in their source .*0123456789abcdef: all_layers/seed_0"):
        report_study(output)


def test_runs_from_before_it_was_written_down_are_reported_and_gone_on_with(finished: Path, tmp_path: Path) -> None:
    study, output = of_another_source(finished, tmp_path)
    for file in output.rglob("study_run.json"):
        content = json.loads(file.read_text())
        assert bool(content.pop("source")) == (content["scheme"] != "from scratch")
        file.write_text(json.dumps(content))
    outcome = run_study(study, output, command="study")
    assert outcome.ok and outcome.page is not None


def test_what_the_source_there_was_trained_by_counts_not_what_it_would_be_now(finished: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    file = output / "source/study_run.json"
    before = Job.read(run_folder(output, "all layers", 0)).source
    [run] = make_matrix(study_in(tmp_path / "same"), None, output, 1, ["all layers"]).runs
    assert run.own.source == before != ""
    file.write_text(json.dumps({**json.loads(file.read_text()), "code": "0123456789abcdef"}))
    [run] = make_matrix(study_in(tmp_path / "study"), None, output, 1, ["all layers"]).runs
    assert run.own.source != before


def test_files_that_keys_name_from_the_working_folder_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    schemes = {"all layers": {"overlays": ["schemes/all_layers.json"], "keys": {"checkpoint": "weights/mine.pt"}}}
    study = study_in(tmp_path / "study", schemes=schemes, scratch=None, source=None)
    (tmp_path / "weights").mkdir()
    digests = set()
    for content in ("one", "two", "two"):
        (tmp_path / "weights/mine.pt").write_text(content)
        [run] = make_matrix(study, None, tmp_path / "out", 1, ["all layers"]).runs
        digests.add(run.own.files)
        assert run.own.source == ""
    assert len(digests) == 2
