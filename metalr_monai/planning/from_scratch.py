"""The plan of a training from random weights: a DynUNet by nnU-Net's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ..errors import OptionError
from .fingerprint import Fingerprint
from .memory import TrainingMemory, training_memory
from .networks import DYNUNET, build, dynunet_options
from .plan import Choice
from .shared_choices import (
    FEWEST_PATCHES,
    FOLDS,
    Resampled,
    batch_choices,
    fold_choice,
    foreground_of_nnunet,
    length_choices,
    loss_choice,
    memory_choice,
    plain,
    precision_choice,
    prediction_choices,
)
from .topology import Topology, largest_topology, median_shape, sides, target_spacing

ITERATIONS: Final = 250_000  # 1000 epochs of 250


def plan_from_scratch(
    fingerprint: Fingerprint,
    *,
    regions: Mapping[str, Sequence[int]],
    folds: int = FOLDS,
    iterations: int = ITERATIONS,
    memory_gb: float | None = None,
    bfloat16: bool | None = None,
) -> dict[str, Choice]:
    """Every choice of a training from scratch, with its reason.

    Spacing, patch, levels, kernels and batch are by nnU-Net's rules (`topology`); what fits in memory is counted, where
    nnU-Net goes by a reference of its own for 8 GB in mixed precision.

    Args:
        fingerprint: of the data set.
        regions: what is to be segmented → label values.
        folds: of the cross-validation.
        iterations: optimizer's steps of each fold.
        memory_gb: what training may take, in units of 2³⁰ bytes; None for what is at hand, at most 8.
        bfloat16: whether forward passes are in it; None for where that is faster.

    Raises:
        OptionError: too little memory, too few cases, scans that are too small, a foreground of one intensity.
    """
    memory, precision = memory_choice(memory_gb), precision_choice(bfloat16)
    held_out = fold_choice(folds, len(fingerprint.cases))
    spacing = target_spacing(fingerprint.spacings, fingerprint.cropped_shapes)
    shape = median_shape(fingerprint.spacings, fingerprint.cropped_shapes, spacing)
    data = Resampled(len(fingerprint.cases), shape)

    def counted(topology: Topology) -> TrainingMemory:
        options = {"network_options": dynunet_options(topology)}
        return training_memory(
            lambda: build(DYNUNET, len(regions), options), topology.patch_size, bfloat16=precision.value
        )

    topology = largest_topology(
        spacing, shape, lambda found: counted(found).largest_batch(memory.value) >= FEWEST_PATCHES
    )
    batch = batch_choices(counted(topology), memory.value, topology.patch_size, data, held_out.value)
    patches = batch["batch_size"].value * batch["patches_per_volume"].value
    why = "nnU-Net's 1000 epochs of 250" if iterations == ITERATIONS else "given"
    return {
        **_network_choices(topology),
        **_intensity_choices(fingerprint),
        "spacing": _spacing(spacing, fingerprint),
        "patch_size": _patch(topology, shape, memory.value),
        **batch,
        "foreground": Choice(
            foreground_of_nnunet(patches),
            f"of the patches are centred on foreground: nnU-Net's third, in whole patches of a batch of {patches}",
        ),
        **length_choices(iterations, why, batch["batch_size"].value, data.cases, held_out.value),
        **_learning_choices(),
        "loss": loss_choice(regions, "as nnU-Net's, with the bundle's smoothing"),
        "mirror_axes": Choice(
            [0, 1, 2],
            "x, y and z, as nnU-Net: scans are mirrored at random in training, and predicted in all 8 ways; an empty "
            "list is 8 times as fast",
        ),
        **prediction_choices(),
        "folds": held_out,
        "bfloat16": precision,
        "memory_gb": memory,
    }


def _network_choices(topology: Topology) -> dict[str, Choice]:
    count = len(topology.strides)
    return {
        "network": Choice(DYNUNET, "nnU-Net's plain U-Net, in MONAI"),
        "network_options": Choice(
            dynunet_options(topology),
            f"{count} levels: an axis is halved until 4 voxels are left, while its voxels are less than twice as "
            f"long as the shortest; kernels are 1 along an axis that is coarser than that; 32 channels, doubled from "
            f"level to level up to 320; deep_supervision is false, since the bundle's loss and scores take one output",
        ),
        "checkpoint": Choice(None, "from random weights"),
        "checkpoint_sha256": Choice(None, "there is no checkpoint"),
        "match_norms": Choice(False, "there is no checkpoint"),
    }


def _intensity_choices(fingerprint: Fingerprint) -> dict[str, Choice]:
    """nnU-Net's CT normalisation, as one linear scaling of a window.

    Raises:
        OptionError: the foreground has one intensity.
    """
    data = fingerprint.intensities
    window = (data["percentile_00_5"], data["percentile_99_5"])
    if not window[0] < window[1]:
        raise OptionError(
            f"The foreground's intensities run from {window[0]:g} to {window[1]:g} HU (0.5 and 99.5 percentiles); "
            f"expected a range. Look at the images: they may be constant, or of another kind than CT."
        )
    mean, sd = data["mean"], max(data["std"], 1e-8)
    return {
        "hu_window": Choice(
            [float(hu) for hu in window],
            "HU; nnU-Net's for CT: the 0.5 and 99.5 percentiles of the foreground of all cases: 1 % is clipped",
        ),
        "value_range": Choice(
            [(hu - mean) / sd for hu in window],
            f"what the window becomes: less the foreground's mean, {mean:.1f} HU, over its deviation, {sd:.1f}",
        ),
    }


def _spacing(spacing: Sequence[float], fingerprint: Fingerprint) -> Choice:
    median = fingerprint.median_spacing
    coarse = fingerprint.coarse_axis
    if spacing[coarse] == median[coarse]:
        return Choice(plain(spacing), "mm, the data's median, as nnU-Net")
    return Choice(
        plain(spacing),
        f"mm, the data's median, as nnU-Net; along {'xyz'[coarse]}, more than 3 times as coarse as the others, the "
        f"10th percentile instead of {median[coarse]:.4g}, so that the finer scans lose less",
    )


def _patch(topology: Topology, shape: Sequence[float], memory_gb: float) -> Choice:
    shares = [min(1.0, side / whole) for side, whole in zip(topology.patch_size, shape, strict=True)]
    return Choice(
        list(topology.patch_size),
        f"voxels, multiples of {sides(topology.divisors)}: as cubic in mm as the median scan allows ({sides(shape)} "
        f"voxels), cut where it is largest in it until two fit in {memory_gb:g} GB; it sees "
        f"{' × '.join(f'{share:.0%}' for share in shares)} of it",
    )


def _learning_choices() -> dict[str, Choice]:
    return {
        "scheme": Choice("warmup_poly", "nnU-Net's: the rate falls as (1 − step/steps)^0.9; one for all blocks"),
        "warmup": Choice(0.0, "nnU-Net has none"),
        "lr": Choice(0.01, "as nnU-Net"),
        "meta": Choice(None, "no rates are learned"),
        "momentum": Choice(0.99, "as nnU-Net"),
        "nesterov": Choice(True, "as nnU-Net"),
        "weight_decay": Choice(3e-5, "as nnU-Net"),
    }
