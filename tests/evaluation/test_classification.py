"""Scores of classifiers against hand computation and slow oracles; the files that carry them."""

from __future__ import annotations

import csv
import itertools
import json
import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import CalibrationErrorMetric

from metalr_monai.errors import OptionError
from metalr_monai.evaluation.calibration import BINS, expected_calibration_error, reliability
from metalr_monai.evaluation.classification import Share, metric_names, read_class_names, score_classification
from metalr_monai.evaluation.predictions import CasePrediction, score_predictions, write_predictions

CLASSES = ("covid19", "pneumonia", "regular")
P = [  # label and prediction: 0 0, 0 1, 1 1, 1 1, 2 0
    [0.70, 0.20, 0.10],
    [0.30, 0.60, 0.10],
    [0.05, 0.90, 0.05],
    [0.25, 0.50, 0.25],
    [0.50, 0.10, 0.40],
]
LABELS = [0, 0, 1, 1, 2]


def random_cases(n=200, k=4, seed=0):
    """Probabilities in steps of 1/16, so that some are equal and some lie on edges."""
    draws = np.random.default_rng(seed)
    return draws.multinomial(16, draws.dirichlet(np.full(k, 0.7), n)) / 16, draws.integers(k, size=n)


# ---------------------------------------------------------------------- scores


def test_five_cases_score_as_computed_by_hand():
    found = score_classification(torch.tensor(P), torch.tensor(LABELS), CLASSES)
    assert found.confusion.dtype == np.int64
    assert found.confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]  # a row a true class
    assert found.accuracy == Share(3, 5)
    assert [c.sensitivity for c in found.classes] == [Share(1, 2), Share(2, 2), Share(0, 1)]
    assert [c.ppv for c in found.classes] == [Share(1, 2), Share(2, 3), Share(0, 0)]
    # covid19: 0.7 and 0.3 against 0.05, 0.25, 0.5: five of six pairs; pneumonia: 0.9 and 0.5 against 0.2, 0.6, 0.1:
    # five of six; regular: 0.4 is above all others
    assert [c.auc for c in found.classes] == pytest.approx([5 / 6, 5 / 6, 1.0], rel=1e-12)
    metrics = found.metrics
    assert metrics["balanced_accuracy"] == pytest.approx((1 / 2 + 1 + 0) / 3, rel=1e-12)
    assert metrics["auc"] == pytest.approx((5 / 6 + 5 / 6 + 1) / 3, rel=1e-12)
    assert metrics["log_loss"] == pytest.approx(-math.log(0.7 * 0.3 * 0.9 * 0.5 * 0.4) / 5, rel=1e-6)
    assert math.isnan(metrics["regular_ppv"]) and metrics["regular_sensitivity"] == 0
    assert tuple(metrics) == metric_names(CLASSES)


def test_random_cases_score_as_counted_one_by_one():
    p, labels = random_cases()
    found = score_classification(p, labels, tuple("abcd"))
    predicted = [row.tolist().index(max(row)) for row in p]
    for i, j in itertools.product(range(4), repeat=2):
        assert found.confusion[i, j] == sum(1 for y, z in zip(labels, predicted, strict=True) if (y, z) == (i, j))
    for k, result in enumerate(found.classes):
        hits = sum(1 for y, z in zip(labels, predicted, strict=True) if y == z == k)
        assert result.sensitivity == Share(hits, sum(y == k for y in labels))
        assert result.ppv == Share(hits, predicted.count(k))
        pairs = list(itertools.product(p[labels == k, k], p[labels != k, k]))
        assert result.auc == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]), rel=1e-12)
    assert found.metrics["accuracy"] == np.mean(labels == predicted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrap", [lambda t: t, MetaTensor, lambda t: t.requires_grad_()])
def test_the_type_of_the_probabilities_does_not_matter(dtype, wrap):
    p = torch.tensor(P, dtype=torch.float64).to(dtype)
    found = score_classification(wrap(p), torch.tensor(LABELS), CLASSES)
    assert found.confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_equal_probabilities_predict_the_first_of_them():
    found = score_classification([[0.4, 0.2, 0.4], [0.2, 0.4, 0.4]], [0, 1], CLASSES)
    assert found.accuracy == Share(2, 2)


def test_a_true_class_of_probability_zero_costs_a_finite_log_loss():
    found = score_classification([[1.0, 0.0], [0.0, 1.0]], [0, 0], ["a", "b"])
    assert found.metrics["log_loss"] == pytest.approx(-math.log(2**-23) / 2, rel=1e-12)


# ---------------------------------------------------------------------- absent classes


def test_absent_classes_are_nan_and_left_out_of_means():
    # b has no case but is predicted; c has no case and is not; a has all the cases
    found = score_classification([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], [0, 0], ["a", "b", "c"])
    a, b, c = found.classes
    assert (a.sensitivity.value, a.ppv.value) == (0.5, 1.0)
    assert math.isnan(b.sensitivity.value) and b.ppv.value == 0
    assert math.isnan(c.sensitivity.value) and math.isnan(c.ppv.value)
    assert all(math.isnan(result.auc) for result in found.classes)
    assert found.metrics["balanced_accuracy"] == 0.5 and math.isnan(found.metrics["auc"])
    summary = found.to_dict()
    assert summary["balanced_accuracy"] == {"value": 0.5, "classes": 1} and summary["auc"]["classes"] == 0
    assert [summary["by_class"][name]["sensitivity"]["n"] for name in "abc"] == [2, 0, 0]


def test_the_macro_auc_is_the_mean_of_the_classes_that_have_one():
    found = score_classification([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1]], [0, 1, 1], CLASSES)
    assert found.metrics["auc"] == 1.0 and found.to_dict()["auc"]["classes"] == 2


# ---------------------------------------------------------------------- intervals


@pytest.mark.parametrize(("count", "n"), [(0, 12), (3, 12), (12, 12), (171, 210)])
def test_intervals_are_wilsons(count, n):
    p, z = count / n, 1.959963984540054
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert Share(count, n).interval == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_of_no_cases_there_is_no_interval():
    assert math.isnan(Share(0, 0).value) and all(map(math.isnan, Share(0, 0).interval))


# ---------------------------------------------------------------------- calibration


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    bins = reliability(np.array([1 / 15, 2 / 15, 0.4, 1.0, 0.95]), np.array([True, False, True, True, False]))
    assert len(bins) == BINS == 15
    assert {i: b.n for i, b in enumerate(bins) if b.n} == {0: 1, 1: 1, 5: 1, 14: 2}
    assert (bins[14].confidence, bins[14].accuracy) == pytest.approx((0.975, 0.5), rel=1e-12)
    assert math.isnan(bins[3].confidence) and math.isnan(bins[3].accuracy)
    assert bins[5].low == pytest.approx(1 / 3) and bins[5].high == pytest.approx(0.4)


def test_the_calibration_error_is_as_computed_by_hand():
    # confidences 0.7, 0.6, 0.9, 0.5, 0.5 fall into the bins 10, 8, 13 and 7; the last holds two cases
    found = score_classification(P, LABELS, CLASSES)
    assert {i: b.n for i, b in enumerate(found.reliability) if b.n} == {7: 2, 8: 1, 10: 1, 13: 1}
    by_hand = (abs(1 - 0.7) + abs(0 - 0.6) + abs(1 - 0.9) + 2 * abs(1 / 2 - 0.5)) / 5
    assert found.metrics["ece"] == pytest.approx(by_hand, rel=1e-12)


def test_the_calibration_error_is_that_of_a_loop_and_of_monai():
    draws = np.random.default_rng(1)
    confidence, right = draws.uniform(0.2, 1, 300), draws.uniform(size=300) < 0.6
    bins: list[list[int]] = [[] for _ in range(15)]
    for i, value in enumerate(confidence):
        bins[next(m for m in range(15) if value <= (m + 1) / 15)].append(i)
    loop = sum(len(b) / 300 * abs(np.mean(right[b]) - np.mean(confidence[b])) for b in bins if b)
    found = expected_calibration_error(reliability(confidence, right))
    assert found == pytest.approx(loop, rel=1e-12)
    monai = CalibrationErrorMetric(num_bins=15, calibration_reduction="expected")
    monai(*(torch.tensor(values, dtype=torch.float32)[None, None] for values in (confidence, right)))
    assert found == pytest.approx(float(monai.aggregate()), abs=1e-5)  # which computes in float32


def test_without_cases_the_calibration_error_is_nan():
    assert math.isnan(expected_calibration_error(reliability(np.array([]), np.array([]))))


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("probabilities", "labels", "says"),
    [
        (P, [0, 0, 1, 1], r"shape \(5, 3\), the labels \(4,\)"),
        ([[0.5, 0.5]], [0], r"K = 3, for the classes covid19, pneumonia, regular"),
        (P, np.eye(3)[LABELS], "leave out what makes them one-hot"),
        (np.zeros((0, 3)), np.zeros(0), "N at least 1"),
        ([P[0], [2.0, -1.0, 0.0]], [0, 1], r"Case number 1: 2, -1, 0 are not the probabilities.*softmax=True"),
        ([[0.6, 0.6, 0.6]], [0], "whose sum is 1"),
        ([P[0], [math.nan, 0.5, 0.5]], [0, 1], "Case number 1: a probability is not finite"),
        ([P[0]], [3], "the label is 3; expected 0 to 2"),
        ([P[0]], [-1], "the label is -1"),
        ([P[0]], [0.5], "the label is 0.5"),
    ],
)
def test_what_cannot_be_scored_is_refused(probabilities, labels, says):
    with pytest.raises(OptionError, match=says):
        score_classification(probabilities, labels, CLASSES)


@pytest.mark.parametrize("classes", [[], ["one"], ["a", "a"], ["a", ""], [0, 1], "ab"])
def test_names_that_are_none_are_refused(classes):
    with pytest.raises(OptionError, match="expected two or more names"):
        read_class_names(classes)


# ---------------------------------------------------------------------- files


def predictions(groups=("", "", "video 7", "", "")):
    rows = zip(groups, LABELS, P, strict=True)
    return [CasePrediction(f"case_{i}", group, label, tuple(p)) for i, (group, label, p) in enumerate(rows)]


def test_files_hold_every_case_and_the_scores(tmp_path):
    write_predictions(predictions(), CLASSES, tmp_path / "new")
    with (tmp_path / "new" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[2] == {
        "case_id": "case_2",
        "group": "video 7",
        "true": "pneumonia",
        "predicted": "pneumonia",
        "p_covid19": "0.05",
        "p_pneumonia": "0.9",
        "p_regular": "0.05",
    }
    assert [row["predicted"] for row in rows] == [CLASSES[i] for i in (0, 1, 1, 1, 0)]
    text = (tmp_path / "new" / "metrics.json").read_text()
    written = json.loads(text)
    assert "NaN" not in text
    assert written["task"] == "classification" and written["classes"] == list(CLASSES) and written["groups"] == 1
    assert written["cases"] == 5 and written["accuracy"]["count"] == 3
    assert written["accuracy"]["interval_95"] == list(Share(3, 5).interval)
    assert written["by_class"]["regular"]["ppv"] == {"value": None, "count": 0, "n": 0, "interval_95": [None, None]}
    assert written["confusion_matrix"] == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert len(written["reliability"]) == 15 and written["reliability"][7]["n"] == 2
    assert written["ece"] == score_predictions(predictions(), CLASSES).metrics["ece"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["metrics.csv", "metrics.json"]


def test_without_groups_there_is_no_such_column(tmp_path):
    write_predictions(predictions(groups=[""] * 5), CLASSES, tmp_path)
    assert (tmp_path / "metrics.csv").read_text().startswith("case_id,true,predicted,p_covid19,")
    assert json.loads((tmp_path / "metrics.json").read_text())["groups"] is None


def test_files_of_no_case_are_refused(tmp_path):
    with pytest.raises(OptionError, match="N at least 1"):
        write_predictions([], CLASSES, tmp_path / "none")
    assert not (tmp_path / "none").exists()
