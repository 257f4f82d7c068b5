"""What the searches of the repository's own studies try, and the map that comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metalr_monai.study.candidates import candidates
from metalr_monai.study.collect import searched_ranges
from metalr_monai.study.job import Job, run_folder
from metalr_monai.study.study_file import read_study

STUDIES = Path(__file__).parents[2] / "configs/studies"


def tried(study: str, scheme: str) -> list[tuple[int, int]]:
    read = read_study(STUDIES / f"{study}.yaml")
    found = candidates(read, read.schemes[scheme])
    assert len({candidate.name for candidate in found}) == len(found)  # a folder each
    return [(candidate.keys["first_frozen"], candidate.keys["last_frozen"]) for candidate in found]


def test_resnet_18_has_ten_blocks_so_45_settings_bi_directional_and_nine_layer_wise() -> None:
    assert tried("table3_busi", "bi-directional") == [(m, n) for m in range(1, 10) for n in range(m, 10)]
    assert len(tried("table3_busi", "bi-directional")) == 45
    assert tried("table3_busi", "layer-wise") == [(1, n) for n in range(9, 0, -1)]


@pytest.mark.parametrize(("order", "levels"), [("", 8), (" I2", 5)])
def test_in_the_order_i2_the_two_sides_of_the_u_share_their_levels(order: str, levels: int) -> None:
    both = tried("table4_lits", f"bi-directional{order}")
    assert both == [(m, n) for m in range(1, levels) for n in range(m, levels)]
    assert tried("table4_lits", f"layer-wise{order}") == [(1, n) for n in range(levels - 1, 0, -1)]


def searched(output: Path, seed: int, first: int, last: int, score: float, status: str = "completed") -> Path:
    folder = run_folder(output, "both", seed) / f"search/first_frozen_{first}_last_frozen_{last}"
    keys = {"first_frozen": first, "last_frozen": last}
    Job("both", seed, [], "", "", keys, "code", "data", "files", []).write(folder)
    (folder / "runs/train").mkdir(parents=True)
    report = {"status": status, "key_metric": {"last": score}}
    (folder / "runs/train/run_report.json").write_text(json.dumps(report))
    return folder


def test_ranges_are_means_over_the_seeds_that_have_tried_them(tmp_path: Path) -> None:
    for seed, score in enumerate((0.5, 0.75)):
        searched(tmp_path, seed, 1, 1, score)
        searched(tmp_path, seed, 1, 2, score / 2)
    searched(tmp_path, 0, 2, 2, 0.25)
    searched(tmp_path, 1, 2, 2, 0.0, status="running")
    (searched(tmp_path, 2, 2, 2, 0.0) / "runs/train/run_report.json").write_text("{")
    assert searched_ranges(tmp_path, "both") == {(1, 1): 0.625, (1, 2): 0.3125, (2, 2): 0.25}


def test_a_search_from_one_first_block_alone_or_for_other_keys_makes_no_map(tmp_path: Path) -> None:
    searched(tmp_path, 0, 1, 1, 0.5)
    folder = searched(tmp_path, 0, 1, 2, 0.5)
    assert searched_ranges(tmp_path, "both") == {}
    Job("both", 0, [], "", "", {"lr": 0.1}, "code", "data", "files", []).write(folder)
    assert searched_ranges(tmp_path, "both") == {}
    assert searched_ranges(tmp_path, "another") == {}
