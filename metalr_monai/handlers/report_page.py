"""One self-contained page, `report.html`, from the files of a run's folder alone."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import StateError
from ..files import atomic_path
from .classification_section import classification_section
from .rate_history import depth_colours

REPORT_FILE = "run_report.json"
PAGE_FILE = "report.html"

_MOST_POINTS = 1000  # of a curve: more than the page has pixels
_MANY_LINES = 6  # of a panel: more leave no room for their names inside it
_MOST_CASES = 20  # of those that are classified wrong; the others are folded away
_NAMES = frozenset({"case", "case_id", "group", "class", "true", "predicted"})  # text, even where it is a number
_SCORES, _OTHERS, _ERRORS = "scores", "other metrics", "lower is better"
_LOWER_IS_BETTER = frozenset({"ece", "log_loss", "mse"})


@dataclass(frozen=True)
class Table:
    """A CSV file as text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def decimals(self) -> tuple[int | None, ...]:
        """By column: how many decimals its numbers are shown with, or None where it holds other things."""
        return tuple(
            None if name in _NAMES else _decimals_of([row[i] for row in self.rows if row[i]])
            for i, name in enumerate(self.columns)
        )


def write_report_page(folder: str | Path) -> Path:
    """Write `report.html` anew from what the folder holds.

    It reads `run_report.json`, and where they are `rates.csv`, `metrics.csv`, `metrics.json` (of a classifier),
    `slices/*.png`, `pictures/*.png` and `restored/*.png`. The page needs no other file: its pictures are in it. The
    same files give the same page, byte by byte.

    Needs matplotlib and jinja2 (`pip install metalr_monai[report]`).

    Returns:
        The page's path.

    Raises:
        StateError: `run_report.json` is missing, it or `metrics.json` is not whole, a file cannot be read, or the extra
            is missing.
    """
    try:
        import jinja2  # the base install has neither jinja2 nor matplotlib
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise StateError(f"{error.name} is missing. Get it with pip install metalr_monai[report].") from error

    folder = Path(folder)
    report = read_report(folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metalr_monai.handlers", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )
    environment.filters.update(number=_number, rate=_rate, seconds=duration, memory=memory, moment=_moment)
    template = environment.get_template("report_page.html.j2")
    try:
        page = _render(template, folder, report)
    except (jinja2.UndefinedError, TypeError, KeyError, ValueError) as error:
        raise StateError(
            f"{folder / REPORT_FILE} is not a whole run report: {error}. Run the training again."
        ) from error
    with atomic_path(folder / PAGE_FILE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / PAGE_FILE


def _render(template: Any, folder: Path, report: dict[str, Any]) -> str:  # noqa: ANN401 - jinja2 is optional
    cases, classification = _read_table(folder / "metrics.csv"), classification_section(folder)
    page: str = template.render(
        report=report,
        scores=_first_and_last(report),
        rates=_draw_rates(_read_table(folder / "rates.csv")),
        curves=_draw_curves(report),
        classification=classification,
        confusion=as_svg(classification.confusion) if classification else None,
        reliability=as_svg(classification.reliability) if classification else None,
        cases=cases,
        wrong=_wrong(cases) if classification and cases else [],
        most_cases=_MOST_CASES,
        slices=_pictures(folder / "slices"),
        pictures=_pictures(folder / "pictures"),
        restored=_pictures(folder / "restored"),
    )
    return page


def read_report(folder: str | Path) -> dict[str, Any]:
    """`run_report.json` of a run's folder.

    Raises:
        StateError: it is missing, or is no run's report.
    """
    path = Path(folder) / REPORT_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StateError(
            f"{path} is missing; expected the folder of a run with RunReport among its handlers."
        ) from None
    except (OSError, ValueError) as error:
        raise StateError(f"{path} cannot be read: {error}. Restore it, or run again.") from error
    version = found.get("report_version") if isinstance(found, dict) else None
    if version != 1:
        raise StateError(f"{path} has the report version {version!r}; expected 1, as RunReport writes it.")
    missing = [key for key in ("status", "started", "epochs", "validation") if key not in found]
    if missing:
        raise StateError(f"{path} lacks {', '.join(missing)}; expected a file that RunReport has written.")
    return dict(found)


def _read_table(path: Path) -> Table | None:
    if not path.exists():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [tuple(row) for row in csv.reader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise StateError(f"{path} cannot be read: {error}. Restore it, or take it away.") from error
    uneven = [i for i, row in enumerate(rows, 1) if len(row) != len(rows[0])]
    if not rows or uneven:
        where = f"line {uneven[0]} has another number of columns than the first" if uneven else "it is empty"
        raise StateError(f"{path} is no table: {where}. Restore it, or take it away.")
    return Table(rows[0], tuple(rows[1:]))


def _pictures(folder: Path) -> list[tuple[str, str]]:
    """Name and image's address of each picture, case_2 before case_10."""

    def key(path: Path) -> list[tuple[bool, int, str]]:
        return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", path.name)]

    return [(path.stem, _as_image(path.read_bytes(), "png")) for path in sorted(folder.glob("*.png"), key=key)]


def _wrong(cases: Table) -> list[tuple[str, ...]]:
    """Rows whose predicted class is not the true one, the most confident first."""
    true, predicted = (cases.columns.index(name) for name in ("true", "predicted"))
    probabilities = [i for i, name in enumerate(cases.columns) if name.startswith("p_")]
    rows = [row for row in cases.rows if row[true] != row[predicted]]
    return sorted(rows, key=lambda row: -max(_float(row[i]) for i in probabilities))


def _first_and_last(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each metric before the first epoch and at the last validation, in the order they were recorded."""
    runs = [entry for entry in report["validation"] if entry["metrics"]]
    if not runs:
        return []
    first = runs[0]["metrics"] if runs[0]["epoch"] == 0 else {}
    rows = []
    for name, last in runs[-1]["metrics"].items():
        before = first.get(name)
        known = isinstance(before, (int, float)) and isinstance(last, (int, float)) and runs[-1]["epoch"] > 0
        rows.append({"name": name, "before": before, "last": last, "change": last - before if known else None})
    return rows


# ---------------------------------------------------------------------- pictures


def _draw_rates(table: Table | None) -> str | None:
    """The blocks' rates over the steps, on a log axis, as an image's address; None where nothing was recorded."""
    if table is None or not table.rows:
        return None
    stride = math.ceil(len(table.rows) / _MOST_POINTS)
    rows = [*table.rows[:-1:stride], table.rows[-1]]
    lines = {column[3:]: i for i, column in enumerate(table.columns) if column.startswith("lr/")}
    figure, (axes,) = _figure(1, height=3.4)
    steps = [_float(row[0]) for row in rows]
    for colour, (name, i) in zip(depth_colours(len(lines)), lines.items(), strict=True):
        axes.plot(steps, [_float(row[i]) for row in rows], color=colour, linewidth=1.5, label=name)
    axes.set(xlabel="optimizer step", ylabel="learning rate", yscale="log")
    axes.margins(x=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, title="block, by depth")
    return as_svg(figure)


def _draw_curves(report: Mapping[str, Any]) -> str | None:
    """Training loss and validation metrics over the epochs, those within [0, 1] on axes of their own; the key metric in
    black."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    losses = [(entry["epoch"], _float(entry["train_loss"])) for entry in report["epochs"]]
    if losses:
        panels["training loss"] = {"mean of the epoch": losses}
    names = dict.fromkeys(name for entry in report["validation"] for name in entry["metrics"])
    for name in names:
        points = [(entry["epoch"], _float(entry["metrics"].get(name))) for entry in report["validation"]]
        known = [value for _, value in points if not math.isnan(value)]
        if known:
            share = all(0 <= value <= 1 for value in known)
            panel = _ERRORS if name in _LOWER_IS_BETTER else _SCORES if share else _OTHERS
            panels.setdefault(panel, {})[name] = points
    if not panels:
        return None
    key = (report.get("key_metric") or {}).get("name")
    many = [len(lines) > _MANY_LINES for lines in panels.values()]
    figure, all_axes = _figure(len(panels), height=3.0, width_ratios=[2 if wide else 1 for wide in many])
    for axes, wide, (title, lines) in zip(all_axes, many, panels.items(), strict=True):
        for i, (name, points) in enumerate(lines.items()):
            few = len(points) <= 40
            style = ("solid", "dashed", "dotted")[i // 10 % 3]  # there are ten colours
            axes.plot(
                *zip(*points, strict=True),
                label=name,
                linewidth=2.5 if name == key else 1.2,
                color="black" if name == key else None,
                linestyle=style,
                marker="." if few else None,
                markersize=5,
            )
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if wide:
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1.02), borderaxespad=0)
        elif title != "training loss":
            axes.legend(frameon=False, fontsize=8)
    return as_svg(figure)


def _figure(columns: int, height: float, width_ratios: Sequence[int] | None = None) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, height), layout="constrained")
    all_axes = figure.subplots(1, columns, squeeze=False, width_ratios=width_ratios)[0]
    for axes in all_axes:
        axes.grid(which="major", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    return figure, all_axes


def as_svg(figure: Any) -> str:  # noqa: ANN401 - a matplotlib Figure, imported where it is there
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "metalr_monai"}):  # names within the picture are random otherwise
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _as_image(file.getvalue(), "svg+xml")


def _as_image(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


# ---------------------------------------------------------------------- numbers as people read them


def _float(value: Any) -> float:  # noqa: ANN401 - a number, a cell of a table, or None
    return float(value) if _is_number(value) else math.nan


def _is_number(value: Any) -> bool:  # noqa: ANN401
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _decimals_of(cells: Sequence[str]) -> int | None:
    """Four for scores, two for larger numbers such as millimetres; none for text, and for no cells at all."""
    if not cells or not all(map(_is_number, cells)):
        return None
    if all(re.fullmatch(r"[+-]?\d+", cell) for cell in cells):
        return 0
    return 4 if all(abs(float(cell)) <= 1 for cell in cells) else 2


def _number(value: Any, decimals: int | None = None) -> str:  # noqa: ANN401
    """A number with `decimals`, or as many as it needs; what is no number as it is, and nothing as a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_number, value))
    if isinstance(value, bool) or not _is_number(value):
        return str(value)
    number = float(value)
    if not math.isfinite(number):
        return "–" if math.isnan(number) else str(number)
    if isinstance(value, int) or decimals == 0:
        return f"{int(number):,}".replace(",", "\u2009")
    if number and not 1e-3 <= abs(number) < 1e5 and decimals is None:
        return f"{number:.3g}"
    return f"{number:.{decimals or (4 if abs(number) <= 1 else 2)}f}"


def _rate(value: Any) -> str:  # noqa: ANN401
    return f"{value:.2e}" if isinstance(value, (int, float)) else "–"


def duration(seconds: Any) -> str:  # noqa: ANN401
    if not isinstance(seconds, (int, float)):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def memory(size: Any) -> str:  # noqa: ANN401
    if not isinstance(size, int):
        return "–"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _moment(text: Any) -> str:  # noqa: ANN401
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M UTC") if text else "–"
