"""Each fine-tuning scheme of configs/schemes, as it is, in both bundles."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lesion_2d_bundle
import liver_ct_bundle
import pytest
import torch
from bundle_runs import CONFIGS_ARE_CODE, Bundle, own_error, rows
from lesion_2d_bundle import SCHEMES
from monai.utils import set_determinism

from metalr_monai import FrozenBlocks
from metalr_monai.errors import StateError

pytestmark = [CONFIGS_ARE_CODE, *liver_ct_bundle.WARNINGS]
EPOCHS = 2
NAMES = sorted(path.stem for path in SCHEMES.glob("*.json"))
OF_METALR = ("meta", "bounds", "scale")  # the schemes' overlays unset them


@dataclass(frozen=True)
class Task:
    """A bundle at the size of its tests, on all data."""

    bundle: Bundle
    options: dict[str, Any]
    data: str
    blocks: list[str]
    steps: int  # an epoch


def small(options: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in options.items() if name not in OF_METALR}
    return {**kept, "epochs": EPOCHS, "val_interval": EPOCHS}


TASKS = {
    "lesion_2d": Task(
        lesion_2d_bundle.LESION, small(lesion_2d_bundle.TRAINING), "frames", lesion_2d_bundle.BLOCKS, steps=5
    ),
    "liver_ct": Task(liver_ct_bundle.LIVER, small(liver_ct_bundle.TRAINING), "data", liver_ct_bundle.BLOCKS, steps=4),
}


def overlay(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMES / f"{name}.json").read_text(encoding="utf-8"))
    return found


def missing(name: str) -> list[str]:
    """The packages that an overlay imports and that are not installed."""
    packages = [statement.removeprefix("$import ") for statement in overlay(name).get("+imports", [])]
    return [package for package in packages if find_spec(package) is None]


@dataclass(frozen=True)
class Trained:
    report: dict[str, Any]
    moved: set[str]
    free: set[str]


def train(task: Task, name: str, **options: object) -> Trained:
    """Run the bundle with the overlay; which blocks have other weights then, and which no `FrozenBlocks` names."""
    if missing(name):
        pytest.skip(f"needs {', '.join(missing(name))}, of the extra rivals")
    learning = {} if "meta" in overlay(name) else {"meta": "training"}
    bundle = task.bundle.workflow("train.json", SCHEMES / f"{name}.json", **{**task.options, **learning, **options})
    try:
        bundle.initialize()
        groups = bundle.parser.get_parsed_content("optimizer").param_groups
        before = {group["name"]: [p.detach().clone() for p in group["params"]] for group in groups}
        bundle.run()
        scheme = bundle.parser.get_parsed_content("train#scheme")
        is_frozen = isinstance(scheme, FrozenBlocks)
        frozen = set(bundle.parser.get_parsed_content("train#scheme#frozen")) if is_frozen else set()
    finally:
        set_determinism(None)
    if "blocks" not in overlay(name):
        assert list(before) == task.blocks
    moved = {group["name"] for group in groups if not all(map(torch.equal, before[group["name"]], group["params"]))}
    root = Path(str(options["bundle_root"]))
    report = json.loads((root / "runs/train/run_report.json").read_text(encoding="utf-8"))
    return Trained(report, moved, set(before) - frozen)


def falling(decay: float) -> Callable[[Task, int], Iterator[float]]:
    """Factors of the blocks' rates by depth."""
    return lambda task, epoch: (decay ** (len(task.blocks) - 1 - place) for place in range(len(task.blocks)))


def at_the_end_of(epoch: int, warmup: float, fall: Callable[[float], float], task: Task) -> Iterator[float]:
    last, steps = epoch * task.steps - 1, EPOCHS * task.steps
    rising = round(warmup * steps)
    assert last >= rising
    return (fall((last - rising) / (steps - rising)) for _ in task.blocks)


def the_last(count: int) -> Callable[[Task], set[str]]:
    return lambda task: set(task.blocks[-count:])


RATES: dict[str, Callable[[Task, int], Iterator[float]]] = {
    **dict.fromkeys(("all_layers", "last_layer", "lp_ft", "l2_sp", "prodigy", "schedule_free"), falling(1.0)),
    "layerwise_decay": falling(0.75),
    "gradual_unfreezing": falling(1 / 2.6),
    "warmup_cosine": lambda task, epoch: at_the_end_of(epoch, 0.1, lambda x: (1 + math.cos(math.pi * x)) / 2, task),
    "warmup_poly": lambda task, epoch: at_the_end_of(epoch, 0.05, lambda x: (1 - x) ** 0.9, task),
}  # those of the other schemes are their own tests' affair
MOVED: dict[str, Callable[[Task], set[str]]] = {"last_layer": the_last(1), "gradual_unfreezing": the_last(EPOCHS)}


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_a_scheme_trains_what_it_says_at_the_rates_that_it_says(
    name: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    task = TASKS[kind]
    found = train(task, name, dataset_dir=str(request.getfixturevalue(task.data)), bundle_root=str(tmp_path))
    report, keys = found.report, overlay(name)
    assert report["status"] == "completed"
    validated = [entry["epoch"] for entry in report["validation"]]
    assert validated[0] == 0 and validated[-1] == report["epochs"][-1]["epoch"] >= EPOCHS
    learns = not keys.get("train#metalr#_disabled_", False)
    assert (report["metalr"] is not None) == (tmp_path / "runs/train/rates.csv").exists() == learns
    assert report["settings"]["scheme"] == keys["scheme"]
    for knob in (key.removeprefix("settings#") for key in keys if key.startswith("settings#")):
        assert knob in keys and report["settings"][knob] is not None
    assert found.moved == (MOVED[name](task) if name in MOVED else found.free)
    if name in RATES:
        for entry in report["epochs"]:
            factors = dict(zip(task.blocks, RATES[name](task, entry["epoch"]), strict=True))
            rates = {block: report["settings"]["lr"] * factor for block, factor in factors.items()}
            assert entry["rates"] == pytest.approx(rates, rel=1e-9)


@pytest.mark.parametrize("kind", TASKS)
def test_a_search_finds_its_level_in_a_bundle(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """From a guess so high that the search begins near the level: it goes up and down, and a cosine follows."""
    task, data = TASKS[kind], request.getfixturevalue(TASKS[kind].data)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "No step of the search's second half was disapproved of")
        train(task, "metalr_level_search", lr=100.0, epochs=6, dataset_dir=str(data), bundle_root=str(tmp_path))
    table = [[float(row[f"lr/{block}"]) for block in task.blocks] for row in rows(tmp_path / "runs/train/rates.csv")]
    level = torch.tensor(table).log().mean(1)
    searched = len(table) // 2
    assert len(table) == 6 * task.steps
    assert (level[:searched].diff() > 0).any() and (level[:searched].diff() < 0).any()
    assert (level[searched:].diff() < 0).all()


def test_a_resumed_run_refuses_another_knob(frames: Path, tmp_path: Path) -> None:
    options = {"dataset_dir": str(frames), "bundle_root": str(tmp_path)}
    train(TASKS["lesion_2d"], "layerwise_decay", **options, epochs=1)
    with pytest.raises(RuntimeError) as caught:
        train(TASKS["lesion_2d"], "layerwise_decay", **options, decay=0.5)
    error = own_error(caught.value)
    assert isinstance(error, StateError)
    assert "decay was 0.75 and is 0.5" in str(error)
