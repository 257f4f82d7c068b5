"""The Python examples of the README and the documents run, each page from top to bottom; the demos fit the bundles."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from metalr_monai.planning.plan_rules import known_choices
from metalr_monai.rates.options import QUIRKS, Options

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda p: p.name)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, code in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
        exec(compile(code, f"{page.name}, example {number + 1}", "exec"), names)
    assert "metalr_monai" in names


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_links_of_a_page_lead_somewhere(page):
    broken = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert broken == []


def test_the_options_page_has_every_option_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|", page_of_options(), re.MULTILINE))
    for option in fields(Options):
        assert option.name in rows
        if isinstance(option.default, (str, int, float)):
            shown = rows[option.name].strip("`")
            assert shown == str(option.default).lower() or float(shown) == option.default
    for quirk in QUIRKS:
        assert f"| `{quirk}` |" in page_of_options()


def page_of_options() -> str:
    return (ROOT / "docs/reference/options.md").read_text(encoding="utf-8")


@pytest.fixture
def demos(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The demo's table of tasks."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    tasks: dict[str, Any] = importlib.import_module("demo").TASKS
    return tasks


@pytest.mark.parametrize("task", ["liver", "lesion"])
def test_the_steps_of_a_demo_name_files_and_keys_that_there_are(task, demos, tmp_path):
    steps = demos[task].steps(tmp_path)
    trainings = {"liver": 1, "lesion": 2}[task]  # ultrasound has a source task
    assert [step.words[1] for step in steps].count("monai.bundle") == trainings + 1  # evaluation
    for words in (step.words for step in steps if step.words[1] == "monai.bundle"):
        options = dict(zip(words[3::2], words[4::2], strict=True))
        files = [ROOT / name for name in ast.literal_eval(options.pop("--config_file"))]
        assert all(Path(options.pop(f"--{name}")).is_file() for name in ("meta_file", "logging_file"))
        config = ConfigParser.load_config_files(files)
        assert {name.removeprefix("--") for name in options} <= set(config)


def test_make_refuses_a_demo_that_there_is_not_and_names_those_there_are(demos):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for task in demos:
        assert subprocess.run(["make", "known_task", f"TASK={task}"], cwd=ROOT, capture_output=True).returncode == 0
    refused = subprocess.run(["make", "known_task", "TASK=lung"], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert refused.returncode != 0
    assert f"TASK is 'lung'; expected one of: {' '.join(demos)}" in refused.stderr


def test_the_plan_page_has_every_choice():
    page = (ROOT / "docs/reference/plan.md").read_text(encoding="utf-8")
    choices = {name for network in ("genesis_unet3d", "dynunet") for name in known_choices(network)}
    assert {name for name in choices if f"`{name}`" not in page} == set()
