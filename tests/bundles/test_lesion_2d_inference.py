"""The 2D bundle writes a table of its predictions for pictures without labels."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_runs import own_error, rows, weights
from lesion_2d_bundle import CLASSES, LESION, WARNINGS, WIDTH
from monai.data import MetaTensor
from pictures import blobs, save

from metalr_monai.cli.verbs import predict
from metalr_monai.errors import DataError, StateError
from metalr_monai.networks.registry import network_entry

pytestmark = WARNINGS
COLUMNS = ["case_id", "predicted", *(f"p_{name}" for name in CLASSES)]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Grey, colour and 16 bits, in folders of two depths; one has a mask beside it."""
    folder = tmp_path / "pictures"
    save(folder / "grey.png", 1)
    save(folder / "grey_mask.png", (blobs(1) > 128).astype("uint8") * 255, "1")
    save(folder / "ward b" / "colour.jpg", 2, "RGB")
    save(folder / "ward b" / "2024" / "deep.png", blobs(3).astype("uint16") * 257)
    return folder


CASES = ["grey", "ward b/2024/deep", "ward b/colour"]


def infer(root: Path, source: object, out: Path, **options: object) -> list[dict[str, str]]:
    LESION.run(
        "inference.json", root=root, dataset_dir=source, output_dir=str(out), device="cpu", **{**WIDTH, **options}
    )
    return rows(out / "predictions.csv")


def test_a_folder_of_pictures_becomes_a_table(trained_classifier: Path, pictures: Path, tmp_path: Path) -> None:
    found = infer(trained_classifier, str(pictures), tmp_path / "out")
    assert list(found[0]) == COLUMNS
    assert [row["case_id"] for row in found] == CASES
    for row in found:
        p = {name: float(row[f"p_{name}"]) for name in CLASSES}
        assert sum(p.values()) == pytest.approx(1, abs=1e-6)
        assert p[row["predicted"]] == max(p.values())
    assert len({row["p_regular"] for row in found}) == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.csv"]


def test_a_list_of_pictures_is_predicted_as_its_folder_is(
    trained_classifier: Path, pictures: Path, tmp_path: Path
) -> None:
    files = [str(pictures / "ward b/colour.jpg"), str(pictures / "grey.png")]
    found = infer(trained_classifier, files, tmp_path / "list", batch_size=1)
    of_folder = {row["case_id"]: row for row in infer(trained_classifier, str(pictures), tmp_path / "folder")}
    assert [row["case_id"] for row in found] == ["grey", "ward b/colour"]
    for row in found:
        for column in COLUMNS[2:]:
            assert float(row[column]) == pytest.approx(float(of_folder[row["case_id"]][column]), rel=1e-5)


def test_activation_maps_lie_beside_the_table_on_request(
    trained_classifier: Path, pictures: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'report'")
    infer(trained_classifier, str(pictures), tmp_path / "out", activation_maps=True)
    maps = tmp_path / "out/maps"
    assert sorted(path.relative_to(maps).as_posix() for path in maps.rglob("*.png")) == [f"{c}.png" for c in CASES]


def two_classes(folder: Path, **settings: object) -> Path:
    """A trained network of the chest X-rays that is always sure of pneumonia, and its settings."""
    network = network_entry("resnet18").build(3, 2, 8)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.copy_(torch.tensor([0.0, torch.logit(torch.tensor(0.75))]))
    (folder / "models").mkdir(parents=True)
    torch.save(network.state_dict(), folder / "models/model.pt")
    (folder / "models/model.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def test_classes_and_channels_are_those_of_the_training(pictures: Path, tmp_path: Path) -> None:
    root = two_classes(tmp_path / "chest", classes=["NORMAL", "PNEUMONIA"], channels=3, image_size=[48, 40])
    found = infer(root, str(pictures), tmp_path / "out")
    assert [row["predicted"] for row in found] == ["PNEUMONIA"] * 3
    assert [float(row["p_PNEUMONIA"]) for row in found] == pytest.approx([0.75] * 3)


def test_settings_that_cannot_be_read_are_named(pictures: Path, tmp_path: Path) -> None:
    root = two_classes(tmp_path / "chest")
    (root / "models/model.json").write_text("{", encoding="utf-8")
    with pytest.raises(RuntimeError) as caught:
        infer(root, str(pictures), tmp_path / "out")
    error = own_error(caught.value)
    assert isinstance(error, StateError)
    assert "models/model.json cannot be read" in str(error)


def test_the_command_line_predicts_with_a_copied_bundle(
    trained_classifier: Path, pictures: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(LESION.configs, bundle / "configs")
    shutil.copytree(trained_classifier / "models", bundle / "models")
    config: dict[str, Any] = json.loads((LESION.configs / "inference.json").read_text(encoding="utf-8"))
    config["network_def"]["widen_factor"] = 0.125
    (bundle / "configs/inference.json").write_text(json.dumps(config), encoding="utf-8")
    answer = predict(str(bundle), str(pictures), str(tmp_path / "out"))
    assert answer.data["files"] == [str(tmp_path / "out/predictions.csv")]
    assert [row["case_id"] for row in rows(tmp_path / "out/predictions.csv")] == CASES


def test_bad_pictures_are_named_all_at_once_before_anything_is_written(
    trained_classifier: Path, pictures: Path, tmp_path: Path
) -> None:
    for name in ("grey.png", "ward b/colour.jpg"):
        (pictures / name).write_bytes((pictures / name).read_bytes()[:200])
    with pytest.raises(RuntimeError) as caught:
        infer(trained_classifier, str(pictures), tmp_path / "out")
    error = own_error(caught.value)
    assert isinstance(error, DataError)
    assert "2 of 3 pictures cannot be predicted" in str(error)
    assert "grey.png" in str(error) and "colour.jpg" in str(error) and "deep.png" not in str(error)
    assert not (tmp_path / "out").exists()


def test_items_of_monai_label_go_through_both_transforms(pictures: Path) -> None:
    """It adds `image_path`, and its own last transform fails on a picture that has meta data."""
    parser = LESION.workflow("inference.json", kind="inference", device="cpu", **WIDTH).parser
    path = str(pictures / "grey.png")
    item = parser.get_parsed_content("preprocessing")({"image": path, "image_path": path})
    assert item["image"].shape == (1, 64, 64)
    assert "image_path" not in item
    network = parser.get_parsed_content("network_def").eval()
    logits = parser.get_parsed_content("inferer")(item["image"][None], network)[0].detach()
    found = parser.get_parsed_content("postprocessing")({**item, "pred": logits, "image_meta_dict": {}})
    assert not isinstance(found["image"], MetaTensor)
    assert "image_meta_dict" not in found
    assert isinstance(found["pred"], MetaTensor)
    assert found["image_path"] == path
    torch.testing.assert_close(found["pred"].as_tensor(), logits.softmax(0).as_tensor())


def test_the_readme_draws_the_feature_maps_of_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'report'")
    shutil.copytree(LESION.configs, tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    for seed, root in enumerate(("frozen", "tuned")):
        torch.manual_seed(seed)
        (tmp_path / root / "models").mkdir(parents=True)
        torch.save(network_entry("resnet18").build(1, 3, 64).state_dict(), tmp_path / root / "models/model.pt")
    save(tmp_path / "picture.png", 1)
    page = (LESION.configs.parent / "docs/README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/README.md", "exec"), names)
    assert (tmp_path / "feature_maps.png").stat().st_size > 0
    assert names["classes"] == CLASSES
    assert torch.equal(names["tuned"].conv1.weight, weights(tmp_path / "tuned")["conv1.weight"])
    assert not torch.equal(names["tuned"].conv1.weight, names["frozen"].conv1.weight)
