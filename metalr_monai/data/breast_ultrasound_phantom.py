"""Generated breast ultrasound of a linear probe with the lesions outlined, in the BUSI layout: for tests and demos.

The breast is skin, fat in lobules between bright ligaments, gland, and the muscle of the chest. No class differs in it.

- benign: one or two oval lesions, wider than tall, with a smooth outline; often brighter tissue behind them.
- malignant: an irregular lesion with angular or spiculated margins and a bright halo; often a shadow behind it.
- normal: no lesion.

Brightness by depth and the histogram are adjusted in every picture to curves drawn without regard to its class. Lengths
are in mm.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree
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

CLASSES = ("benign", "malignant", "normal")
MIN_SIZE = 32
SECOND_LESION_SHARE = 0.15  # of the benign pictures
TYPICAL_SHARE = 0.75  # of the lesions change the brightness behind them as their class is known for


@dataclass(frozen=True)
class BreastPhantom:
    """One generated picture.

    Attributes:
        image: (H, W) uint8, grey values 0 … 255.
        masks: (H, W) uint8 each, 255 in the lesion and 0 elsewhere: one for each lesion, a blank one where is none.
    """

    image: NDArray[np.uint8]
    masks: tuple[NDArray[np.uint8], ...]


def write_busi_phantoms(
    folder: str | os.PathLike[str],
    images_per_class: int = 100,
    *,
    size: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> list[Path]:
    """Write `benign/benign (1).png`, `benign/benign (1)_mask.png` and so on: the layout of BUSI.

    The mask of a second lesion is `benign (1)_mask_1.png`; normal pictures have a blank mask.

    Args:
        folder: is made if it is missing; must be empty.
        images_per_class: number of pictures in each of the three classes, ≥ 1.
        size: width in pixels, ≥ 32; the height differs from picture to picture, 0.7 to 1 times the width.
        seed: a file depends on `seed`, `size` and its name only, not on how many are written.
        progress: show a bar with the time left on standard error.

    Returns:
        The pictures' paths (not the masks'), by class and number.

    Raises:
        OptionError: a value outside its range, or `folder` is not an empty folder.
    """
    check_int("images_per_class", images_per_class, 1, "the number of pictures to write for each class")
    _check(size, seed)
    folder = empty_folder(folder, CLASSES)
    names = [(name, number) for name in CLASSES for number in range(1, images_per_class + 1)]
    paths = []
    for name, number in tqdm(names, desc="Phantoms", unit="image", disable=not progress):
        case = breast_phantom(name, number, size=size, seed=seed)
        path = folder / name / f"{name} ({number}).png"
        for k, mask in enumerate(case.masks):
            _write(path.with_name(f"{path.stem}_mask{f'_{k}' if k else ''}.png"), mask)
        _write(path, case.image)
        paths.append(path)
    return paths


def breast_phantom(name: str, number: int = 1, *, size: int = 128, seed: int = 0) -> BreastPhantom:
    """Picture `number` of a class; the same arguments give the same arrays.

    Args:
        name: "benign", "malignant" or "normal".
        number: the picture in its class, ≥ 0.
        size: width in pixels, ≥ 32.
        seed: the series, ≥ 0.

    Raises:
        OptionError: a value outside its range.

    Example:
        >>> case = breast_phantom("malignant", size=48)
        >>> case.image.shape[1], case.image.dtype.name, len(case.masks), int(case.masks[0].max())
        (48, 'uint8', 1, 255)
    """
    if name not in CLASSES:
        raise OptionError(f"name is {name!r}; expected one of {', '.join(CLASSES)}.")
    check_int("number", number, 0, "the number of a picture in its class")
    _check(size, seed)
    # One stream for each part: neither the class nor the number of pixels moves what the other parts draw.
    body, findings, machine = np.random.default_rng([seed, CLASSES.index(name), number]).spawn(3)
    breast = _Breast(body, size)
    lesions = _lesions(findings, name, breast)
    amplitude, masks = breast.amplitude, []
    for lesion in lesions:
        distance = lesion.distance(breast)
        masks.append(np.where(distance < 0, 255, 0).astype(np.uint8))
        amplitude = lesion.painted(amplitude, distance, breast)
    blank = np.zeros(amplitude.shape, np.uint8)
    return BreastPhantom(_picture(machine, amplitude, breast), tuple(masks) or (blank,))


def _check(size: int, seed: int) -> None:
    check_int("size", size, MIN_SIZE, "the width in pixels")
    check_int("seed", seed, 0, "a seed")


def _write(path: Path, picture: NDArray[np.uint8]) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


class _Breast:
    """Healthy tissue.

    Attributes:
        x, y: (1, W) and (H, 1), across the probe (0 in the middle) and depth.
        width, reach: of the picture.
        pixel: edge of a pixel.
        amplitude: (H, W), without speckle.
    """

    def __init__(self, rng: Generator, size: int) -> None:
        ratio = float(rng.uniform(0.7, 1.0))
        height = round(size * ratio)
        self.width = float(rng.uniform(36, 52))
        self.pixel = self.width / size
        self.reach = self.width * ratio
        self.x = ((np.arange(size, dtype=np.float32) + 0.5) * self.pixel - self.width / 2)[None]
        self.y = ((np.arange(height, dtype=np.float32) + 0.5) * self.pixel)[:, None]
        self.amplitude = self._tissue(rng) * self._shade(rng)

    def _tissue(self, rng: Generator) -> Array:
        bend = 0.04 * self.reach * Waves(rng, 60)(self.x)
        gland = self.reach * rng.uniform(0.12, 0.4) + bend + 1.2 * Waves(rng, 15)(self.x)
        muscle = self.reach * rng.uniform(0.66, 0.95) + bend * 0.6 + 0.8 * Waves(rng, 35)(self.x)
        skin = float(rng.uniform(1.0, 2.2))
        in_fat, in_muscle = smooth_step(self.y - gland, 0.7), smooth_step(muscle - self.y, 0.4)
        glandular = 10 ** (self._streaks(rng, rng.uniform(-22, -16), rng.uniform(3, 5), 3.0) / 20)
        fibres = 10 ** (self._streaks(rng, rng.uniform(-29, -24), 4.0, 1.8) / 20)
        tissue = glandular * (1 - in_fat) + self._fat(rng) * in_fat
        islands = smooth_step(1.1 - Waves(rng, 12, 12)(self.x / 2, self.y), 0.15)  # fat lobules in the gland
        tissue = tissue * (1 - 0.7 * islands)
        tissue = tissue * (1 - in_muscle) + fibres * in_muscle + 0.35 * bell(self.y - muscle, 0.5)
        covered = smooth_step(self.y - skin, 0.2)
        skinned: Array = tissue * (1 - covered) + 0.25 * covered + 0.5 * bell(self.y - skin, 0.25)
        return skinned

    def _streaks(self, rng: Generator, level: float, contrast: float, pitch: float) -> Array:
        """Level in dB of tissue in wavy layers, about `pitch` thick and some times as long."""
        warped = self.y + 1.5 * Waves(rng, 25, 25)(self.x, self.y)
        layers = contrast * Waves(rng, pitch, pitch, terms=14)(self.x / 6, warped)
        streaks: Array = level + layers + 2 * Waves(rng, 14, 14)(self.x, self.y)
        return streaks

    def _fat(self, rng: Generator) -> Array:
        """Dark lobules between bright, curved ligaments: the cells around random points and the walls between them."""
        lobe = float(rng.uniform(5, 9))
        count = max(int(self.width * self.reach / lobe**2), 4)
        points = rng.uniform((-self.width / 2, 0), (self.width / 2, 1.6 * self.reach), (count, 2))
        warped = 1.6 * self.y + 1.5 * Waves(rng, 12, 12)(self.x, self.y)
        places = np.stack(np.broadcast_arrays(self.x + 1.2 * Waves(rng, 9)(self.y), warped), axis=-1)
        near = cKDTree(points).query(places, k=2)[0].astype(np.float32)
        walls = bell(near[..., 1] - near[..., 0], 0.7) * 10 ** (rng.uniform(-16, -9) / 20)
        level = rng.uniform(-30, -24) + 2 * Waves(rng, 8, 8)(self.x, self.y)
        fat: Array = 10 ** (level / 20) + walls * smooth_step(-Waves(rng, 14, 14)(self.x, self.y), 0.8)
        return fat

    def _shade(self, rng: Generator) -> Array:
        """Shadows of ligaments and of poor contact: factors that set in at some depth and reach the bottom."""
        loss: Array = np.zeros((), np.float32)
        for _ in range(rng.integers(0, 4)):
            middle, half = rng.uniform(-0.5, 0.5) * self.width, rng.uniform(1, 5)
            onset = rng.uniform(0.05, 0.6) * self.reach
            loss = loss + rng.uniform(3, 12) * bell(self.x - middle, half) * smooth_step(onset - self.y, 3.0)
        factor: Array = 10 ** (-loss / 20)
        return factor


class _Lesion:
    """An outline around a centre, its inside, and what it does to the sound that passes through it."""

    def __init__(self, rng: Generator, malignant: bool, centre: tuple[float, float], radius: float) -> None:
        self._centre = centre
        longer = np.sqrt(rng.uniform(0.7, 1.4) if malignant else rng.uniform(1.15, 2.2))
        self._radii = float(radius * longer), float(radius / longer)
        self._tilt = float(rng.uniform(-0.35, 0.35))
        orders = np.arange(2, 12)
        strength = rng.uniform(0.16, 0.28) if malignant else rng.uniform(0.0, 0.06)
        heights = rng.normal(size=len(orders)) / (orders**0.6 if malignant else orders**1.5)
        self._heights = strength * heights / np.linalg.norm(heights)
        self._orders, self._phases = orders, rng.uniform(0, 2 * np.pi, len(orders))
        spikes = int(rng.integers(0, 9)) if malignant else 0
        self._spikes = list(zip(rng.uniform(0, 2 * np.pi, spikes), rng.uniform(0.1, 0.35, spikes), strict=True))
        self._level = float(rng.uniform(-42, -30))  # dB
        self._edge = float(rng.uniform(0.5, 1.3) if malignant else rng.uniform(0.2, 0.7))
        self._texture = Waves(rng, 4, 4, terms=9)
        self._halo = float(rng.uniform(-20, -12) if malignant else rng.uniform(-24, -14))
        self._halo_width = float(rng.uniform(1.0, 2.2) if malignant else rng.uniform(0.25, 0.5))
        loss = rng.uniform(0.5, 1.6) if malignant else -rng.uniform(0.3, 0.9)  # dB/mm against its surroundings
        self._loss = float(loss if rng.random() < TYPICAL_SHARE else rng.uniform(-0.2, 0.3))
        self._grains = rng.uniform(-0.6, 0.6, (int(rng.integers(0, 6)) if malignant else 0, 2))  # calcifications

    def distance(self, breast: _Breast) -> Array:
        """About how far outside the outline each pixel lies, negative inside."""
        x, y = breast.x - self._centre[0], breast.y - self._centre[1]
        c, s = np.cos(self._tilt), np.sin(self._tilt)
        u, v = (c * x + s * y) / self._radii[0], (c * y - s * x) / self._radii[1]
        angle, reach = np.arctan2(v, u), np.hypot(u, v)
        outline = np.ones_like(angle)
        for order, height, phase in zip(self._orders, self._heights, self._phases, strict=True):
            outline += height * np.cos(order * angle + phase)
        for at, height in self._spikes:
            outline += height * np.exp((np.cos(angle - at) - 1) / 0.006)
        away: Array = (reach - np.maximum(outline, 0.3)) * float(np.sqrt(self._radii[0] * self._radii[1]))
        return away.astype(np.float32)

    def painted(self, amplitude: Array, distance: Array, breast: _Breast) -> Array:
        within = smooth_step(distance, self._edge)
        inside = 10 ** ((self._level + 3 * self._texture(breast.x, breast.y)) / 20)
        for across, along in self._grains.tolist():
            x, y = self._centre[0] + across * self._radii[0], self._centre[1] + along * self._radii[1]
            inside = inside + 0.15 * bell(np.hypot(breast.x - x, breast.y - y), 0.3)
        halo = 10 ** (self._halo / 20) * bell(np.maximum(distance, 0), self._halo_width) * (1 - within)
        loss = self._loss * np.cumsum(within, axis=0) * breast.pixel
        behind = 10 ** (-np.clip(loss, -9, 18) / 20)
        painted: Array = (amplitude + halo) * behind * (1 - within) + inside * within
        return painted


def _lesions(rng: Generator, name: str, breast: _Breast) -> list[_Lesion]:
    if name == "normal":
        return []
    count = 1 + int(name == "benign" and rng.random() < SECOND_LESION_SHARE)
    sides = rng.permutation([-1, 1])  # two lesions lie on two sides
    lesions = []
    for side in sides[:count].tolist():
        radius = breast.reach * rng.uniform(0.09, 0.21) / count
        spread = rng.uniform(0.14, 0.3) * side if count == 2 else rng.uniform(-0.3, 0.3)
        centre = float(breast.width * spread), float(breast.reach * rng.uniform(0.28, 0.62))
        lesions.append(_Lesion(rng, name == "malignant", centre, float(radius)))
    return lesions


def _picture(rng: Generator, amplitude: Array, breast: _Breast) -> NDArray[np.uint8]:
    """Speckle, the receiver's noise, gain by depth, grey curve, at times a label in a corner."""
    scatter = rng.spawn(1)[0]
    rows, columns = amplitude.shape
    grain = max(rng.uniform(0.1, 0.2) / breast.pixel, 0.5), max(rng.uniform(0.2, 0.4) / breast.pixel, 0.5)
    focus, contrast = rng.uniform((0.3, 0.4), (0.6, 0.8)).tolist()
    speckle = Speckle(scatter, (rows, columns), grain, focus, contrast)
    noisy = amplitude + 10 ** (rng.uniform(-60, -50) / 20)
    gain = time_gain(noisy, target_levels(rng, rows), 0.12)
    level = decibels(noisy * speckle.amplitude(scatter, np.zeros(1, int), 0.0)) + gain
    grey = GreyMap(rng, level)(level)
    if rng.random() < 0.4:
        unit = max(columns // 96, 1)
        letters = np.repeat(np.repeat(rng.random((3, 6)) < 0.55, unit, axis=0), unit, axis=1)
        grey[unit : 4 * unit, unit : 7 * unit][letters] = rng.uniform(120, 230)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
