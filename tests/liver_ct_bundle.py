"""The liver CT bundle as its tests run it: small."""

from __future__ import annotations

import pytest
from bundle_runs import CONFIGS_ARE_CODE, ROOT, Bundle, call, one_thread, own_error, rows, weights

__all__ = ["ROOT", "call", "one_thread", "own_error", "rows", "weights"]

LIVER = Bundle("liver_ct_segmentation")
CONFIGS, METADATA = LIVER.configs, LIVER.metadata
workflow, run, command = LIVER.workflow, LIVER.run, LIVER.command
BLOCKS = [f"down_tr{n}" for n in (64, 128, 256, 512)] + [f"up_tr{n}" for n in (256, 128, 64)] + ["out_tr"]
GRID = {"width": 4, "spacing": [6, 6, 6], "patch_size": [32, 32, 16], "amp": False, "device": "cpu"}
TRAINING = {**GRID, "epochs": 2, "val_interval": 1, "meta": 2, "bounds": [1e-6, 0.1]}
WARNINGS = [
    CONFIGS_ARE_CODE,
    # in the few steps of a test
    pytest.mark.filterwarnings("ignore:No step of the search's second half was disapproved of:RuntimeWarning"),
    # within MONAI's surface metrics
    pytest.mark.filterwarnings("ignore:.*always_return_as_numpy. has been deprecated:FutureWarning"),
]
