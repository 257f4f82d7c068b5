"""Study files: what is read, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigParser

from metalr_monai import check_settings
from metalr_monai.errors import StudyError
from metalr_monai.study.study_file import read_study

ROOT = Path(__file__).parents[2]
STUDY = {
    "title": "One",
    "bundle": "lesion_2d_classification",
    "baseline": "all layers",
    "folder": "images",
    "keys": {"epochs": 1},
    "scores": {"accuracy": "accuracy.value"},
    "schemes": {"all layers": {"overlays": ["schemes/all_layers.json"]}, "MetaLR": None},
}


def written(folder: Path, **changes: object) -> Path:
    """A study file beside links to the repository's configs and bundles."""
    studies = folder / "configs/studies"
    studies.mkdir(parents=True)
    (folder / "configs/schemes").symlink_to(ROOT / "configs/schemes")
    (folder / "bundles").symlink_to(ROOT / "bundles")
    (studies / "one.yaml").write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False), encoding="utf-8")
    return studies / "one.yaml"


def test_a_study_is_read_with_paths_made_absolute(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, seeds=3))
    assert study.train_config.is_file()
    assert [Path(name).is_file() for name in study.schemes["all layers"].overlays] == [True]
    assert study.schemes["MetaLR"].pretrained
    assert study.schemes["MetaLR"].overlays == []
    assert (study.seeds, study.inner_validation, study.data.folder, study.source) == (3, 0.2, "images", None)


@pytest.mark.parametrize("file", sorted((ROOT / "configs/studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_studies_of_the_repository_have_settings_that_a_run_accepts(file: Path) -> None:
    study = read_study(file)
    assert study.baseline in study.schemes
    for entry in study.schemes.values():
        parser = ConfigParser()
        parser.read_config([str(study.train_config), *study.overlays, *entry.overlays])
        values = {**study.keys, **entry.keys, "checkpoint": None}
        for key, value in values.items():
            parser[key] = value
        settings = parser.get_parsed_content("settings")
        check_settings(settings)
        assert {key: settings[key] for key in values if key in settings} == {
            key: value for key, value in values.items() if key in settings
        }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sceme": {}}, r"unknown key 'sceme'; known: .*Did you mean schemes"),
        ({"title": None}, r"title is None; expected a str\."),
        (
            {"baseline": "all layer"},
            r"baseline is 'all layer', which is none of the schemes. Did you mean all layers\?",
        ),
        ({"schemes": {"all layers": {"overlay": []}}}, r"all layers: unknown key 'overlay'; .*Did you mean overlays\?"),
        ({"keys": {"epoch": 1}}, r"all layers: the bundle .* has no key 'epoch'. Did you mean epochs\?"),
        (
            {"bundle": "lesion_2d_class"},
            r"the bundle 'lesion_2d_class' is not there\. Did you mean lesion_2d_classification\?",
        ),
        (
            {"schemes": {"all layers": {"overlays": ["schemes/all_layer.json"]}}},
            r"the overlay 'schemes/all_layer.json' is not there. Did you mean all_layers.json",
        ),
        ({"inner_validation": 0}, r"inner_validation is 0; expected a share between 0 and 1"),
        ({"seeds": 0}, r"seeds is 0; expected 1 or more"),
        ({"scores": {}}, r"scores is empty"),
        ({"source": {"overlayz": []}}, r"source: unknown key 'overlayz'; .*Did you mean overlays"),
        ({"schemes": {"all layers": {"overlays": "a.json"}}}, r"all layers: overlays is 'a.json'; expected a list"),
        ({"schemes": {"all layers": {"search": {"lr": 0.1}}}}, r"search: lr is 0.1; expected a list of values"),
        ({"schemes": {"all layers": {"keys": {"lr": "1e-4"}}}}, r"lr is the text '1e-4'; YAML takes 1.0e-4"),
        ({"schemes": {"all layers": {}, "All, layers": {}}}, r"'All, layers' and 'all layers' would share a folder"),
        (
            {"schemes": {"all layers": {"search": {"learning_rate": [1]}}}},
            r"all layers: the bundle .* has no key 'learning_rate'",
        ),
    ],
)
def test_what_is_wrong_is_named_with_near_misses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = written(tmp_path, **changes)
    with pytest.raises(StudyError, match=message):
        read_study(file)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, sceme={}, seeds="five")
    with pytest.raises(StudyError) as error:
        read_study(file)
    assert [line.startswith(str(file)) for line in str(error.value).splitlines()] == [True, True]


def test_a_file_that_is_no_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be read: No such file"):
        read_study(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(StudyError, match="holds a list; expected keys"):
        read_study(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(StudyError, match="is not valid YAML"):
        read_study(tmp_path / "broken.yaml")


def test_a_sweep_runs_every_scheme_with_every_start_rate(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, start_rates=[1e-4, 1e-3, 1e-2]))
    assert list(study.schemes)[:3] == ["all layers, lr 0.0001", "all layers, lr 0.001", "all layers, lr 0.01"]
    assert [entry.keys["lr"] for entry in study.schemes.values()] == [1e-4, 1e-3, 1e-2] * 2
    assert study.baseline == "all layers, lr 0.001"
    assert study.start_rates["MetaLR, lr 0.01"] == ("MetaLR", 0.01)
