"""Every bundle's metadata fit MONAI's schema."""

from __future__ import annotations

import monai.bundle
import pytest
from bundle_runs import ROOT, SCHEMA, Bundle

BUNDLES = sorted(path.name for path in (ROOT / "bundles").iterdir() if path.is_dir())


@pytest.mark.filterwarnings("ignore:No hash value provided:UserWarning")
@pytest.mark.parametrize("name", BUNDLES)
def test_metadata_fits_monais_schema(name: str) -> None:
    pytest.importorskip("jsonschema")
    if not SCHEMA.is_file():
        pytest.skip(f"there is no {SCHEMA.name} beside the repository")
    monai.bundle.verify_metadata(meta_file=str(Bundle(name).metadata), filepath=str(SCHEMA))
