"""Every bundle's metadata fit MONAI's schema, and what a bundle does by itself with any number of scans."""

from __future__ import annotations

import monai.bundle
import pytest
from bundle_runs import ROOT, SCHEMA, Bundle
from monai.bundle import ConfigParser

from metalr_monai import hold_out

BUNDLES = sorted(path.name for path in (ROOT / "bundles").iterdir() if path.is_dir())


@pytest.mark.filterwarnings("ignore:No hash value provided:UserWarning")
@pytest.mark.parametrize("name", BUNDLES)
def test_metadata_fits_monais_schema(name: str) -> None:
    pytest.importorskip("jsonschema")
    if not SCHEMA.is_file():
        pytest.skip(f"there is no {SCHEMA.name} beside the repository")
    monai.bundle.verify_metadata(meta_file=str(Bundle(name).metadata), filepath=str(SCHEMA))


@pytest.mark.parametrize(("training", "held"), [(111, 23), (25, 5)])
def test_the_liver_bundle_holds_out_the_papers_share_of_any_number_of_scans(training: int, held: int) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(Bundle("liver_ct_segmentation").configs / "train.json"))
    assert len(hold_out([*range(training)], parser.get_parsed_content("meta"))[1]) == held
