"""The folder of a study's results, made from records alone."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys

import pytest
from study_records import record

from metalr_monai.errors import OptionError, StateError
from metalr_monai.study.results import write_results

pytest.importorskip("matplotlib", reason="needs the extra 'report'")
pytest.importorskip("jinja2", reason="needs the extra 'report'")

RATES = [{"body": 1e-3, "head": 1e-3}, {"body": 1e-4, "head": 1e-2}]
RECORDS = [
    record(name, seed, score + seed / 100, cases=[score] * 8, rates=rates, validation={0: 0.7, 1: 0.5, 2: score})
    for name, score, rates in (("all layers", 0.6, RATES[:1]), ("MetaLR <b>", 0.8, RATES), ("new", 0.65, RATES[:1]))
    for seed in range(3)
]
ABOUT = {"title": "Liver & lung", "command": "study x.yaml", "date": "2026-11-21", "settings": {"epochs": 2}}


EVERYTHING = {
    "published": {"all layers": {"accuracy": "91.6 ± 0.8"}},
    "frozen_ranges": {"both": {(1, 2): 0.5}, "both I2": {(1, 1): 0.25}},
}


def write(folder, records=RECORDS, **settings):
    given = {"about": ABOUT, "baseline": "all layers", "titles": ["accuracy"], "scratch": "new", **settings}
    return write_results(records, folder, **given)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def contents(folder):
    return {name: (folder / name).read_bytes() for name in files(folder)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Everything there is, in a folder that was not there; read only."""
    folder = tmp_path_factory.mktemp("study") / "new" / "folder"
    write(folder, **EVERYTHING)
    return folder


def test_all_files_are_written_and_no_others(written):
    assert files(written) == [
        "figures/final_rates.png",
        "figures/frozen_ranges_both.png",
        "figures/frozen_ranges_both_I2.png",
        "figures/rates.png",
        "figures/scores.png",
        "report.html",
        "results.csv",
        "results.json",
        "results.md",
    ]


def test_the_same_records_give_the_same_bytes(written, tmp_path):
    write(tmp_path, **EVERYTHING)
    assert contents(tmp_path) == contents(written)


def test_the_page_begins_with_the_verdict_and_needs_no_other_file(written):
    page = (written / "report.html").read_text(encoding="utf-8")
    body = page.split("<body>")[1]
    assert body.index("<h1>Liver &amp; lung</h1>") < body.index("better by 20.0 points") < body.index("<img")
    assert "“MetaLR &lt;b&gt;” better by 20.0 points (20.0 … 20.0)" in body
    assert "MetaLR <b>" not in page and "<script" not in page
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', page)
    assert sources and all(source.startswith("data:image/svg+xml") for source in sources)
    headings = re.findall(r"<h2>(.*?)</h2>", body)
    assert headings[:2] == ["Scores", "Against all layers: accuracy"]
    assert headings[2:4] == ["Rates by block", "Frozen blocks"]
    assert headings[4:] == ["Cost", "At equal time", "Every seed: accuracy, %", "How it was run"]
    assert "With 3 seeds the smallest possible p over seeds is 0.25, before the correction." in body


def test_page_and_markdown_warn_of_a_scheme_that_loses(written):
    text = "“all layers” worse than training from random weights (new) by 5.0 points of accuracy (3 of 3 seeds)."
    assert text in (written / "report.html").read_text(encoding="utf-8").split("<h2>")[0]
    assert f"- {text}\n" in (written / "results.md").read_text(encoding="utf-8").split("## ")[0]


def test_markdown_tells_verdict_tables_remarks_and_how_it_was_run(written):
    text = (written / "results.md").read_text(encoding="utf-8")
    assert text.startswith("# Liver & lung\n\n**Accuracy against “all layers”")
    assert re.findall("^## (.*)$", text, re.MULTILINE) == [
        "Scores",
        "Against all layers: accuracy",
        "Cost",
        "At equal time",
        "Every seed: accuracy, %",
        "Remarks",
        "How it was run",
    ]
    assert text.endswith('- command: study x.yaml\n- date: 2026-11-21\n- settings: `{"epochs": 2}`\n')


def test_json_holds_records_and_summary(written):
    found = json.loads((written / "results.json").read_text(encoding="utf-8"))
    assert found["about"] == ABOUT and found["baseline"] == "all layers" and found["scratch"] == "new"
    assert found["frozen_ranges"] == [
        {"scheme": "both", "first": 1, "last": 2, "score": 0.5},
        {"scheme": "both I2", "first": 1, "last": 1, "score": 0.25},
    ]
    assert len(found["records"]) == 9
    assert found["records"][3]["epochs"][1]["rates"] == {"body": 1e-4, "head": 1e-2}
    assert found["summary"]["schemes"][1]["against"]["seeds"]["mean"] == pytest.approx(0.2)


def test_csv_is_a_row_a_scheme(written):
    with (written / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["scheme"], row["accuracy mean %"]) for row in rows] == [
        ("all layers", "61.0"),
        ("MetaLR <b>", "81.0"),
        ("new", "66.0"),
    ]
    assert rows[0]["p, seeds"] == "" and rows[0]["accuracy published"] == "91.6 ± 0.8"


def test_a_sweep_begins_with_its_table_and_figure_and_compares_nothing(tmp_path):
    write(tmp_path, scratch=None, start_rates={"all layers": ("plain", 1e-3), "new": ("plain", 1e-2)})
    assert "figures/start_rates.png" in files(tmp_path)
    body = (tmp_path / "report.html").read_text(encoding="utf-8").split("<body>")[1]
    assert re.findall(r"<h2>(.*?)</h2>", body)[:3] == ["Start rates", "Scores", "Rates by block"]
    assert body.index("accuracy by start rate") < body.index("within 1 point of its best</th>")
    assert "Against" not in body and "Against" not in (tmp_path / "results.md").read_text(encoding="utf-8")
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    [sweep] = found["summary"]["sweeps"]
    assert (sweep["scheme"], sweep["low"], sweep["high"]) == ("plain", 0.01, 0.01)


def test_figures_of_other_records_go_and_bad_input_leaves_the_results(written, tmp_path):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    with pytest.raises(OptionError, match="No run is of the scheme 'all'"):
        write(tmp_path, baseline="all")
    assert contents(tmp_path) == contents(written)
    write(tmp_path, RECORDS[:1], scratch=None)
    assert [name for name in files(tmp_path) if name.startswith("figures")] == ["figures/scores.png"]


@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_without_the_extra_the_tables_are_written_and_the_error_says_what_to_install(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(StateError, match=rf"{module} is missing. Get it with pip install metalr_monai\[report\]"):
        write(tmp_path)
    assert files(tmp_path) == ["results.csv", "results.json", "results.md"]


def test_one_record_is_enough(tmp_path):
    summary = write(tmp_path, RECORDS[:1], scratch=None, about={})
    assert summary.verdict == "all layers is the only scheme: there is nothing to compare."
    assert (tmp_path / "results.md").read_text(encoding="utf-8").startswith("# Fine-tuning schemes compared\n")
