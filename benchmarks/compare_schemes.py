"""Compare fine-tuning schemes by a bundle's own commands: every seed is shown, and the last epoch is scored.

    python benchmarks/compare_schemes.py configs/studies/liver_real_ct.yaml DATA OUTPUT --seeds 5

A study file names bundle, source network, settings and schemes. Runs follow each other, scheme after scheme for each
seed, so that their times can be compared; what is done is skipped when the command is given again. Writes
OUTPUT/results.md and results.json. Nothing is chosen on the test part.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from metalr_monai import write_lits_phantoms

ROOT = Path(__file__).parents[1]
Study = Mapping[str, Any]


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def run_bundle(study: Study, overlays: Sequence[str], root: Path, keys: Mapping[str, Any], *own: str) -> None:
    """`monai.bundle run` of the bundle's train.json, overlays of configs/, and the bundle's `own` ones."""
    root.mkdir(parents=True, exist_ok=True)
    bundle = Path("bundles", study["bundle"], "configs")
    files = [bundle / "train.json", *(Path("configs", name) for name in overlays), *(bundle / name for name in own)]
    options = {
        "config_file": [str(file) for file in files],
        "meta_file": bundle / "metadata.json",
        "bundle_root": root,
        **keys,
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    with (root / "log.txt").open("a", encoding="utf-8") as log:
        command = [sys.executable, "-m", "monai.bundle", "run", *words]
        done = subprocess.run(command, stdout=log, stderr=log, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"A run failed; see {root / 'log.txt'}.")


def train(study: Study, overlays: Sequence[str], root: Path, keys: Mapping[str, Any]) -> None:
    """Unless it is done already; a run that was stopped goes on."""
    report = root / "runs/train/run_report.json"
    if not report.exists() or read(report)["status"] != "completed":
        run_bundle(study, overlays, root, keys)


def source_network(study: Study, data: Path, output: Path) -> Path:
    """The checkpoint that the pre-trained schemes begin with."""
    source = study["source"]
    folder = data / source.get("folder", "")
    if "phantoms" in source:
        folder = output / "phantoms"
        if not folder.exists():
            write_lits_phantoms(folder, **source["phantoms"])
    train(study, source["overlays"], output / "source", {"dataset_dir": folder, **source["keys"]})
    return output / "source/models/model.pt"


def one_run(study: Study, name: str, seed: int, data: Path, output: Path, checkpoint: Path) -> dict[str, Any]:
    """Train with a scheme and score the test part."""
    scheme = study["schemes"][name]
    root = output / f"{name.replace(', ', '_').replace(' ', '_')}/seed_{seed}"
    overlays = [*study["overlays"], *scheme.get("overlays", [])]
    keys = {"dataset_dir": data / study.get("folder", ""), **study["keys"], **scheme.get("keys", {}), "seed": seed}
    if scheme.get("pretrained", True):
        keys["checkpoint"] = checkpoint
    train(study, overlays, root, keys)
    if not (root / "runs/evaluate/metrics.json").exists():
        run_bundle(study, overlays, root, {**keys, "split": root / "runs/train/split.json"}, "evaluate.json")
    report, metrics = read(root / "runs/train/run_report.json"), read(root / "runs/evaluate/metrics.json")
    key = report["key_metric"]["name"]
    return {
        "seed": seed,
        "scores": {title: value_at(metrics, path) for title, path in study["scores"].items()},
        "before": report["validation"][0]["metrics"][key],
        "fastest_epoch_s": min(epoch["seconds"] for epoch in report["epochs"]),
        "rates": {block["name"]: block["rate"] for block in (report["metalr"] or {"blocks": []})["blocks"]},
    }


def value_at(content: Any, path: str) -> float:  # noqa: ANN401 - any JSON
    for key in path.split("."):
        content = content[key]
    return float(content)


def mean_sd(values: Sequence[float], digits: int) -> str:
    sd = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{sd}"


def table(study: Study, runs: Mapping[str, Sequence[Mapping[str, Any]]], plain: str) -> list[str]:
    """Markdown: means and standard deviations over seeds, then the first score of every seed."""
    titles = list(study["scores"])
    seeds = [str(run["seed"]) for run in next(iter(runs.values()))]
    lines = [
        f"| scheme | {' | '.join(titles)} | fastest epoch, time × {plain} |",
        "|---|" + "---|" * (len(titles) + 1),
    ]
    for name, found in runs.items():
        scores = [mean_sd([100 * run["scores"][title] for run in found], 1) for title in titles]
        ratios = [
            run["fastest_epoch_s"] / base["fastest_epoch_s"] for run, base in zip(found, runs[plain], strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(scores)} | {statistics.median(ratios):.2f} |")
    lines += ["", f"{titles[0]}, %, by seed:", "", f"| scheme | {' | '.join(seeds)} |", "|---|" + "---|" * len(seeds)]
    for name, found in runs.items():
        each = (f"{100 * run['scores'][titles[0]]:.1f}" for run in found)
        lines.append(f"| {name} | {' | '.join(each)} |")
    return lines


def write_results(study: Study, file: Path, runs: Mapping[str, Any], output: Path, seeds: int) -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {'GPU' if torch.cuda.is_available() else 'no GPU'}"
    content = {
        "study": study,
        "date": date.today().isoformat(),
        "machine": machine,
        "torch": torch.__version__,
        "runs": runs,
    }
    (output / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    command = f"python benchmarks/compare_schemes.py {file} DATA OUTPUT --seeds {seeds}"
    lines = [
        f"# {study['title']}",
        "",
        f"`{command}`, {content['date']}, {machine}, torch {torch.__version__}. DATA: {study['data']}.",
        f"Test part, last epoch, mean ± standard deviation over {seeds} seeds, %.",
        "",
        *table(study, runs, "all layers"),
    ]
    (output / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="a file of configs/studies")
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    study = yaml.safe_load(args.study.read_text(encoding="utf-8"))
    data, output = args.data.absolute(), args.output.absolute()
    checkpoint = source_network(study, data, output)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in study["schemes"]}
    todo = [(name, seed) for seed in range(args.seeds) for name in runs]
    for name, seed in tqdm(todo, unit="run"):
        runs[name].append(one_run(study, name, seed, data, output, checkpoint))
        if name == todo[-1][0]:
            write_results(study, args.study, runs, output, seed + 1)
    print((output / "results.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
