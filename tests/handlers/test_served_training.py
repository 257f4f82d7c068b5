"""What MONAI Label's panel and lists mean for a training."""

from __future__ import annotations

import os
import re

import pytest

from metalr_monai import check_served_data, meta_fault, model_files, panel_choices
from metalr_monai.errors import DataError, OptionError, StateError
from metalr_monai.handlers.served_training import part_served, safe_request

PANEL = {
    "scheme": ["MetaLR", "MetaLR, one-pass", "all layers"],
    "meta_batch": ["second training batch", "held-out cases"],
    "alpha0": 0.01,
    "beta": "0.003",
    "max_epochs": 20,
    "replace_if_worse": False,
    "model_filename": [],
}


def studies(count: int) -> list[dict[str, str]]:
    return [{"image": f"/data/scan {number}.nii.gz", "label": "x"} for number in range(count)]


def test_the_first_of_a_list_counts_and_texts_are_read(tmp_path):
    chosen = panel_choices(PANEL, tmp_path)
    assert (chosen["scheme"], chosen["one_pass"], chosen["meta"]) == ("MetaLR", False, "training")
    assert (chosen["lr"], chosen["beta"], chosen["model"]) == (0.01, 0.003, None)
    picked = {**PANEL, "scheme": "MetaLR, one-pass", "meta_batch": "held-out cases", "replace_if_worse": "true"}
    chosen = panel_choices(picked, tmp_path)
    assert (chosen["one_pass"], chosen["meta"], chosen["replace_if_worse"]) == (True, 0.25, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("scheme", "metalr"), ("meta_batch", "first"), ("alpha0", "much"), ("beta", None)],
        *[("scheme", {"a": 1}), ("meta_batch", {"a": 1})],  # cannot be looked up
    ],
)
def test_a_value_that_means_nothing_is_refused_by_name(tmp_path, name, value):
    with pytest.raises(OptionError, match=re.escape(f"{name} is {value!r}")):
        panel_choices({**PANEL, name: value}, tmp_path)


def test_models_are_listed_with_the_served_one_first_and_then_the_newest(tmp_path):
    for number, name in enumerate(["model.pt", "model_1.pt", "model_2.pt"]):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (number, number))
    assert model_files(tmp_path) == ["model.pt", "model_2.pt", "model_1.pt"]
    assert panel_choices({**PANEL, "model_filename": "model_1.pt"}, tmp_path)["model"] == str(tmp_path / "model_1.pt")
    with pytest.raises(StateError, match=r"there are model\.pt, model_2\.pt, model_1\.pt"):
        panel_choices({**PANEL, "model_filename": "../other.pt"}, tmp_path)


@pytest.mark.parametrize(
    ("count", "meta", "enough"), [(1, "training", False), (2, "training", True), (7, 0.25, True), (5, 0.25, False)]
)
def test_a_meta_batch_needs_that_many_studies(count, meta, enough, caplog):
    fault = meta_fault(studies(count), meta, 2)
    assert (fault is None) is enough
    assert (f"{count} labelled studies" in caplog.text) is not enough


def test_nothing_labelled_is_refused():
    with pytest.raises(DataError, match="No study is labelled"):
        check_served_data({"train": [], "validation": []}, "runs")


def test_a_study_keeps_its_part_while_others_are_labelled():
    before_train, _ = part_served(studies(10), 0.2)
    train, validation = part_served(studies(11), 0.2)
    assert len(train) == 9
    assert len(validation) == 2
    assert len([item for item in validation if item in before_train]) == 0


@pytest.mark.parametrize(("count", "share", "held"), [(0, 0.2, 0), (1, 0.2, 0), (2, 0.2, 1), (3, 0.9, 2), (10, 0, 0)])
def test_one_study_validates_from_two_on_and_one_always_trains(count, share, held):
    train, validation = part_served(studies(count), share)
    assert (len(train), len(validation)) == (count - held, held)


def test_a_request_becomes_plain_values(tmp_path):
    given = {"model": "m", "alpha0": "0.02", "max_epochs": 3, "device": ["cuda:0"], "multi_gpu": True, "run_id": "$1"}
    assert safe_request(given, PANEL, tmp_path) == {
        **{"model": "m", "device": "cuda:0", "pretrained": True, "val_split": 0.2, "multi_gpu": False},
        **{"max_epochs": 3, "scheme": "MetaLR", "meta_batch": "second training batch", "alpha0": 0.02, "beta": 0.003},
        **{"replace_if_worse": False, "model_filename": "model.pt"},
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            (name, "$exit(1)")
            for name in ("scheme", "meta_batch", "alpha0", "beta", "max_epochs", "device", "val_split")
        ],
        *[("alpha0", {"_target_": "os.abort"}), ("device", {"_target_": "os.abort"}), ("alpha0", "nan")],
        *[("max_epochs", 0), ("max_epochs", True), ("val_split", 1), ("pretrained", False)],
    ],
)
def test_a_request_that_could_be_code_or_makes_no_sense_is_refused(tmp_path, name, value):
    with pytest.raises(OptionError, match=f"^{name} is "):
        safe_request({"model": "m", name: value}, PANEL, tmp_path)
