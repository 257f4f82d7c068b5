"""Fingerprints and plans without files."""

from __future__ import annotations

from dataclasses import replace

from metalr_monai.planning.fingerprint import CaseFacts, Fingerprint
from metalr_monai.planning.networks import OPTIONS, build
from metalr_monai.planning.plan import Choice, Plan

REGIONS = {"liver": [1, 2], "tumour": [2]}
INTENSITIES = {"max": 400.0, "mean": 100.0, "median": 101.0, "min": -300.0, "std": 40.0}
INTENSITIES |= {"percentile_00_5": -20.0, "percentile_99_5": 200.0}


def fingerprint(spacing=(1.0, 1.0, 1.0), shape=(96, 96, 48), cases=10, axcodes="RAS", **changes):
    """Of cases that are all alike."""
    clipped = 2.5 if changes.get("hu_window") else None
    facts = CaseFacts("case_0", shape, spacing, axcodes, shape, {1: 4000, 2: 400}, clipped)
    all_cases = tuple(replace(facts, case=f"case_{i}") for i in range(cases))
    return replace(Fingerprint(all_cases, dict(INTENSITIES), None), **changes)


def plan(choices=None, **changes):
    """A plan of a fine-tuning; `choices` replace single values."""
    values = {
        "network": "genesis_unet3d",
        "width": 8,
        "batch_statistics": "always",
        "checkpoint": "/data/start.pt",
        "checkpoint_sha256": "a" * 64,
        "match_norms": True,
        "hu_window": [-1000.0, 1000.0],
        "value_range": [0.0, 1.0],
        "spacing": [1.5, 1.5, 2.0],
        "patch_size": [64, 64, 32],
        "batch_size": 2,
        "patches_per_volume": 1,
        "passes": 1,
        "foreground": 0.5,
        "epochs": 100,
        "val_interval": 5,
        "scheme": "metalr_schedule",
        "warmup": 0.1,
        "lr": 0.01,
        "meta": None,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 0.0,
        "loss": {"_target_": "DiceCELoss", "sigmoid": True},
        "mirror_axes": [],
        "overlap": 0.5,
        "postprocessing": "undecided",
        "folds": 5,
        "bfloat16": False,
        "memory_gb": 8.0,
        **(choices or {}),
    }
    marks = {
        case: {
            kind: {"sha256": digit * 64, "size": 7, "mtime_ns": 9} for kind, digit in (("image", "1"), ("label", "2"))
        }
        for case in ("case_0", "case_1")
    }
    made = Plan(
        family="checkpoint",
        dataset={"kind": "nnunet", "folder": "/data/Dataset001_Liver", "marks": marks},
        regions=REGIONS,
        output_values=[1, 2],
        choices={name: Choice(value, f"why {name}") for name, value in values.items()},
    )
    return replace(made, **changes)


def build_planned(planned):
    """The network that a plan describes, with random weights."""
    network = planned["network"]
    return build(network, len(planned.regions), {name: planned[name] for name in OPTIONS[network]})
