"""The transformations of Models Genesis with one loop for every window, box and curve: slow, and easy to read.

`draw_…` draws with Python's and NumPy's own generators and applies at once, in the manner in which the transformations
were published; `apply_…` takes the draws of the library.
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch

from metalr_monai.pretraining.local_shuffling import voxel_bits

POINTS = 100_000


def slices(corner, side):
    return tuple(slice(int(at), int(at + length)) for at, length in zip(corner, side, strict=True))


def apply_flips(images, flips):
    result = images.clone()
    for item in range(len(images)):
        for axis in range(flips.shape[1]):
            if flips[item, axis]:
                result[item] = torch.flip(result[item], (1 + axis,))
    return result


def entries(windows, shape):
    """(item, window) → the voxels of the item that are written, and those that are read into them."""
    items, number, _ = windows.corner.shape
    voxels, bits = math.prod(shape), voxel_bits(shape)
    found = {(item, n): ([], []) for item in range(items) for n in range(number)}
    for written, read in zip(windows.written.tolist(), windows.read.tolist(), strict=True):
        if written < items * voxels:
            of_window = found[written // voxels, (read >> bits) - 1]
            of_window[0].append(written % voxels)
            of_window[1].append(read % 2**bits)
    return found


def apply_windows(images, windows):
    """Window after window, read from the original, written over what was written before."""
    shape = images.shape[2:]
    result = images.clone().flatten(2)
    of_windows = entries(windows, shape)
    for item in range(len(images)):
        for n in range(windows.corner.shape[1]):
            for written, read in zip(*of_windows[item, n], strict=True):
                result[item, :, written] = images[item].flatten(1)[:, read]
    return result.view(images.shape)


def curve(inner, falling, points=POINTS):
    """x and y of a Bézier curve, x in ascending order; `inner` is ((x1, x2), (y1, y2))."""
    t = np.linspace(0, 1, points)
    ends = ((0.0, *values, 1.0) for values in inner)
    x, y = (a * (1 - t) ** 3 + 3 * b * t * (1 - t) ** 2 + 3 * c * t**2 * (1 - t) + d * t**3 for a, b, c, d in ends)
    return np.sort(x), np.sort(y)[::-1] if falling else np.sort(y)


def apply_boxes(images, boxes, noise):
    result = images.clone()
    for item in range(len(images)):
        if boxes.outer[item]:
            result[item] = noise[item]
        for n in torch.nonzero(boxes.present[item]).flatten().tolist():
            inside = (slice(None), *slices(boxes.corner[item, n], boxes.side[item, n]))
            result[item][inside] = (images if boxes.outer[item] else noise)[item][inside]
    return result


def draw_flips(image, target):
    left = 3
    while random.random() < 0.4 and left > 0:
        axis = random.choice(range(image.ndim))
        image, target = np.flip(image, axis), np.flip(target, axis)
        left -= 1
    return image, target


def draw_windows(image, number=10_000):
    result = image.copy()
    for _ in range(number):
        side = [random.randint(1, length // 10) for length in image.shape]
        corner = [random.randint(0, length - edge) for length, edge in zip(image.shape, side, strict=True)]
        inside = slices(corner, side)
        window = image[inside].flatten()
        np.random.shuffle(window)
        result[inside] = window.reshape(side)
    return result


def draw_curve(image):
    inner = [[random.random(), random.random()] for _ in "xy"]
    return np.interp(image, *curve(inner, random.random() < 0.5))


def _draw_box(shape, shortest, longest):
    side = [random.randint(low, high) for low, high in zip(shortest, longest, strict=True)]
    return slices([random.randint(3, length - edge - 3) for length, edge in zip(shape, side, strict=True)], side)


def draw_painting(image):
    shape = image.shape
    noise = np.random.random(shape)
    outer = random.random() < 0.8
    if outer:
        shortest, longest = [s - 4 * s // 7 for s in shape], [s - 3 * s // 7 for s in shape]
        first = _draw_box(shape, shortest, longest)
        noise[first] = image[first]
        left = 4
    else:
        shortest, longest = [s // 6 for s in shape], [s // 3 for s in shape]
        image, left = image.copy(), 5
    while left > 0 and random.random() < 0.95:
        box = _draw_box(shape, shortest, longest)
        if outer:
            noise[box] = image[box]
        else:
            image[box] = noise[box]
        left -= 1
    return noise if outer else image


def deform(cube):
    """One cube (H, W, D) after the other, as it was published."""
    image, target = draw_flips(cube, cube)
    if random.random() < 0.5:
        image = draw_windows(image)
    if random.random() < 0.9:
        image = draw_curve(image)
    if random.random() < 0.9:
        image = draw_painting(image)
    return image, target
