"""What the doctor finds in a bundle, and that it finds nothing where nothing is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_runs import CONFIGS_ARE_CODE, ROOT

from metalr_monai import GenesisUNet3D
from metalr_monai.__main__ import main
from metalr_monai.doctor.bundle import diagnose
from metalr_monai.errors import OptionError

pytestmark = CONFIGS_ARE_CODE
BUNDLES = sorted(path for path in (ROOT / "bundles").iterdir() if path.is_dir())
LIVER = ROOT / "bundles/liver_ct_segmentation"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(LIVER, tmp_path / "liver", ignore=shutil.ignore_patterns("runs", "models", "phantoms")))


def change(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    edit(config)
    file.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda path: path.name)
def test_the_bundles_are_well(folder: Path) -> None:
    found = diagnose(folder)
    assert found.faults == []
    assert {"configs/train.json", "configs/train.json + configs/multi_gpu_train.json"} <= set(found.checked)
    assert min(found.checked.values()) > 100


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs/schemes").glob("*.json")))
@pytest.mark.parametrize("folder", ["liver_ct_segmentation", "lesion_2d_classification"])
def test_the_schemes_overlays_are_well(folder: str, name: str) -> None:
    found = diagnose(ROOT / "bundles" / folder, [ROOT / "configs/schemes" / name])
    assert found.faults == [] and len(found.checked) == 1


@pytest.mark.parametrize(
    ("edit", "place", "text"),
    [
        (
            lambda c: c["train"]["trainer"].update(_target_="SupervisedTrainr"),
            "train#trainer",
            "'SupervisedTrainr', which does not exist. Did you mean SupervisedTrainer",
        ),
        (
            lambda c: c["network_def"].update(_target_="metalr_monai.GenesisUNet"),
            "network_def",
            "'metalr_monai.GenesisUNet', which does not exist. Did you mean GenesisUNet3D",
        ),
        (
            lambda c: c["network_def"].update(_target_="no_such_package.Network"),
            "network_def",
            "'no_such_package.Network', which does not exist.",
        ),
        (
            lambda c: c["network_def"].update(widht=8),
            "network_def",
            "unexpected keyword argument 'widht'. Did you mean width",
        ),
        (
            lambda c: c["train"]["dataloader"].update(dataset="@train#datset"),
            "train#dataloader#dataset",
            "refers to @train#datset, which is not there. Did you mean train#dataset",
        ),
        (lambda c: c.update(lr="$1e-3 *"), "lr", "is no Python expression (invalid syntax): $1e-3 *"),
        (lambda c: c["imports"].append("$import no_such_package"), "imports#", "imports no_such_package, which is not"),
        (lambda c: c.update(overlap="%trian#x"), "", "a macro (%…) cannot be put in"),
    ],
    ids=["class", "class of a package", "package", "argument", "reference", "expression", "import", "macro"],
)
def test_what_is_wrong_is_told_by_id(
    bundle: Path, edit: Callable[[dict[str, Any]], object], place: str, text: str
) -> None:
    change(bundle / "configs/train.json", edit)
    [fault] = [fault for fault in diagnose(bundle).faults if fault.config == "configs/train.json"]
    assert fault.id.startswith(place) and text in fault.text
    assert str(fault).startswith("configs/train.json")


def test_an_overlay_s_misspelt_key_is_told(tmp_path: Path) -> None:
    overlay = tmp_path / "mine.json"
    overlay.write_text(json.dumps({"epoch": 3, "decay": 0.5, "lr": "$1e-3 * @decay"}), encoding="utf-8")
    [fault] = diagnose(LIVER, [overlay]).faults
    assert (fault.id, fault.config) == ("epoch", f"configs/train.json + {overlay}")
    assert "nothing refers to it, so it changes nothing. Did you mean epochs" in fault.text


def test_a_file_that_is_no_json_is_told_once(bundle: Path) -> None:
    (bundle / "configs/inference.json").write_text('{"a": 1,}', encoding="utf-8")
    [fault] = diagnose(bundle).faults
    assert fault.config == "configs/inference.json" and fault.text.startswith("cannot be read: ")
    assert "line 1 column" in fault.text


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("metadata.json", '{"a": 1,}', "cannot be read: "),
        ("metadata.json", '{"required_packages_version": []}', "names the packages []; expected each with"),
        ("evaluate.json", "[]", "holds a list; expected keys with values."),
        ("train.json", "{", "cannot be read: "),  # once, and not again under each config that goes on top of it
        ("mine.yaml", "", "holds nothing; expected keys with values."),
        ("mine.yaml", "2024: 1", "has the key 2024, which is no text; put it in quotes."),
    ],
)
def test_a_file_that_is_no_config_is_a_fault_of_its_own(bundle: Path, name: str, text: str, fault: str) -> None:
    (bundle / "configs" / name).write_text(text, encoding="utf-8")
    [found] = diagnose(bundle).faults
    assert found.config == f"configs/{name}" and found.text.startswith(fault)


@pytest.mark.parametrize(("name", "text"), [("mine.yaml", ""), ("mine.json", "[]")])
def test_an_overlay_that_is_no_config_is_told_by_its_name(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    [fault] = diagnose(LIVER, [tmp_path / name]).faults
    assert fault.config == str(tmp_path / name) and "expected keys with values" in fault.text


def test_an_overlay_that_cannot_be_merged_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"+lr": 5}', encoding="utf-8")
    [fault] = diagnose(LIVER, [tmp_path / "mine.json"]).faults
    assert fault.config == f"configs/train.json + {tmp_path / 'mine.json'}"
    assert fault.text.startswith("cannot be read on top of each other: config must be dict or list for key `+lr`")


def test_the_network_s_config_is_looked_at_with_overlays_too(bundle: Path) -> None:
    (bundle / "configs/inference.json").write_text("{", encoding="utf-8")
    [fault] = diagnose(bundle, [ROOT / "configs/schemes/lp_ft.json"]).faults
    assert fault.config == "configs/inference.json"


def test_packages_that_are_missing_are_faults_and_other_versions_notes(bundle: Path) -> None:
    change(
        bundle / "configs/metadata.json",
        lambda m: m.update(monai_version="0.1.0", required_packages_version={"no-such-package": "1.2"}),
    )
    found = diagnose(bundle)
    assert [str(fault) for fault in found.faults] == [
        "configs/metadata.json, no-such-package: is not installed; the bundle was tested with 1.2."
    ]
    assert any("the bundle was tested with 0.1.0" in note for note in found.notes)


def test_the_model_has_to_fit_the_network_of_inference(bundle: Path) -> None:
    assert any("no models/model.pt yet" in note for note in diagnose(bundle).notes)
    (bundle / "models").mkdir()
    torch.save(GenesisUNet3D(width=4, batch_statistics="always").state_dict(), bundle / "models/model.pt")
    [fault] = diagnose(bundle).faults
    assert fault.config == "models/model.pt" and "GenesisUNet3D" in fault.text
    (bundle / "models/model.json").write_text(json.dumps({"width": 4}), encoding="utf-8")
    found = diagnose(bundle)
    assert found.faults == [] and not any("model.pt" in note for note in found.notes)


def test_a_network_that_cannot_be_built_is_told_by_its_first_cause(bundle: Path) -> None:
    change(bundle / "configs/inference.json", lambda c: c["network_def"].update(width="$1 // 0"))
    [fault] = diagnose(bundle).faults
    assert (fault.id, fault.config) == ("network_def", "configs/inference.json")
    assert "integer division or modulo by zero" in fault.text


def test_the_verb_tells_all_and_fails(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(bundle / "configs/evaluate.json", lambda c: c.update(split="@splt"))
    assert main(["doctor", str(bundle)]) == 2
    told = capsys.readouterr().out
    assert "configs/inference.json: " in told and "ids, no fault" in told
    assert "FAULT in configs/train.json + configs/evaluate.json, split: refers to @splt" in told
    assert main(["doctor", str(LIVER), "--json", "--overlays", str(ROOT / "configs/schemes/lp_ft.json")]) == 0
    assert json.loads(capsys.readouterr().out)["faults"] == []


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is no bundle: there is no"):
        diagnose(tmp_path)
    with pytest.raises(OptionError, match=r"There is no .*mine\.json; expected overlays of"):
        diagnose(LIVER, [tmp_path / "mine.json"])
