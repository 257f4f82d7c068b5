"""The handler in a real MONAI evaluator, as key metric, in a bundle's config, and on two ranks."""

from __future__ import annotations

import csv
import json
import logging

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import CheckpointSaver
from monai.transforms import Activationsd, AsDiscreted, Compose
from torch import nn
from two_ranks import assert_both_ranks_score_as, needs_gloo, score_on_rank

from metalr_monai.errors import EngineError, OptionError
from metalr_monai.evaluation.classification import Share, score_classification
from metalr_monai.handlers.classification_scores import ClassificationScores

CLASSES = ["covid19", "pneumonia", "regular"]


def items(count=7):
    """The image, (3, 1, 1), holds the logits."""
    draws = np.random.default_rng(3)
    return [
        {
            "image": MetaTensor(draws.normal(size=(3, 1, 1)).astype("float32")),
            "label": np.int64(draws.integers(3)),
            "case_id": f"case_{i}",
            "group": f"video {i // 2}",
        }
        for i in range(count)
    ]


def make_evaluator(data, *, handlers=(), batch_size=3, sampler=None, postprocessing=True, **settings):
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=batch_size, sampler=sampler),
        network=nn.Flatten(),
        postprocessing=Activationsd("pred", softmax=True) if postprocessing is True else postprocessing,
        val_handlers=list(handlers),
        **settings,
    )


def expected(data):
    logits = torch.stack([d["image"].as_tensor().flatten() for d in data])
    return score_classification(logits.softmax(1), [d["label"] for d in data], CLASSES)


def test_every_case_is_scored_and_the_scores_are_metrics(tmp_path):
    data = items()
    scores = ClassificationScores(CLASSES, tmp_path)
    evaluator = make_evaluator(data, handlers=[scores])
    evaluator.run()
    assert evaluator.state.metrics == pytest.approx(expected(data).metrics, rel=1e-12, nan_ok=True)
    assert tuple(evaluator.state.metrics) == scores.metric_names
    assert [p.case for p in scores.predictions] == [d["case_id"] for d in data]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case_id"], row["group"], row["true"]) for row in rows] == [
        (d["case_id"], d["group"], CLASSES[d["label"]]) for d in data
    ]
    assert [row["predicted"] for row in rows] == [CLASSES[int(d["image"].argmax())] for d in data]
    assert float(rows[0]["p_regular"]) == pytest.approx(float(data[0]["image"].flatten().softmax(0)[2]), rel=1e-6)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["confusion_matrix"] == expected(data).confusion.tolist() and written["groups"] == 4


def test_as_key_metric_it_is_set_before_the_best_epoch_is_chosen_and_saved(tmp_path):
    data = items()
    scores = ClassificationScores(CLASSES)
    saver = CheckpointSaver(
        str(tmp_path), {"network": nn.Linear(1, 1)}, save_key_metric=True, key_metric_filename="best.pt"
    )
    evaluator = make_evaluator(
        data, handlers=[saver], key_val_metric={"accuracy": scores}, additional_metrics={"ece": scores}
    )
    evaluator.run(1)
    first = evaluator.state.best_metric
    assert first == evaluator.state.metrics["accuracy"] == expected(data).accuracy.value < 1
    assert (evaluator.state.best_metric_epoch, (tmp_path / "best.pt").exists()) == (1, True)

    for item in data:
        item["label"] = np.int64(item["image"].argmax())  # now the network is perfect
    evaluator.run(2)
    assert (evaluator.state.best_metric, evaluator.state.best_metric_epoch) == (1.0, 2)
    assert len(scores.predictions) == len(data)  # those of the last run alone


def test_of_the_log_loss_less_is_better_where_the_evaluator_is_told():
    data = items()
    scores = ClassificationScores(CLASSES)
    evaluator = make_evaluator(
        data, key_val_metric={"log_loss": scores}, metric_cmp_fn=lambda current, best: current < best
    )
    evaluator.run(1)
    assert evaluator.state.best_metric == pytest.approx(expected(data).log_loss, rel=1e-12)
    for item in data:
        item["label"] = np.int64(item["image"].argmin())
    evaluator.run(2)
    assert evaluator.state.best_metric_epoch == 1 and evaluator.state.metrics["log_loss"] > evaluator.state.best_metric


def test_a_plain_bundle_config_names_it_as_its_key_metric(tmp_path):
    parser = ConfigParser(
        {
            "imports": ["$import torch"],
            "key_metric": {
                "accuracy": {
                    "_target_": "metalr_monai.ClassificationScores",
                    "classes": CLASSES,
                    "output_dir": tmp_path,
                }
            },
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "$torch.device('cpu')",
                "val_data_loader": {"_target_": "DataLoader", "dataset": items(3), "batch_size": 2},
                "network": nn.Flatten(),
                "postprocessing": {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                "key_val_metric": "@key_metric",
            },
        }
    )
    evaluator = parser.get_parsed_content("evaluator")
    evaluator.run()
    assert evaluator.state.key_metric_name == "accuracy"
    assert evaluator.state.best_metric == expected(items(3)).accuracy.value
    assert (tmp_path / "metrics.csv").exists()


def test_labels_with_a_channel_are_labels_too():
    data = items()
    for item in data:
        item["label"] = torch.tensor([item["label"]], dtype=torch.float32)
    scores = ClassificationScores(CLASSES)
    make_evaluator(data, handlers=[scores]).run()
    assert [p.label for p in scores.predictions] == [int(d["label"]) for d in data]


def test_files_name_the_cases_that_have_no_case_id():
    data = items(2)
    for name, item in zip(("a/1.png", "b/1.png"), data, strict=True):
        del item["case_id"], item["group"]
        item["image"].meta["filename_or_obj"] = name
    scores = ClassificationScores(CLASSES)
    make_evaluator(data, handlers=[scores]).run()
    assert [(p.case, p.group) for p in scores.predictions] == [("a/1.png", ""), ("b/1.png", "")]


def test_a_score_that_no_case_defines_is_nan_and_said_so(caplog):
    data = items()
    for item in data:
        item["label"], item["image"][:] = np.int64(0), torch.tensor([1.0, 0, 0])[:, None, None]
    scores = ClassificationScores(CLASSES)
    evaluator = make_evaluator(data, handlers=[scores])
    evaluator.run()
    assert evaluator.state.metrics["accuracy"] == evaluator.state.metrics["balanced_accuracy"] == 1.0
    undefined = "auc, pneumonia_sensitivity, pneumonia_ppv, regular_sensitivity, regular_ppv"
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        f"No case defines {undefined} (NaN): a class has no cases, or was never predicted."
    ]


# ---------------------------------------------------------------------- bad input


def refusal(data, error, says, **settings):
    evaluator = make_evaluator(data, handlers=[ClassificationScores(CLASSES)], **settings)
    evaluator.logger.setLevel(logging.CRITICAL)
    with pytest.raises(error, match=says):
        evaluator.run()


def test_a_metric_name_that_it_has_not_is_refused():
    with pytest.raises(OptionError, match=r"'acuracy'.*Did you mean accuracy"):
        make_evaluator(items(1), key_val_metric={"acuracy": ClassificationScores(CLASSES)})


def test_logits_are_refused_with_the_remedy():
    refusal(items(2), OptionError, r"Case case_0: .*Activationsd\('pred', softmax=True\)", postprocessing=None)


def test_one_hot_labels_are_refused_with_the_remedy():
    both = Compose([Activationsd("pred", softmax=True), AsDiscreted("label", to_onehot=3)])
    refusal(items(2), OptionError, "Case case_0: .*leave out what makes them one-hot", postprocessing=both)


def test_a_label_of_no_class_is_refused_with_the_cases_name():
    data = items(3)
    data[1]["label"] = np.int64(3)
    refusal(data, OptionError, "Case case_1: the label is 3; expected 0 to 2")


def test_a_network_that_gives_nan_is_refused_with_the_cases_name():
    data = items(3)
    data[2]["image"][0] = torch.nan
    refusal(data, OptionError, "Case case_2: a probability is not finite")


def test_cases_without_a_name_or_with_anothers_are_refused():
    data = items(2)
    for item in data:
        del item["case_id"]
    refusal(data, OptionError, "Add a case_id")
    refusal([items(1)[0], items(1)[0]], OptionError, "Two items are the case case_0")


def test_output_that_is_not_decollated_is_refused():
    refusal(items(2), EngineError, "decollate=True", decollate=False, postprocessing=None)


def test_output_without_a_label_is_refused():
    data = items(2)
    for item in data:
        del item["label"]
    refusal(data, EngineError, "The evaluator's output has image, pred; it lacks label")


# ---------------------------------------------------------------------- two ranks


def scored(data, folder, sampler=None):
    scores = ClassificationScores(CLASSES, folder)
    return make_evaluator(data, sampler=sampler, batch_size=2, key_val_metric={"accuracy": scores})


def on_rank(rank, folder):
    score_on_rank(rank, folder, items(), scored)


@needs_gloo
def test_two_processes_equal_one_on_all_the_cases_each_counted_once(tmp_path):
    alone = scored(items(), tmp_path / "alone")
    alone.run()
    assert Share(round(7 * alone.state.best_metric), 7) == expected(items()).accuracy
    # seven cases: one is padded, or one rank has fewer
    assert_both_ranks_score_as(alone, on_rank, tmp_path, even=[4, 4], uneven=[4, 3])
