"""The 2D classification bundle as its tests run it: an eighth of ResNet-18's width, pictures of 40×40."""

from __future__ import annotations

from bundle_runs import CONFIGS_ARE_CODE, ROOT, Bundle

LESION = Bundle("lesion_2d_classification")
CLASSES = ["covid19", "pneumonia", "regular"]
BLOCKS = ["conv1", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)), "fc"]
WIDTH = {"network_def#widen_factor": 0.125}
SMALL = {**WIDTH, "image_size": [40, 40], "amp": False, "device": "cpu"}
TRAINING = {
    **{**SMALL, "epochs": 2, "val_interval": 1, "batch_size": 4, "meta": 3, "split": "fold 1 of 3"},
    "scale": "cosine",  # so few images tell beta little
}
DATASETS, SCHEMES = ROOT / "configs/datasets", ROOT / "configs/schemes"
WARNINGS = CONFIGS_ARE_CODE
