"""Study files: what is read, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigParser

from metalr_monai import check_settings
from metalr_monai.errors import StudyError
from metalr_monai.study.matrix import make_matrix
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
def test_the_studies_of_the_repository_have_settings_that_a_run_accepts(file: Path, tmp_path: Path) -> None:
    study = read_study(file)
    assert study.baseline in study.schemes
    for data in [study.data, *([study.source.data] if study.source else [])]:
        (tmp_path / "data" / data.folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "weights.pt").touch()
    weights = None if study.source else tmp_path / "weights.pt"
    names = list(study.schemes)
    matrix = make_matrix(study, tmp_path / "data", tmp_path / "out", 1, names, weights, generate=False)
    for run in matrix.runs:
        parser = ConfigParser()
        parser.read_config(run.own.config_files)
        values = {**run.own.keys, "checkpoint": None}
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
        ({"keys": {"lr": "1e-4"}}, r"yaml: keys: lr is the text '1e-4'"),
        ({"schemes": {"all layers": {"search": {"lr": [1.0, "1e-3"]}}}}, r"search: lr is the text '1e-3'"),
        ({"schemes": {"all layers": {"keys": None}}}, r"all layers: keys is None; expected a dict"),
        ({"source": {"keys": ["lr"]}}, r"source: keys is \['lr'\]; expected a dict"),
        ({"schemes": {"all layers": {"pretrained": "no"}}}, r"all layers: pretrained is 'no'; expected a bool"),
        ({"schemes": {"all layers": None, 2024: None}}, r"schemes: 2024 is no text; put it in quotes"),
        ({"schemes": {"all layers": None, False: None}}, r"schemes: False is no text; put it in quotes"),
        ({"schemes": {"all layers": {"keys": {1: 2}}}}, r"all layers: keys: 1 is no text"),
        ({"overlays": [5]}, r"yaml: overlays holds 5; expected names of files"),
        ({"schemes": {"all layers": {"overlays": [5]}}}, r"all layers: overlays holds 5; expected names of files"),
        ({"start_rates": ["fast"]}, r"start_rates holds 'fast'; expected numbers above 0"),
        ({"start_rates": [0.1, -0.1]}, r"start_rates holds -0.1; expected numbers above 0"),
        ({"scores": {"accuracy": 5}}, r"scores: accuracy is 5; expected a place in metrics\.json, as text such as"),
        ({"published": {"all layers": 93.9}}, r"published: all layers: expected keys, found 93.9"),
        ({"published": {"all layers": {"accuracy": [1]}}}, r"published: all layers: accuracy is \[1\]; expected a num"),
        ({"published": {"AutoLR": {"acuracy": 1}}}, r"AutoLR: unknown key 'acuracy'; .* Did you mean accuracy"),
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


def test_a_study_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("title: Müller".encode("latin-1"))
    with pytest.raises(StudyError, match=r"latin\.yaml is not UTF-8: .*Save it as UTF-8"):
        read_study(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.json", '{"lr": 1,}', r"mine\.json cannot be read: Expecting property name"),
        ("mine.yaml", "", r"mine\.yaml holds nothing; expected keys"),
        ("mine.json", "[]", r"mine\.json holds a list; expected keys"),
        ("mine.yaml", "2024: 1", r"mine\.yaml has the key 2024, which is no text"),
        ("mine.txt", "lr: 1", r"mine\.txt cannot be read: unknown file input"),
        ("mine.json", '{"+lr": 5}', r"all layers: .*mine\.json cannot be read on top of each other: config must be"),
        ("mine.json", '{"nothing#lr": 5}', r"mine\.json cannot be read on top of each other: 'query key: nothing'"),
    ],
)
def test_an_overlay_that_is_no_config_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    file = written(tmp_path, schemes={"all layers": {"overlays": [name]}})
    (tmp_path / "configs" / name).write_text(text)
    with pytest.raises(StudyError, match=message):
        read_study(file)


def test_a_bundle_without_its_configs_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError) as error:
        read_study(written(tmp_path, bundle=str(tmp_path / "empty")))
    for line, name in zip(str(error.value).splitlines(), ("train", "evaluate"), strict=True):
        assert f"empty/configs/{name}.json cannot be read: [Errno 2] No such file" in line


def test_published_numbers_are_shown_as_text(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, published={"all layers": {"accuracy": 93.9, "time": "16m"}}))
    assert study.published == {"all layers": {"accuracy": "93.9", "time": "16m"}}


def test_a_sweep_runs_every_scheme_with_every_start_rate(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, start_rates=[1e-4, 1e-3, 1e-2]))
    assert list(study.schemes)[:3] == ["all layers, lr 0.0001", "all layers, lr 0.001", "all layers, lr 0.01"]
    assert [entry.keys["lr"] for entry in study.schemes.values()] == [1e-4, 1e-3, 1e-2] * 2
    assert study.baseline == "all layers, lr 0.001"
    assert study.start_rates["MetaLR, lr 0.01"] == ("MetaLR", 0.01)
