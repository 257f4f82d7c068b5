"""The plan as a file, as a table, and by its identity."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from small_plan import REGIONS, plan

from metalr_monai.errors import DataError, OptionError
from metalr_monai.planning.plan import Choice, read_plan, write_plan


def edited(tmp_path, change):
    """The file of a plan after `change` of its content."""
    path = tmp_path / "plan.json"
    write_plan(plan(), path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_what_is_written_is_read_again_value_for_value_and_reason_for_reason(tmp_path):
    path = tmp_path / "new folder" / "plan.json"
    write_plan(plan(), path)
    assert read_plan(path) == plan()


def test_the_file_shows_each_choice_as_a_value_and_a_reason(tmp_path):
    write_plan(plan(), tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text()
    assert json.loads(text)["choices"]["spacing"] == {"value": [1.5, 1.5, 2.0], "reason": "why spacing"}
    assert '"value": [1.5, 1.5, 2.0],\n' in text


def test_a_value_set_by_hand_is_taken(tmp_path):
    path = edited(tmp_path, lambda content: content["choices"]["epochs"].update(value=7))
    assert read_plan(path)["epochs"] == 7


def test_an_unknown_choice_is_asked_for_by_name():
    with pytest.raises(OptionError, match=r"no 'spacings'; it has network, width"):
        plan()["spacings"]


def test_the_table_has_every_value_with_its_reason():
    table = str(plan())
    for name, choice in plan().choices.items():
        row = next(line for line in table.splitlines() if line.startswith(f"{name} "))
        assert choice.reason in row
    assert "1.5 × 1.5 × 2" in table
    assert "[-1000, 1000]" in table
    assert max(map(len, table.splitlines())) < 140


def test_a_long_reason_is_wrapped_beneath_itself():
    long = replace(plan(), choices={"epochs": Choice(7, "because " * 30)})
    first, second, *_ = str(long).splitlines()[1:]
    assert first.index("because") == second.index("because")


# ---------------------------------------------------------------------- identity

PREPARED = {"spacing": [1.0, 1.5, 2.0], "hu_window": [-900.0, 1000.0], "value_range": [0.0, 2.0]}
TRAINED = {
    "width": 16,
    "batch_statistics": "standard",
    "checkpoint_sha256": "b" * 64,
    "match_norms": False,
    "patch_size": [64, 64, 64],
    "batch_size": 3,
    "patches_per_volume": 2,
    "foreground": 0.3,
    "epochs": 101,
    "scheme": None,
    "lr": 0.02,
    "meta": "training",
    "momentum": 0.5,
    "nesterov": True,
    "weight_decay": 0.1,
    "loss": {"_target_": "DiceLoss", "sigmoid": True},
    "mirror_axes": [0],
    "bfloat16": True,
}
USED = {
    "checkpoint": "/elsewhere/start.pt",
    "folds": 3,
    "memory_gb": 2.0,
    "overlap": 0.25,
    "postprocessing": "largest component",
    "bundle": "/bundle",
}


@pytest.mark.parametrize("name", PREPARED)
def test_what_preprocessing_depends_on_changes_both_identities(name):
    other = plan({name: PREPARED[name]})
    assert other.preprocessing_identity != plan().preprocessing_identity
    assert other.identity != plan().identity


@pytest.mark.parametrize("name", TRAINED)
def test_what_training_depends_on_changes_its_identity_alone(name):
    other = plan({name: TRAINED[name]})
    assert other.preprocessing_identity == plan().preprocessing_identity
    assert other.identity != plan().identity


@pytest.mark.parametrize("name", USED)
def test_paths_folds_memory_and_what_comes_after_training_change_no_identity(name):
    assert plan({name: USED[name]}).identity == plan().identity


def test_reasons_and_the_folder_and_times_of_the_data_change_no_identity():
    other = plan()
    other = replace(other, choices={name: replace(choice, reason="") for name, choice in other.choices.items()})
    moved = json.loads(json.dumps(other.dataset)) | {"folder": "/copy"}
    for files in moved["marks"].values():
        for mark in files.values():
            mark["mtime_ns"] += 1
    assert replace(other, dataset=moved).identity == plan().identity


def test_another_content_of_one_file_changes_both_identities():
    other = plan()
    other.dataset["marks"]["case_1"]["label"]["sha256"] = "3" * 64
    assert other.preprocessing_identity != plan().preprocessing_identity
    assert other.identity != plan().identity


def test_the_order_of_regions_is_the_channels_order_and_so_changes_the_identity():
    turned = dict(reversed(REGIONS.items()))
    assert plan(regions=turned).identity != plan().identity
    assert plan(regions=turned).preprocessing_identity == plan().preprocessing_identity


def test_equal_numbers_written_otherwise_have_one_identity(tmp_path):
    path = edited(tmp_path, lambda content: content["choices"]["hu_window"].update(value=[-1000, 1000]))
    assert read_plan(path).identity == plan().identity


# ---------------------------------------------------------------------- faulty files


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"There is no plan .*plan\.json"):
        read_plan(tmp_path / "plan.json")


def test_a_folder_is_no_plan(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read"):
        read_plan(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "not a plan of this program"),
        ('{"plans_name": "nnUNetPlans", "configurations": {}}', "a plans file of nnU-Net"),
        ('{"format": "metalr_monai plan", "version": 2}', "version 2; this program reads version 1: install a newer"),
        ('{"format": "metalr_monai plan", "version": 1}', "it has no 'family'"),
    ],
)
def test_a_foreign_or_newer_file_is_refused_by_name(tmp_path, text, words):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as error:
        read_plan(path)
    assert str(path) in str(error.value)


STRUCTURE = {
    "a part of another type": (lambda c: c.update(choices=[]), "'choices' is a list; expected a dict"),
    "a bare value": (
        lambda c: c["choices"].update(epochs=5),
        "the choice 'epochs' is 5; expected a value and a reason",
    ),
    "no kind of data set": (lambda c: c["dataset"].pop("kind"), "the dataset's kind is None"),
    "marks of nothing": (lambda c: c["dataset"].update(marks={"case": {"image": 1}}), "the dataset's marks"),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_a_damaged_file_says_where(tmp_path, name):
    change, words = STRUCTURE[name]
    with pytest.raises(DataError, match=words):
        read_plan(edited(tmp_path, change))


VALUES = {
    "spacing": ([1, 2], "spacing is [1, 2]; expected three numbers above 0, in mm."),
    "hu_window": ([100, -100], "hu_window is [100, -100]; expected two numbers, the lower first, in HU."),
    "value_range": ([1, 0], "value_range is [1, 0]; expected two numbers"),
    "patch_size": (
        [64, 60, 32],
        "patch_size is [64, 60, 32]; expected multiples of 8 × 8 × 8 voxels, as [64, 64, 32].",
    ),
    "width": (7, "width is 7"),
    "epochs": (0, "epochs is 0; expected a whole number, 1 or more."),
    "lr": (float("nan"), "lr is nan; expected a number above 0."),
    "foreground": (1.5, "foreground is 1.5; expected a share of the patches"),
    "mirror_axes": ([0, 0], "mirror_axes is [0, 0]; expected a list of different axes"),
    "loss": ({"_target_": "os.system"}, "expected a loss of monai.losses"),
    "network": ("unet", "network is 'unet'; expected one of genesis_unet3d, dynunet."),
    "folds": (1, "folds is 1; expected a whole number, 2 or more."),
    "bfloat16": ("yes", "bfloat16 is 'yes'; expected true or false."),
    "checkpoint_sha256": ("abc", "checkpoint_sha256 is 'abc'; expected 64 hexadecimal digits"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_cannot_be_is_refused_by_name(tmp_path, name):
    value, words = VALUES[name]
    path = edited(tmp_path, lambda content: content["choices"][name].update(value=value))
    with pytest.raises(OptionError) as error:
        read_plan(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_all_faults_are_told_at_once(tmp_path):
    def change(content):
        content["choices"]["spacing"]["value"] = 0
        content["choices"]["folds"]["value"] = "all"
        content["output_values"] = [1]

    with pytest.raises(OptionError, match=r"(?s)folds is 'all'.*spacing is 0.*output_values is \[1\]"):
        read_plan(edited(tmp_path, change))


def test_a_misspelt_choice_is_told_with_what_it_may_have_meant(tmp_path):
    def change(content):
        content["choices"]["epoch"] = content["choices"].pop("epochs")

    with pytest.raises(OptionError, match=r"(?s)It has no epochs.*no choice 'epoch'\. Did you mean epochs\?"):
        read_plan(edited(tmp_path, change))


def test_a_plan_with_faults_is_not_written_and_the_old_one_stays(tmp_path):
    path = tmp_path / "plan.json"
    write_plan(plan(), path)
    with pytest.raises(OptionError, match="not written"):
        write_plan(plan({"epochs": -1}), path)
    assert read_plan(path) == plan()
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]
