"""A main job from end to end, on generated images: what `make demo` runs. A few minutes on two cores, no GPU.

    python examples/demo.py demo_output
    python examples/demo.py demo_output --task lesion

Each step is a command that a user would type, and is printed before it runs. One seed of a generated task: it shows
what a user types and sees, and not which scheme is better.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from commands import run
from lesion import LESION
from liver import LIVER

TASKS = {"liver": LIVER, "lesion": LESION}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder that is made")
    parser.add_argument("--task", choices=TASKS, default="liver", help="liver: CT; lesion: ultrasound (default: liver)")
    words = parser.parse_args()
    output, task = words.output.absolute(), TASKS[words.task]
    if output.exists():
        sys.exit(f"{output} exists; name a new folder, or remove this one first.")
    began = time.monotonic()
    todo = task.steps(output)
    for number, step in enumerate(todo, 1):
        run(step, f"{number} of {len(todo)} · {step.title}")
    print(f"\n━━ Done in {time.monotonic() - began:.0f} s\n\n{task.summary(output)}")


if __name__ == "__main__":
    main()
