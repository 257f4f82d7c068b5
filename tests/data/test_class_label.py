"""The class of a picture out of a server's file."""

from __future__ import annotations

import json

import pytest

from metalr_monai import ClassLabeld
from metalr_monai.errors import DataError

READ = ClassLabeld("label", ["benign", "Malignant"])


@pytest.mark.parametrize(("name", "number"), [("benign", 0), ("MALIGNANT", 1)])
def test_a_file_names_the_class_in_letters_of_any_case(tmp_path, name, number):
    (tmp_path / "a.json").write_text(json.dumps({"label": name}), encoding="utf-8")
    assert READ({"label": str(tmp_path / "a.json")}) == {"label": number}


def test_a_number_is_left_as_it_is():
    assert READ({"label": 1}) == {"label": 1}


@pytest.mark.parametrize("content", ['{"label": "malign"}', '{"label": 1}', "[]", "no json"])
def test_what_names_no_class_is_refused_with_the_classes(tmp_path, content):
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json.*benign, Malignant"):
        READ({"label": str(tmp_path / "a.json")})


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        READ({"label": str(tmp_path / "a.json")})
