"""Generated abdominal CT with the liver and its tumours labelled, in the LiTS layout: for tests, demos, benchmarks.

The anatomy is a set of signed distances (mm, negative inside) in patient space, painted one organ over the other on
voxel centres that the affine maps into that space, so any orientation, spacing or obliquity shows the same patient.

Patient space is NIfTI's RAS+ in mm: +x the patient's right, +y anterior, +z superior; the origin lies in front of the
spine, in the middle of the liver's height. Intensities are in HU.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from ..errors import OptionError
from ..files import atomic_path
from .phantom_arguments import empty_folder

Array = NDArray[Any]
Generator = np.random.Generator

MIN_SIZE = 16
ORIENTATIONS = ("RAS", "LPS", "LAS", "RPS", "LPI", "PLS")
OBLIQUE_SHARE, TUMOUR_SHARE = 0.3, 0.7
PLAIN_SHARE = {"mixed": 0.3, "plain": 1.0, "venous": 0.0}  # of the scans: without contrast medium
AIR, LUNG, FAT, FLUID, SKIN = -1000.0, -850.0, -105.0, 12.0, 10.0
BACKGROUND, LIVER, TUMOUR = 0, 1, 2


@dataclass(frozen=True)
class Phantom:
    """One generated scan.

    Attributes:
        image: (H, W, D) int16, HU in [-1024, 3071].
        label: (H, W, D) uint8, 0 background, 1 liver, 2 tumour (inside the liver).
        affine: (4, 4) float64, voxel indices to RAS+ mm.
    """

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]


def write_lits_phantoms(
    folder: str | os.PathLike[str],
    count: int = 131,
    *,
    size: Sequence[int] = (64, 64, 32),
    seed: int = 0,
    phase: str = "mixed",
    progress: bool = True,
) -> list[Path]:
    """Write `volume-N.nii.gz` (int16 HU) and `segmentation-N.nii.gz` (uint8), N = 0 … count-1: the layout of LiTS.

    Args:
        folder: is made if it is missing; must be empty.
        count: number of scans, ≥ 1.
        size: voxels (H, W, D), each ≥ 16; the field of view stays about 340 × 340 × 200 mm.
        seed: scan N depends on `seed`, N, `size` and `phase` only, not on `count`.
        phase: contrast medium: "plain" (none), "venous" (portal-venous), or "mixed" (3 in 10 plain).
        progress: show a bar with the time left on standard error.

    Returns:
        The volumes' paths, in the order of N.

    Raises:
        OptionError: a value outside its range, or `folder` is not an empty folder.
    """
    if not _is_int(count) or count < 1:
        raise OptionError(f"count is {count!r}; expected the number of phantoms to write, an int of 1 or more.")
    _check(size, seed, 0, phase)
    folder = empty_folder(folder)
    paths = []
    for number in tqdm(range(count), desc="Phantoms", unit="scan", disable=not progress):
        case = phantom(size, seed, number, phase)
        _write(folder / f"segmentation-{number}.nii.gz", case.label, case.affine)
        paths.append(_write(folder / f"volume-{number}.nii.gz", case.image, case.affine))
    return paths


def phantom(size: Sequence[int] = (64, 64, 32), seed: int = 0, number: int = 0, phase: str = "mixed") -> Phantom:
    """Scan `number` of the series `seed`; the same arguments give the same arrays.

    Args:
        size: voxels (H, W, D), each ≥ 16.
        seed: the series, ≥ 0.
        number: the scan in the series, ≥ 0.
        phase: "plain", "venous" or "mixed", as in `write_lits_phantoms`; the anatomy is the same in each.

    Raises:
        OptionError: a value outside its range.

    Example:
        >>> case = phantom((32, 32, 16), seed=1)
        >>> case.image.shape, case.image.dtype.name, int(case.label.max()) >= 1
        ((32, 32, 16), 'int16', True)
    """
    _check(size, seed, number, phase)
    rng = np.random.default_rng([seed, number])
    patient = _Patient.draw(rng, PLAIN_SHARE[phase])
    affine = _draw_affine(rng, size, patient)
    scan = _Scan(size, affine, patient, rng)
    for part in (_trunk, _spine_and_ribs, _thorax, _bowel, _left_organs, _liver, _right_organs, _tumours):
        part(scan, patient, rng)
    return Phantom(_scanned(scan.image, rng), scan.label, affine)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(size: Sequence[int], seed: int, number: int, phase: str) -> None:
    if not isinstance(size, (tuple, list)) or len(size) != 3 or not all(_is_int(n) and n >= MIN_SIZE for n in size):
        raise OptionError(
            f"size is {size!r}; expected three ints (H, W, D) of {MIN_SIZE} or more voxels, such as (64, 64, 32)."
        )
    for name, value in (("seed", seed), ("number", number)):
        if not _is_int(value) or value < 0:
            raise OptionError(f"{name} is {value!r}; expected an int of 0 or more.")
    if phase not in PLAIN_SHARE:
        raise OptionError(f"phase is {phase!r}; expected one of {', '.join(PLAIN_SHARE)}.")


def _write(path: Path, array: Array, affine: Array) -> Path:
    """Write the file beside its place and move it there when it is whole; the same array gives the same bytes."""
    file = nib.Nifti1Image(array, affine)
    file.header.set_xyzt_units("mm")
    file.set_qform(affine, code=1)
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(file.to_bytes(), compresslevel=1, mtime=0))
    return path


@dataclass(frozen=True)
class _Patient:
    """What differs from patient to patient beside the shapes: build (mm) and contrast phase (HU)."""

    scale: Array  # (3,), relative to a cavity of half axes 125 × 78 mm
    fat: float  # thickness under the skin, mm
    enhanced: bool  # portal-venous phase, else without contrast medium
    liver: float
    spleen: float
    kidney: float
    blood: float
    vessel: float  # of the liver
    muscle: float
    gut: float  # walls of stomach and bowel, pancreas

    @staticmethod
    def draw(rng: Generator, plain_share: float) -> _Patient:
        enhanced = bool(rng.random() >= plain_share)
        liver = rng.uniform(90, 130) if enhanced else rng.uniform(48, 64)
        return _Patient(
            scale=rng.uniform((0.92, 0.92, 0.9), (1.03, 1.05, 1.1)),
            fat=rng.uniform(8, 28),
            enhanced=enhanced,
            liver=liver,
            spleen=liver + rng.uniform(-15, 15),
            kidney=rng.uniform(150, 200) if enhanced else rng.uniform(28, 38),
            blood=rng.uniform(130, 175) if enhanced else rng.uniform(38, 48),
            vessel=liver + (rng.uniform(20, 45) if enhanced else -rng.uniform(5, 15)),
            muscle=rng.uniform(55, 72) if enhanced else rng.uniform(45, 58),
            gut=rng.uniform(75, 110) if enhanced else rng.uniform(35, 50),
        )


def _draw_affine(rng: Generator, size: Sequence[int], patient: _Patient) -> NDArray[np.float64]:
    """An orientation, sometimes a few degrees oblique; field of view 300-380 mm in plane, 160-240 mm along the body."""
    width = 2 * (137 + patient.fat) * patient.scale[0]
    in_plane = np.clip(width * rng.uniform(1.06, 1.16), 300, 380)
    extent = np.array([in_plane, in_plane, rng.uniform(160, 240)])
    top = 75 * patient.scale[2] + rng.uniform(10, 40)  # the dome of the diaphragm, and some lung above
    centre = np.array([rng.uniform(-4, 4), rng.uniform(-4, 4) - 14, top - extent[2] / 2])

    codes = ORIENTATIONS[rng.integers(len(ORIENTATIONS))]
    towards, sign = axcodes2ornt(codes).T  # per voxel axis: the patient's axis it runs along, and which way
    towards = towards.astype(int)
    axes = np.zeros((3, 3))
    axes[towards, range(3)] = sign
    spacing = extent[towards] / np.array(size)
    if rng.random() < OBLIQUE_SHARE:
        axis = rng.normal(size=3)
        angle = np.deg2rad(rng.uniform(3, 9)) * axis / np.linalg.norm(axis)
        axes = Rotation.from_rotvec(angle).as_matrix() @ axes
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return affine


class _Scan:
    """A voxel grid laid through the patient, and what has been painted on it.

    Attributes:
        x, y, z: (H, W, D) float32, mm in the patient of standard build.
        image: (H, W, D) float32, HU.
        label: (H, W, D) uint8.
        room: signed distance to the inside of the chest and belly wall, (H, W, D).
    """

    def __init__(self, size: Sequence[int], affine: Array, patient: _Patient, rng: Generator) -> None:
        voxels = np.indices(size, dtype=np.float32).reshape(3, -1)
        world = affine[:3, :3].astype(np.float32) @ voxels + affine[:3, 3:].astype(np.float32)
        self._edge = float(np.linalg.norm(affine[:3, :3], axis=0).mean())  # an edge is as wide as a voxel
        self.x, self.y, self.z = (world / patient.scale[:, None].astype(np.float32)).reshape(3, *size)
        bend = [4 * self.waves(rng, 170) for _ in range(3)]  # no two patients bend alike
        self.x, self.y, self.z = self.x + bend[0], self.y + bend[1], self.z + bend[2]
        self.image = np.full(size, AIR, np.float32)
        self.label = np.zeros(size, np.uint8)
        self.room = _superellipse(self.x, self.y, 125, 78) + 3 * self.waves(rng, 120)

    def waves(self, rng: Generator, wavelength: float) -> Array:
        """A smooth random field of mean 0 and variance 1 in the patient (whatever the grid); wavelength in mm."""
        field: Array = np.zeros_like(self.x)
        for _ in range(4):
            direction = rng.normal(size=3)
            number = 2 * np.pi / (wavelength * rng.uniform(0.7, 1.4) * np.linalg.norm(direction))
            kx, ky, kz = (direction * number).tolist()  # Python floats keep the arrays float32
            phase = self.x * kx
            phase += self.y * ky
            phase += self.z * kz
            phase += rng.uniform(0, 2 * math.pi)
            field += np.cos(phase, out=phase)
        field *= math.sqrt(0.5)
        return field

    def ellipsoid(self, centre: Sequence[float] | Array, radii: Sequence[float] | Array, turn: float = 0.0) -> Array:
        """Signed distance, to first order; `turn` in degrees about z, from +x to +y."""
        (cx, cy, cz), (rx, ry, rz) = map(float, centre), map(float, radii)
        x, y, z = self.x - cx, self.y - cy, self.z - cz
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        xx, yy, zz = ((c * x + s * y) / rx) ** 2, ((c * y - s * x) / ry) ** 2, (z / rz) ** 2
        level = np.sqrt(xx + yy + zz) + 1e-3
        slope = np.sqrt(xx / rx**2 + yy / ry**2 + zz / rz**2) + 1e-6
        distance: Array = (level - 1) * level / slope
        return distance

    def tube(self, x: Array | float, y: Array | float, radius: Array | float) -> Array:
        """Signed distance to a tube that runs along the body; its middle may move with z."""
        distance: Array = np.hypot(self.x - x, self.y - y) - radius
        return distance

    def segment(self, start: Array, end: Array, radius: float) -> Array:
        """Signed distance to a straight vessel from `start` to `end`, tapering to half its radius."""
        (ax, ay, az), (sx, sy, sz) = (end - start).tolist(), start.tolist()
        x, y, z = self.x - sx, self.y - sy, self.z - sz
        along = np.clip((x * ax + y * ay + z * az) / (ax * ax + ay * ay + az * az), 0, 1)
        away = (x - along * ax) ** 2 + (y - along * ay) ** 2 + (z - along * az) ** 2
        distance: Array = np.sqrt(away) - radius * (1 - along / 2)
        return distance

    def paint(self, distance: Array, hu: Array | float, label: int = BACKGROUND, within: Array | None = None) -> None:
        """Fill where `distance` is negative, mixing intensities over the voxels that the edge runs through."""
        share = np.clip(0.5 - distance / self._edge, 0, 1)
        if within is not None:
            share *= within
        self.image += share * (hu - self.image)
        self.label[share > 0.5] = label


def _superellipse(x: Array, y: Array, a: float, b: float) -> Array:
    """Radial signed distance to |x/a|^n + |y/b|^n = 1 with n = 2.3, rounder than a box and fuller than an ellipse."""
    level = (np.abs(x / a) ** 2.3 + np.abs(y / b) ** 2.3) ** (1 / 2.3)
    distance: Array = np.hypot(x, y) * (1 - 1 / np.maximum(level, 1e-3))
    return distance


def _smooth_min(a: Array, b: Array, width: float) -> Array:
    """The union of two shapes with a fillet of about `width` mm."""
    h = np.maximum(width - np.abs(a - b), 0) / width
    union: Array = np.minimum(a, b) - h * h * (width / 4)
    return union


def _trunk(scan: _Scan, patient: _Patient, rng: Generator) -> None:
    """Table, skin, fat, muscle wall (thick beside the spine) and the fat between the organs."""
    behind = np.clip(-scan.y / (np.hypot(scan.x, scan.y) + 1), 0, 1) ** 2
    wall = scan.room - (11 + 26 * behind)
    skin = wall - patient.fat * (1 + 0.1 * scan.waves(rng, 200)) - 3
    table = np.maximum(np.abs(scan.y + 128 + patient.fat - scan.x**2 / 900) - 4, np.abs(scan.x) - 190)
    scan.paint(table, -500)
    scan.paint(skin, SKIN)
    scan.paint(skin + 3, FAT)
    scan.paint(wall, patient.muscle + 6 * scan.waves(rng, 40))
    seams = np.abs(scan.waves(rng, 60)) * 9 - 1.5  # fat between the muscles of the back
    scan.paint(np.maximum.reduce([seams, wall + 4, 6 - scan.room, scan.y + 60]), FAT)
    scan.paint(scan.room, FAT + 10 + 10 * scan.waves(rng, 25))


def _spine_and_ribs(scan: _Scan, patient: _Patient, rng: Generator) -> None:
    bone, marrow = rng.uniform(380, 600), rng.uniform(140, 260)
    for side in (-1, 1):
        psoas = scan.tube(side * (36 + np.clip(-scan.z, 0, 80) * 0.15), -56, 6 + np.clip(-scan.z, 0, 80) * 0.17)
        scan.paint(np.maximum(psoas, scan.z - 5), patient.muscle)
        process = np.abs(scan.x - side * 26) + np.abs(scan.y + 86) * 2.5 - 17
        height = np.abs((scan.z + 20) % 34 - 17) - 7
        scan.paint(np.maximum(process, height), bone)
    body = np.hypot(scan.x / 23, (scan.y + 58) / 17) * 20 - 20
    disc = np.abs((scan.z + 20) % 34 - 17) - 13  # a vertebra and its disc every 34 mm
    scan.paint(body, 90 + 5 * scan.waves(rng, 30))
    scan.paint(np.maximum(body, disc), bone)
    scan.paint(np.maximum(body + 4, disc + 4), marrow + 30 * scan.waves(rng, 15))
    arch = np.hypot(scan.x, scan.y + 86) - 13
    spinous = np.maximum(np.abs(scan.x) - 3.5, np.abs(scan.y + 106) - 14)
    scan.paint(np.maximum(np.minimum(arch, spinous), disc + 1), bone)
    scan.paint(scan.tube(0, -86, 8), 35)
    phase = (scan.z + 0.5 * scan.y + rng.uniform(0, 30)) % 30
    rib = np.maximum(np.abs(scan.room - 5) - 4, np.abs(phase - 15) - 6)
    margin = 0.5 * (-45 + 0.7 * scan.y - scan.z)  # the ribs end lower in the back than in front
    spared = 22 - np.abs(scan.x)
    scan.paint(np.maximum.reduce([rib, margin, spared]), bone)


def _dome(scan: _Scan) -> Array:
    """Signed distance to the space above the diaphragm, higher on the right; it dips towards the wall."""
    right = 75 - ((scan.x - 58) ** 2 + (scan.y - 8) ** 2) / 150
    left = 64 - ((scan.x + 58) ** 2 + (scan.y - 8) ** 2) / 150
    height = -_smooth_min(-right, -left, 20)
    distance: Array = 0.75 * (height - scan.z)
    return distance


def _thorax(scan: _Scan, patient: _Patient, rng: Generator) -> None:
    """Lung bases with vessels, and the heart."""
    lung = np.maximum(_dome(scan), scan.room + 2)
    lung = np.maximum(lung, 6 - np.hypot(scan.x / 23, (scan.y + 58) / 17) * 20 + 20)
    scan.paint(lung, LUNG + 30 * scan.waves(rng, 60))
    twigs = np.abs(scan.waves(rng, 45)) * 10 + np.abs(scan.waves(rng, 45)) * 10 - 3
    scan.paint(np.maximum(twigs, lung + 6), patient.blood - 60)
    heart = scan.ellipsoid((-22 + rng.uniform(-6, 6), 28, 112), (64, 44, 48), turn=-20)
    heart = np.maximum(heart, scan.room + 4)
    scan.paint(np.maximum(heart - 4, _dome(scan) + 2), FAT)
    scan.paint(np.maximum(heart, _dome(scan) + 4), patient.blood + 8 * scan.waves(rng, 50))


def _bowel(scan: _Scan, patient: _Patient, rng: Generator) -> None:
    """Loops of small bowel, then the ascending and descending colon; fluid below, gas in front."""
    for _ in range(24):
        centre = (rng.uniform(-80, 75), rng.uniform(-15, 58), rng.uniform(-125, -5))
        radii = rng.uniform((16, 10, 10), (32, 17, 18))
        loop = np.maximum(scan.ellipsoid(centre, radii, rng.uniform(0, 180)), scan.room + 3)
        scan.paint(loop, patient.gut + 5 * scan.waves(rng, 30))
        scan.paint(loop + 4, float(rng.choice([FLUID, 35.0, patient.gut, patient.gut + 15])))
        if rng.random() < 0.3:
            scan.paint(np.maximum(loop + 4, centre[1] + rng.uniform(-4, 6) - scan.y), AIR)
    for side, top in ((1, -45), (-1, 20)):
        sway = 8 * np.sin(scan.z / rng.uniform(14, 24))
        colon = scan.tube(side * 96 + sway, 2 - sway, 19 + 3 * np.sin(scan.z / 7))
        colon = np.maximum.reduce([colon, scan.z - top, scan.room + 3])
        scan.paint(colon, patient.gut)
        scan.paint(colon + 4, rng.uniform(-40, 60) + 45 * scan.waves(rng, 18))
        scan.paint(np.maximum(colon + 4, rng.uniform(0, 14) - scan.y), AIR * rng.uniform(0.6, 1))


def _left_organs(scan: _Scan, patient: _Patient, rng: Generator) -> None:
    """Spleen, left kidney, pancreas, and the stomach with its contents; intensities near the liver's on purpose."""
    below = np.maximum(scan.room, -_dome(scan)) + 4
    jitter = rng.uniform(-6, 6, 3)
    spleen = scan.ellipsoid(np.array((-92, -30, 18)) + jitter, rng.uniform((26, 42, 40), (36, 56, 58)), turn=-25)
    spleen = np.maximum(spleen + 3 * scan.waves(rng, 70), below)
    scan.paint(spleen - 3, FAT)
    scan.paint(spleen, patient.spleen + 3 * scan.waves(rng, 60))
    _kidney(scan, patient, rng, side=-1, height=-25)

    pancreas = scan.ellipsoid((-8, 4, -12 + rng.uniform(-8, 8)), (62, 11, 14), turn=-15) + 3 * scan.waves(rng, 35)
    scan.paint(pancreas, patient.gut + 6 * scan.waves(rng, 20))

    centre = (np.array((-58, 36, 22)) + rng.uniform(-8, 8, 3)).tolist()
    stomach = scan.ellipsoid(centre, rng.uniform((30, 24, 34), (48, 36, 52)), turn=35) + 4 * scan.waves(rng, 80)
    stomach = np.maximum(stomach, below)
    content = float(rng.choice([FLUID, 40.0, patient.liver - 10]))
    scan.paint(stomach - 2, FAT)
    scan.paint(stomach, patient.gut)
    scan.paint(stomach + 5, content + rng.uniform(2, 14) * scan.waves(rng, 20))
    level = centre[1] + rng.uniform(2, 25)  # the patient lies on the back: the gas is in front
    scan.paint(np.maximum(stomach + 5, level - scan.y), AIR)


def _kidney(scan: _Scan, patient: _Patient, rng: Generator, side: int, height: float) -> None:
    """Cortex, paler medulla and a sinus of fat that opens to the middle, in a bed of fat."""
    centre = np.array((side * rng.uniform(60, 68), -45, height + rng.uniform(-8, 8)))
    radii = rng.uniform((23, 21, 46), (28, 26, 56))
    kidney = np.maximum(scan.ellipsoid(centre, radii, turn=side * 35), scan.room + 3) + 1.5 * scan.waves(rng, 40)
    sinus = scan.ellipsoid(centre - (side * 12, -6, 0), radii * (0.6, 0.35, 0.5), turn=side * 35)
    scan.paint(np.maximum(kidney - rng.uniform(4, 9), scan.room), FAT)
    scan.paint(kidney, patient.kidney)
    scan.paint(kidney + 9, patient.kidney * 0.85)
    scan.paint(sinus, FAT + 40)


def _liver(scan: _Scan, patient: _Patient, rng: Generator) -> None:
    """Two lobes under the right dome, cut obliquely by the viscera beneath, with vessels from the hilum."""
    right = scan.ellipsoid(np.array((66, 0, 4)) + rng.uniform(-8, 8, 3), rng.uniform((58, 64, 72), (74, 82, 92)))
    left = scan.ellipsoid((rng.uniform(-22, 4), 32, rng.uniform(20, 36)), rng.uniform((52, 28, 26), (80, 42, 44)))
    lobes = _smooth_min(right, left, 30) + rng.uniform(3, 7) * scan.waves(rng, 90)
    nx, nz = 0.55 * rng.uniform(0.8, 1.2), 0.8
    beneath = -((scan.x - 40) * nx + 0.15 * scan.y + (scan.z + rng.uniform(28, 58)) * nz)
    beneath = (beneath + 5 * scan.waves(rng, 70)) / math.hypot(nx, nz)
    lobes = -_smooth_min(-lobes, -beneath, 20)
    liver = np.maximum.reduce([lobes, 3 - _dome(scan), scan.room + 2])
    scan.paint(np.maximum(liver - rng.uniform(0, 5), scan.room), FAT)
    scan.paint(liver, patient.liver + 4 * scan.waves(rng, 80), LIVER)

    inside = scan.label == LIVER
    hilum, veins = np.array((30, 0, 5)), np.array((22, -18, 55))
    for root in (hilum, hilum, hilum, hilum, veins, veins, veins):
        middle = np.array((rng.uniform(25, 85), rng.uniform(-40, 35), rng.uniform(-15, 40)))
        radius = rng.uniform(3.5, 6)
        branches = [scan.segment(middle, middle + rng.normal(0, 25, 3), 0.6 * radius) for _ in range(2)]
        tree = np.minimum.reduce([scan.segment(root, middle, radius), *branches])
        scan.paint(tree, patient.vessel, LIVER, inside)


def _right_organs(scan: _Scan, patient: _Patient, rng: Generator) -> None:
    """What presses into the liver: right kidney, gallbladder, the great vessels."""
    _kidney(scan, patient, rng, side=1, height=-54)
    gallbladder = scan.ellipsoid((rng.uniform(38, 58), 38, rng.uniform(-35, -18)), (13, 18, rng.uniform(18, 28)))
    scan.paint(gallbladder, patient.gut)
    scan.paint(gallbladder + 2, FLUID)
    scan.paint(scan.tube(-9 + 4 * np.sin(scan.z / 60), -29, rng.uniform(8, 12)), patient.blood)
    cava = np.maximum(scan.tube(24 - np.clip(scan.z, 0, 60) * 0.1, -27, rng.uniform(9, 13)), scan.z - 72)
    scan.paint(cava, patient.blood - rng.uniform(0, 15))


def _tumours(scan: _Scan, patient: _Patient, rng: Generator) -> None:
    """None, or one to four of 6-28 mm radius, 20-50 HU darker than the liver, with uneven borders."""
    if rng.random() >= TUMOUR_SHARE:
        return
    places = np.argwhere(scan.label == LIVER)
    for _ in range(rng.integers(1, 5)):
        place = tuple(places[rng.integers(len(places))])
        centre = [axis[place] for axis in (scan.x, scan.y, scan.z)]
        radius = math.exp(rng.uniform(math.log(6), math.log(28)))
        shape = scan.ellipsoid(centre, radius * rng.uniform(0.8, 1.25, 3), rng.uniform(0, 180))
        shape = shape + 0.12 * radius * scan.waves(rng, 2 * radius)
        hu = patient.liver - rng.uniform(20, 50) + 4 * scan.waves(rng, radius)
        scan.paint(shape, hu, TUMOUR, scan.label > BACKGROUND)


def _scanned(image: Array, rng: Generator) -> NDArray[np.int16]:
    """The scanner's blur (point spread) and its spatially correlated noise, sigma 10-25 HU; then int16."""
    image = gaussian_filter(image, rng.uniform(0.35, 0.55))
    noise = gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), rng.uniform(0.5, 0.8))
    image += noise * float(rng.uniform(10, 25) / noise.std())
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)
