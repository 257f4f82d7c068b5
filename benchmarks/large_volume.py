"""Seconds and peak memory of predicting one big CT with the liver bundle, from the file to the label map in its grid.

    python benchmarks/large_volume.py                                   # 512×512×600, a few minutes on two cores
    python benchmarks/large_volume.py --slices 1000
    python benchmarks/large_volume.py --transforms monai --slices 100   # with MONAI's Spacingd and Invertd

The CT is generated: organs' worth of smooth HU with noise, 0.7×0.7×1 mm, LPS, int16, gzip. The network is a
GenesisUNet3D with weights drawn by chance, so that labels lie everywhere: the worst case for the way back. Peak memory
is that of the whole process, with Python, torch and MONAI, as the operating system counts it (ru_maxrss).
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from about_run import cpu_model, given_options
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from metalr_monai import GenesisUNet3D

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "bundles/liver_ct_segmentation/configs"
VOXEL = (0.7, 0.7, 1.0)  # mm
TO_NETWORK = {"own": "metalr_monai.AxisSpacingd", "monai": "Spacingd"}
BACK = {"_target_": "metalr_monai.InvertToLabeld", "keys": "pred", "orig_keys": "image"}
BACK_BY_MONAI = [
    {
        "_target_": "Invertd",
        "keys": "pred",
        "orig_keys": "image",
        "transform": "@preprocessing",
        "nearest_interp": False,
    },
    {"_target_": "metalr_monai.RegionsToLabeld", "keys": "pred"},
]


def write_scan(file: Path, shape: tuple[int, int, int]) -> None:
    """A NIfTI file of smooth HU with noise, made slice by slice."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    noise = rng.normal(0, 20, (shape[0], shape[1])).astype(np.float32)
    voxels = np.empty(shape, np.int16, order="F")
    for z in range(shape[2]):
        organs = 150 * np.sin(5 * x + z / 40) * np.cos(4 * y - z / 60)
        voxels[..., z] = np.where(x**2 + (1.3 * y) ** 2 < 0.8, organs + np.roll(noise, 37 * z), -1000)
    affine = np.diag([-VOXEL[0], -VOXEL[1], VOXEL[2], 1])
    nib.save(nib.Nifti1Image(voxels, affine), file)


def write_network(file: Path, width: int, regions: int) -> None:
    torch.manual_seed(0)
    network = GenesisUNet3D(out_channels=regions, width=width, batch_statistics="always")
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)


def overlay(args: argparse.Namespace) -> dict[str, Any]:
    """The keys of inference.json that decide on time and memory."""
    config = json.loads((CONFIGS / "inference.json").read_text(encoding="utf-8"))
    there = config["preprocessing"]["transforms"]
    resampled = [
        {**step, "_target_": TO_NETWORK[args.transforms]} if step["_target_"].endswith("Spacingd") else step
        for step in there
    ]
    save = next(step for step in config["postprocessing"]["transforms"][::-1] if step["_target_"] == "SaveImaged")
    back = BACK_BY_MONAI if args.transforms == "monai" else [{**BACK, "transform": "@preprocessing"}]
    window = {"_target_": "SlidingWindowInferer", "roi_size": args.patch, "overlap": args.overlap, "mode": "gaussian"}
    return {
        "preprocessing#transforms": resampled,
        "inferer": {
            "_target_": "metalr_monai.Bfloat16Inferer",
            "inferer": {**window, "sw_batch_size": 1},
            "enabled": args.bfloat16,
        },
        "postprocessing#transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}, *back, save],
        "regions": {f"region {number}": [number] for number in range(1, args.regions + 1)},
        "width": args.width,
        "spacing": args.spacing,
        "patch_size": args.patch,
        "overlap": args.overlap,
        "batch_statistics": "always",
        "device": "cpu",
    }


def measure(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Predict, and say what it took."""
    shape = (*args.plane, args.slices)
    scan = root / "images/scan.nii.gz"
    scan.parent.mkdir()
    write_scan(scan, shape)
    write_network(root / "models/model.pt", args.width, args.regions)
    before = peak_gb()
    workflow = ConfigWorkflow(
        str(CONFIGS / "inference.json"),
        str(CONFIGS / "metadata.json"),
        False,
        workflow_type="inference",
        bundle_root=str(root),
        **overlay(args),
    )
    start = time.perf_counter()
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    seconds = time.perf_counter() - start
    set_determinism(None)
    label = nib.load(next((root / "runs/inference").glob("*.nii.gz")))
    found = np.asanyarray(label.dataobj)
    return {
        "shape": list(shape),
        "seconds": round(seconds, 1),
        "peak_gb": round(peak_gb(), 2),
        "peak_gb_before": round(before, 2),
        "same_grid": found.shape == shape and bool(np.allclose(label.affine, nib.load(scan).affine)),
        "labelled_share": round(float((found > 0).mean()), 3),
    }


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plane", type=int, nargs=2, default=[512, 512], help="voxels of a slice")
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--spacing", type=float, nargs=3, default=[3.0, 3.0, 3.0], help="mm, the network's")
    parser.add_argument("--patch", type=int, nargs=3, default=[64, 64, 32])
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--regions", type=int, default=2)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--transforms", choices=list(TO_NETWORK), default="own")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser


def main() -> None:
    parser = arguments()
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    results = {
        "date": datetime.date.today().isoformat(),
        "processor": cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "options": given_options(parser, args),
        **found,
    }
    print(json.dumps(results, indent=2))
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
