"""The largest connected piece of a label map, compared with SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from metalr_monai import LargestComponentd
from metalr_monai.errors import DataError


def random_labels(seed, shape=(1, 9, 8, 7), density=0.25):
    """Label values 0, 1, 2 and 3 in small pieces."""
    generator = np.random.default_rng(seed)
    return (generator.random(shape) < density) * generator.integers(1, 4, shape)


def expected(labels, applied, connectivity):
    """By SciPy; None where two pieces are equally large."""
    mask = np.isin(labels[0], applied)
    pieces, _ = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, connectivity))
    sizes = np.bincount(pieces.ravel())[1:]
    if (sizes == sizes.max()).sum() > 1:
        return None
    return np.where(mask & (pieces != sizes.argmax() + 1), 0, labels[0])[None]


@pytest.mark.parametrize("applied", [(1,), (1, 2), (1, 2, 3)])
@pytest.mark.parametrize("shape", [(1, 9, 8, 7), (1, 20, 17)])
@pytest.mark.parametrize("fully_connected", [True, False])
def test_it_is_the_piece_that_scipy_finds(applied, shape, fully_connected):
    compared = 0
    for seed in range(40):
        labels = random_labels(seed, shape, 0.12 if fully_connected else 0.3)
        wanted = expected(labels, applied, len(shape) - 1 if fully_connected else 1)
        if wanted is None:
            continue
        keep = LargestComponentd("pred", applied, fully_connected)
        found = keep({"pred": torch.from_numpy(labels)})["pred"]
        assert np.array_equal(found, wanted)
        compared += not np.array_equal(wanted, labels)
    assert compared >= 10


def test_labels_are_taken_together_and_others_stay():
    labels = torch.zeros(1, 6, 6, 6, dtype=torch.uint8)
    labels[0, :2, :2, :2] = 1
    labels[0, 2, :2, :2] = 2  # touches
    labels[0, 5, :3, :3] = 2  # apart, and larger than the 2 that touches
    labels[0, 5, 5, 5] = 4
    found = LargestComponentd("pred", (1, 2))({"pred": labels})["pred"]
    assert (found == 1).sum() == 8
    assert (found == 2).sum() == 4
    assert (found == 4).sum() == 1


def test_type_and_meta_data_stay_and_the_input_is_not_written_to():
    labels = MetaTensor(
        torch.from_numpy(random_labels(0)).to(torch.uint8), affine=torch.diag(torch.tensor([2.0, 3, 4, 1]))
    )
    before = labels.clone()
    item = {"pred": labels, "case_id": "a"}
    found = LargestComponentd("pred", (1, 2, 3))(item)
    assert found["case_id"] == "a"
    assert found["pred"].dtype == torch.uint8
    assert torch.equal(found["pred"].affine, labels.affine)
    assert torch.equal(labels, before)
    assert not torch.equal(found["pred"], before)


def test_an_empty_map_stays_empty():
    empty = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    assert LargestComponentd("pred", (1,))({"pred": empty})["pred"].sum() == 0


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (4, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(DataError, match="one channel"):
        LargestComponentd("pred", (1,))({"pred": torch.zeros(shape)})
