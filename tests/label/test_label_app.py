"""The folder that the server is started on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import LESION, LIVER, ROOT
from label_server import metalr_monai


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """With a model and the settings of a training on other classes."""
    root = tmp_path / "bundles" / LESION
    shutil.copytree(ROOT / "bundles" / LESION, root, ignore=shutil.ignore_patterns("runs", "phantoms", "*.pt"))
    torch.save({"fc.weight": torch.zeros(2, 512)}, root / "models/model.pt")
    (root / "models/model.json").write_text(json.dumps({"classes": ["cat", "dog"]}), encoding="utf-8")
    (root / "runs").mkdir()
    return root


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    (tmp_path / "my studies").mkdir()
    return tmp_path / "my studies"


def label_app(app: Path, studies: Path, *bundles: Path):
    return metalr_monai("label-app", app, "--studies", studies, "--bundles", ",".join(map(str, bundles)), "--json")


def test_the_app_is_the_servers_own_with_the_bundle_in_it(bundle, studies, tmp_path):
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    done = label_app(tmp_path / "my app", studies, bundle)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (
        f"--app '{tmp_path}/my app' --studies '{studies}' --conf models {LESION} --conf zoo_source local"
        in found["command"]
    )
    assert found["versions"]["monailabel"] == "0.8.5"
    assert "holds no image yet" in found["warnings"][0]
    copy = tmp_path / "my app/model" / LESION
    assert not (copy / "runs").exists()
    metadata = json.loads((copy / "configs/metadata.json").read_text(encoding="utf-8"))
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "cat", "1": "dog"}
    same = [path for path in before if path.name != "metadata.json" and not path.name.startswith(".")]
    assert all((copy / path.relative_to(bundle)).read_bytes() == before[path] for path in same)
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


def test_what_was_trained_in_the_app_stays_when_it_is_prepared_again(bundle, studies, tmp_path):
    app = tmp_path / "app"
    assert label_app(app, studies, bundle).returncode == 0
    trained = app / "model" / LESION / "models/model.pt"
    torch.save({"fc.weight": torch.ones(2, 512)}, trained)
    content = trained.read_bytes()
    again = json.loads(label_app(app, studies, bundle).stdout)
    assert again["kept"] == [LESION]
    assert trained.read_bytes() == content


def test_a_folder_of_something_else_is_left_alone(bundle, studies, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app/thesis.txt").write_text("mine", encoding="utf-8")
    done = label_app(tmp_path / "app", studies, bundle)
    assert (done.returncode, "holds something else" in done.stderr) == (2, True)
    assert [path.name for path in (tmp_path / "app").iterdir()] == ["thesis.txt"]


def test_settings_that_are_damaged_are_named_before_anything_is_made(bundle, studies, tmp_path):
    (bundle / "models/model.json").write_text('{"classes": ["cat"', encoding="utf-8")
    done = label_app(tmp_path / "app", studies, bundle)
    assert (done.returncode, f"{bundle}/models/model.json cannot be read" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "app").exists()


def test_bundles_that_cannot_be_served_are_refused_before_anything_is_made(bundle, studies, tmp_path):
    other = bundle.rename(bundle.with_name("my_bundle"))
    (tmp_path / "broken_segmentation").mkdir()
    reasons = {
        ROOT / "bundles" / LIVER: "models/model.pt is missing. Train the bundle first.",
        other: "must contain segmentation or classification",
        tmp_path / "broken_segmentation": "configs/inference.json",
    }
    for path, reason in reasons.items():
        done = label_app(tmp_path / "app", studies, path)
        assert (done.returncode, reason in done.stderr) == (2, True), done.stderr
    done = label_app(tmp_path / "app", studies, other, tmp_path / "fold 1" / other.name)
    assert (done.returncode, "Several bundles have the same name" in done.stderr) == (2, True), done.stderr
    assert label_app(tmp_path / "app", tmp_path / "nowhere", other).returncode == 2
    assert not (tmp_path / "app").exists()
