"""The plan of a fine-tuning: the input contract of the pre-trained network rules; the reasons say what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Final

from ..errors import OptionError, WeightsError
from ..handlers.final_model import trained_settings
from ..weights.load import load_weights
from ..weights.report import percent
from .fingerprint import Fingerprint
from .input_contract import InputContract, read_contract
from .memory import training_memory
from .networks import OPTIONS, build
from .plan import Choice
from .shared_choices import (
    FOLDS,
    Resampled,
    batch_choices,
    fold_choice,
    length_choices,
    loss_choice,
    memory_choice,
    plain,
    precision_choice,
    prediction_choices,
)
from .topology import median_shape, sides, target_spacing

ITERATIONS: Final = 25_000
LEAST_SHARE: Final = 1 / 4  # of the median scan's extent along each axis that a patch sees


def plan_from_checkpoint(
    fingerprint: Fingerprint,
    *,
    checkpoint: str | PathLike[str] | InputContract,
    regions: Mapping[str, Sequence[int]],
    folds: int = FOLDS,
    iterations: int = ITERATIONS,
    memory_gb: float | None = None,
    bfloat16: bool | None = None,
) -> dict[str, Choice]:
    """Every choice of a fine-tuning, with its reason.

    Give `read_fingerprint` the contract's window, `read_contract(checkpoint).hu_window`, so that it counts what is
    clipped.

    Args:
        fingerprint: of the data set.
        checkpoint: its file, or what `read_contract` said of it.
        regions: what is to be segmented → label values.
        folds: of the cross-validation.
        iterations: optimizer's steps of each fold.
        memory_gb: what training may take, in units of 2³⁰ bytes; None for what is at hand, at most 8.
        bfloat16: whether forward passes are in it; None for where that is faster.

    Raises:
        WeightsError: the checkpoint cannot be read, or too little of it fits the network.
        OptionError: the checkpoint is of a network for other data, too little memory, too few cases.
    """
    contract = checkpoint if isinstance(checkpoint, InputContract) else read_contract(checkpoint)
    options, patch = contract.options, contract.patch_size
    memory, precision = memory_choice(memory_gb), precision_choice(bfloat16)
    held_out = fold_choice(folds, len(fingerprint.cases))
    network = _network_choices(contract, len(regions))
    spacing = _spacing(fingerprint, contract)
    shape = median_shape(fingerprint.spacings, fingerprint.cropped_shapes, spacing.value)
    data = Resampled(len(fingerprint.cases), shape)
    counted = training_memory(lambda: build(contract.network, len(regions), options), patch, bfloat16=precision.value)
    batch = batch_choices(counted, memory.value, patch, data, held_out.value)
    why = "a tenth of nnU-Net's 250,000, since the features are there already" if iterations == ITERATIONS else "given"
    return {
        **network,
        "hu_window": _window(fingerprint, contract),
        "value_range": Choice(
            plain(contract.value_range), f"what the window becomes: {contract.sources['value_range']}"
        ),
        "spacing": spacing,
        "patch_size": _patch(contract, shape),
        **batch,
        "foreground": Choice(0.5, _foreground_reason(fingerprint)),
        **length_choices(iterations, why, batch["batch_size"].value, data.cases, held_out.value),
        **_learning_choices(),
        "loss": loss_choice(regions, "as the bundle"),
        **_mirroring(),
        **prediction_choices(),
        "folds": held_out,
        "bfloat16": precision,
        "memory_gb": memory,
    }


def _network_choices(contract: InputContract, out_channels: int) -> dict[str, Choice]:
    """The network, filled once, so that a checkpoint that does not fit is refused now."""
    beside = trained_settings(contract.checkpoint, activation=None, channels=(), axcodes="RAS")
    if beside["activation"] == "softmax" and len(beside["channels"]) == out_channels:
        raise OptionError(
            f"{contract.checkpoint} tells {', '.join(beside['channels'])} by a softmax; its last layer, of as many "
            f"outputs as there are regions, would be taken for theirs. Take output_block out of the file, "
            f"or plan other regions."
        )
    turned = "" if beside["axcodes"] else "; it learned from images as their files have them, and here sees them in RAS"
    report = load_weights(build(contract.network, out_channels, contract.options), contract.checkpoint)
    name = Path(contract.checkpoint).name
    reasons = {
        "width": "channels of the first level, told by the weights' shapes",
        "batch_statistics": "those of each batch in prediction too, or the running ones: as the checkpoint was used",
        "network_options": "levels, kernels and channels, told by the weights' shapes",
    }
    return {
        "network": Choice(contract.network, f"what {name} is a checkpoint of"),
        **{option: Choice(contract.options[option], reasons[option]) for option in OPTIONS[contract.network]},
        "checkpoint": Choice(
            contract.checkpoint,
            f"as given; {percent(report.coverage)} of the parameters are loaded, "
            f"{percent(report.coverage_without_head)} without the head{turned}",
        ),
        "checkpoint_sha256": Choice(contract.sha256, "of the file: a fold is trained from this content"),
        "match_norms": _norms(contract, out_channels),
    }


def _norms(contract: InputContract, out_channels: int) -> Choice:
    """Tried now, and not when the cases have been preprocessed."""
    network = build(contract.network, out_channels, contract.options)
    try:
        report = load_weights(network, contract.checkpoint, match_norms_for=(2, 1, *contract.patch_size))
    except WeightsError as error:
        return Choice(False, str(error))
    factors = report.rescaled.values()
    return Choice(
        True,
        f"{len(factors)} layers in front of a normalisation are scaled to the norm of random weights, by "
        f"{min(factors, default=1):.2g} to {max(factors, default=1):.2g}, which changes nothing that the network "
        f"computes: a rate then moves them as far, however large pre-training let them grow",
    )


# ---------------------------------------------------------------------- the contract and what it costs


def _window(fingerprint: Fingerprint, contract: InputContract) -> Choice:
    low, high = contract.hu_window
    data = fingerprint.intensities
    if fingerprint.hu_window == contract.hu_window and fingerprint.clipped is not None:
        cost = f"clips {fingerprint.clipped:.2g} % of the foreground's voxels"
    else:
        inside = low <= data["percentile_00_5"] and data["percentile_99_5"] <= high
        cost = f"clips {'less' if inside else 'more'} than {1 if inside else 0.5:g} % of the foreground's voxels"
    return Choice(
        plain((low, high)),
        f"HU, as the network was trained ({contract.sources['hu_window']}); it {cost}, whose 0.5 and 99.5 percentiles "
        f"are {data['percentile_00_5']:.0f} and {data['percentile_99_5']:.0f} HU, the window that nnU-Net would take",
    )


def _spacing(fingerprint: Fingerprint, contract: InputContract) -> Choice:
    """The checkpoint's where it is known, else the data's, coarsened until a patch sees a quarter along each axis.

    A quarter, because there has to be some context: a patch of 64 voxels at 0.8 mm would see 5 cm of a body of 40. And
    no more, because what is coarser loses small lesions: a quarter of the volume, below which nnU-Net adds a network of
    low resolution, would ask for voxels 2.5 times as long.
    """
    own = target_spacing(fingerprint.spacings, fingerprint.cropped_shapes)
    if contract.spacing is not None:
        against = _against(contract.spacing, fingerprint.median_spacing)
        return Choice(
            plain(contract.spacing), f"mm, as the network was trained ({contract.sources['spacing']}); {against}"
        )
    shape = median_shape(fingerprint.spacings, fingerprint.cropped_shapes, own)
    extents = [side * voxels for side, voxels in zip(own, shape, strict=True)]
    value = [
        max(side, LEAST_SHARE * extent / patch)
        for side, extent, patch in zip(own, extents, contract.patch_size, strict=True)
    ]
    return Choice(
        plain(value),
        f"mm; not known of the checkpoint: the data's median, and along an axis where the patch would see less than a "
        f"quarter of the median scan ({sides(extents)} mm) so much coarser that it sees that; "
        f"{_against(value, fingerprint.median_spacing)}",
    )


def _against(spacing: Sequence[float], median: Sequence[float]) -> str:
    """How the voxels compare with the data's, in words."""
    factors = [side / own for side, own in zip(spacing, median, strict=True)]
    if all(abs(factor - 1) < 0.02 for factor in factors):
        return "the data's median"
    each = ", ".join(f"{axis} {_factor(factor)}" for axis, factor in zip("xyz", factors, strict=True))
    return f"against the data's median of {sides(median)} mm: {each}"


def _factor(factor: float) -> str:
    if abs(factor - 1) < 0.02:
        return "equal"
    return f"{factor:.3g} times as coarse" if factor > 1 else f"{1 / factor:.3g} times as fine"


def _patch(contract: InputContract, shape: Sequence[float]) -> Choice:
    shares = [min(1.0, side / whole) for side, whole in zip(contract.patch_size, shape, strict=True)]
    larger = any(side > whole for side, whole in zip(contract.patch_size, shape, strict=True))
    return Choice(
        list(contract.patch_size),
        f"voxels, as the network was trained ({contract.sources['patch_size']}); of the median scan, {sides(shape)} "
        f"voxels at this spacing, it sees {' × '.join(f'{share:.0%}' for share in shares)}"
        + ("; smaller scans are padded" if larger else ""),
    )


# ---------------------------------------------------------------------- the rest


def _foreground_reason(fingerprint: Fingerprint) -> str:
    return (
        f"of the patches are centred on foreground, as in the bundle, the others on background; of the voxels "
        f"{fingerprint.foreground_share:.2g} % are foreground"
    )


def _learning_choices() -> dict[str, Choice]:
    return {
        "scheme": Choice(
            "metalr_level_search",
            "MetaLR: the level of the rates is found in the first steps, from far below; each block's multiplier of it "
            "and of the cosine that follows is learned while training",
        ),
        "warmup": Choice(0.1, "of the training, in schemes that have one; the search for the level takes its place"),
        "lr": Choice(0.01, "as in the bundle; a guess, from a thousandth of which the search climbs"),
        "meta": Choice(None, "one-pass: the next batch tells how the rates did, and no scans are held out for it"),
        "momentum": Choice(0.9, "as in the bundle"),
        "nesterov": Choice(False, "as in the bundle"),
        "weight_decay": Choice(0.0, "as in the bundle"),
    }


def _mirroring() -> dict[str, Choice]:
    return {
        "mirror_axes": Choice(
            [],
            "none, neither in training nor in prediction: organs lie on one side, which few scans should not have to "
            "unlearn, and a network that is not trained with mirrored scans gets worse by predicting them; prediction "
            "is 8 times as fast as nnU-Net's with all axes",
        )
    }
