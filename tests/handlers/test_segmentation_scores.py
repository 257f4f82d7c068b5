"""The handler in a real MONAI evaluator, alone, in a bundle's config, and on two ranks."""

from __future__ import annotations

import csv
import json
import logging

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import CheckpointSaver
from monai.transforms import AsDiscreted, Compose, EnsureChannelFirstd, LoadImaged
from torch import nn
from two_ranks import assert_both_ranks_score_as, needs_gloo, score_on_rank

from metalr_monai.errors import EngineError, OptionError
from metalr_monai.evaluation.scores import summarize
from metalr_monai.evaluation.segmentation import score_case
from metalr_monai.handlers.segmentation_scores import SegmentationScores

# MONAI 1.6's surface metrics warn of an argument that they themselves pass
pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy. has been deprecated:FutureWarning")
CLASSES = {"liver": [1, 2], "tumour": 2}
SPACING = (3.0, 1.0, 2.0)


class Nearest(nn.Module):
    """Logits (B, 3, …) whose argmax is the image's own value, 0, 1 or 2: the image holds the prediction."""

    def forward(self, image):
        return torch.cat([-((image - label) ** 2) for label in range(3)], dim=1)


def items(count=5):
    """Label maps (1, 6, 5, 4) at `SPACING`; the fourth case has no tumour, found or not."""
    draws = np.random.default_rng(0)
    found = []
    for i in range(count):
        image, label = (draws.choice(2 if i == 3 else 3, size=(1, 6, 5, 4)).astype("float32") for _ in range(2))
        affine = torch.diag(torch.tensor([*SPACING, 1.0]))
        found.append({"image": MetaTensor(image), "label": MetaTensor(label, affine=affine), "case_id": f"case_{i}"})
    return found


def make_evaluator(data, *, handlers=(), batch_size=2, sampler=None, postprocessing=True, **settings):
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=batch_size, sampler=sampler),
        network=Nearest(),
        postprocessing=AsDiscreted("pred", argmax=True) if postprocessing else None,
        val_handlers=list(handlers),
        **settings,
    )


def expected_scores(data, **options):
    return [s for d in data for s in score_case(d["image"], d["label"], CLASSES, case=d["case_id"], **options)]


def test_each_case_is_scored_and_the_means_are_metrics(tmp_path):
    data = items()
    scores = SegmentationScores(CLASSES, tmp_path, surface=True)
    evaluator = make_evaluator(data, handlers=[scores])
    evaluator.run()
    expected = expected_scores(data, surface=True, spacing=SPACING)
    for ours, theirs in zip(scores.scores, expected, strict=True):
        assert (ours.case, ours.class_name, ours.empty) == (theirs.case, theirs.class_name, theirs.empty)
        assert ours.values == pytest.approx(theirs.values, nan_ok=True, abs=0)
    summary = summarize(expected)
    assert evaluator.state.metrics == {
        n: summary[n.split("_")[0]][n.split("_", 1)[1]]["mean"] for n in scores.metric_names
    }
    assert len(evaluator.state.metrics) == 10
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [f"case_{i}" for i in range(5) for _ in CLASSES]
    assert [row["empty"] for row in rows if row["class"] == "tumour"] == ["", "", "", "both", ""]
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["summary"]["tumour"]["empty"] == {"both": 1, "reference": 0, "prediction": 0}
    assert written["summary"]["tumour"]["dice"]["n"] == 4
    assert written["classes"] == {"liver": [1, 2], "tumour": [2]} and written["surface_tolerance_mm"] == 2.0


def test_as_key_metric_it_is_set_before_the_best_epoch_is_chosen_and_saved(tmp_path):
    data = items()
    scores = SegmentationScores(CLASSES)
    saver = CheckpointSaver(
        str(tmp_path), {"network": nn.Linear(1, 1)}, save_key_metric=True, key_metric_filename="best.pt"
    )
    evaluator = make_evaluator(
        data,
        handlers=[saver],
        key_val_metric={"liver_dice": scores},
        additional_metrics={"tumour_ppv": scores},
    )
    evaluator.run(1)
    first = evaluator.state.best_metric
    assert first == evaluator.state.metrics["liver_dice"] == summarize(expected_scores(data))["liver"]["dice"]["mean"]
    assert evaluator.state.metrics["tumour_ppv"] == summarize(expected_scores(data))["tumour"]["ppv"]["mean"]
    assert (evaluator.state.best_metric_epoch, (tmp_path / "best.pt").exists()) == (1, True)

    for item in data:
        item["label"][:] = item["image"]  # now the network is perfect
    evaluator.run(2)
    assert (evaluator.state.best_metric, evaluator.state.best_metric_epoch) == (1.0, 2)
    assert first < 1
    assert len(scores.scores) == 2 * len(data)  # those of the last run alone


def test_a_plain_bundle_config_names_it_as_its_key_metric(tmp_path):
    parser = ConfigParser(
        {
            "imports": ["$import torch"],
            "key_metric": {
                "liver_dice": {
                    "_target_": "metalr_monai.handlers.segmentation_scores.SegmentationScores",
                    "classes": CLASSES,
                    "output_dir": str(tmp_path),
                }
            },
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "$torch.device('cpu')",
                "val_data_loader": {"_target_": "DataLoader", "dataset": items(3), "batch_size": 1},
                "network": Nearest(),
                "postprocessing": {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                "key_val_metric": "@key_metric",
            },
        }
    )
    evaluator = parser.get_parsed_content("evaluator")
    evaluator.run()
    assert evaluator.state.key_metric_name == "liver_dice"
    assert evaluator.state.best_metric == summarize(expected_scores(items(3)))["liver"]["dice"]["mean"]
    assert (tmp_path / "metrics.csv").exists()


def test_a_metric_name_that_it_has_not_is_refused():
    with pytest.raises(OptionError, match=r"'liver_dise'.*Did you mean liver_dice"):
        make_evaluator(items(1), key_val_metric={"liver_dise": SegmentationScores(CLASSES)})


def test_files_give_the_cases_their_names_and_their_spacing(tmp_path):
    draws = np.random.default_rng(1)
    data = []
    for folder in ("first", "second", "third"):
        (tmp_path / folder).mkdir()
        item = {}
        for key in ("image", "label"):
            file = tmp_path / folder / (f"{key}.nii.gz" if folder != "third" else f"{key}_3.nii.gz")
            volume = draws.choice(3, size=(6, 5, 4)).astype("uint8")
            nibabel.save(nibabel.Nifti1Image(volume, np.diag([*SPACING, 1.0])), file)
            item[key] = str(file)
        data.append(item)
    transform = Compose([LoadImaged(("image", "label")), EnsureChannelFirstd(("image", "label"))])
    scores = SegmentationScores(CLASSES, surface=True)
    make_evaluator(Dataset(data, transform), handlers=[scores]).run()
    assert [s.case for s in scores.scores if s.class_name == "liver"] == [
        str(tmp_path / "first" / "image.nii.gz"),  # one name in two folders
        str(tmp_path / "second" / "image.nii.gz"),
        "image_3.nii.gz",
    ]
    last = transform(data[2])
    [expected, _] = score_case(
        last["image"], last["label"], CLASSES, case="image_3.nii.gz", surface=True, spacing=SPACING
    )
    assert scores.scores[-2] == expected


def test_a_score_that_no_case_defines_is_nan_and_said_so(caplog):
    data = items(2)
    for item in data:
        item["image"][:] = 0
    scores = SegmentationScores({"liver": [1, 2]})
    evaluator = make_evaluator(data, handlers=[scores])
    evaluator.run()
    assert evaluator.state.metrics["liver_dice"] == evaluator.state.metrics["liver_sensitivity"] == 0.0
    assert np.isnan(evaluator.state.metrics["liver_ppv"])
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        "No case defines liver_ppv (NaN): a mask that it needs is empty in all cases."
    ]


# ---------------------------------------------------------------------- bad input


def refusal(data, error, says, **settings):
    evaluator = make_evaluator(data, handlers=[SegmentationScores(CLASSES, surface=True)], **settings)
    evaluator.logger.setLevel(logging.CRITICAL)
    with pytest.raises(error, match=says):
        evaluator.run()


def test_a_reference_with_an_unknown_label_is_refused_with_the_cases_name():
    data = items(3)
    data[1]["label"][0, 0, 0, 0] = 7
    refusal(data, OptionError, "Case case_1: the reference holds the label 7")


def test_cases_without_a_name_or_with_anothers_are_refused():
    data = items(2)
    for item in data:
        del item["case_id"]
    refusal(data, OptionError, "Add a case_id")
    refusal([items(1)[0], items(1)[0]], OptionError, "Two items are the case case_0")


def test_references_without_a_header_have_no_surface_in_mm():
    data = items(1)
    data[0]["label"] = data[0]["label"].as_tensor()
    refusal(data, OptionError, "Case case_0: the spacing is None")


def test_output_that_is_not_decollated_is_refused():
    refusal(items(2), EngineError, "decollate=True", decollate=False, postprocessing=False)


def test_channels_instead_of_a_label_map_are_refused():
    refusal(items(1), OptionError, r"Case case_0: the prediction has shape \(3, 6, 5, 4\)", postprocessing=False)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_no_distance_is_refused(tolerance):
    with pytest.raises(OptionError, match="tolerance_mm"):
        SegmentationScores(CLASSES, surface=True, tolerance_mm=tolerance)


# ---------------------------------------------------------------------- two ranks


def scored(data, folder, sampler=None):
    scores = SegmentationScores(CLASSES, folder, surface=True)
    return make_evaluator(data, sampler=sampler, batch_size=1, key_val_metric={"liver_dice": scores})


def on_rank(rank, folder):
    score_on_rank(rank, folder, items(), scored)


@needs_gloo
def test_two_processes_equal_one_on_all_the_cases_each_counted_once(tmp_path):
    alone = scored(items(), tmp_path / "alone")
    alone.run()
    # five cases: one is padded, or one rank has fewer
    assert_both_ranks_score_as(alone, on_rank, tmp_path, even=[3, 3], uneven=[3, 2])
