"""`python -m metalr_monai`: what each verb prints, to which stream, and with which exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from metalr_monai import GenesisUNet3D, write_lits_phantoms
from metalr_monai.__main__ import main
from metalr_monai.cli import verbs
from metalr_monai.cli.verbs import VERBS
from metalr_monai.data.ct_lists import READERS
from metalr_monai.errors import OptionError

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file")  # MONAI's reminder that a config is code

LIVER = Path(__file__).parents[1] / "bundles/liver_ct_segmentation"
SMALL = (16, 16, 16)


def run(*words, cwd=None):
    """The real command line, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "metalr_monai", *map(str, words)],
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        check=False,
    )


@pytest.fixture
def cli(capsys):
    """The command line in this process: exit code, standard output, standard error."""

    def call(*words):
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def scans(tmp_path):
    """Two phantoms in the LiTS layout."""
    write_lits_phantoms(tmp_path / "scans", 2, size=SMALL, progress=False)
    return tmp_path / "scans"


def break_label(folder):
    """Put label 1 of the scans on another grid, with a value that no label has."""
    label = np.full((8, 16, 16), 7, np.uint8)
    nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "segmentation-1.nii.gz")


def save_checkpoint(path):
    torch.save({"state_dict": GenesisUNet3D(width=8, batch_statistics="standard").state_dict(), "epoch": 7}, path)
    return path


def run_folder(folder):
    folder.mkdir()
    report = {
        "report_version": 1,
        "status": "completed",
        "started": "2026-01-01T00:00:00+00:00",
        "max_epochs": 1,
        "epochs": [{"epoch": 1, "train_loss": 0.5, "seconds": 1.0}],
        "validation": [],
    }
    (folder / "run_report.json").write_text(json.dumps(report))
    return folder


def make_bundle(folder, run=(), **content):
    """A bundle whose configs/inference.json evaluates the expressions of `run`."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs/metadata.json").write_text("{}")
    (folder / "models/model.pt").touch()
    keys = {"bundle_root": ".", "dataset_dir": "none", "output_dir": "none"}
    imports = ["$import pathlib", "$import metalr_monai"]
    config = {"imports": imports, **keys, "initialize": [], "run": list(run), "finalize": [], **content}
    (folder / "configs/inference.json").write_text(json.dumps(config))
    return folder


# ---------------------------------------------------------------------- the process


def test_without_a_verb_the_process_lists_the_verbs():
    done = run()
    assert done.returncode == 0
    assert all(re.search(rf"\n  {verb}[ \n]", done.stdout) for verb in VERBS)


def test_check_data_of_a_process_answers_in_json_alone_and_fails_on_errors(scans):
    break_label(scans)
    done = run("check-data", "lits", scans, "--json")
    assert done.returncode == 2
    found = json.loads(done.stdout)
    assert (found["ok"], found["cases"], found["errors"], found["voxels_read"]) == (False, 2, 1, False)
    assert [problem["case_id"] for problem in found["problems"] if problem["kind"] == "error"] == ["volume-1"]
    assert "check: 100%" in done.stderr


def test_bad_input_ends_the_process_with_2_and_no_traceback(tmp_path):
    done = run("inspect", tmp_path / "missing.pt")
    assert (done.returncode, done.stdout) == (2, "")
    assert "missing.pt" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unexpected_failure_ends_the_process_with_1_and_its_traceback(tmp_path):
    bundle = make_bundle(tmp_path / "bundle", ["$1 / 0"])
    done = run("predict", bundle, tmp_path, tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_predict_runs_the_liver_bundle_on_a_folder_of_images(tmp_path, scans):
    config = json.loads((LIVER / "configs/inference.json").read_text())
    config |= {"width": 4, "spacing": [12.0, 12.0, 12.0], "patch_size": [16, 16, 16]}
    bundle = make_bundle(tmp_path / "liver", **config)
    (bundle / "configs/logging.conf").write_text((LIVER / "configs/logging.conf").read_text())
    torch.save({"model": GenesisUNet3D(width=4, batch_statistics="standard").state_dict()}, bundle / "models/model.pt")
    images = tmp_path / "some images"
    images.mkdir()
    (scans / "volume-0.nii.gz").rename(images / "a.nii.gz")

    done = run("predict", "liver", "some images", "@out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [Path(file).parent for file in found["files"]] == [tmp_path / "@out"]
    predicted = nib.load(found["files"][0])
    assert predicted.shape == SMALL
    assert np.allclose(predicted.affine, nib.load(images / "a.nii.gz").affine, atol=1e-3)


# ---------------------------------------------------------------------- the verbs


def test_info_tells_versions_and_machine(cli):
    code, out, _ = cli("info", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["threads"] == torch.get_num_threads()
    _, text, _ = cli("info")
    assert torch.__version__ in text


def test_inspect_tells_the_network_of_a_checkpoint(cli, tmp_path):
    path = save_checkpoint(tmp_path / "small.pt")
    code, out, _ = cli("inspect", path, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["container"], found["epoch"], found["kind"]["width"]) == ("state_dict", 7, 8)
    _, text, _ = cli("inspect", path)
    assert "width 8" in text


def test_phantoms_writes_scans_that_check_data_finds_faultless(cli, tmp_path):
    code, out, err = cli("phantoms", "lits", tmp_path / "new", "--count", 2, "--seed=3", "--json")
    found = json.loads(out)
    assert (code, found["count"], found["seed"]) == (0, 2, 3)
    assert "Phantoms: 100%" in err
    assert all(Path(volume).is_file() for volume in found["volumes"])
    code, out, _ = cli("check-data", "lits", tmp_path / "new", "--voxels", "--json")
    assert (code, json.loads(out)["ok"], json.loads(out)["voxels_read"]) == (0, True, True)


@pytest.mark.parametrize(("kind", "images"), [("pocus", 3 * 1 * 12), ("busi", 3 * 1)])  # classes × videos × frames
def test_phantoms_writes_pictures_that_check_data_finds_faultless(cli, tmp_path, kind, images):
    code, out, err = cli("phantoms", kind, tmp_path / "new", "--count", 1, "--seed", 3, "--json")
    found = json.loads(out)
    assert (code, found["count"], found["seed"], len(found["images"])) == (0, images, 3, images)
    assert "phase" not in found
    assert "Phantoms: 100%" in err
    assert all(Path(image).is_file() for image in found["images"])
    code, out, _ = cli("check-data", kind, tmp_path / "new", "--json")
    assert (code, json.loads(out)["cases"]) == (0, images)


@pytest.mark.parametrize("kind", ["pocus", "busi"])
@pytest.mark.parametrize(
    ("flag", "value", "shown"), [("phase", "venous", "'venous'"), ("size", "32,32,16", "(32, 32, 16)")]
)
def test_phantoms_of_ultrasound_have_neither_contrast_medium_nor_three_sides(cli, tmp_path, kind, flag, value, shown):
    code, _, err = cli("phantoms", kind, tmp_path / "new", f"--{flag}", value)
    assert code == 2
    assert f"--{flag} is {shown}, and is for phantoms of kind lits; those of kind {kind} have none" in err
    assert not (tmp_path / "new").exists()


def test_phantoms_leaves_a_folder_that_is_not_empty_alone(cli, scans):
    before = sorted(scans.iterdir())
    code, out, err = cli("phantoms", "lits", scans, "--count", 1)
    assert (code, out) == (2, "")
    assert "not empty" in err
    assert sorted(scans.iterdir()) == before


def test_phantoms_of_an_unknown_kind_names_the_known_ones(cli, tmp_path):
    code, _, err = cli("phantoms", "litz", tmp_path / "new")
    assert code == 2
    assert "known: lits, pocus, busi. Did you mean lits?" in err
    assert not (tmp_path / "new").exists()


def test_check_data_names_the_broken_label(cli, scans):
    break_label(scans)
    code, out, _ = cli("check-data", "lits", scans, "--voxels")
    assert code == 2
    assert "volume-1" in out
    assert "its shape is 8×16×16" in out
    assert "unknown label values 7" in out


@pytest.mark.parametrize("labels", ["0", "0,2", "[0,2]"])
def test_check_data_knows_only_the_labels_it_is_told(cli, scans, labels):
    code, out, _ = cli("check-data", "lits", scans, "--labels", labels, "--json")
    problems = [problem["message"] for problem in json.loads(out)["problems"] if problem["kind"] == "error"]
    assert code == 2
    assert all("unknown label values 1" in message for message in problems)
    assert json.loads(out)["voxels_read"]


@pytest.mark.parametrize("labels", ["liver", "0,x", "0.5", "()", "True"])
def test_check_data_refuses_labels_that_are_no_ints(cli, scans, labels):
    code, _, err = cli("check-data", "lits", scans, "--labels", labels)
    assert code == 2
    assert "expected the values that a label may hold" in err


def test_check_data_names_every_layout_in_its_help(cli):
    _, out, _ = cli("check-data", "--help")
    assert all(kind in out for kind in READERS)


def test_report_writes_the_page_of_a_folder(cli, tmp_path):
    folder = run_folder(tmp_path / "run")
    code, out, _ = cli("report", folder, "--json")
    assert (code, json.loads(out)) == (0, {"page": str(folder / "report.html")})
    assert (folder / "report.html").is_file()


def test_report_of_a_folder_without_a_run_is_bad_input(cli, tmp_path):
    code, out, err = cli("report", tmp_path)
    assert (code, out) == (2, "")
    assert "run_report.json is missing" in err


# ---------------------------------------------------------------------- predict


def expect_bundle_error(cli, bundle, *words):
    code, out, err = cli("predict", bundle, bundle.parent, bundle.parent / "out")
    assert (code, out) == (2, "")
    for word in words:
        assert word in err
    assert not (bundle.parent / "out").exists()


@pytest.mark.parametrize("missing", ["configs/inference.json", "models/model.pt"])
def test_predict_names_what_a_bundle_lacks(cli, tmp_path, missing):
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / missing).unlink()
    expect_bundle_error(cli, bundle, f"{bundle / missing} is missing")


def test_predict_names_the_keys_that_a_config_lacks(cli, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "configs/inference.json").write_text('{"bundle_root": "."}')
    expect_bundle_error(cli, bundle, "has no dataset_dir, output_dir")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_predict_refuses_a_config_that_is_no_json_object(cli, tmp_path, content):
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "configs/inference.json").write_text(content)
    expect_bundle_error(cli, bundle, "inference.json")


def test_predict_needs_a_bundle(cli, tmp_path):
    expect_bundle_error(cli, tmp_path / "nowhere", "There is no folder", "nowhere")


def test_predict_needs_images_that_exist(cli, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    code, _, err = cli("predict", bundle, tmp_path / "nothing", tmp_path / "out")
    assert code == 2
    assert f"There is no {tmp_path / 'nothing'}" in err


def test_predict_does_not_take_a_file_for_its_output_folder(cli, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    (tmp_path / "out").touch()
    code, _, err = cli("predict", bundle, tmp_path, tmp_path / "out")
    assert code == 2
    assert "is a file" in err


def test_predict_lists_only_what_it_wrote_and_keeps_prints_off_standard_output(cli, tmp_path):
    write = "$pathlib.Path(@output_dir, 'new.txt').write_text(@dataset_dir)"
    bundle = make_bundle(tmp_path / "bundle", ["$print('noise')", write])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old.txt").touch()
    code, out, err = cli("predict", bundle, tmp_path, tmp_path / "out", "--json")
    assert (code, json.loads(out)["files"]) == (0, [str(tmp_path / "out/new.txt")])
    assert (tmp_path / "out/new.txt").read_text() == str(tmp_path)
    assert "noise" in err


def test_predict_that_writes_nothing_is_no_success(cli, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    code, _, err = cli("predict", bundle, tmp_path, tmp_path / "out")
    assert code == 2
    assert "wrote nothing" in err


def test_bad_input_that_a_bundle_finds_is_told_without_its_wrapping(cli, tmp_path):
    bundle = make_bundle(tmp_path / "bundle", ["$metalr_monai.data_list('pairs', @dataset_dir)"])
    (tmp_path / "empty").mkdir()
    code, out, err = cli("predict", bundle, tmp_path / "empty", tmp_path / "out", "--json")
    assert (code, json.loads(out)["type"]) == (2, "DataError")
    assert "there are no images" in err
    assert "Failed to evaluate" not in err


# ---------------------------------------------------------------------- words


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["--json"]])
def test_the_usage_lists_every_verb(cli, words):
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    assert all(re.search(rf"\n  {verb}[ \n]", out) for verb in VERBS)
    assert max(map(len, out.splitlines())) <= 130


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_describes_its_arguments(cli, verb):
    code, out, err = cli(verb, "--help")
    assert (code, err) == (0, "")
    assert f"metalr_monai {verb} " in out


@pytest.mark.parametrize("word", ["chek-data", "check_dat"])
def test_an_unknown_verb_is_told_with_near_misses(cli, word):
    code, out, err = cli(word)
    assert (code, out) == (2, "")
    assert "Did you mean check-data?" in err


def test_a_verb_may_be_spelled_with_an_underscore(cli, scans):
    assert cli("check_data", "lits", scans)[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cont", "3"], "unknown flag --cont. Did you mean count?"),
        (["--jsn"], "unknown flag --jsn. Did you mean json?"),
        (["--count", "3", "--", "--interactive"], "unknown flag --"),
        (["--count"], "--count has no value"),
        (["--count", "--seed", "1"], "--count has no value"),
        (["--count", "many"], "count is 'many'"),
        (["--seed", "-1"], "seed is -1"),
        (["7"], "Could not consume arg: 7"),
    ],
)
def test_nothing_is_written_when_a_flag_is_wrong(cli, tmp_path, words, message):
    code, out, err = cli("phantoms", "lits", tmp_path / "new", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "new").exists()


def test_a_missing_argument_is_named_with_the_usage(cli):
    code, out, err = cli("phantoms", "lits")
    assert (code, out) == (2, "")
    assert "folder" in err
    assert "Usage: phantoms KIND FOLDER [--count COUNT] [--seed SEED]" in err


def test_a_switch_does_not_take_the_next_word_for_its_value(cli, scans):
    code, out, _ = cli("check-data", "--voxels", "lits", scans, "--json")
    assert (code, json.loads(out)["voxels_read"]) == (0, True)


def test_a_switch_refuses_a_value(cli, scans):
    code, _, err = cli("check-data", "lits", scans, "--voxels=maybe")
    assert code == 2
    assert "expected --voxels alone" in err


@pytest.mark.parametrize("name", ["2024", "1e3", "a,b", "None"])
def test_folders_may_be_called_like_numbers_and_lists(cli, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    run_folder(tmp_path / name)
    assert cli("report", name)[:2] == (0, str(Path(name) / "report.html") + "\n")


def test_scheme_names_with_commas_reach_the_study_as_they_are(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Path(__file__).parents[1] / "configs/studies/busi_to_xray.yaml"
    code, _, err = cli("study", study, "out", "--schemes", "MetaLR, one-pass; all layer", "--dry-run")
    assert code == 2
    assert "There is no scheme 'all layer'" in err


def test_bad_input_is_told_in_json_too(cli, tmp_path):
    code, out, err = cli("--json", "inspect", tmp_path / "missing.pt")
    found = json.loads(out)
    assert (code, found["type"]) == (2, "WeightsError")
    assert err == found["error"] + "\n"


def test_an_unexpected_failure_is_raised_as_it_is(cli, tmp_path, monkeypatch):
    def fail():
        raise KeyError("unforeseen")

    monkeypatch.setitem(VERBS, "info", fail)
    with pytest.raises(KeyError, match="unforeseen"):
        cli("info")


def test_every_kind_of_phantom_is_in_the_help():
    assert all(kind in (verbs.phantoms.__doc__ or "") for kind in verbs.PHANTOMS)
    with pytest.raises(OptionError, match="known: lits"):
        verbs.phantoms("chest_xray", "unused")
