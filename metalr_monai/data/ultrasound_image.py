"""What generated ultrasound pictures share: speckle, smooth random curves, and the machine's grey map.

Amplitudes are relative to a strong reflector (1); decibels are 20·log10 of them. Axis 0 runs along the beam.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

Array = NDArray[Any]
Generator = np.random.Generator


class Waves:
    """A smooth random function of place, of mean 0 and variance 1.

    Args:
        rng: where it is drawn from.
        wavelength: one length for each coordinate, in the coordinates' unit (mm); waves run in all directions.
        terms: cosines that are added; few give a regular pattern, many a random one.
    """

    def __init__(self, rng: Generator, *wavelength: float, terms: int = 6) -> None:
        direction = rng.normal(size=(terms, len(wavelength)))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        lengths = np.array(wavelength) * rng.uniform(0.6, 1.6, (terms, 1))
        self._numbers = 2 * np.pi * direction / lengths
        self._phases = rng.uniform(0, 2 * np.pi, terms)

    def __call__(self, *place: Array) -> Array:
        """Coordinates that broadcast to one shape; the field has that shape."""
        field: Array = np.zeros((), np.float32)
        for numbers, phase in zip(self._numbers.tolist(), self._phases.tolist(), strict=True):
            angle = sum(x * number for x, number in zip(place, numbers, strict=True)) + phase
            field = field + np.cos(angle)
        scaled: Array = field * float(np.sqrt(2 / len(self._phases)))
        return scaled


class Speckle:
    """Fully developed speckle: the sum of many scatterers is complex Gaussian, so its amplitude is Rayleigh.

    Args:
        rng: where the scatterers are drawn from.
        shape: samples along the beam, beams.
        grain: standard deviation of the point spread function along and across the beam, in samples, at the focus;
            away from it the speckle gets up to twice as coarse.
        focus: depth of the focus as a share of the field's depth.
        contrast: share of the speckle's decibels that the machine's compounding leaves, above 0, at most 1.
    """

    def __init__(
        self, rng: Generator, shape: tuple[int, int], grain: tuple[float, float], focus: float, contrast: float
    ) -> None:
        self._shape, self._grain, self._contrast = shape, grain, contrast
        away = np.abs(np.linspace(0, 1, shape[0], dtype=np.float32) - focus)
        self._coarse = np.minimum(1.2 * away, 1)[:, None]
        self._still = self._scatterers(rng)

    def amplitude(self, rng: Generator, moved: Array, renewed: float) -> Array:
        """Amplitude of one frame, about 1 in the mean.

        Args:
            rng: where the scatterers that have come into the plane are drawn from.
            moved: by how many beams the tissue has moved, an integer array that broadcasts to the field's shape.
            renewed: share of the power that comes from new scatterers, 0 to 1.
        """
        beams = (np.arange(self._shape[1]) - moved) % self._shape[1]
        old = np.take_along_axis(self._still, np.broadcast_to(beams, self._shape), axis=1)
        field = np.abs(np.sqrt(1 - renewed) * old + np.sqrt(renewed) * self._scatterers(rng))
        compounded: Array = field**self._contrast
        return compounded

    def _scatterers(self, rng: Generator) -> Array:
        white = rng.standard_normal((2, *self._shape), dtype=np.float32)
        fine, coarse = (self._blurred(white, scale) for scale in (1.0, 2.0))
        mixed = (1 - self._coarse) * fine + self._coarse * coarse
        mixed /= np.sqrt((mixed**2).sum(axis=0).mean(axis=1, keepdims=True)) + 1e-6
        field: Array = (mixed[0] + 1j * mixed[1]).astype(np.complex64)
        return field

    def _blurred(self, white: Array, scale: float) -> Array:
        along, across = self._grain
        blurred = gaussian_filter(white, (0, scale * along, scale * across), mode="wrap", truncate=3)
        unit: Array = blurred / blurred.std()
        return unit


class GreyMap:
    """The machine's gain, dynamic range and grey curve: a monotone map of decibels to grey values.

    The grey values of the picture that it is fitted to follow one family of distributions, whose darkness and peak are
    drawn: pictures of different content get the same histograms, as with a machine's automatic gain.

    Args:
        rng: where the curve is drawn from.
        decibels: of the picture to fit to, any shape.
    """

    def __init__(self, rng: Generator, decibels: Array) -> None:
        shares = np.linspace(0, 1, 129)
        self._decibels = np.maximum.accumulate(np.quantile(decibels, shares))
        self._grey = rng.uniform(200, 255) * shares ** rng.uniform(1.3, 2.8)

    def __call__(self, decibels: Array) -> Array:
        """Grey values in [0, 255], float32, of the same shape."""
        grey: Array = np.interp(decibels, self._decibels, self._grey).astype(np.float32)
        return grey


def decibels(amplitude: Array) -> Array:
    """20·log10 of the amplitude, at least -80 dB."""
    level: Array = 20 * np.log10(amplitude + 1e-4)
    return level


def target_levels(rng: Generator, samples: int) -> Array:
    """A mean level by depth for `time_gain` to reach, in dB, (samples, 1): it falls by up to 16 dB, not evenly."""
    share = np.linspace(0, 1, samples, dtype=np.float32)[:, None]
    level: Array = -rng.uniform(0, 16) * share + 2.5 * Waves(rng, 0.8)(share)
    return level


def time_gain(amplitude: Array, target: Array, smooth: float) -> Array:
    """Time gain compensation: the decibels to add by depth so that the mean level follows `target`.

    Args:
        amplitude: (samples, beams), without speckle.
        target: (samples, 1), in dB.
        smooth: standard deviation of the gain's smoothing along the beam, as a share of the depth.
    """
    level = decibels(amplitude).mean(axis=1)
    gain: Array = target - gaussian_filter1d(level, smooth * len(level), mode="nearest")[:, None]
    return gain


def bell(distance: Array, width: float | Array) -> Array:
    """A Gaussian of height 1; `width` is its standard deviation."""
    height: Array = np.exp(-0.5 * (distance / width) ** 2)
    return height


def smooth_step(distance: Array, width: float) -> Array:
    """1 where `distance` is well below 0, 0 where it is well above, in between over about `width`."""
    step: Array = 0.5 - 0.5 * np.tanh(distance / width)
    return step
