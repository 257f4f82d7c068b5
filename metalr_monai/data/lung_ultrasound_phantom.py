"""Generated lung ultrasound of a convex probe, in three classes and in the POCUS frame layout: for tests and demos.

A video is a chest (wall, ribs, probe, machine) that no class differs in, and the findings of its class:

- regular: a thin, smooth pleural line and its reverberations, the equidistant A-lines; at times a single B-line.
- covid19: an uneven, broken pleural line; B-lines, which run from it along the beam to the bottom and wipe out the
  A-lines; at times small consolidations under the pleura.
- pneumonia: a large consolidation, of the texture of an organ, with bright air bronchograms and a ragged deep border;
  at times B-lines beside it.

Brightness by depth and the histogram are adjusted in every video to curves drawn without regard to its class, as a
machine's automatic gain would: the class lies in the shapes alone. Lengths are in mm, angles in radians, time in s.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates
from tqdm import tqdm

from ..errors import OptionError
from ..files import atomic_path
from .phantom_arguments import check_int, empty_folder
from .ultrasound_image import (
    GreyMap,
    Speckle,
    Waves,
    bell,
    decibels,
    smooth_step,
    target_levels,
    time_gain,
)

Array = NDArray[Any]
Generator = np.random.Generator

CLASSES = ("covid19", "pneumonia", "regular")  # in the order of their labels
PREFIXES = {"covid19": "Cov", "pneumonia": "Pneu", "regular": "Reg"}
MIN_SIZE = 32
FRAME_STEP = 6  # of the video's frames, one in six is kept, as in the published frames
FRAME_RATE = 18.0  # frames per second


def write_pocus_phantoms(
    folder: str | os.PathLike[str],
    videos_per_class: int = 40,
    frames_per_video: int = 12,
    *,
    size: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> list[Path]:
    """Write `covid19/Cov-Phantom+(1).gif_frame0.jpg` and so on: the layout of the published POCUS frames.

    Args:
        folder: is made if it is missing; must be empty.
        videos_per_class: number of videos in each of the three classes, ≥ 1.
        frames_per_video: number of frames kept of each video, ≥ 1; they are numbered 0, 6, 12, …
        size: height and width in pixels, ≥ 32.
        seed: a file depends on `seed`, `size` and its name only, not on how many are written.
        progress: show a bar with the time left on standard error.

    Returns:
        The files' paths, by class, video and frame.

    Raises:
        OptionError: a value outside its range, or `folder` is not an empty folder.
    """
    check_int("videos_per_class", videos_per_class, 1, "the number of videos to write for each class")
    check_int("frames_per_video", frames_per_video, 1, "the number of frames to write for each video")
    _check(size, seed)
    folder = empty_folder(folder, CLASSES)
    videos = [(name, number) for name in CLASSES for number in range(1, videos_per_class + 1)]
    paths = []
    with tqdm(total=len(videos) * frames_per_video, desc="Phantoms", unit="frame", disable=not progress) as bar:
        for name, number in videos:
            video = _Video(name, number, size, seed)
            for k in range(frames_per_video):
                path = folder / name / f"{PREFIXES[name]}-Phantom+({number}).gif_frame{k * FRAME_STEP}.jpg"
                with atomic_path(path) as temporary:
                    Image.fromarray(video.frame(k)).save(temporary, format="JPEG", quality=video.quality)
                paths.append(path)
                bar.update()
    return paths


def lung_video(name: str, number: int = 1, frames: int = 12, *, size: int = 128, seed: int = 0) -> NDArray[np.uint8]:
    """The kept frames of one video, (frames, size, size) in 0 … 255; the same arguments give the same array.

    Args:
        name: "covid19", "pneumonia" or "regular".
        number: the video in its class, ≥ 0.
        frames: how many, ≥ 1; the first ones do not depend on it.
        size: height and width in pixels, ≥ 32.
        seed: the series, ≥ 0.

    Raises:
        OptionError: a value outside its range.

    Example:
        >>> video = lung_video("regular", frames=2, size=48)
        >>> video.shape, video.dtype.name
        ((2, 48, 48), 'uint8')
    """
    if name not in CLASSES:
        raise OptionError(f"name is {name!r}; expected one of {', '.join(CLASSES)}.")
    check_int("number", number, 0, "the number of a video in its class")
    check_int("frames", frames, 1, "the number of frames")
    _check(size, seed)
    video = _Video(name, number, size, seed)
    return np.stack([video.frame(k) for k in range(frames)])


def _check(size: int, seed: int) -> None:
    check_int("size", size, MIN_SIZE, "the height and width in pixels")
    check_int("seed", seed, 0, "a seed")


class _Beams:
    """The polar grid of a convex probe, and where in it the pixels of the picture lie.

    Attributes:
        r: (samples, 1) depth along the beam from the probe's surface.
        angle: (1, beams), 0 in the middle.
        depth: (samples, beams) depth in the body's layers, which follow the probe's curve in part only.
    """

    def __init__(self, rng: Generator, size: int) -> None:
        samples, beams = round(1.2 * size), round(1.2 * size)
        self.reach = float(rng.uniform(85, 150))  # depth of the picture
        self.radius = float(rng.uniform(40, 65))  # of the probe's surface
        half = float(rng.uniform(0.42, 0.62))
        self.r = np.linspace(0, self.reach, samples, dtype=np.float32)[:, None]
        self.angle = np.linspace(-half, half, beams, dtype=np.float32)[None]
        flat, lean = float(rng.uniform(0, 0.6)), float(rng.uniform(-0.12, 0.12))
        planar = (self.radius + self.r) * np.cos(self.angle) - self.radius
        self.depth = (1 - flat) * self.r + flat * planar + lean * self.radius * self.angle
        self._place(rng, size, half)

    def _place(self, rng: Generator, size: int, half: float) -> None:
        """The fan fills the picture more or less, off its middle, a few degrees turned; at times it is cut off."""
        top = self.radius * np.cos(half)
        height = self.radius + self.reach - top
        width = 2 * (self.radius + self.reach) * np.sin(half)
        scale = max(height, width) / size * rng.uniform(0.78, 1.08)  # mm a pixel
        turn = rng.uniform(-0.1, 0.1)
        row, column = np.indices((size, size), dtype=np.float32) - (size - 1) / 2
        x = scale * (column + rng.uniform(-0.06, 0.06) * size)
        y = scale * (row + rng.uniform(-0.06, 0.06) * size) + top + height / 2
        distance, angle = np.hypot(x, y), np.arctan2(x, y) + turn
        samples, beams = self.depth.shape
        along = (distance - self.radius) / self.reach * (samples - 1)
        across = (angle + half) / (2 * half) * (beams - 1)
        self.inside = (along >= 0) & (along <= samples - 1) & (across >= 0) & (across <= beams - 1)
        self._coordinates = np.stack([along[self.inside], across[self.inside]])

    def scan_converted(self, field: Array) -> Array:
        """Values of a field on the grid at the pixels inside the fan, (pixels,)."""
        values: Array = map_coordinates(field, self._coordinates, order=1)
        return values


class _Chest:
    """What no class differs in: the wall above the pleura, ribs with their shadows, breathing."""

    def __init__(self, rng: Generator, beams: _Beams) -> None:
        self.pleura = float(rng.uniform(17, 34))  # depth
        self._texture, self._bend = Waves(rng, 25, 9), Waves(rng, 70)
        self._fat = float(rng.uniform(0.25, 0.55))  # share of the wall; muscle below
        self._levels = rng.uniform((-30, -26), (-20, -16))  # dB, fat and muscle
        self._fibres = float(rng.uniform(2.5, 4.5))
        shares = np.concatenate([[self._fat], rng.uniform(0.12, 0.9, rng.integers(2, 6))])
        self._sheets = [(share, rng.uniform(0.4, 1.0), rng.uniform(-16, -5)) for share in shares.tolist()]
        half = (beams.radius + self.pleura) * float(beams.angle.max())
        sides = [side for side in (-1, 1) if rng.random() < 0.6]
        self._ribs = [(side * half * rng.uniform(0.62, 1.05), rng.uniform(6, 10), rng.uniform(5, 9)) for side in sides]
        self._slide, self._lift = float(rng.uniform(3, 10)), float(rng.uniform(0.5, 2))
        self._period, self._start = float(rng.uniform(2.5, 5)), float(rng.uniform(0, 2 * np.pi))
        self._drift = float(rng.uniform(-1.5, 1.5))  # of the hand that holds the probe, mm/s

    def breath(self, time: float) -> tuple[float, float]:
        """How far the lung has slid along the wall, and how far the pleura has sunk."""
        phase = 2 * np.pi * time / self._period + self._start
        return self._slide * float(np.sin(phase)) + self._drift * time, self._lift * float(np.sin(phase + 0.6))

    def wall(self, beams: _Beams, place: Array, sunk: float) -> Array:
        """Amplitude above the pleura: skin, fat, muscle and the sheets between them."""
        share = beams.depth / (self.pleura + sunk) + 0.05 * self._bend(place)
        fat, muscle = self._levels.tolist()
        level = fat + (muscle - fat) * smooth_step(self._fat - share, 0.03)
        fibres = np.cos(2 * np.pi * beams.depth / self._fibres + 3 * self._texture(place, beams.depth / 2))
        level = level + 3.5 * self._texture(place, beams.depth) + 3 * fibres * (share > self._fat)
        amplitude: Array = 10 ** (level / 20)
        for at, thickness, gain in self._sheets:
            amplitude = amplitude + 10 ** (gain / 20) * bell(share - at, thickness / self.pleura)
        amplitude = amplitude + 0.8 * smooth_step(beams.r - 1.2, 0.5)
        return amplitude

    def cast_shadows(self, amplitude: Array, beams: _Beams, place: Array) -> Array:
        """With the ribs: a bright, rounded surface and the dark beneath it."""
        for middle, half, above in self._ribs:
            across = place - middle
            surface = self.pleura - above + across**2 / (2.2 * half)
            covered = smooth_step(np.abs(across) - half, 1.0)
            amplitude = amplitude * (1 - 0.96 * covered * smooth_step(surface - beams.depth, 1.0))
            amplitude = amplitude + 0.9 * covered * bell(beams.depth - surface, 1.1)
        return amplitude


@dataclass(frozen=True)
class _BLine:
    """`place` and `width` at the pleura; `gain` in dB; ring-down bands of `pitch`."""

    place: float
    width: float
    gain: float
    pitch: float

    @staticmethod
    def draw(rng: Generator, span: float, width: tuple[float, float]) -> _BLine:
        place = rng.uniform(-0.85 * span, 0.85 * span)
        return _BLine(float(place), float(rng.uniform(*width)), float(rng.uniform(-15, -7)), float(rng.uniform(3, 7)))


class _Lung:
    """The pleural line and what lies below it: A-lines, B-lines, consolidations, as the class has them."""

    def __init__(self, rng: Generator, name: str, beams: _Beams, chest: _Chest) -> None:
        self._pleura = chest.pleura
        self._radius = beams.radius + chest.pleura
        span = self._radius * float(beams.angle.max())
        ill = name == "covid19"
        self._rough = float(rng.uniform(0.4, 1.2) if ill else rng.uniform(0.05, 0.3))
        self._thick = float(rng.uniform(0.9, 2.0) if ill else rng.uniform(0.7, 1.3))
        self._torn = float(rng.uniform(0.2, 0.7)) if ill else 9.0  # the line is gone where the waves are higher
        self._uneven, self._tears, self._slope = Waves(rng, 14), Waves(rng, 18), Waves(rng, 110)
        self._haze, self._cloud = float(rng.uniform(-44, -36)), Waves(rng, 40, 40)
        self._a_gain, self._a_fall = float(rng.uniform(-20, -12)), float(rng.uniform(4, 8))
        self._a_count = int(rng.integers(2, 6))
        few = int(rng.random() < 0.35)
        count = {"covid19": int(rng.integers(3, 8)), "pneumonia": int(rng.integers(0, 3)), "regular": few}[name]
        widths = (0.8, 4.0) if ill else (0.8, 2.5)
        self._b_lines = [_BLine.draw(rng, span, widths) for _ in range(count)]
        self._flicker = rng.uniform(0, 2 * np.pi, count)
        pockets = int(rng.integers(0, 4)) if ill else 0
        self._pockets = [_Consolidation(rng, span, (3, 7), (4, 9), 0) for _ in range(pockets)]
        if name == "pneumonia":
            self._pockets = [_Consolidation(rng, span, (16, 40), (22, 55), int(rng.integers(6, 14)))]

    def pleura(self, place: Array, sunk: float) -> Array:
        """Depth of the pleural line for each beam."""
        return self._even(place, sunk) + self._rough * self._uneven(place)

    def _even(self, place: Array, sunk: float) -> Array:
        depth: Array = self._pleura + sunk + self._slope(place)
        return depth

    def amplitude(self, beams: _Beams, place: Array, sunk: float, time: float) -> Array:
        below = beams.depth - self.pleura(place, sunk)
        level = self._haze - 0.06 * below + 3 * self._cloud(place, beams.depth)
        whole = smooth_step(self._tears(place) - self._torn, 0.12)
        lung = 10 ** (level / 20) + self._a_lines(beams, self._even(place, sunk)) * whole
        line = (0.12 + 0.88 * whole) * bell(below, self._thick)
        streaks, wiped = self._streaks(place, below, time)
        lung = lung * (1 - wiped) + streaks
        for pocket in self._pockets:
            lung, line = pocket.painted(lung, line, place, below)
        under: Array = lung * smooth_step(-below, 0.6) + line
        return under

    def _a_lines(self, beams: _Beams, pleura: Array) -> Array:
        """Echoes that went to and fro between probe and pleura: at its depth times 2, 3, …"""
        lines: Array = np.zeros((), np.float32)
        for n in range(1, self._a_count + 1):
            gain = 10 ** ((self._a_gain - self._a_fall * (n - 1)) / 20)
            lines = lines + gain * bell(beams.depth - (n + 1) * pleura, self._thick * (0.8 + 0.2 * n))
        return lines

    def _streaks(self, place: Array, below: Array, time: float) -> tuple[Array, Array]:
        """Amplitude of the B-lines, and the share of what lies behind that they wipe out."""
        total, clear = np.zeros_like(below), np.ones_like(below)
        under = smooth_step(-below, 0.8)
        for line, flicker in zip(self._b_lines, self._flicker.tolist(), strict=True):
            profile = bell(place - line.place, line.width * (1 + 0.004 * np.maximum(below, 0))) * under
            gain = line.gain + 2 * np.sin(4 * time + flicker) + 1.5 * np.cos(2 * np.pi * below / line.pitch)
            total = np.maximum(total, profile * 10 ** (gain / 20))
            clear = clear * (1 - 0.95 * np.minimum(1.6 * profile, 1))
        return total, 1 - clear


class _Consolidation:
    """Lung without air: it shows the texture of an organ, bright bronchi that still hold air, a ragged deep border."""

    def __init__(
        self, rng: Generator, span: float, half: tuple[float, float], deep: tuple[float, float], bronchi: int
    ) -> None:
        self._half, self._deep = float(rng.uniform(*half)), float(rng.uniform(*deep))
        self._middle = float(rng.uniform(-0.6, 0.6) * span)
        self._ragged, self._tails = Waves(rng, 13, terms=12), Waves(rng, 8, terms=16)
        self._grain = Waves(rng, 12, 9, terms=8)
        self._level = float(rng.uniform(-31, -23))
        self._bronchi = [self._bronchus(rng) for _ in range(bronchi)]

    def _bronchus(self, rng: Generator) -> tuple[Array, Array, float, float]:
        """From near the hilum, deep in the middle, outwards; start, end, radius, gain in dB."""
        along = rng.uniform(0.2, 0.8)
        start = np.array((rng.uniform(-0.6, 0.6) * self._half, (1 - along) * self._deep))
        toward = np.array((start[0] * 0.9, start[1] - 1.1 * self._deep))
        toward *= rng.uniform(4, 14) / np.linalg.norm(toward)
        end = start + toward + rng.normal(0, 3, 2)
        return start, end, float(rng.uniform(0.5, 1.1)), float(rng.uniform(-9, -3))

    def painted(self, lung: Array, line: Array, place: Array, below: Array) -> tuple[Array, Array]:
        """The lung's amplitude and the pleural line's, with the consolidation in them."""
        across = place - self._middle
        bottom = self._deep * np.sqrt(np.maximum(1 - (across / self._half) ** 2, 0))
        bottom = bottom * (1 + 0.1 * self._ragged(place)) + 0.025 * self._deep * self._tails(place)
        within = smooth_step(below - bottom, 0.8) * smooth_step(np.abs(across) - self._half, 0.6)
        tissue = 10 ** ((self._level + 2.5 * self._grain(place, below)) / 20)
        for start, end, radius, gain in self._bronchi:
            tissue = tissue + 10 ** (gain / 20) * bell(_to_segment(across, below, start, end), radius)
        covered = smooth_step(np.abs(across) - 0.8 * self._half, 0.12 * self._half)
        border = covered * bell(below - bottom, 1.8) * 10 ** ((-21 + 4 * self._ragged(place)) / 20)
        fade = 0.25 * np.maximum(below - bottom, 0)
        tails = covered * smooth_step(bottom - below, 1.0) * 10 ** ((-26 + 4 * self._tails(place) - fade) / 20)
        behind = lung * (1 - 0.8 * covered * smooth_step(bottom - below, 1.0)) + tails
        return behind * (1 - within) + tissue * within + border, line * (1 - 0.55 * within)


class _Video:
    """One sweep: a chest, a lung and the machine's settings, which all its frames share."""

    def __init__(self, name: str, number: int, size: int, seed: int) -> None:
        self._key = [seed, CLASSES.index(name), number]
        # One stream for each part: neither the class nor the number of pixels moves what the other parts draw.
        body, findings, machine, marks, scatter, first = np.random.default_rng(self._key).spawn(6)
        self._beams = _Beams(body, size)
        self._chest = _Chest(body, self._beams)
        self._lung = _Lung(findings, name, self._beams, self._chest)
        self._marks = _marks(marks, size)
        self.quality = int(machine.integers(70, 96))  # of the JPEG files
        self._renewed = float(machine.uniform(0.15, 0.5))
        self._noise = float(machine.uniform(-58, -48))  # dB, of the receiver
        self._beam_gain = 1.5 * Waves(machine, 0.5)(self._beams.angle)  # contact of the probe with the skin, dB
        samples, beams = self._beams.depth.shape
        along = machine.uniform(0.32, 0.6) / self._beams.reach * samples  # mm to samples
        across = machine.uniform(0.005, 0.010) / float(np.ptp(self._beams.angle)) * beams
        focus, contrast = machine.uniform((0.2, 0.5), (0.5, 0.9)).tolist()
        self._speckle = Speckle(scatter, (samples, beams), (max(along, 0.5), max(across, 0.5)), focus, contrast)
        self._gain = time_gain(self._scene(0.0)[0], target_levels(machine, samples), 10 / self._beams.reach)
        self._grey = GreyMap(machine, self._decibels(0.0, first))

    def _scene(self, time: float) -> tuple[Array, Array]:
        """Amplitude without speckle, and by how many beams the tissue has moved."""
        beams, (slid, sunk) = self._beams, self._chest.breath(time)
        radius = beams.radius + self._chest.pleura
        fixed = radius * beams.angle
        place = fixed - slid
        pleura = self._lung.pleura(place, sunk)
        wall = self._chest.wall(beams, fixed, sunk) * smooth_step(beams.depth - pleura, 0.6)
        amplitude = wall + self._lung.amplitude(beams, place, sunk, time)
        amplitude = self._chest.cast_shadows(amplitude, beams, fixed)
        moved = round(slid / radius / float(beams.angle[0, 1] - beams.angle[0, 0]))
        return amplitude + 10 ** (self._noise / 20), np.where(beams.depth > pleura, moved, 0)

    def _decibels(self, time: float, rng: Generator) -> Array:
        amplitude, moved = self._scene(time)
        level = decibels(amplitude * self._speckle.amplitude(rng, moved, self._renewed))
        return self._beams.scan_converted(level + self._gain + self._beam_gain)

    def frame(self, k: int) -> NDArray[np.uint8]:
        """The kept frame `k`, (size, size); it depends on no other frame."""
        rng = np.random.default_rng([*self._key, k])
        picture = self._marks.copy()
        picture[self._beams.inside] = self._grey(self._decibels(k * FRAME_STEP / FRAME_RATE, rng))
        grey: NDArray[np.uint8] = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
        return grey


def _marks(rng: Generator, size: int) -> Array:
    """The picture around the fan: black or nearly so, at times with a ruler, a grey bar and blocks of text."""
    picture = np.full((size, size), rng.integers(0, 14), np.float32)
    bright, unit = float(rng.integers(110, 230)), max(size // 64, 1)
    if rng.random() < 0.5:
        column = int(rng.choice([0, size - 3 * unit]))
        for row in range(int(rng.integers(0, size // 8)), size, size // int(rng.integers(8, 16))):
            picture[row : row + unit, column : column + 3 * unit] = bright
    if rng.random() < 0.4:
        column, top = int(rng.choice([unit, size - 3 * unit])), int(rng.integers(size // 10, size // 4))
        rows = np.linspace(240, 10, size // 3, dtype=np.float32)[:, None]
        picture[top : top + size // 3, column : column + 2 * unit] = rows
    if rng.random() < 0.4:
        row, column = int(rng.choice([unit, size - 4 * unit])), int(rng.integers(unit, size // 2))
        letters = np.repeat(np.repeat(rng.random((3, 12)) < 0.55, unit, axis=0), unit, axis=1)
        picture[row : row + 3 * unit, column : column + 12 * unit][letters] = bright
    return picture


def _to_segment(x: Array, y: Array, start: Array, end: Array) -> Array:
    """Distance from (x, y) to the segment."""
    (ax, ay), (sx, sy) = (end - start).tolist(), start.tolist()
    x, y = x - sx, y - sy
    along = np.clip((x * ax + y * ay) / (ax * ax + ay * ay + 1e-6), 0, 1)
    distance: Array = np.hypot(x - along * ax, y - along * ay)
    return distance
