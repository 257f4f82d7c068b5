"""Scores of single cases against hand computation and a slow oracle; the tables of many."""

from __future__ import annotations

import csv
import itertools
import json
import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import compute_confusion_matrix_metric, compute_dice, get_confusion_matrix

from metalr_monai.errors import OptionError
from metalr_monai.evaluation.scores import summarize, write_scores
from metalr_monai.evaluation.segmentation import EMPTY_MASKS, ClassScore, read_classes, score_case

# MONAI 1.6's surface metrics warn of an argument that they themselves pass
pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy. has been deprecated:FutureWarning")
NAN = math.nan


def line(*labels):
    """A label map (1, n, 1, 1)."""
    return torch.tensor(labels).reshape(1, -1, 1, 1)


def scores_of(prediction, reference, classes, **options):
    return {s.class_name: s for s in score_case(prediction, reference, classes, case="a", **options)}


# ---------------------------------------------------------------------- overlap


def test_merged_label_values_score_as_computed_by_hand():
    prediction = line(0, 1, 1, 2, 2, 1, 0, 0)
    reference = line(1, 1, 2, 2, 0, 0, 0, 0)
    found = scores_of(prediction, reference, {"liver": [1, 2], "tumour": 2})
    # liver: 5 voxels found, 4 to find, 3 in both; tumour: 2, 2 and 1
    assert found["liver"].values == pytest.approx({"dice": 6 / 9, "ppv": 3 / 5, "sensitivity": 3 / 4}, rel=1e-12)
    assert found["tumour"].values == {"dice": 0.5, "ppv": 0.5, "sensitivity": 0.5}
    assert [s.empty for s in found.values()] == ["", ""]


def test_ppv_is_the_share_of_what_was_found_and_sensitivity_of_what_was_to_find():
    found = scores_of(line(1, 1, 1, 1), line(1, 0, 0, 0), {"liver": 1})["liver"].values
    assert (found["ppv"], found["sensitivity"]) == (0.25, 1.0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float16])
def test_the_type_of_the_label_map_does_not_matter(dtype):
    found = scores_of(line(1, 1, 0, 2).to(dtype), line(1, 2, 2, 2), {"liver": [1, 2], "tumour": 2})
    assert found["liver"].values["sensitivity"] == 0.75
    assert found["tumour"].values["sensitivity"] == pytest.approx(1 / 3, rel=1e-12)


def test_arrays_and_meta_tensors_score_as_tensors_do():
    prediction, reference = line(1, 1, 0), line(1, 0, 1)
    expected = score_case(prediction, reference, {"liver": 1}, case="a")
    assert score_case(prediction.numpy(), reference.numpy(), {"liver": 1}, case="a") == expected
    assert score_case(MetaTensor(prediction), MetaTensor(reference), {"liver": 1}, case="a") == expected


def test_counts_are_exact_in_volumes_of_more_voxels_than_float32_counts():
    reference = torch.zeros(1, 8192, 8200, dtype=torch.uint8)
    prediction = reference.clone()
    reference[0, 0, :10] = 1
    prediction[0, 0, :13] = 1
    assert scores_of(prediction, reference, {"tumour": 1})["tumour"].values == pytest.approx(
        {"dice": 20 / 23, "ppv": 10 / 13, "sensitivity": 1.0}, rel=1e-12
    )


# ---------------------------------------------------------------------- the oracle


def surface_of(mask):
    """Voxels of a mask with a face neighbour outside it, or outside the volume."""
    inside = {tuple(v) for v in np.argwhere(mask)}
    steps = [sign * step for step in np.eye(mask.ndim, dtype=int) for sign in (1, -1)]
    return [v for v in sorted(inside) if any(tuple(np.add(v, step)) not in inside for step in steps)]


def slow_scores(prediction, reference, spacing, tolerance):
    tp = fp = fn = 0
    for p, r in zip(prediction.flat, reference.flat, strict=True):
        tp, fp, fn = tp + (p and r), fp + (p and not r), fn + (r and not p)
    ours, theirs = surface_of(prediction), surface_of(reference)
    there, back = (
        [min(math.dist(np.multiply(v, spacing), np.multiply(w, spacing)) for w in others) for v in voxels]
        for voxels, others in ((ours, theirs), (theirs, ours))
    )
    return {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "ppv": tp / (tp + fp),
        "sensitivity": tp / (tp + fn),
        "hd95_mm": max(np.percentile(there, 95), np.percentile(back, 95)),
        "surface_dice": sum(d <= tolerance for d in there + back) / len(there + back),
    }


@pytest.mark.parametrize("seed", range(6))
def test_random_masks_score_as_the_slow_oracle_says(seed):
    draws = np.random.default_rng(seed)
    shape = (7, 6, 5) if seed % 2 else (9, 8)
    spacing = draws.uniform(0.5, 3.0, len(shape)).tolist()
    reference, noise = (draws.choice(3, size=(1, *shape), p=(0.7, 0.2, 0.1)) for _ in range(2))
    prediction = np.where(draws.random(reference.shape) < 0.6, reference, noise)
    classes = {"liver": (1, 2), "tumour": (2,)}
    found = scores_of(prediction, reference, classes, surface=True, spacing=spacing, tolerance_mm=1.3)
    for name, values in classes.items():
        expected = slow_scores(np.isin(prediction[0], values), np.isin(reference[0], values), spacing, 1.3)
        assert found[name].values == pytest.approx(expected, rel=1e-5)  # distances are float32
        assert 0 < found[name].values["surface_dice"] < 1


def test_small_volumes_score_as_monais_own_metrics_do():
    draws = torch.Generator().manual_seed(0)
    prediction, reference = (torch.randint(0, 2, (1, 6, 6, 6), generator=draws) for _ in range(2))
    found = scores_of(prediction, reference, {"liver": 1})["liver"].values
    masks = prediction[None].float(), reference[None].float()
    counts = get_confusion_matrix(*masks)
    assert found == pytest.approx(
        {
            "dice": compute_dice(*masks).item(),
            "ppv": compute_confusion_matrix_metric("precision", counts).item(),
            "sensitivity": compute_confusion_matrix_metric("recall", counts).item(),
        },
        rel=1e-6,
    )


# ---------------------------------------------------------------------- distances


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("voxels", [1, 2])
def test_a_shift_along_an_axis_is_as_many_mm_as_the_spacing_says(axis, voxels):
    reference = torch.zeros(1, 9, 9, 9, dtype=torch.uint8)
    where = [0, slice(3, 6), slice(3, 6), slice(3, 6)]
    where[axis + 1] = 3  # a plate of 3 × 3 voxels, all of them surface
    reference[tuple(where)] = 1
    prediction = reference.roll(voxels, axis + 1)
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 3.0
    found = scores_of(prediction, reference, {"liver": 1}, surface=True, spacing=spacing)["liver"].values
    assert found["hd95_mm"] == 3.0 * voxels
    assert found["surface_dice"] == 0.0  # all of it more than 2 mm away
    wider = scores_of(prediction, reference, {"liver": 1}, surface=True, spacing=spacing, tolerance_mm=3.0 * voxels)
    assert wider["liver"].values["surface_dice"] == 1.0


def test_hd95_leaves_out_the_farthest_twentieth_and_is_the_worse_direction():
    reference = line(*[1] * 21, *[0] * 20)
    prediction = line(*[1] * 22, *[0] * 18, 1)  # one voxel at 1 mm, one at 20 mm
    found = scores_of(prediction, reference, {"liver": 1}, surface=True, spacing=(1, 1, 1))["liver"].values
    distances = [0.0] * 21 + [1.0, 20.0]
    assert found["hd95_mm"] == pytest.approx(np.percentile(distances, 95), rel=1e-6)
    assert 0 < found["hd95_mm"] < 1
    assert found["surface_dice"] == pytest.approx((21 + 22) / (21 + 23), rel=1e-6)


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, NAN)])
def test_surface_scores_without_a_usable_spacing_are_refused(spacing):
    with pytest.raises(OptionError, match=r"Case a: the spacing is .*3 positive sizes in mm"):
        score_case(line(1), line(1), {"liver": 1}, case="a", surface=True, spacing=spacing)


# ---------------------------------------------------------------------- empty masks

FULL, EMPTY = line(0, 1, 1), line(0, 0, 0)
POLICY = {
    "both": (EMPTY, EMPTY, (NAN, NAN, NAN, NAN, NAN)),
    "reference": (FULL, EMPTY, (0.0, 0.0, NAN, NAN, 0.0)),
    "prediction": (EMPTY, FULL, (0.0, NAN, 0.0, NAN, 0.0)),
    "": (FULL, FULL, (1.0, 1.0, 1.0, 0.0, 1.0)),
}


@pytest.mark.parametrize("surface", [False, True])
@pytest.mark.parametrize("kind", POLICY)
def test_empty_masks_score_as_the_policy_says(kind, surface):
    prediction, reference, expected = POLICY[kind]
    [found] = score_case(prediction, reference, {"liver": 1}, case="a", surface=surface, spacing=(1, 1, 1))
    assert found.empty == kind
    names = ("dice", "ppv", "sensitivity", "hd95_mm", "surface_dice")[: 5 if surface else 3]
    assert found.values == pytest.approx(dict(zip(names, expected, strict=False)), nan_ok=True, abs=0)


def test_the_summary_leaves_undefined_scores_out_and_counts_each_kind_of_emptiness():
    cases = [(line(1, 1, 0), line(1, 0, 0)), *[(p, r) for p, r, _ in POLICY.values()], (EMPTY, EMPTY)]
    scores = [s for i, (p, r) in enumerate(cases) for s in score_case(p, r, {"liver": 1}, case=str(i))]
    found = summarize(scores)["liver"]
    assert (found["cases"], found["empty"]) == (6, {"both": 2, "reference": 1, "prediction": 1})
    dice = [2 / 3, 0.0, 0.0, 1.0]
    assert found["dice"] == pytest.approx(
        {"mean": np.mean(dice), "sd": np.std(dice, ddof=1), "median": 1 / 3, "n": 4}, rel=1e-12
    )
    assert found["ppv"] == pytest.approx({"mean": 0.5, "sd": 0.5, "median": 0.5, "n": 3}, rel=1e-12)
    assert found["sensitivity"]["n"] == 3


def test_a_mean_of_no_case_is_nan_and_so_is_the_deviation_of_one():
    found = summarize(score_case(EMPTY, FULL, {"liver": 1}, case="a"))["liver"]
    assert found["ppv"]["n"] == 0 and math.isnan(found["ppv"]["mean"]) and math.isnan(found["ppv"]["median"])
    assert found["dice"]["mean"] == 0 and math.isnan(found["dice"]["sd"])


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("value", [7, 0.5, NAN, -1])
@pytest.mark.parametrize("where", ["prediction", "reference"])
def test_a_label_of_no_class_is_refused_with_the_cases_name(where, value):
    maps = {"prediction": line(0.0, 1, 2), "reference": line(0.0, 1, 2)}
    maps[where][0, 0] = value
    with pytest.raises(OptionError, match=f"Case pat_07: the {where} holds the label {value}.*expected 0, 1, 2"):
        score_case(**maps, classes={"liver": [1, 2], "tumour": 2}, case="pat_07")


@pytest.mark.parametrize(
    ("prediction", "reference", "says"),
    [
        (torch.zeros(2, 3, 3, 3), torch.zeros(1, 3, 3, 3), "the prediction has shape .2, 3, 3, 3.*AsDiscreted"),
        (torch.zeros(1, 3, 3, 3), torch.zeros(3, 3), "the reference has shape .3, 3.*label map"),
        (torch.zeros(1, 3, 3, 3), torch.zeros(1, 3, 3, 4), "same grid"),
    ],
)
def test_what_is_no_label_map_on_the_same_grid_is_refused(prediction, reference, says):
    with pytest.raises(OptionError, match=f"Case pat_07: .*{says}"):
        score_case(prediction, reference, {"liver": 1}, case="pat_07")


@pytest.mark.parametrize("classes", [{}, {"liver": []}, {"liver": 0}, {"liver": [1, "2"]}, {"liver": True}])
def test_classes_without_label_values_are_refused(classes):
    with pytest.raises(OptionError, match="classes"):
        read_classes(classes)


# ---------------------------------------------------------------------- files


def test_the_files_hold_every_case_the_summary_and_the_policy(tmp_path):
    options = {"surface": True, "spacing": (1, 1, 1)}
    classes = {"liver": [1, 2], "tumour": 2}
    scores = [
        *score_case(line(1, 1, 0), line(1, 2, 0), classes, case="a, oblique", **options),
        *score_case(line(1, 0, 0), line(1, 1, 0), classes, case="b", **options),
    ]
    folder = tmp_path / "new" / "folder"
    write_scores(scores, folder, {"classes": classes})
    assert sorted(p.name for p in folder.iterdir()) == ["metrics.csv", "metrics.json"]

    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case", "class", "empty", "dice", "ppv", "sensitivity", "hd95_mm", "surface_dice"]
    assert [(r["case"], r["class"], r["empty"]) for r in rows] == [
        (*pair, empty)
        for pair, empty in zip(
            itertools.product(["a, oblique", "b"], ["liver", "tumour"]), ["", "prediction", "", "both"], strict=True
        )
    ]
    for row, score in zip(rows, scores, strict=True):
        for name, value in score.values.items():
            assert row[name] == "" if math.isnan(value) else float(row[name]) == value

    found = json.loads((folder / "metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert found["classes"] == {"liver": [1, 2], "tumour": 2}
    assert found["empty_masks"]["prediction"] == {
        "meaning": "something to find, nothing found",
        "dice": 0.0,
        "ppv": None,
        "sensitivity": 0.0,
        "hd95_mm": None,
        "surface_dice": 0.0,
    }
    assert set(found["empty_masks"]) == set(EMPTY_MASKS)
    assert found["summary"]["liver"]["dice"]["mean"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["summary"]["tumour"]["empty"] == {"both": 1, "reference": 0, "prediction": 1}
    assert found["summary"]["tumour"]["dice"] == {"mean": 0.0, "sd": None, "median": 0.0, "n": 1}
    assert found["cases"][1] == {"case": "a, oblique", "class": "tumour", **found["cases"][1]}
    assert found["cases"][1]["ppv"] is None and found["cases"][2]["ppv"] == 1.0


def test_a_write_that_fails_leaves_the_old_files(tmp_path):
    write_scores(score_case(FULL, FULL, {"liver": 1}, case="a"), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="dict contains fields not in fieldnames"):
        write_scores(
            [ClassScore("a", "liver", "", {"dice": 1.0}), ClassScore("b", "liver", "", {"ppv": 1.0})], tmp_path
        )
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_no_scores_are_not_written(tmp_path):
    with pytest.raises(OptionError, match="no score to write"):
        write_scores([], tmp_path)
