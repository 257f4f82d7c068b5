"""POCUS' raw videos and single images as the frame folders that `pocus` reads."""

from __future__ import annotations

import importlib
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from types import ModuleType

from PIL import Image, ImageSequence

from ..errors import DataError, OptionError, first_few
from ..files import atomic_path
from .pocus import CLASSES, VIDEOS, class_numbers, is_skipped
from .read_picture import UNREADABLE, open_picture

STILLS = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
SETTINGS = "frames.json"
NO_CLOCK = 25.0  # frames per second, where a raw stream states no times
GIF_FRAME = 0.1  # s, where a GIF states no duration: what viewers take


def write_pocus_frames(
    folder: str | PathLike[str], output: str | PathLike[str], *, rate: float = 3.0, most: int = 30
) -> Path:
    """Write frames of all videos, and the single images, of the convex probe as PNG into `output/<class>/`, once.

    A frame is called `<video file>_frame<k>.png`, k its number in the video. The folder appears when it is whole, with
    `frames.json` that tells settings and counts; where it exists already with the same settings, nothing is done.
    A video that is damaged after its first frame is cut short, with a warning.
    GIFs are read by Pillow, other videos by PyAV, which the extra `metalr_monai[video]` installs.

    Args:
        folder: the published `data` folder, or any folder with `pocus_videos/convex` and `pocus_images/convex`.
        output: the folder to write; its parent exists.
        rate: frames per second of video time; the published code's 3.
        most: frames of a video at most; the published code's 30.

    Returns:
        `output`.

    Raises:
        OptionError: a rate or number that is not positive.
        DataError: no videos or images; some cannot be read (all are tried before any is written) or have no class; two
            of one name; `output` was written with other settings; or PyAV is missing.
    """
    if not rate > 0 or most < 1:
        raise OptionError(f"rate is {rate!r} and most {most!r}; expected frames per second > 0 and at least 1 frame.")
    root, target = Path(folder).expanduser(), Path(output).expanduser()
    if target.exists():
        _refuse_other_settings(target, rate, most)
        return target
    sources = _sources(root)
    _refuse_unreadable(sources)
    counts: Counter[str] = Counter()
    damaged: list[str] = []
    with atomic_path(target) as unfinished:
        for path, class_name in sources.items():
            place = unfinished / class_name
            place.mkdir(parents=True, exist_ok=True)
            try:
                for number, frame in _sampled(path, rate, most):
                    name = path.stem if number is None else f"{path.name}_frame{number}"
                    frame.save(place / f"{name}.png")
                    counts[class_name] += 1
            except DataError as error:  # what came before the damage is kept
                damaged.append(str(error))
        settings = {
            "rate": rate,
            "most": most,
            "sources": len(sources),
            "images": dict(sorted(counts.items())),
            "cut_short": damaged,
        }
        (unfinished / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if damaged:
        warnings.warn(f"{len(damaged)} video(s) are damaged and were cut short: {first_few(damaged)}", stacklevel=2)
    return target


def _sources(root: Path) -> dict[Path, str]:
    """The videos and single images of the task, with their classes."""
    folders = {root / "pocus_videos/convex": VIDEOS, root / "pocus_images/convex": STILLS}
    found = [
        path
        for place, suffixes in folders.items()
        if place.is_dir()
        for path in sorted(place.rglob("*"))
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and not is_skipped(path, root)
    ]
    if not found:
        raise DataError(f"{root} has no videos in pocus_videos/convex and no images in pocus_images/convex.")
    classes = {path: class_numbers(path, root) for path in found}
    if odd := [path.name for path, numbers in classes.items() if len(numbers) != 1]:
        raise DataError(
            f"{root}: {len(odd)} file(s) tell no class by Cov-, Pneu- or Reg-: {first_few(odd)}. Rename them."
        )
    named = Counter(path.name if path.suffix.lower() in VIDEOS else path.stem for path in found)
    if twice := [name for name, count in named.items() if count > 1]:
        raise DataError(f"{root}: {len(twice)} names are there more than once: {first_few(twice)}. Keep one each.")
    return {path: CLASSES[numbers.pop()] for path, numbers in classes.items()}


def _refuse_other_settings(target: Path, rate: float, most: int) -> None:
    try:
        written = json.loads((target / SETTINGS).read_text(encoding="utf-8"))
        before = (written["rate"], written["most"])
    except (OSError, ValueError, TypeError, KeyError):
        raise DataError(f"{target} exists, but was not written here ({SETTINGS} is missing). Name another.") from None
    if before != (rate, most):
        raise DataError(
            f"{target} was written with rate={before[0]}, most={before[1]}, not rate={rate}, most={most}. Remove "
            f"it, or name another."
        )


def _refuse_unreadable(sources: dict[Path, str]) -> None:
    """Look at one frame of each before the long work begins."""
    problems = []
    for path in sources:
        try:
            next(_sampled(path, 1.0, 1))
        except StopIteration:
            problems.append(f"{path.name} has no frames.")
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError(f"{len(problems)} of {len(sources)} files cannot be read: {first_few(problems)}")


def _sampled(path: Path, rate: float, most: int) -> Iterator[tuple[int | None, Image.Image]]:
    """`rate` frames per second, with their numbers; a single image has none."""
    if path.suffix.lower() in STILLS:
        yield None, open_picture(path)
        return
    frames = _gif_frames(path) if path.suffix.lower() == ".gif" else _video_frames(path)
    taken = 0
    for number, (seconds, frame) in enumerate(frames):
        if seconds * rate >= taken - 1e-6:  # times are sums of floats
            yield number, frame
            taken += 1
        if taken == most:
            return


def _gif_frames(path: Path) -> Iterator[tuple[float, Image.Image]]:
    seconds = 0.0
    try:
        with Image.open(path) as gif:
            for frame in ImageSequence.Iterator(gif):
                yield seconds, frame.convert("RGB")
                seconds += frame.info.get("duration", 0) / 1000 or GIF_FRAME
    except UNREADABLE as error:
        raise DataError(f"{path.name} cannot be decoded: {error}.") from error


def _video_frames(path: Path) -> Iterator[tuple[float, Image.Image]]:
    av = _pyav(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path.name} has no video stream.")
            start = None
            for number, frame in enumerate(container.decode(video=0)):
                seconds = number / NO_CLOCK if frame.time is None else frame.time
                start = seconds if start is None else start
                yield seconds - start, frame.to_image()
    except av.error.FFmpegError as error:
        raise DataError(f"{path.name} cannot be decoded: {error}.") from error


def _pyav(path: Path) -> ModuleType:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise DataError(
            f"Reading {path.name} takes PyAV, which is not installed: pip install 'metalr_monai[video]'. (GIFs do not.)"
        ) from error
