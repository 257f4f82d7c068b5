"""What is drawn where in the figures of a classifier."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from metalr_monai.evaluation.calibration import reliability
from metalr_monai.handlers.classification_figures import confusion_figure, reliability_figure

pytest.importorskip("matplotlib", reason="needs the extra 'report'")


def test_rows_are_true_classes_and_shades_are_shares_of_a_row():
    [axes] = confusion_figure([[3, 1], [0, 0]], ["benign", "a class with a long name"]).axes
    drawn = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert drawn == {(0, 0): "3\n75%", (0, 1): "1\n25%", (1, 0): "0", (1, 1): "0"}
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["benign", "a class with …"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_bars_are_the_accuracies_of_the_bins_that_hold_cases():
    bins = reliability(np.array([0.5, 0.5, 0.95]), np.array([True, False, True]))
    above, below = reliability_figure([dataclasses.asdict(b) for b in bins], 0.1).axes
    bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in above.patches]
    assert bars == [pytest.approx((7.5 / 15, 0.5)), pytest.approx((14.5 / 15, 1.0))]
    assert [bar.get_height() for bar in below.patches] == [2, 1]
    [points] = [line for line in above.lines if line.get_marker() == "o"]
    assert points.get_xdata() == pytest.approx([0.5, 0.95])
    assert above.get_title(loc="left") == "Reliability, expected calibration error 0.100"
