"""A bundle's configs, versions and network, looked through without running it."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..errors import MetaLRError, OptionError, first_cause
from ..weights.load import load_weights
from .config_faults import Fault, config_faults, unused_keys
from .config_files import unmergeable, unreadable

METADATA = "configs/metadata.json"
MODEL = "models/model.pt"
SUFFIXES = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Diagnosis:
    """What was looked at, and what was found.

    Attributes:
        checked: files that were read as one config, in words → number of ids.
        faults: in the order in which they were found.
        notes: what is unusual, and may be right.
    """

    checked: dict[str, int]
    faults: list[Fault]
    notes: list[str]


def diagnose(bundle: Path, overlays: Sequence[Path] = ()) -> Diagnosis:
    """Look through a bundle: each of its configs, or `train` with the overlays alone; versions, network and model.

    A config with a `network_def` is read by itself, another one on top of `train` (`evaluate`, `multi_gpu_train`).
    The network is built, as it is for inference, and takes `models/model.pt`, where there is one.

    Raises:
        OptionError: the folder is no bundle, or an overlay is not there.
    """
    folder = bundle / "configs"
    if not (bundle / METADATA).is_file():
        raise OptionError(f"{bundle} is no bundle: there is no {bundle / METADATA}.")
    if missing := [str(path) for path in overlays if not path.is_file()]:
        raise OptionError(f"There is no {' and no '.join(missing)}; expected overlays of {folder / 'train.json'}.")
    configs = {
        path.stem: path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES and path.stem != "metadata"
    }
    if overlays and "train" not in configs:
        raise OptionError(f"{folder} has no train.json, which overlays could go on.")
    network = configs.get("inference", configs.get("train"))
    alone = [configs["train"], *overlays] if overlays else []
    files = dict.fromkeys([*(alone or configs.values()), *([network] if network else []), bundle / METADATA])
    broken = {path: wrong for path in files if (wrong := unreadable(path))}
    found = Diagnosis({}, [Fault(_shown(path, bundle), "", wrong) for path, wrong in broken.items()], [])
    for chain in [alone] if alone else _chains(configs, broken):
        if not broken.keys() & chain:
            _look_through(chain, bundle, found)
    if bundle / METADATA not in broken:
        _compare_versions(bundle / METADATA, found)
    if not found.faults:
        _build_network(network, bundle, found)
    return found


def _shown(path: Path, bundle: Path) -> str:
    return str(path.relative_to(bundle) if path.is_relative_to(bundle) else path)


def _chains(configs: Mapping[str, Path], broken: Container[Path]) -> Iterator[list[Path]]:
    """Each config that can be read, behind those that it is made for."""
    for stem, path in configs.items():
        if path in broken:
            continue
        is_whole = "network_def" in ConfigParser.load_config_file(str(path))
        bases = [] if is_whole else ["train", "evaluate"] if stem == "multi_gpu_evaluate" else ["train"]
        yield [*(configs[base] for base in bases if base in configs), path]


def _look_through(chain: Sequence[Path], bundle: Path, found: Diagnosis) -> None:
    name = " + ".join(_shown(path, bundle) for path in chain)
    if fault := unmergeable(chain):
        found.faults.append(Fault(name, "", fault))
        return
    base = ConfigParser.load_config_files([str(path) for path in chain[:-1]])
    last = ConfigParser.load_config_file(str(chain[-1]))
    merged = ConfigParser.load_config_files([str(path) for path in chain])
    wrong = [Fault(name, place, text) for place, text in config_faults(merged)]
    if not wrong and len(chain) > 1:
        wrong = [Fault(name, place, text) for place, text in unused_keys(merged, base, [*last])]
    parser = ConfigParser(merged)
    found.faults.extend(wrong)
    found.checked[name] = 0 if wrong else _count(parser)


def _count(parser: ConfigParser) -> int:
    parser.parse()
    return len(parser.ref_resolver.items)


def _compare_versions(file: Path, found: Diagnosis) -> None:
    metadata: dict[str, Any] = ConfigParser.load_config_file(str(file))
    packages = metadata.get("required_packages_version", metadata.get("optional_packages_version", {}))
    if not isinstance(packages, dict):
        found.faults.append(Fault(METADATA, "", f"names the packages {packages!r}; expected each with its version."))
        packages = {}
    wanted = {
        "monai": metadata.get("monai_version"),
        "torch": metadata.get("pytorch_version"),
        "numpy": metadata.get("numpy_version"),
        **packages,
    }
    for package, tested in wanted.items():
        try:
            here = version(package)
        except PackageNotFoundError:
            found.faults.append(Fault(METADATA, package, f"is not installed; the bundle was tested with {tested}."))
            continue
        if tested and here.partition("+")[0] != tested:
            found.notes.append(f"{package} {here} is installed; the bundle was tested with {tested}.")


def _build_network(config: Path | None, bundle: Path, found: Diagnosis) -> None:
    if config is None:
        return
    parser = ConfigParser(ConfigParser.load_config_file(str(config)))
    parser["bundle_root"] = str(bundle)
    place, model = f"configs/{config.name}", bundle / MODEL
    try:
        network = parser.get_parsed_content("network_def")
    except Exception as error:  # noqa: BLE001 - building runs others' code
        found.faults.append(Fault(place, "network_def", f"cannot be built: {first_cause(error)}"))
        return
    if not model.is_file():
        found.notes.append(f"There is no {MODEL} yet, so that training is all that the bundle can do.")
        return
    try:
        load_weights(network, model, minimum_coverage=1.0)
    except MetaLRError as error:
        found.faults.append(Fault(MODEL, "", str(error)))
