"""A real study: what runs, what is skipped, what is refused, and what a kill leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, study_in

from metalr_monai.__main__ import main
from metalr_monai.errors import StudyError
from metalr_monai.study.collect import collect, searched_ranges
from metalr_monai.study.definition import Study
from metalr_monai.study.execute import refuse_test_scores, start
from metalr_monai.study.job import Job, run_folder
from metalr_monai.study.matrix import make_matrix
from metalr_monai.study.study import plan_study, report_study, run_study

TITLES = {"accuracy": "accuracy.value"}
NAMES = ["from scratch", "all layers", "tuned rate"]


def copied(finished: Path, folder: Path) -> Path:
    """The finished study in a folder of its own."""
    return Path(shutil.copytree(finished, folder))


def times(output: Path) -> dict[str, int]:
    """When each training's report was last written."""
    return {str(file.relative_to(output)): file.stat().st_mtime_ns for file in output.rglob("run_report.json")}


def scores(output: Path) -> dict[tuple[str, int], tuple[float, ...]]:
    records, _ = collect(output, TITLES)
    return {(r.scheme, r.seed): (r.scores["accuracy"], *(epoch.train_loss for epoch in r.epochs)) for r in records}


def test_every_scheme_is_run_scored_and_reported(finished: Path) -> None:
    records, skipped = collect(finished, TITLES)
    assert sorted(record.scheme for record in records) == sorted(NAMES)
    assert skipped == {}
    assert len(list(finished.rglob("run_report.json"))) == 1 + 3 + 2  # the source, the schemes, the search
    for name in ("results.md", "results.csv", "results.json", "report.html"):
        assert (finished / name).stat().st_size > 0
    assert not list(finished.rglob("resume_checkpoint_*")) and list(finished.rglob("model.pt"))
    assert all(0 <= record.scores["accuracy"] <= 1 and len(record.epochs) == 2 for record in records)
    assert {len(record.cases) for record in records} == {len(records[0].cases)}


def test_all_but_scratch_start_from_the_source_network(finished: Path) -> None:
    keys = {name: Job.read(run_folder(finished, name, 0)).keys for name in NAMES}
    assert {name: keys[name].get("checkpoint") for name in NAMES} == {
        "from scratch": None,
        "all layers": str(finished / "source/models/model.pt"),
        "tuned rate": str(finished / "source/models/model.pt"),
    }


def test_a_search_chooses_by_inner_validation_and_its_time_counts(finished: Path) -> None:
    folder = run_folder(finished, "tuned rate", 0)
    reports = [json.loads(file.read_text()) for file in sorted(folder.glob("search/*/runs/train/run_report.json"))]
    assert [len(report["split"]["validation"]) > 0 for report in reports] == [True, True]
    assert [(folder / "search" / name / "runs/evaluate").exists() for name in ("lr_1e-06", "lr_0.003")] == [False] * 2
    validated = {report["settings"]["lr"]: report["key_metric"]["last"] for report in reports}
    chosen = Job.read(folder).keys["lr"]
    assert validated[chosen] == max(validated.values())
    own = json.loads((folder / "runs/train/run_report.json").read_text())
    assert own["settings"]["lr"] == chosen
    assert "validation" not in {part for part, cases in own["split"].items() if cases}  # trained on all of it
    record = next(record for record in collect(finished, TITLES)[0] if record.scheme == "tuned rate")
    assert record.search_seconds == pytest.approx(sum(e["seconds"] for report in reports for e in report["epochs"]))
    assert record.chosen == f"lr {chosen}"


def test_what_is_done_is_not_run_again(small_study: Study, finished: Path, tmp_path: Path) -> None:
    output = copied(finished, tmp_path / "again")
    before = times(output)
    (output / "results.md").unlink()
    assert list(run_study(small_study, output, command="study").failures) == []
    assert times(output) == before
    assert (output / "results.md").exists()


def test_what_is_done_counts_and_not_the_exit_code(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metalr_monai.study.execute.run_logged", os.abort)  # ends in an error: it takes no arguments
    folder = run_folder(copied(finished, tmp_path / "out"), "all layers", 0)
    start(folder, Job.read(folder))
    (folder / "runs/evaluate/metrics.json").unlink()
    with pytest.raises(StudyError, match="exit code 1; "):
        start(folder, Job.read(folder))


def test_a_training_that_is_done_anew_is_scored_anew(small_study: Study, finished: Path, tmp_path: Path) -> None:
    output = copied(finished, tmp_path / "out")
    folder = run_folder(output, "from scratch", 0)
    report, metrics = folder / "runs/train/run_report.json", folder / "runs/evaluate/metrics.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "status": "failed"}))
    metrics.write_text(json.dumps({"accuracy": {"value": 2.0}}))
    assert list(run_study(small_study, output, command="study", schemes=["from scratch"]).failures) == []
    found, before = scores(output), scores(finished)
    for run, own in before.items():
        assert found[run] == pytest.approx(own, rel=1e-5)  # one thread more adds in another order


def test_a_report_tells_the_runs_own_machine_and_day_whoever_writes_it(
    small_study: Study, finished: Path, tmp_path: Path
) -> None:
    output = copied(finished, tmp_path / "out")
    for name in NAMES:
        file = run_folder(output, name, 0) / "runs/train/run_report.json"
        content = json.loads(file.read_text())
        content |= {"ended": "2024-02-29T10:00:00+00:00", "machine": {**content["machine"], "cpu_cores": 96}}
        file.write_text(json.dumps(content))
    study = small_study.bundle.parents[1] / "configs/studies/small.yaml"
    flags = ["--schemes", "all layers; tuned rate", "--workers", "2"]
    assert main(["study", str(study), str(output), *flags]) == 0
    text = (output / "results.md").read_text().split("## How it was run")[1]
    assert re.search(r"- date: 2024-02-29\n- machine: .*, 96 cores, .*\n- versions: python .*, torch ", text)
    assert f'study {study} OUTPUT --seeds 1 --schemes "all layers; tuned rate" --workers 2\n' in text
    file.write_text(json.dumps({**content, "machine": {**content["machine"], "cpu_cores": 2}}))
    report_study(output)
    assert "The runs differ in machines" in (output / "results.md").read_text()


def test_a_study_killed_at_any_time_is_completed_without_repeating_runs(
    small_study: Study, finished: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from metalr_monai.study.study import run_study; from metalr_monai.study.study_file import read_study\n"
        "run_study(read_study(sys.argv[1]), Path(sys.argv[2]), command='study', workers=2)"
    )
    file = small_study.bundle.parents[1] / "configs/studies/small.yaml"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(file), str(tmp_path / "out")], start_new_session=True
    )
    first = run_folder(tmp_path / "out", "from scratch", 0) / "runs/evaluate/metrics.json"
    while not first.exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = times(tmp_path / "out")
    ended = {name for name in done if json.loads((tmp_path / "out" / name).read_text())["status"] == "completed"}
    assert len(ended) >= 2
    outcome = run_study(small_study, tmp_path / "out", command="study", workers=2)
    assert list(outcome.failures) == []
    assert {name: moment for name, moment in times(tmp_path / "out").items() if name in ended} == {
        name: done[name] for name in ended
    }
    assert scores(tmp_path / "out") == scores(finished)


def test_a_run_that_fails_is_named_and_the_others_go_on(finished: Path, tmp_path: Path) -> None:
    output = copied(finished, tmp_path / "out")
    schemes = {
        "all layers": {"overlays": ["schemes/all_layers.json"]},
        "hopeless": {"overlays": ["schemes/all_layers.json"], "keys": {"checkpoint": "none.pt"}},
        "broken": {"overlays": ["schemes/all_layers.json"], "keys": {"train#inferer#enabled": "$1 / 0"}},
        "scratch": {"overlays": ["schemes/all_layers.json"], "pretrained": False},
    }
    study = study_in(tmp_path / "study", schemes=schemes, scratch="scratch")
    outcome = run_study(study, output, command="study")
    failures = {(failure.scheme, failure.seed): failure.reason for failure in outcome.failures}
    assert set(failures) == {("hopeless", 0), ("broken", 0)}
    assert re.search(r"log\.txt ends with: WeightsError: .*none\.pt", failures["hopeless", 0])
    assert failures["broken", 0].endswith("log.txt ends with: ZeroDivisionError: division by zero")  # not MONAI's
    assert list(outcome.skipped.values()) == ["not finished"] * 2
    assert "scratch" in (output / "results.md").read_text()


def test_a_spoiled_folder_is_passed_over_by_name(finished: Path, tmp_path: Path) -> None:
    output = copied(finished, tmp_path / "out")
    (run_folder(output, "from scratch", 0) / "runs/evaluate/metrics.json").write_text("{")
    (run_folder(output, "tuned rate", 0) / "runs/train/run_report.json").write_text("[]")
    page, skipped = report_study(output)
    assert page is not None
    assert {folder.parent.name for folder in skipped} == {"from_scratch", "tuned_rate"}
    assert re.search(
        r"from_scratch/seed_0/runs/evaluate/metrics\.json is not whole \(JSONDecodeError: .*\); remove the folder to",
        skipped[run_folder(output, "from scratch", 0)],
    )
    assert "run_report.json is not whole (ValueError: it holds a list)" in skipped[run_folder(output, "tuned rate", 0)]
    assert "from scratch" not in (output / "results.csv").read_text()


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("study_run.json", lambda text: text[: len(text) // 2]),
        ("search/lr_0.003/study_run.json", lambda text: text[: len(text) // 2]),
        ("search/lr_1e-06/study_run.json", lambda text: text[: len(text) // 2]),
        ("runs/train/run_report.json", lambda text: json.dumps({**json.loads(text), "peak_memory_bytes": None})),
        ("search/lr_0.003/runs/train/run_report.json", lambda _: "{"),
        ("runs/evaluate/metrics.csv", lambda _: "nothing\nhere"),
    ],
)
def test_a_report_names_the_spoiled_file_and_does_not_pass_for_whole(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, spoil: Callable[[str], str]
) -> None:
    output = copied(finished, tmp_path / "out")
    path = run_folder(output, "tuned rate", 0) / file
    path.write_text(spoil(path.read_text()))
    assert main(["report", str(output)]) == 2
    told = capsys.readouterr().out
    assert f"not in the results: {run_folder(output, 'tuned rate', 0)} ({path} is not whole (" in told
    assert "); remove the folder to have it run again)" in told
    assert "tuned rate" not in (output / "results.csv").read_text()


def test_a_place_of_a_score_that_is_not_there_is_named_with_near_misses(finished: Path, tmp_path: Path) -> None:
    output = copied(finished, tmp_path / "out")
    about = json.loads((output / "study.json").read_text())
    for place in ("accuracy.valu", "accuracy"):
        (output / "study.json").write_text(json.dumps({**about, "titles": {"accuracy": place}}))
        page, skipped = report_study(output)
        assert (page, len(skipped)) == (None, 3)
        for folder, reason in skipped.items():
            assert reason.startswith(f"{folder}/runs/evaluate/metrics.json has no number at '{place}'")
            assert re.search(r"Did you mean .*accuracy\.value", reason) and "remove" not in reason


def test_copies_of_runs_are_named_and_are_no_seeds(small_study: Study, finished: Path, tmp_path: Path) -> None:
    output = copied(finished, tmp_path / "out")
    runs = output / "runs"
    copies = [runs / "all_layers/seed_0.bak", runs / "all_layers_old/seed_0"]
    for copy in copies:
        shutil.copytree(runs / "all_layers/seed_0", copy)
    outcome = run_study(small_study, output, command="study")
    assert outcome.ok and outcome.page is not None
    assert outcome.skipped == dict.fromkeys(copies, "a copy: its study_run.json names another folder")


def test_candidates_of_copies_do_not_count_in_the_map_of_ranges(tmp_path: Path) -> None:
    job = Job("both", 0, [], "", "", {}, "c", "d", "f", [])
    for seed, score in (("seed_0", 0.5), ("seed_0.bak", 0.9)):
        for first in (1, 2):
            folder = tmp_path / f"runs/both/{seed}/search/{first}"
            replace(job, keys={"first_frozen": first, "last_frozen": 2}).write(folder)
            (folder / "runs/train").mkdir(parents=True)
            report = {"status": "completed", "key_metric": {"last": score}}
            (folder / "runs/train/run_report.json").write_text(json.dumps(report))
    assert searched_ranges(tmp_path, "both") == {(1, 2): 0.5, (2, 2): 0.5}


@pytest.mark.parametrize("what", ["code", "data"])
def test_runs_of_other_code_or_data_are_refused_unless_told(
    small_study: Study, finished: Path, tmp_path: Path, what: str
) -> None:
    output = copied(finished, tmp_path / "out")
    file = run_folder(output, "all layers", 0) / "study_run.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, what: "0123456789abcdef"}))
    for refused in (lambda: report_study(output), lambda: run_study(small_study, output, command="study")):
        with pytest.raises(StudyError, match=rf"differ in their {what} .*0123456789abcdef: all_layers/seed_0.*--mixed"):
            refused()
    assert report_study(output, mixed=True)[0] is not None


def test_a_run_begun_with_other_code_is_not_gone_on_with(small_study: Study, finished: Path, tmp_path: Path) -> None:
    output = copied(finished, tmp_path / "out")
    folder = run_folder(output, "all layers", 0)
    file = folder / "study_run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "code": "0123456789abcdef"}))
    (folder / "runs/evaluate/metrics.json").unlink()
    with pytest.raises(
        StudyError, match=r"all_layers/seed_0: was begun with other code than the study has now.*remove"
    ):
        run_study(small_study, output, command="study", mixed=True)
    assert Job.read(folder).code == "0123456789abcdef"


def test_a_run_of_other_settings_is_refused(finished: Path, tmp_path: Path) -> None:
    output = copied(finished, tmp_path / "out")
    before = times(output)
    keys = {"epochs": 3, "val_interval": 1, "meta": 0.3, "split": "fold 1 of 3"}
    with pytest.raises(StudyError, match=r"was run with epochs=2, and the study has 3"):
        run_study(study_in(tmp_path / "study", keys=keys), output, command="study")
    assert times(output) == before


def test_configs_that_have_changed_and_keys_that_have_gone_are_refused(finished: Path, tmp_path: Path) -> None:
    output = copied(finished, tmp_path / "out")
    study = study_in(tmp_path / "study", keys={"epochs": 2, "val_interval": 1, "split": "fold 1 of 3", "lr": 0.002})
    with pytest.raises(StudyError, match=r"was run with lr='not set', and the study has 0\.002"):
        run_study(study, output, command="study", schemes=["all layers"])
    file = run_folder(output, "all layers", 0) / "study_run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "files": "0123456789abcdef"}))
    with pytest.raises(StudyError, match=r"all_layers/seed_0: its configs, .* have changed since: .*all_layers\.json"):
        run_study(study_in(tmp_path / "same"), output, command="study", schemes=["from scratch"])


def test_seeds_that_are_not_asked_for_are_compared_too(small_study: Study, finished: Path, tmp_path: Path) -> None:
    output = copied(finished, tmp_path / "out")
    later = run_folder(output, "all layers", 3)
    shutil.copytree(run_folder(output, "all layers", 0), later)
    job = json.loads((later / "study_run.json").read_text())
    (later / "study_run.json").write_text(json.dumps({**job, "keys": {**job["keys"], "seed": 3, "epochs": 9}}))
    with pytest.raises(StudyError, match=r"seed_3: was run with epochs=9, and the study has 2"):
        run_study(small_study, output, command="study")


def test_a_changed_search_is_refused(finished: Path, tmp_path: Path) -> None:
    tuned = {"overlays": ["schemes/all_layers.json"], "search": {"lr": [1e-6, 3e-3, 1e-2]}}
    study = study_in(tmp_path / "study", schemes={**SMALL["schemes"], "tuned rate": tuned})
    with pytest.raises(StudyError, match=r"searched among \[{'lr': 1e-06}, {'lr': 0.003}\], and the study has"):
        run_study(study, copied(finished, tmp_path / "out"), command="study")


def test_what_a_schemes_overlay_sets_is_not_for_the_study_to_change(tmp_path: Path) -> None:
    schemes = {
        "all layers": {"overlays": ["schemes/all_layers.json"]},
        "Prodigy": {"overlays": ["schemes/prodigy.json"]},
    }
    study = study_in(tmp_path, keys={"lr": 0.0003}, schemes=schemes, scratch=None)
    keys = {run.own.scheme: run.own.keys for run in make_matrix(study, None, tmp_path / "out", 1, [*schemes]).runs}
    assert keys["all layers"]["lr"] == 0.0003
    assert "lr" not in keys["Prodigy"]


def test_a_search_without_a_validation_part_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = next((run_folder(copied(finished, tmp_path / "out"), "tuned rate", 0) / "search").iterdir())
    split = folder / "runs/train/split.json"
    content = json.loads(split.read_text())
    split.write_text(json.dumps({"train": content["train"] + content["validation"], "test": content["test"]}))
    with pytest.raises(StudyError, match="has no validation part, so that its search would choose by the test part"):
        refuse_test_scores(folder)


def test_a_score_that_is_undefined_and_a_loss_that_diverged_are_shown(finished: Path, tmp_path: Path) -> None:
    output = copied(finished, tmp_path / "out")
    folder = run_folder(output, "from scratch", 0)
    metrics, report = folder / "runs/evaluate/metrics.json", folder / "runs/train/run_report.json"
    metrics.write_text(json.dumps({**json.loads(metrics.read_text()), "accuracy": {"value": None}}))
    content = json.loads(report.read_text())
    content["epochs"][-1]["train_loss"] = None
    report.write_text(json.dumps(content))
    page, skipped = report_study(output)
    assert page is not None and skipped == {}
    text = (output / "results.md").read_text()
    assert "“from scratch” has no accuracy in 1 of 1 seeds" in text
    assert "“from scratch” diverged (its training loss was not finite) in 1 of 1 seeds" in text


def test_a_dry_run_says_what_is_left_and_how_long_it_takes(small_study: Study, finished: Path, tmp_path: Path) -> None:
    options = {"data": None, "schemes": None, "workers": 1}
    text = plan_study(small_study, tmp_path / "new", seeds=None, **options)
    assert "6 of 6 trainings are left. How long that takes is known once one is done" in text
    output = copied(finished, tmp_path / "out")
    text = plan_study(small_study, output, seeds=2, **options)
    assert [line.split()[-2:] for line in text.splitlines()[1:4]] == [["2", "1"], ["2", "1"], ["6", "3"]]
    assert "5 of 11 trainings are left. By those that are done: about 0 h" in text


def test_a_scheme_of_a_sweep_stands_for_all_its_start_rates(small_study: Study, tmp_path: Path) -> None:
    lines = {f"{name}, lr {rate}": (name, rate) for name in NAMES for rate in (0.1, 0.01)}
    schemes = {name: replace(small_study.schemes[line], name=name) for name, (line, _) in lines.items()}
    sweep = replace(small_study, schemes=schemes, start_rates=lines)
    asked = [NAMES[1], f"{NAMES[1]}, lr 0.1", f"{NAMES[0]}, lr 0.1"]  # the second is one of the first
    found = [run.own.scheme for run in make_matrix(sweep, None, tmp_path, 1, asked).runs]
    assert found == [f"{NAMES[1]}, lr 0.1", f"{NAMES[1]}, lr 0.01", f"{NAMES[0]}, lr 0.1"]


def test_an_unknown_scheme_is_refused_with_near_misses(small_study: Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no scheme 'all layer'.*Did you mean all layers"):
        make_matrix(small_study, None, tmp_path, 1, ["all layer"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phantoms": {"kind": "bus"}}, "kind is 'bus'; expected one of lits, "),
        ({"schemes": {"all layers": {"search": "deep"}}, "scratch": None}, "search is 'deep'; expected layer-wise"),
        ({"schemes": {"all layers": {"search": {}}}, "scratch": None}, "names no keys"),
        ({"schemes": {"all layers": {"search": {"lr": []}}}, "scratch": None}, "names no values"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_does(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    study = study_in(tmp_path, **changes)
    with pytest.raises(StudyError, match=message):
        run_study(study, tmp_path / "out", command="study")
    assert not (tmp_path / "out/source").exists()


def test_counting_what_is_left_generates_nothing(small_study: Study, tmp_path: Path) -> None:
    assert "6 of 6 trainings are left" in plan_study(small_study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pre_trained_network_must_be_there(tmp_path: Path) -> None:
    study = study_in(tmp_path / "study", source=None)
    with pytest.raises(
        StudyError, match=r"all layers starts from a pre-trained network, and there is none: .*--checkp"
    ):
        run_study(study, tmp_path / "out", command="study")
    with pytest.raises(StudyError, match=r"There is no file .*/mine\.pt; expected pre-trained weights"):
        run_study(study, tmp_path / "out", command="study", checkpoint=tmp_path / "mine.pt")
    (tmp_path / "mine.pt").touch()
    matrix = make_matrix(study, None, tmp_path / "out", 1, NAMES, tmp_path / "mine.pt")
    given = {run.own.scheme: run.own.keys["checkpoint"] for run in matrix.runs}
    assert given == {
        "from scratch": None,
        "all layers": str(tmp_path / "mine.pt"),
        "tuned rate": str(tmp_path / "mine.pt"),
    }


def test_data_of_the_users_must_be_there(tmp_path: Path) -> None:
    study = study_in(tmp_path / "study", phantoms=None, folder="images")
    with pytest.raises(StudyError, match="name its folder with --data"):
        run_study(study, tmp_path / "out", command="study")
    with pytest.raises(StudyError, match=r"There is no folder .*/images; expected the study's data there"):
        run_study(study, tmp_path / "out", command="study", data=tmp_path)


def test_an_output_among_the_data_is_refused_before_anything_runs(tmp_path: Path) -> None:
    study = study_in(tmp_path / "study", phantoms=None, folder="images")
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "images")
    for output in (tmp_path / "images/out", tmp_path / "images", tmp_path / "link/out"):
        with pytest.raises(StudyError, match=r"is in the data folder .*/images, .*name an output folder elsewhere"):
            run_study(study, output, command="study", data=tmp_path)
    assert not list((tmp_path / "images").iterdir())


def test_a_study_that_needs_a_gpu_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(StudyError, match="needs a GPU"):
        run_study(study_in(tmp_path, needs_gpu=True), tmp_path / "out", command="study")


def test_an_unknown_executor_is_refused(small_study: Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"executor is 'rays'; expected one of local, ray\. Did you mean ray"):
        run_study(small_study, tmp_path / "out", command="study", executor="rays")
