"""How many cubes a second the transformations of Models Genesis take: loop, dictionary transforms, batches.

    python benchmarks/deformations.py                   # on one core, a minute or two
    python benchmarks/deformations.py --device cuda     # batches where there is a GPU; the rest stays on the CPU

The loop is the one of the tests, cube by cube as published: ten thousand windows in Python, a curve of 100,000 points,
box after box. Every round times all of them, in an order that turns, so that whatever else the machine does meets all
of them alike; a ratio is taken within a round, and the table has the median over the rounds with its quartiles. All
draw with the published probabilities, each round anew.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from about_run import cpu_model, given_options
from monai.transforms import Compose, CopyItemsd
from torch import Tensor

from metalr_monai.pretraining.deform import DeformBatch
from metalr_monai.pretraining.dictionary import (
    RandGenesisFlipd,
    RandLocalShufflingd,
    RandNonlinearIntensityd,
    RandPaintingd,
)

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests" / "pretraining"))
import literal_deformations  # noqa: E402 - a file of the tests

LOOP = "loop, as published"
Round = Callable[[int], int]  # takes its number, deforms, and says how many cubes


def rounds_of(args: argparse.Namespace) -> dict[str, Round]:
    """What is timed in a round, by its name."""
    cube = torch.rand(args.shape, generator=torch.Generator().manual_seed(0))
    found: dict[str, Round] = {LOOP: loop(cube, args.loop_cubes), "dictionary transforms": dictionary(cube, args.cubes)}
    for size in args.batches:
        images = cube.expand(size, 1, *args.shape).contiguous().to(args.device)
        found[f"DeformBatch, {size} cubes"] = batches(images, max(args.cubes // size, 1))
    return found


def loop(cube: Tensor, count: int) -> Round:
    array = cube.numpy().astype(np.float64)

    def deform(number: int) -> int:
        random.seed(number)
        np.random.seed(number)
        for _ in range(count):
            literal_deformations.deform(array)
        return count

    return deform


def dictionary(cube: Tensor, count: int) -> Round:
    transform = Compose(
        [
            CopyItemsd("image", names="target"),
            RandGenesisFlipd(["image", "target"]),
            RandLocalShufflingd("image"),
            RandNonlinearIntensityd("image"),
            RandPaintingd("image"),
        ]
    )

    def deform(number: int) -> int:
        transform.set_random_state(number)
        for _ in range(count):
            transform({"image": cube[None]})
        return count

    return deform


def batches(images: Tensor, count: int) -> Round:
    deform_batch = DeformBatch(seed=0)

    def deform(number: int) -> int:
        for iteration in range(count):
            deform_batch(images, number * count + iteration)
        if images.is_cuda:
            torch.cuda.synchronize()
        return count * len(images)

    return deform


def measure(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Cubes a second of each, and how many times those of the loop."""
    methods = rounds_of(args)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    names = list(methods)
    for name in names[1:]:
        methods[name](args.rounds)  # the first call makes tables, and the allocator's first pages
    for number in range(args.rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            cubes = methods[name](number)
            seconds[name].append((time.perf_counter() - start) / cubes)
        print(f"  round {number + 1} of {args.rounds}", flush=True)
    rows = {}
    for name, times in seconds.items():
        ratios = [of_loop / own for of_loop, own in zip(seconds[LOOP], times, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        rows[name] = {
            "cubes_per_second": 1 / statistics.median(times),
            "ratio": statistics.median(ratios),
            "ratio_quartiles": [low, high],
        }
    return rows


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    about = results["about"]
    lines = [
        f"{about['machine']}, {about['threads']} threads; torch {about['torch']}, numpy {about['numpy']}; cubes of "
        f"{about['cube']}; {about['rounds']} rounds; {about['date']}.",
        f"`{about['command']}`",
        "",
        "| | cubes/s | × loop (quartiles) |",
        "|---|---|---|",
    ]
    for name, row in results["methods"].items():
        low, high = row["ratio_quartiles"]
        lines.append(f"| {name} | {row['cubes_per_second']:.1f} | {row['ratio']:.1f} ({low:.1f}–{high:.1f}) |")
    return "\n".join(lines) + "\n"


def about_this_run(args: argparse.Namespace, command: str) -> dict[str, Any]:
    cpu = f"{os.cpu_count()} CPU cores, {cpu_model()}"
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{torch.cuda.get_device_name()} and {cpu}" if args.device == "cuda" else cpu,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "cube": "×".join(map(str, args.shape)),
        "rounds": args.rounds,
        "command": command,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", type=int, nargs="+", default=[64, 64, 32])
    parser.add_argument("--batches", type=int, nargs="+", default=[6, 16])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cubes", type=int, default=96, help="a round")
    parser.add_argument("--loop-cubes", type=int, default=40, help="a round, of the loop")
    parser.add_argument("--threads", type=int, default=1, help="of torch; the loop has one")
    parser.add_argument("--output", type=Path, help="JSON file; the table goes beside it as .md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    command = " ".join(["python benchmarks/deformations.py", *given_options(parser, args)])
    results = {"about": about_this_run(args, command), "methods": measure(args)}
    output = args.output or HERE / "results" / f"deformations_{args.device}.json"
    output.write_text(json.dumps(results, indent=1) + "\n")
    output.with_suffix(".md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
