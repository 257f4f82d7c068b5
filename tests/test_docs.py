"""Every Python example in the README and the documents runs, page by page, from top to bottom."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

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
