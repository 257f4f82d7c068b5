"""Scores of a folder in nnU-Net's form, against figures computed by hand and a literal copy of nnU-Net's sums."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import math
import re

import nibabel as nib
import numpy as np
import pytest
import torch

from metalr_monai.errors import DataError, OptionError
from metalr_monai.evaluation.nnunet_summary import METRICS, merge_summaries, score_folder, summary_keys
from metalr_monai.evaluation.segmentation import score_case
from metalr_monai.evaluation.voxel_counts import joint_counts

CLASSES = {"liver": [1, 2], "tumour": 2}
SIZE = (6, 5, 4)


def write(folder, case, labels, affine=None, dtype=np.uint8):
    folder.mkdir(exist_ok=True)
    affine = np.diag([0.7, 0.8, 2.5, 1]) if affine is None else affine
    nib.save(nib.Nifti1Image(np.asarray(labels, dtype=dtype), affine), folder / f"{case}.nii.gz")


def random_labels(seed, top=2):
    return np.random.default_rng(seed).integers(0, top + 1, SIZE)


@pytest.fixture
def folders(tmp_path):
    """Three good cases: predictions and references; the reference of "b" lacks the tumour, that of "c" all."""
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    for number, (case, top) in enumerate([("a", 2), ("b", 1), ("c", 0)]):
        write(predictions, case, random_labels(number))
        write(references, case, random_labels(10 + number, top))
    write(predictions, "c", np.zeros(SIZE))
    return predictions, references


def score(predictions, references, classes=None, **options):
    return score_folder(predictions, references, classes or CLASSES, progress=False, **options)


def array(folder, case):
    return np.asarray(nib.load(folder / f"{case}.nii.gz").dataobj)


# ---------------------------------------------------------------------- figures


def test_a_summary_is_as_computed_by_hand(tmp_path):
    line = (8, 1, 1)
    write(tmp_path / "p", "a", np.reshape([0, 1, 1, 2, 2, 1, 0, 0], line))
    write(tmp_path / "r", "a", np.reshape([1, 1, 2, 2, 0, 0, 0, 0], line))
    write(tmp_path / "p", "b", np.reshape([0, 0, 0, 0, 0, 0, 1, 0], line))
    write(tmp_path / "r", "b", np.reshape([0, 0, 0, 0, 0, 0, 1, 1], line))
    found = score(tmp_path / "p", tmp_path / "r").summary
    first, second = (case["metrics"] for case in found["metric_per_case"])
    assert first["(1, 2)"] == {
        "Dice": 6 / 9, "IoU": 3 / 6, "TP": 3, "FP": 2, "FN": 1, "TN": 2, "n_pred": 5, "n_ref": 4,
    }  # fmt: skip
    assert first["2"] == {"Dice": 0.5, "IoU": 1 / 3, "TP": 1, "FP": 1, "FN": 1, "TN": 5, "n_pred": 2, "n_ref": 2}
    assert math.isnan(second["2"]["Dice"]) and math.isnan(second["2"]["IoU"]) and second["2"]["TN"] == 8
    assert found["mean"]["(1, 2)"]["Dice"] == pytest.approx((6 / 9 + 2 / 3) / 2, rel=1e-12)
    assert found["mean"]["2"]["Dice"] == 0.5 and found["mean"]["2"]["n_pred"] == 1.0
    assert found["foreground_mean"]["Dice"] == pytest.approx((2 / 3 + 0.5) / 2, rel=1e-12)
    assert found["foreground_mean"]["FN"] == pytest.approx((1 + 0.5) / 2, rel=1e-12)


def test_the_counts_are_those_of_four_masks(folders):
    predictions, references = folders
    for case in score(predictions, references).cases:
        found, truth = array(predictions, case.case), array(references, case.case)
        for name, values in {"liver": [1, 2], "tumour": [2]}.items():
            p, r = np.isin(found, values), np.isin(truth, values)
            counts = case.counts[name]
            assert (counts.tp, counts.fp) == ((p & r).sum(), (p & ~r).sum())
            assert (counts.fn, counts.tn) == ((~p & r).sum(), (~p & ~r).sum())


@pytest.mark.parametrize("chunk", [1, 7, 60, 10**6])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_counts_do_not_depend_on_chunks_or_memory_order(monkeypatch, chunk, order):
    monkeypatch.setattr("metalr_monai.evaluation.voxel_counts.CHUNK", chunk)
    found, truth = random_labels(0), random_labels(1)
    table = joint_counts(np.array(found, order=order), np.ascontiguousarray(truth), [1, 2]).table
    assert table.tolist() == [[((found == i) & (truth == j)).sum() for j in range(3)] for i in range(3)]


def test_a_class_without_any_score_makes_the_foreground_mean_nan_as_in_nnunet(tmp_path):
    write(tmp_path / "p", "a", np.ones(SIZE))
    write(tmp_path / "r", "a", np.ones(SIZE))
    found = score(tmp_path / "p", tmp_path / "r").summary
    assert found["mean"]["(1, 2)"]["Dice"] == 1 and math.isnan(found["mean"]["2"]["Dice"])
    assert math.isnan(found["foreground_mean"]["Dice"]) and found["foreground_mean"]["TP"] == math.prod(SIZE) / 2


def test_the_scores_are_those_of_score_case(folders):
    predictions, references = folders
    wanted = [
        one
        for case in "abc"
        for one in score_case(
            torch.from_numpy(array(predictions, case))[None],
            torch.from_numpy(array(references, case))[None],
            CLASSES,
            case=case,
        )
    ]
    found = score(predictions, references).class_scores
    assert {s.empty for s in found} == {"", "both", "reference"}
    assert [(s.case, s.class_name, s.empty) for s in found] == [(s.case, s.class_name, s.empty) for s in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.values == pytest.approx(dict(theirs.values), rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("values", [(1, 2), (200, 255), (3, 256), (5, 65535)])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
def test_type_and_size_of_the_labels_do_not_matter(tmp_path, values, dtype):
    found, truth = random_labels(0), random_labels(1)
    recode = np.array([0, *values])
    write(tmp_path / "p", "a", recode[found], dtype=dtype)
    write(tmp_path / "r", "a", recode[truth], dtype=np.float32)
    scores = score(tmp_path / "p", tmp_path / "r", {"liver": list(values), "tumour": values[1]})
    assert scores.ok
    assert scores.cases[0].counts["tumour"].tp == ((found == 2) & (truth == 2)).sum()


# ---------------------------------------------------------------------- files


def test_files_are_in_nnunets_form_with_its_key_order(folders, tmp_path):
    scores = score(*folders, {"tumour": 2, "liver": [1, 2]}, output=tmp_path / "out" / "validation")
    text = (tmp_path / "out" / "validation" / "summary.json").read_text()
    content = json.loads(text)
    assert list(content) == ["foreground_mean", "mean", "metric_per_case"]
    assert list(content["mean"]) == ["(1, 2)", "2"] and list(content["mean"]["2"]) == list(METRICS)
    case = content["metric_per_case"][2]
    assert list(case) == ["metrics", "prediction_file", "reference_file"]
    assert case["prediction_file"] == str(folders[0] / "c.nii.gz")
    assert case["reference_file"] == str(folders[1] / "c.nii.gz")
    assert isinstance(case["metrics"]["2"]["TP"], int) and isinstance(content["mean"]["2"]["TP"], float)
    assert '    "mean": {' in text and '"Dice": NaN' in text and not text.endswith("\n")
    assert json.dumps(content) == json.dumps(json.loads(json.dumps(scores.summary, sort_keys=True)))


def test_dice_ppv_and_sensitivity_stand_beside(folders, tmp_path):
    score(*folders, output=tmp_path / "out")
    with (tmp_path / "out" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["class"], row["empty"]) for row in rows] == [
        ("a", "liver", ""), ("a", "tumour", ""), ("b", "liver", ""), ("b", "tumour", "reference"),
        ("c", "liver", "both"), ("c", "tumour", "both"),
    ]  # fmt: skip
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["summary"]["tumour"]["dice"]["n"] == 2 and content["summary"]["tumour"]["sensitivity"]["n"] == 1


def test_no_bar_and_nothing_else_is_written_without_progress(folders, capsys, tmp_path):
    score(*folders)
    assert capsys.readouterr() == ("", "") and sorted(p.name for p in tmp_path.iterdir()) == [
        "predictions",
        "references",
    ]


def test_a_bar_tells_the_time_left(folders, capsys):
    score_folder(*folders, CLASSES)
    assert "evaluate: 100%" in capsys.readouterr().err


def test_references_of_any_layout_are_given_by_case(folders, tmp_path):
    predictions, references = folders
    moved = {}
    for case in "abc":
        (tmp_path / case).mkdir()
        moved[case] = tmp_path / case / "segmentation.nii.gz"
        (references / f"{case}.nii.gz").rename(moved[case])
    found = score({case: str(predictions / f"{case}.nii.gz") for case in "cab"}, moved)
    assert found.ok and [case.case for case in found.cases] == ["a", "b", "c"]
    assert found.cases[0].reference_file == str(moved["a"])


def test_hidden_and_other_files_are_passed_over_and_nii_is_read(folders):
    predictions, references = folders
    (predictions / "._a.nii.gz").write_bytes(b"Apple")
    (predictions / "summary.json").write_text("{}")
    nib.save(nib.load(predictions / "b.nii.gz"), predictions / "b.nii")
    (predictions / "b.nii.gz").unlink()
    found = score(predictions, references)
    assert found.ok and [case.case for case in found.cases] == ["a", "b", "c"]


def test_the_number_of_threads_changes_nothing(folders):
    texts = {json.dumps(score(*folders, workers=workers).summary) for workers in (1, 2, 5)}
    assert len(texts) == 1


# ---------------------------------------------------------------------- faulty cases


def shifted(by):
    affine = np.diag([0.7, 0.8, 2.5, 1])
    affine[0, 3] = by
    return affine


def truncated(path):
    path.write_bytes(path.read_bytes()[:-30])


FAULTS = {
    "another shape": (lambda p: write(p, "b", np.zeros((6, 5, 3))), r"prediction's shape is 6×5×3, .*6×5×4"),
    "another place": (lambda p: write(p, "b", random_labels(1), shifted(0.08)), r"corner 0.08 mm .*voxels: 0.7"),
    "no place": (lambda p: write(p, "b", random_labels(1), shifted(math.nan)), "same grid"),
    "unknown label": (lambda p: write(p, "b", random_labels(1, 4)), "holds the label 3, 4, which belongs to no class"),
    "negative": (lambda p: write(p, "b", -random_labels(1), dtype=np.int16), "holds the label -2, -1"),
    "beyond a byte": (lambda p: write(p, "b", random_labels(1) + 256, dtype=np.int16), "label 256, 257, 258"),
    "no whole number": (lambda p: write(p, "b", random_labels(1) + 0.5, dtype=np.float32), "label 0.5, 1.5, 2.5"),
    "nan": (lambda p: write(p, "b", np.full(SIZE, math.nan), dtype=np.float32), "the label nan"),
    "4D": (lambda p: write(p, "b", np.zeros((*SIZE, 2))), "one 3D volume"),
    "no NIfTI": (lambda p: (p / "b.nii.gz").write_bytes(b"no"), "cannot be read"),
    "empty file": (lambda p: (p / "b.nii.gz").write_bytes(b""), "cannot be read"),
    "no volume": (lambda p: (p / "b.nii.gz").write_bytes(gzip.compress(b"no volume" * 100)), "cannot be read"),
    "truncated": (lambda p: truncated(p / "b.nii.gz"), "cannot be read"),
    "missing": (lambda p: (p / "b.nii.gz").unlink(), "no prediction of it"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_case_is_listed_and_the_others_are_scored(folders, tmp_path, fault):
    make, message = FAULTS[fault]
    whole = score(*folders)
    make(folders[0])
    found = score(*folders, output=tmp_path / "out")
    assert not found.ok and list(found.failed) == ["b"] and whole.ok
    assert re.search(message, found.failed["b"])
    assert [case.case for case in found.cases] == ["a", "c"]
    assert found.cases[0].counts == whole.cases[0].counts
    for file in ("summary.json", "metrics.json"):
        assert json.loads((tmp_path / "out" / file).read_text())["failed"] == found.failed


def test_voxels_that_do_not_match_their_checksum_are_refused(folders):
    large = np.random.default_rng(0).integers(0, 3, (64, 64, 16))
    for folder in folders:
        write(folder, "d", large)
    assert score(*folders).ok
    content = bytearray((folders[0] / "d.nii.gz").read_bytes())
    content[-6] ^= 255
    (folders[0] / "d.nii.gz").write_bytes(content)
    assert "CRC check failed" in score(*folders).failed["d"]


def test_faults_of_the_reference_are_told_apart(folders):
    write(folders[1], "b", random_labels(1, 4))
    write(folders[0], "a b", random_labels(1))
    found = score(*folders)
    assert found.failed["b"].startswith(f"the reference {folders[1] / 'b.nii.gz'} holds the label 3, 4")
    assert found.failed["a b"] == f"there is no reference for its prediction {folders[0] / 'a b.nii.gz'}"


def test_a_grid_within_the_tolerance_of_the_check_is_the_same(folders):
    write(folders[0], "b", random_labels(1), shifted(0.06))
    assert score(*folders).ok


def test_not_one_usable_case_is_an_error_that_tells_why(folders, tmp_path):
    for case in "abc":
        (folders[0] / f"{case}.nii.gz").write_bytes(b"no")
    with pytest.raises(DataError, match=r"No case could be scored: a: .*cannot be read"):
        score(*folders, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_folder_and_a_case_given_twice_are_refused(folders):
    with pytest.raises(DataError, match="no such folder"):
        score(folders[0] / "nowhere", folders[1])
    nib.save(nib.load(folders[0] / "b.nii.gz"), folders[0] / "b.nii")
    with pytest.raises(DataError, match=r"case b is there twice, as b.nii and b.nii.gz"):
        score(*folders)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({}, "classes is empty"),
        ({"liver": 0}, "from 1 on"),
        ({"liver": [1, 2], "organ": (2, 1)}, "same labels"),
        ({"liver": 65536}, "up to 65535"),
    ],
)
def test_wrong_classes_are_refused(folders, classes, message):
    with pytest.raises(OptionError, match=message):
        score_folder(*folders, classes, progress=False)


def test_no_worker_is_refused(folders):
    with pytest.raises(OptionError, match="workers is 0"):
        score(*folders, workers=0)


# ---------------------------------------------------------------------- keys and folds


@pytest.mark.parametrize(
    ("classes", "keys"),
    [
        ({"liver": 1, "tumour": 2}, ["1", "2"]),
        ({"liver": [1], "tumour": 2}, ["1", "2"]),  # no region of several values: labels, for nnU-Net
        ({"liver": [1, 2], "tumour": 2}, ["(1, 2)", "2"]),
        ({"liver": [1, 2], "tumour": [2]}, ["(1, 2)", "(2,)"]),
    ],
)
def test_keys_are_nnunets(classes, keys):
    assert list(summary_keys(classes).values()) == keys


def split(folders, tmp_path):
    """Two folds, of 1 and 2 cases."""
    predictions, references = folders
    summaries = []
    for number, cases in enumerate(["b", "ac"]):
        files = {case: predictions / f"{case}.nii.gz" for case in cases}
        truth = {case: references / f"{case}.nii.gz" for case in cases}
        score(files, truth, output=tmp_path / f"fold_{number}")
        summaries.append(tmp_path / f"fold_{number}" / "summary.json")
    return summaries


def test_all_folds_together_are_as_one_folder(folders, tmp_path):
    summaries = split(folders, tmp_path)
    whole = score(*folders, output=tmp_path / "whole")
    for number, order in enumerate(itertools.permutations(summaries)):
        merged = merge_summaries(order, CLASSES, output=tmp_path / f"merged_{number}")
        assert merged == whole
        for file in ("summary.json", "metrics.csv", "metrics.json"):
            assert (tmp_path / f"merged_{number}" / file).read_text() == (tmp_path / "whole" / file).read_text()


def test_a_failed_case_of_a_fold_stays_failed(folders, tmp_path):
    write(folders[0], "c", random_labels(1, 4))
    merged = merge_summaries(split(folders, tmp_path), CLASSES)
    assert not merged.ok and list(merged.failed) == ["c"] and [case.case for case in merged.cases] == ["a", "b"]


def test_the_key_of_one_label_may_be_a_region_or_a_value(folders, tmp_path):
    summaries = split(folders, tmp_path)
    merged = merge_summaries(summaries, {"liver": [2, 1], "tumour": [2]})
    assert merged.cases[0].counts == merge_summaries(summaries, CLASSES).cases[0].counts


def test_a_case_in_two_folds_is_refused(folders, tmp_path):
    summaries = split(folders, tmp_path)
    with pytest.raises(DataError, match=r"^b: more than one of "):
        merge_summaries([*summaries, summaries[0]], CLASSES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "no list 'metric_per_case'"),
        ('{"metric_per_case": [3]}', "a case is not as expected"),
        ('{"metric_per_case": [{"metrics": {"1": {}}}]}', "expected .*liver"),
    ],
)
def test_what_is_no_summary_of_these_classes_is_named(folders, tmp_path, content, message):
    summaries = split(folders, tmp_path)
    summaries[0].unlink()
    if content is not None:
        summaries[0].write_text(content)
    with pytest.raises(DataError, match=f"{summaries[0].name}.*{message}"):
        merge_summaries(summaries, CLASSES)


def test_no_summary_at_all_is_refused():
    with pytest.raises(DataError, match="no summary to merge"):
        merge_summaries([], CLASSES)
