"""One self-contained page of a study: the verdict first, then scores, comparison, rates, cost and every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StateError
from ..files import atomic_path
from ..handlers.report_page import as_svg
from .summary import Summary
from .tables import TextTable


@dataclass(frozen=True)
class StudyFigure:
    """A figure and what a reader needs to read it.

    Attributes:
        name: of its file, without ending.
        heading: it goes below this heading of the page, which is a table's title or one of its own.
        title: in words, for those who do not see it.
        caption: what is drawn how.
        figure: a matplotlib Figure.
        narrow: whether it is less wide than the page.
    """

    name: str
    heading: str
    title: str
    caption: str
    figure: Any
    narrow: bool = False


def check_extras() -> None:
    """Refuse to go on without jinja2 and matplotlib.

    Raises:
        StateError: the extra `report` is missing.
    """
    try:
        import jinja2  # noqa: F401 - the base install has neither
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise StateError(f"{error.name} is missing. Get it with pip install metalr_monai[report].") from error


def write_page(
    path: Path,
    *,
    title: str,
    summary: Summary,
    tables: Sequence[TextTable],
    figures: Sequence[StudyFigure],
    about: Mapping[str, Any],
) -> None:
    """Write the page, atomically. The same input gives the same bytes.

    Args:
        path: of the page.
        title: of the study.
        summary: for verdict, warnings and notes.
        tables: a heading each; the second one is followed by the notes.
        figures: drawn above the table whose title is their heading; headings of no table come after the second table.
        about: settings, machine, date, command: what a reader needs to run it again.

    Raises:
        StateError: the extra `report` is missing.
    """
    check_extras()
    import jinja2

    folders = [jinja2.PackageLoader(f"metalr_monai.{package}", "") for package in ("study", "handlers")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(folders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report_study.html.j2").render(
        title=title,
        verdict=summary.verdict,
        warnings=[(scheme.scheme, warning) for scheme in summary.schemes for warning in scheme.warnings],
        sections=_sections(summary, tables, figures),
        about=about,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _sections(summary: Summary, tables: Sequence[TextTable], figures: Sequence[StudyFigure]) -> list[dict[str, Any]]:
    titles = [table.title for table in tables]
    own = dict.fromkeys(figure.heading for figure in figures if figure.heading not in titles)
    by_title = {table.title: table for table in tables}
    sections = []
    for heading in (*titles[:2], *own, *titles[2:]):
        shown = [figure for figure in figures if figure.heading == heading]
        sections.append(
            {
                "title": heading,
                "figures": [
                    {
                        "image": as_svg(figure.figure),
                        "title": figure.title,
                        "caption": figure.caption,
                        "narrow": figure.narrow,
                    }
                    for figure in shown
                ],
                "tables": [by_title[heading]] if heading in by_title else [],
                "notes": summary.notes if heading == titles[:2][-1] else (),
            }
        )
    return sections
