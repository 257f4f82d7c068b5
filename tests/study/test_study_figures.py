"""What is drawn where in a study's figures."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from study_records import record

from metalr_monai.study.figures import (
    block_wise,
    final_rates_figure,
    frozen_range_figure,
    rate_curves_figure,
    save_png,
    scores_figure,
    start_rate_figure,
)
from metalr_monai.study.summary import summarize

pytest.importorskip("matplotlib", reason="needs the extra 'report'")

FLAT = {"body": 1e-3, "head": 1e-3}


def learned(scheme, seed, *, body=(1e-3, 1e-4), head=(1e-3, 1e-2)):
    rates = [{"body": b, "head": h} for b, h in zip(body, head, strict=True)]
    return record(scheme, seed, 0.5, rates=rates, seconds=[1.0] * len(rates))


def renders(figure):
    """Drawn for real, with warnings as errors."""
    figure.savefig(io.BytesIO(), format="svg")
    return figure


# ---------------------------------------------------------------------- scores


def test_a_mark_a_seed_a_bar_the_mean_and_a_line_the_baselines():
    records = [record("all layers", 0, 0.5), record("b", 0, 0.7), record("all layers", 1, 0.6)]
    summary = summarize(records, baseline="all layers", titles=["accuracy"])
    [axes] = renders(scores_figure(summary)).axes
    marks = [(line.get_xdata()[0], round(line.get_ydata()[0])) for line in axes.lines if len(line.get_xdata()) == 1]
    assert marks == [(50, 0), (60, 0), (70, 1)]  # b has no seed 1
    bars = [tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() > 2]
    assert bars == [pytest.approx((55, 55)), (70, 70)]
    [baseline] = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert list(baseline.get_xdata()) == pytest.approx([55, 55])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["all layers", "b"]
    assert axes.get_ylim() == (1.5, -0.5)  # the first scheme on top


def test_a_seed_has_the_same_mark_and_height_in_every_row():
    records = [record(name, seed, 0.5) for name in ("a", "b") for seed in (0, 3)]
    [axes] = scores_figure(summarize(records, baseline="a", titles=["accuracy"])).axes
    marks = [(line.get_marker(), line.get_ydata()[0] % 1) for line in axes.lines if len(line.get_xdata()) == 1]
    assert marks[0] == pytest.approx(marks[2]) and marks[1] == pytest.approx(marks[3]) and marks[0][0] != marks[1][0]


def test_a_panel_a_score_and_names_are_no_formulas():
    records = [record("costs $5 and $6", 0, 0.5, AUC=0.9), record("b", 0, 0.5, AUC=math.nan)]
    figure = renders(scores_figure(summarize(records, baseline="b", titles=["accuracy", "AUC"])))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["accuracy", "AUC"]


# ---------------------------------------------------------------------- rates


def test_only_schemes_whose_blocks_differ_have_panels():
    records = [record("all layers", 0, 0.5), learned("MetaLR", 0), record("done", 0, 0.5, seconds=[])]
    assert list(block_wise(records)) == ["MetaLR"]
    assert [axes.get_title(loc="left") for axes in final_rates_figure(records).axes] == ["MetaLR"]
    assert final_rates_figure(records[:1]) is None and rate_curves_figure(records[:1]) is None


def test_rates_at_the_end_are_geometric_means_with_the_sd_of_the_logarithm():
    records = [learned("MetaLR", 0, body=(1e-3, 1e-3)), learned("MetaLR", 1, body=(1e-3, 1e-5))]
    [axes] = renders(final_rates_figure(records)).axes
    assert axes.get_yscale() == "log"
    [line] = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    assert list(line.get_ydata()) == pytest.approx([1e-4, 1e-2])
    low, high = sorted(axes.collections[0].get_segments()[0][:, 1])
    sd = math.sqrt(2)  # of −3 and −5
    assert (low, high) == (pytest.approx(10 ** (-4 - sd)), pytest.approx(10 ** (-4 + sd)))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["body", "head"]


def test_curves_are_geometric_means_by_epoch_one_line_a_block():
    records = [learned("MetaLR", 0), learned("MetaLR", 1, body=(1e-5, 1e-4)), learned("b", 0)]
    first, second = renders(rate_curves_figure(records)).axes
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in first.lines}
    assert lines == {
        "body": ([1, 2], pytest.approx([1e-4, 1e-4])),
        "head": ([1, 2], pytest.approx([1e-3, 1e-2])),
    }
    assert second.get_title(loc="left") == "b"
    assert first.get_ylim() == second.get_ylim()
    assert [text.get_text() for text in first.figure.legends[0].get_texts()] == ["body", "head"]


def test_a_shorter_seed_ends_its_share_of_the_mean_early():
    records = [learned("MetaLR", 0), learned("MetaLR", 1, body=(1e-5,), head=(1e-3,))]
    [axes] = rate_curves_figure(records).axes
    assert list(axes.lines[0].get_ydata()) == pytest.approx([1e-4, 1e-4])


def test_a_rate_of_zero_is_a_gap():
    records = [learned("MetaLR", 0, body=(0.0, 0.0)), learned("MetaLR", 1, body=(0.0, 0.0))]
    [axes] = renders(rate_curves_figure(records)).axes
    assert np.isnan(axes.lines[0].get_ydata()).all()
    renders(final_rates_figure(records))


def test_rates_that_hardly_moved_still_have_a_labelled_decade():
    [axes] = renders(final_rates_figure([learned("MetaLR", 0, body=(1e-3, 1.01e-3), head=(1e-3, 1.02e-3))])).axes
    low, high = axes.get_ylim()
    assert high / low >= 9.99 and low < 1.01e-3 < 1.02e-3 < high


# ---------------------------------------------------------------------- searches and sweeps


def test_the_heat_map_has_first_frozen_blocks_in_columns_and_last_ones_in_rows():
    scores = {(1, 1): 0.5, (1, 2): 0.6, (2, 2): 0.7, (1, 3): 0.9, (2, 3): 0.8, (3, 3): 0.4}
    axes = renders(frozen_range_figure(scores, "accuracy")).axes[0]
    table = axes.images[0].get_array().filled(np.nan)
    expected = np.full((3, 3), np.nan)
    expected[0, 0], expected[1, :2], expected[2] = 50, (60, 70), (90, 80, 40)
    np.testing.assert_allclose(table, expected)
    assert axes.images[0].origin == "lower"
    drawn = {text.get_position(): text.get_text() for text in axes.texts}
    assert drawn == {place: f"{100 * score:.1f}" for place, score in scores.items()}
    [frame] = axes.patches
    assert frame.get_xy() == (0.5, 2.5)  # around (1, 3)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("first frozen block", "last frozen block")


def test_a_sweep_has_a_line_by_name_with_means_and_bands_at_its_rates():
    values = {"a1": (0.5, 0.7), "a2": (0.8, 0.8), "b1": (0.9,), "other": (0.1,)}
    records = [record(name, seed, v) for name, scores in values.items() for seed, v in enumerate(scores)]
    places = {"a2": ("plain", 1e-2), "a1": ("plain", 1e-3), "b1": ("MetaLR", 1e-3)}
    [axes] = renders(start_rate_figure(records, places, "accuracy")).axes
    assert axes.get_xscale() == "log"
    lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert list(lines["plain"].get_xdata()) == [1e-3, 1e-2]
    assert list(lines["plain"].get_ydata()) == pytest.approx([60, 80])
    assert list(lines["MetaLR"].get_ydata()) == pytest.approx([90])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (pytest.approx(60 - math.sqrt(200)), 80)
    dots = [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "."]
    assert dots == [pytest.approx([50, 70]), pytest.approx([80, 80]), pytest.approx([90])]


def test_pictures_are_the_same_bytes_each_time(tmp_path):
    for name in ("a.png", "b.png"):
        save_png(final_rates_figure([learned("MetaLR", 0)]), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
