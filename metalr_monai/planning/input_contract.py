"""What a checkpoint of a 3D network expects of its input: by what stands beside its file, else by its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ..errors import OptionError
from ..handlers.final_model import settings_file, trained_settings
from ..networks.registry import network_entry, network_kind
from ..settings import check_settings
from ..weights.read import find_state_dict, read_checkpoint
from .file_marks import mark
from .networks import DYNUNET, GENESIS, divisors, dynunet_options_of, patch_fault

_CHANNELS: Final = ("in_channels", "out_channels")  # of the network that is planned, not of the old one


@dataclass(frozen=True)
class InputContract:
    """What rules a plan that starts from a checkpoint; axes x, y, z.

    Attributes:
        checkpoint: absolute path.
        sha256: of the file.
        network: "genesis_unet3d" or "dynunet".
        options: as `networks.build` takes them, read from the weights.
        hu_window: HU clipped to it.
        value_range: what that is scaled to, linearly.
        spacing: mm; None where it is not known.
        patch_size: voxels.
        sources: where the other attributes are from, in words, by name.
    """

    checkpoint: str
    sha256: str
    network: str
    options: dict[str, Any]
    hu_window: tuple[float, float]
    value_range: tuple[float, float]
    spacing: tuple[float, float, float] | None
    patch_size: tuple[int, int, int]
    sources: Mapping[str, str]


def read_contract(checkpoint: str | PathLike[str]) -> InputContract:
    """The contract of a checkpoint: the settings in the `.json` beside it come first, then what is known of its kind.

    Raises:
        WeightsError: the file cannot be read, or holds no tensors.
        OptionError: it is of a network that segments no CT volumes, or what tells its input is missing or faulty.
        StateError: the `.json` cannot be read.
    """
    path = Path(fspath(checkpoint)).expanduser().absolute()
    tensors = find_state_dict(read_checkpoint(path), str(path)).tensors
    network, options, known = _kind(path, tensors)
    beside = _beside(path, network)
    if network == DYNUNET and (theirs := beside.pop("network_options", None)):
        # Norm and activation, which weights do not tell.
        options = {"network_options": {**options["network_options"], **_without_channels(theirs)}}
    if network == GENESIS and (statistics := beside.pop("batch_statistics", None)):
        options["batch_statistics"] = statistics
    found = {**known, **{name: value for name, value in beside.items() if value is not None}}
    _refuse(path, network, options, found)
    sources = {name: _source(path, name in beside, network) for name in found}
    return InputContract(
        checkpoint=str(path),
        sha256=mark(path)["sha256"],
        network=network,
        options=options,
        hu_window=tuple(found["hu_window"]),
        value_range=tuple(found["value_range"]),
        spacing=tuple(found["spacing"]) if "spacing" in found else None,
        patch_size=tuple(found["patch_size"]),
        sources=sources,
    )


def _kind(path: Path, tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The network, its options by the weights, and the contract of the published weights of its kind."""
    if options := dynunet_options_of(tensors):
        return DYNUNET, {"network_options": options}, {}
    kind = network_kind(tensors)
    if kind is None:
        raise OptionError(
            f"{path} is a checkpoint of a network that is not known here; expected Models Genesis' 3D U-Net or a plain "
            f"DynUNet. See what it holds: python -m metalr_monai inspect {path.name}."
        )
    contract = network_entry(kind.name).contract
    if kind.name != GENESIS or contract.hu_window is None:
        raise OptionError(f"{path} is a checkpoint of {kind}, which segments no CT volumes; give one of a 3D network.")
    known = {"hu_window": contract.hu_window, "value_range": contract.value_range, "patch_size": contract.patch}
    if contract.spacing is not None:
        known["spacing"] = contract.spacing
    return GENESIS, {"width": kind.width, "batch_statistics": "always"}, known


def _beside(path: Path, network: str) -> dict[str, Any]:
    """What the `.json` says of the input, and what the weights do not tell of the network."""
    own = {DYNUNET: "network_options", GENESIS: "batch_statistics"}[network]
    asked = dict.fromkeys(("hu_window", "value_range", "spacing", "patch_size", own))
    return {name: value for name, value in trained_settings(path, **asked).items() if value is not None}


def _without_channels(options: Any) -> dict[str, Any]:  # noqa: ANN401 - what a file holds may be anything
    return {k: v for k, v in options.items() if k not in _CHANNELS} if isinstance(options, Mapping) else {}


def _refuse(path: Path, network: str, options: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    file = settings_file(path)
    missing = [name for name in ("hu_window", "value_range", "patch_size") if name not in found]
    if missing:
        raise OptionError(
            f"Nothing tells {', '.join(missing)} of {path}: a DynUNet may be trained on anything. Write them into "
            f'{file.name} beside it, as {{"hu_window": [-100, 300], "value_range": [-2.1, 1.9], "spacing": '
            f'[0.8, 0.8, 2.5], "patch_size": [128, 128, 64]}}; converted checkpoints of nnU-Net come with it.'
        )
    # What patches a DynUNet takes is asked of its strides, below.
    checked = {name: value for name, value in found.items() if network == GENESIS or name != "patch_size"}
    try:
        check_settings(checked)
    except OptionError as error:
        raise OptionError(f"{file}: {error}") from error
    if fault := patch_fault(found["patch_size"], divisors(network, options)):
        raise OptionError(f"{file}: {fault}")


def _source(path: Path, beside: bool, network: str) -> str:
    return (
        f"{settings_file(path).name} beside it"
        if beside
        else f"the published weights of {network_entry(network).title}"
    )
