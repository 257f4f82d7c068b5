"""What MetaLR costs a training step: time ratio and peak memory, measured side by side in one process.

    python benchmarks/step_cost.py                                   # both networks on the CPU, minutes
    python benchmarks/step_cost.py --device cuda --amp --profile     # where there is a GPU

Every round times one step of each method, in an order that turns, so that whatever else the machine does meets all of
them alike; a ratio is taken within a round, and the table has the median ratio over the rounds with its quartiles.
Peak memory is counted by torch's own allocator from an empty start (CPU: the profiler's allocation events).
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from about_run import cpu_model, given_options
from monai.losses import DiceLoss
from monai.networks.nets import resnet18
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import metalr_monai
from metalr_monai.rates.reference import UnrolledMetaLR

HERE = Path(__file__).parent
EVERY = 5
METHODS = ("plain", "two-pass", f"every {EVERY}", "one-pass", "unrolled")
KEPT = ("plain, gradients kept", "two-pass, gradients kept")  # as MONAI's trainer has it by default
PLAIN_OF = {name: KEPT[0] if name in KEPT else "plain" for name in (*METHODS, *KEPT)}
SETTINGS: dict[str, dict[str, Any]] = {
    "ResNet-18, 64×64": {"blocks": "resnet18", "optimizer": "adam", "lr": 1e-3, "beta": 1e-6},
    "Genesis U-Net, 64×64×32": {"blocks": "genesis_unet3d", "optimizer": "sgd", "lr": 1e-3, "beta": 1e-6},
}


Data = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def make_data(name: str, args: argparse.Namespace) -> Data:
    """A training and a meta batch of random numbers. Every method is given both, so neither counts as its memory."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    if name.startswith("ResNet"):
        size = args.batch_2d
        pairs = [(torch.randn(size, 3, 64, 64, device=device), torch.randint(3, (size,), device=device)) for _ in "tm"]
    else:
        shape = (args.batch_3d, 1, 64, 64, 32)
        pairs = [(torch.rand(shape, device=device), (torch.rand(shape, device=device) > 0.7).float()) for _ in "tm"]
    return pairs[0], pairs[1]


def make_network(name: str, args: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """The network and its loss."""
    if name.startswith("ResNet"):
        # stride and bias as in the published network; MONAI's defaults are others
        network: nn.Module = resnet18(
            spatial_dims=2, n_input_channels=3, num_classes=3, conv1_t_stride=2, bias_downsample=False
        )
        return network.to(args.device), nn.CrossEntropyLoss()
    network = metalr_monai.GenesisUNet3D(width=args.width, batch_statistics="standard")
    return network.to(args.device), DiceLoss(sigmoid=True)


def make_step(name: str, method: str, data: Data, args: argparse.Namespace) -> Callable[[], object]:
    """A fresh network, optimizer and tuner; calling the result takes one training step."""
    network, loss = make_network(name, args)
    train, meta = data
    settings = SETTINGS[name]
    amp = args.amp and method != "unrolled"
    scaler = torch.amp.GradScaler(args.device) if amp else None

    def loss_on(batch: tuple[Tensor, Tensor], call: Callable[[Tensor], Tensor] = network) -> Tensor:
        with torch.autocast(args.device, enabled=amp, dtype=torch.float16):
            return loss(call(batch[0]), batch[1])

    if method == "unrolled":
        return unrolled_step(network, settings, lambda call: loss_on(train, call), lambda call: loss_on(meta, call))
    groups = metalr_monai.param_groups(network, settings["blocks"], settings["lr"])
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(groups) if settings["optimizer"] == "adam" else torch.optim.SGD(groups, momentum=0.9)
    )
    options = {"two-pass": {}, f"every {EVERY}": {"meta_every": EVERY}, "one-pass": {"one_pass": True}}
    if method in options:
        tuner = metalr_monai.MetaLR(optimizer, network, scaler=scaler, beta=settings["beta"], **options[method])
        meta_loss = () if method == "one-pass" else (lambda: loss_on(meta),)
        return lambda: tuner.step(lambda: loss_on(train), *meta_loss)
    if method == "two-pass, gradients kept":
        tuner = metalr_monai.MetaLR(optimizer, network, scaler=scaler, beta=settings["beta"])
        tuner.meta_loss = lambda: loss_on(meta)
    kept = method in KEPT

    def plain() -> None:
        if kept:
            optimizer.zero_grad(set_to_none=False)
        value = loss_on(train)
        (value if scaler is None else scaler.scale(value)).backward()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        if not kept:
            optimizer.zero_grad()

    return plain


Forward = Callable[[Callable[..., Any]], Tensor]


def unrolled_step(network: nn.Module, settings: dict[str, Any], train: Forward, meta: Forward) -> Callable[[], object]:
    blocks = metalr_monai.blocks(network, settings["blocks"])
    block_of = {name: j for j, names in enumerate(blocks.parameter_names.values()) for name in names}
    rates = [settings["lr"]] * len(blocks)
    options = {} if settings["optimizer"] == "adam" else {"momentum": 0.9}
    reference = UnrolledMetaLR(
        network, block_of, rates, settings["optimizer"], options, "proportional", settings["beta"], (1e-6, 1e-2)
    )
    reference.rates = reference.rates.to(next(network.parameters()).device)
    return lambda: reference.step(train, meta)


def synchronise(args: argparse.Namespace) -> None:
    if args.device == "cuda":
        torch.cuda.synchronize()


def time_rounds(name: str, data: Data, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds a step of each method, one figure a round; `every k` is the mean of k steps."""
    steps = {method: make_step(name, method, data, args) for method in METHODS}
    for step in steps.values():
        for _ in range(args.warm_up):
            step()
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    for number in range(args.rounds):
        turn = number % len(METHODS)
        for method in METHODS[turn:] + METHODS[:turn]:
            count = EVERY if method.startswith("every") else args.steps
            synchronise(args)
            start = time.perf_counter()
            for _ in range(count):
                steps[method]()
            synchronise(args)
            times[method].append((time.perf_counter() - start) / count)
        print(f"  {name}: round {number + 1} of {args.rounds}", flush=True)
    return times


def peak_memory(name: str, method: str, data: Data, args: argparse.Namespace) -> int:
    """Bytes at the highest point of three steps, network and optimizer state included."""
    gc.collect()
    if args.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step = make_step(name, method, data, args)
        for _ in range(3):
            step()
        return torch.cuda.max_memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = make_step(name, method, data, args)
        for _ in range(3):
            step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


def host_synchronisations(name: str, method: str, data: Data, args: argparse.Namespace) -> int:
    """Times that one step makes the host wait for the device, as the CUDA runtime calls show."""
    step = make_step(name, method, data, args)
    for _ in range(3):
        step()
    synchronise(args)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
    return sum(e.count for e in profiler.key_averages() if e.key in ("cudaStreamSynchronize", "cudaDeviceSynchronize"))


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    data = make_data(name, args)
    trainable = sum(p.numel() * p.element_size() for p in make_network(name, args)[0].parameters())
    times = time_rounds(name, data, args)
    memory = {method: peak_memory(name, method, data, args) for method in (*METHODS, *KEPT)}
    rows = {}
    for method, peak in memory.items():
        row: dict[str, Any] = {"peak_bytes": peak, "extra_copies": (peak - memory[PLAIN_OF[method]]) / trainable}
        if method in times:
            ratios = [t / plain for t, plain in zip(times[method], times["plain"], strict=True)]
            quartiles = statistics.quantiles(ratios, n=4)
            row |= {"seconds": statistics.median(times[method]), "ratio": statistics.median(ratios)}
            row |= {"ratio_quartiles": [quartiles[0], quartiles[2]]}
        rows[method] = row
    found: dict[str, Any] = {"trainable_bytes": trainable, "methods": rows}
    if args.profile:
        found["host_synchronisations"] = {
            m: host_synchronisations(name, m, data, args) for m in ("plain", "two-pass", "one-pass")
        }
    return found


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    about = results["about"]
    lines = [
        f"{about['machine']}, {about['threads']} threads; torch {about['torch']}, {about['precision']}; "
        f"{about['rounds']} rounds; {about['date']}.",
        f"`{about['command']}`",
    ]
    for name, found in results["networks"].items():
        lines += [
            "",
            f"**{name}** ({found['trainable_bytes'] / 4e6:.1f} M parameters)",
            "",
            "| method | s/step | × plain step (quartiles) | peak memory, MB | extra, copies of the parameters |",
            "|---|---|---|---|---|",
        ]
        for method, row in found["methods"].items():
            timing = "| – | – |"
            if "ratio" in row:
                low, high = row["ratio_quartiles"]
                timing = f"| {row['seconds']:.3f} | {row['ratio']:.2f} ({low:.2f}–{high:.2f}) |"
            lines.append(f"| {method} {timing} {row['peak_bytes'] / 1e6:.0f} | {row['extra_copies']:.2f} |")
        if "host_synchronisations" in found:
            counts = ", ".join(f"{method} {n}" for method, n in found["host_synchronisations"].items())
            lines += ["", f"Host synchronisations a step: {counts}."]
    return "\n".join(lines) + "\n"


def about_this_run(args: argparse.Namespace, command: str) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else None
    return {
        "date": datetime.date.today().isoformat(),
        "machine": gpu or f"{os.cpu_count()} CPU cores, {cpu_model()}",
        "torch": torch.__version__,
        "precision": "float16 autocast" if args.amp else "float32",
        "threads": torch.get_num_threads(),
        "rounds": args.rounds,
        "command": command,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--amp", action="store_true", help="float16 autocast and a GradScaler (cuda)")
    parser.add_argument("--profile", action="store_true", help="count host synchronisations (cuda)")
    parser.add_argument("--networks", nargs="+", choices=["resnet18", "genesis"], default=["resnet18", "genesis"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=1, help="steps a round")
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--batch-2d", type=int, default=64)
    parser.add_argument("--batch-3d", type=int, default=1)
    parser.add_argument("--width", type=int, default=64, help="of the Genesis U-Net; 64 is the original")
    parser.add_argument("--output", type=Path, help="JSON file; the table goes beside it as .md")
    args = parser.parse_args()
    command = " ".join(["python benchmarks/step_cost.py", *given_options(parser, args)])
    results: dict[str, Any] = {"about": about_this_run(args, command), "networks": {}}
    for name in SETTINGS:
        if SETTINGS[name]["blocks"].split("_")[0] in args.networks:
            results["networks"][name] = measure(name, args)
            output = args.output or HERE / "results" / f"step_cost_{args.device}{'_amp' if args.amp else ''}.json"
            output.write_text(json.dumps(results, indent=1) + "\n")
            output.with_suffix(".md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
