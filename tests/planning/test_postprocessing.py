"""Which components are removed: phantoms where it helps, harms or is a tie, and a slow decision of many passes."""

from __future__ import annotations

import json
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from metalr_monai import LargestComponentd
from metalr_monai.errors import DataError, OptionError
from metalr_monai.evaluation.segmentation import score_case
from metalr_monai.planning import postprocessing
from metalr_monai.planning.postprocessing import decide_postprocessing, read_postprocessing, write_postprocessing

NESTED = {"liver": [1, 2], "tumour": 2}
SIZE = (16, 14, 12)


class Case:
    """A reference of a liver with a tumour, 12 of its voxels, and a prediction equal to it."""

    def __init__(self):
        self.truth = np.zeros(SIZE, np.uint8)
        self.truth[2:9, 2:9, 2:9] = 1
        self.truth[4:7, 4:6, 4:6] = 2
        self.found = self.truth.copy()

    def write(self, root, name):
        for kind, labels in (("predictions", self.found), ("references", self.truth)):
            (root / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(labels, np.eye(4)), root / kind / f"{name}.nii.gz")


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "predictions", tmp_path / "references"


def decide(folders, regions=None, **options):
    return decide_postprocessing(*folders, regions or NESTED, progress=False, **options)


def names(decision):
    return [step.name for step in decision.taken]


# ---------------------------------------------------------------------- one step


def test_a_stray_blob_is_removed(tmp_path, folders):
    Case().write(tmp_path, "a")
    case = Case()
    case.found[12:15, 12:14, 9:11] = 1  # 12 voxels
    case.write(tmp_path, "b")
    decision = decide(folders)
    stray = 2 * 343 / (2 * 343 + 12)
    assert names(decision) == ["all foreground"] and decision.taken[0].labels == (1, 2)
    assert decision.dice_before == pytest.approx({"liver": (1 + stray) / 2, "tumour": 1}, rel=1e-12)
    assert decision.dice_after == {"liver": 1, "tumour": 1}
    assert decision.steps[0].reason == "on: mean Dice 0.99570 → 1.00000, no region's falls, on 2 cases"
    assert decision.cases == 2 and decision.ok


def test_two_true_pieces_keep_it_off(tmp_path, folders):
    Case().write(tmp_path, "a")
    case = Case()
    case.truth[12:15, 12:14, 9:11] = case.found[12:15, 12:14, 9:11] = 1
    case.write(tmp_path, "b")
    decision = decide(folders)
    assert names(decision) == [] and decision.dice_after == decision.dice_before == {"liver": 1, "tumour": 1}
    lost = 2 * 343 / (2 * 343 + 12)
    assert decision.steps[0].dice_after == pytest.approx({"liver": (1 + lost) / 2, "tumour": 1}, rel=1e-12)
    assert decision.steps[0].reason == "kept off: mean Dice of liver 1.00000 → 0.99140 on 2 cases"


def test_a_tie_keeps_it_off(tmp_path, folders):
    Case().write(tmp_path, "a")
    decision = decide(folders)
    assert names(decision) == []
    assert [step.reason for step in decision.steps] == ["kept off: mean Dice stays 1.00000 on 1 case"] * 2


def test_equal_gain_and_loss_are_a_tie(tmp_path, folders):
    """One case's blob is wrong, the other's right, and both change Dice by as much."""
    gain, loss = Case(), Case()
    gain.found[12:14, 12:14, 9:11] = 1
    loss.truth[12:14, 12:14, 9:11] = loss.found[12:14, 12:14, 9:11] = 1
    for number in range(3):
        gain.write(tmp_path, f"gain_{number}")
        loss.write(tmp_path, f"loss_{number}")
    decision = decide(folders)
    step = decision.steps[0]
    assert not step.taken and step.dice_before["liver"] == step.dice_after["liver"] < 1


def test_no_region_may_lose_though_the_mean_rises(tmp_path, folders):
    case = Case()
    case.found[12:16, 8:14, 4:10] = 1
    case.found[13, 9, 5] = case.truth[13, 9, 5] = 2  # a true tumour in the blob
    case.write(tmp_path, "a")
    step = decide(folders).steps[0]
    assert sum(step.dice_after.values()) > sum(step.dice_before.values()) and not step.taken
    assert step.reason.startswith("kept off: mean Dice of tumour 1.00000 → 0.96000")


def test_a_false_finding_removed_whole_leaves_the_mean(tmp_path, folders):
    """The tumour's Dice was 0, and has no score once nothing is found where nothing is."""
    case = Case()
    case.truth[case.truth == 2] = 1
    case.found = case.truth.copy()
    case.found[12:14, 12, 9] = 2
    case.write(tmp_path, "a")
    decision = decide(folders)
    assert names(decision) == ["all foreground"]
    assert decision.dice_before["tumour"] == 0 and math.isnan(decision.dice_after["tumour"])


def test_empty_predictions_are_no_trouble(tmp_path, folders):
    case = Case()
    case.found[:] = 0
    case.write(tmp_path, "a")
    decision = decide(folders)
    assert names(decision) == [] and decision.dice_before == {"liver": 0, "tumour": 0}
    case.truth[:] = 0
    case.write(tmp_path, "a")
    assert decide(folders).steps[0].reason == "kept off: no region has a score on 1 case"


# ---------------------------------------------------------------------- several steps


def test_a_region_alone_is_weighed_too(tmp_path, folders):
    case = Case()
    case.found[8, 8, 8] = 2  # in the liver, so all foreground is one piece
    case.truth[8, 8, 8] = 0
    case.write(tmp_path, "a")
    decision = decide(folders)
    assert [step.name for step in decision.steps] == ["all foreground", "tumour"]  # the liver is all foreground
    assert names(decision) == ["tumour"] and decision.dice_after == {"liver": 1, "tumour": 1}


def test_a_tumour_in_the_liver_stays_where_the_liver_would_lose_it(tmp_path, folders):
    case = Case()
    case.found[8, 8, 8] = 2  # liver in truth: without it both are 0 there
    case.write(tmp_path, "a")
    decision = decide(folders)
    assert names(decision) == []
    assert decision.steps[1].reason == "kept off: mean Dice of liver 1.00000 → 0.99854 on 1 case"
    assert decision.steps[1].dice_after["tumour"] > decision.steps[1].dice_before["tumour"]


def test_one_region_is_one_step(tmp_path, folders):
    case = Case()
    case.found[12:15, 12:14, 9:11] = 1
    case.write(tmp_path, "a")
    decision = decide(folders, {"liver": [1, 2]})
    assert [step.name for step in decision.steps] == ["all foreground"] and decision.steps[0].taken


def literal(cases, regions):
    """The rule in many passes over the cases, by SciPy; step names taken, and the last means."""

    def largest(labels, values):
        mask = np.isin(labels, values)
        pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
        if count < 2:
            return labels
        sizes = np.bincount(pieces.ravel())[1:]
        assert (sizes == sizes.max()).sum() == 1  # which of two equals stays is nobody's promise
        return np.where(mask & (pieces != sizes.argmax() + 1), 0, labels)

    def means(found):
        scores = {name: [] for name in regions}
        for labels, (_, truth) in zip(found, cases, strict=True):
            for one in score_case(torch.tensor(labels)[None], torch.tensor(truth)[None], regions, case="?"):
                scores[one.class_name].append(one.values["dice"])
        return {name: np.nanmean(values) for name, values in scores.items()}

    everything = sorted({value for values in regions.values() for value in values})
    found, taken = [labels for labels, _ in cases], []
    steps = [("all foreground", everything)]
    steps += [(name, values) for name, values in regions.items() if sorted(set(values)) != everything]
    for name, values in steps:
        tried = [largest(labels, values) for labels in found]
        before, after = means(found), means(tried)
        better = sum(after.values()) - sum(before.values()) > 1e-9
        if better and all(after[n] >= before[n] - 1e-12 for n in regions):
            found, taken = tried, [*taken, name]
    return taken, means(found)


def random_cases(seed, labels):
    """Three cases of one box a label around a common voxel; predictions have strays, of which a few are true."""
    random = np.random.default_rng(seed)
    for _ in range(3):
        truth = np.zeros(SIZE, np.uint8)
        for value in range(1, labels + 1):
            low, high = random.integers(0, 6, 3), random.integers(7, 10 - value, 3, endpoint=True)
            truth[tuple(slice(one, other) for one, other in zip(low, high, strict=True))] = value
        found = truth.copy()
        for true in (True, False, False, False)[random.integers(0, 2) :]:
            corner, edge = random.integers(2, 12, 3), random.integers(1, 4, 3)
            box = tuple(slice(one, one + size) for one, size in zip(corner, edge, strict=True))
            found[box] = random.integers(1, labels + 1)
            if true:
                truth[box] = found[box]
        yield found, truth


REGIONS = [
    {"liver": [1, 2], "tumour": [2]},
    {"a": [1], "b": [2], "c": [3]},
    {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]},
    {"left": [1, 2], "right": [2, 3]},
    {"vessel": [3], "organ": [1, 2], "lesion": [2]},
]


@pytest.mark.parametrize("regions", REGIONS, ids=lambda regions: "-".join(regions))
def test_the_decision_is_that_of_many_passes(tmp_path, folders, regions):
    compared, taken_steps = 0, set()
    for seed in range(12):
        cases = list(random_cases(seed, max(max(values) for values in regions.values())))
        try:
            taken, dice = literal(cases, regions)
        except AssertionError:
            continue
        for number, (found, truth) in enumerate(cases):
            case = Case()
            case.found, case.truth = found, truth
            case.write(tmp_path, f"{number}")
        decision = decide(folders, regions, workers=1)
        assert names(decision) == taken
        assert decision.dice_after == pytest.approx(dice, rel=1e-9)
        compared, taken_steps = compared + 1, taken_steps | set(taken)
    assert compared >= 5 and len(taken_steps) >= 2


def test_each_file_is_read_once(tmp_path, folders, monkeypatch):
    for number, (found, truth) in enumerate(random_cases(0, 3)):
        case = Case()
        case.found, case.truth = found, truth
        case.write(tmp_path, f"{number}")
    read, load = [], nib.load
    monkeypatch.setattr(nib, "load", lambda path: read.append(path) or load(path))
    decide(folders, REGIONS[2])
    assert len(read) == len(set(read)) == 6


def test_regions_that_share_no_label_cost_no_more_than_their_number(tmp_path, folders, monkeypatch):
    maps, largest = [], postprocessing._largest
    monkeypatch.setattr(postprocessing, "_largest", lambda *given: maps.append(1) or largest(*given))
    case = Case()
    for label in range(1, 11):
        case.found[label, 2:5, 2:5] = case.truth[label, 2:5, 2:5] = label
        case.found[label, 12:14, 8] = label
    case.write(tmp_path, "a")
    decide(folders, {str(label): label for label in range(1, 11)})
    assert len(maps) == 1 + 2 * 10


# ---------------------------------------------------------------------- use


def test_the_transforms_reach_the_dice_that_was_promised(tmp_path, folders):
    regions = REGIONS[2]
    cases = list(random_cases(0, 3))
    for number, (found, truth) in enumerate(cases):
        case = Case()
        case.found, case.truth = found, truth
        case.write(tmp_path, f"{number}")
    decision = decide(folders, regions)
    assert len(decision.taken) >= 2
    scores = {name: [] for name in regions}
    for found, truth in cases:
        item = {"pred": torch.tensor(found)[None]}
        for transform in [LargestComponentd("pred", step.labels) for step in decision.taken]:
            item = transform(item)
        for one in score_case(item["pred"], torch.tensor(truth)[None], regions, case="?"):
            scores[one.class_name].append(one.values["dice"])
    assert decision.dice_after == pytest.approx({name: np.mean(found) for name, found in scores.items()}, rel=1e-12)


def test_labels_above_a_byte_are_decided_alike(tmp_path, folders):
    case = Case()
    case.found[12:15, 12:14, 9:11] = 1
    recode = np.array([0, 300, 20000], np.uint16)
    case.found, case.truth = recode[case.found], recode[case.truth]
    case.write(tmp_path, "a")
    assert names(decide(folders, {"liver": [300, 20000], "tumour": 20000})) == ["all foreground"]


def test_a_decision_is_written_and_read_back(tmp_path, folders):
    for number, (found, truth) in enumerate(random_cases(0, 3)):
        case = Case()
        case.found, case.truth = found, truth
        case.write(tmp_path, f"{number}")
    (folders[0] / "9.nii.gz").write_bytes(b"no")
    decision = decide(folders, REGIONS[2])
    write_postprocessing(decision, tmp_path / "postprocessing.json")
    assert read_postprocessing(tmp_path / "postprocessing.json") == decision
    content = json.loads((tmp_path / "postprocessing.json").read_text())
    assert content["cases"] == 3 and list(content["failed"]) == ["9"]
    assert list(content["steps"][0]) == ["name", "labels", "taken", "dice_before", "dice_after", "reason"]


def test_a_mean_of_no_case_is_null_in_the_file(tmp_path, folders):
    case = Case()
    case.truth[case.truth == 2] = 1
    case.found = case.truth.copy()
    case.write(tmp_path, "a")
    write_postprocessing(decide(folders), tmp_path / "postprocessing.json")
    assert '"tumour": null' in (tmp_path / "postprocessing.json").read_text()
    assert math.isnan(read_postprocessing(tmp_path / "postprocessing.json").dice_before["tumour"])


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        '{"regions": {}}',
        '{"regions": {"a": [1]}, "cases": 1, "failed": {}, "steps": []}',
        '{"regions": {"a": [1]}, "cases": 1, "failed": {}, "steps": [{"name": "a", "labels": [1], "taken": "no", '
        '"dice_before": {}, "dice_after": {}, "reason": ""}]}',
    ],
)
def test_what_is_no_decision_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "postprocessing.json").write_text(content)
    with pytest.raises(DataError, match=r"postprocessing\.json cannot be read as a decision"):
        read_postprocessing(tmp_path / "postprocessing.json")


def test_a_faulty_case_does_not_stop_the_others(tmp_path, folders):
    case = Case()
    case.found[12:15, 12:14, 9:11] = 1
    case.write(tmp_path, "a")
    case.found[0, 0, 0] = 7
    case.write(tmp_path, "b")
    (folders[0] / "c.nii.gz").write_bytes((folders[0] / "a.nii.gz").read_bytes())
    decision = decide(folders)
    assert names(decision) == ["all foreground"] and decision.cases == 1 and not decision.ok
    assert set(decision.failed) == {"b", "c"} and "label 7" in decision.failed["b"]


def test_not_one_usable_case_is_an_error(tmp_path, folders):
    Case().write(tmp_path, "a")
    (folders[0] / "a.nii.gz").write_bytes(b"no")
    with pytest.raises(DataError, match="No case could be used: a: "):
        decide(folders)
    with pytest.raises(OptionError, match="classes is empty"):
        decide_postprocessing(*folders, {}, progress=False)
