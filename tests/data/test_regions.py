"""Label values to nested regions and back."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from metalr_monai import LabelToRegionsd, RegionsToLabeld
from metalr_monai.errors import DataError, OptionError

REGIONS = {"liver": [1, 2], "tumour": [2]}
LABEL = torch.tensor([[[[0.0, 1.0, 2.0, 1.0]]]])


def test_liver_is_label_one_and_up_and_the_tumour_lies_in_it():
    regions = LabelToRegionsd("label", REGIONS)({"label": LABEL})["label"]
    assert regions.tolist() == [[[[0, 1, 1, 1]]], [[[0, 0, 1, 0]]]] and regions.dtype == torch.float32


def test_regions_go_back_to_the_same_label_map_with_its_affine():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]))
    item = LabelToRegionsd("label", REGIONS)({"label": MetaTensor(LABEL, affine=affine)})
    back = RegionsToLabeld("label")(item)["label"]
    assert back.tolist() == LABEL.tolist() and back.dtype == torch.uint8
    assert torch.equal(back.affine.float(), affine)


def test_a_value_of_no_region_is_refused_by_case():
    with pytest.raises(DataError, match=r"case volume-7 has the values \[2.0\]; the regions know 0 and \[1.0\]"):
        LabelToRegionsd("label", {"liver": [1]})({"label": LABEL, "case_id": "volume-7"})


def test_each_region_is_written_as_its_own_label_value():
    regions = LabelToRegionsd("label", REGIONS)({"label": LABEL})["label"]
    found = RegionsToLabeld("label", values=[7, 255])({"label": regions})["label"]
    assert found.tolist() == [[[[0, 7, 255, 7]]]] and found.dtype == torch.uint8


def test_label_values_for_another_number_of_regions_are_refused():
    regions = LabelToRegionsd("label", REGIONS)({"label": LABEL})["label"]
    with pytest.raises(OptionError, match=r"values names 1 labels, \[7\], but there are 2 regions"):
        RegionsToLabeld("label", values=[7])({"label": regions})


@pytest.mark.parametrize("values", [[0, 1], [1, 256], [1.0, 2.0], [True, 2], ["1", "2"]])
def test_label_values_that_do_not_fit_a_byte_are_refused(values):
    with pytest.raises(OptionError, match="ints from 1 to 255"):
        RegionsToLabeld("label", values=values)
