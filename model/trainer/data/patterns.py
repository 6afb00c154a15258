"""Generated training pictures: one-pixel patterns, screen tones and flat areas.

A network that never saw them overshoots: it takes dithering for texture and increases its contrast.
The small picture is the pattern, and the target is its bicubic enlargement, clamped to the range of
the pattern.

Shapes: S x S low-resolution pixels, bytes of RGB.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.resize import bicubic_up
from model.trainer.config import Data

Levels = NDArray[np.float64]
BAYER = (np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) + 0.5) / 16
"""Thresholds of an ordered dither, 4x4."""
_STREAM = 2**32 - 1  # separates these random numbers from those that cut patches


def replace_with_patterns(
    lr: Tensor, targets: Sequence[Tensor], data: Data, part: slice, *, seed: tuple[int, int]
) -> None:
    """Replace a share of patches, in place, by patterns, and the targets by the enlarged patterns.

    `lr` is (N, 3, S, S), each target (N, 3, 4S, 4S), in [0, 1]; `part` are the indices of these
    patches in the whole batch, and `seed` are the seed of the run and the step.
    """
    if not data.patterns:
        return
    random = np.random.default_rng((*seed, _STREAM))
    drawn = random.random(data.batch)[part] < data.patterns
    seeds = random.integers(2**63, size=data.batch)[part]
    for index in np.flatnonzero(drawn):
        small = draw_pattern(np.random.default_rng(seeds[index]), side=data.patch)
        lr[index] = small / 255
        for target in targets:
            target[index] = enlarged(small) / 255


def draw_pattern(random: np.random.Generator, *, side: int) -> Tensor:
    """A small picture of a random kind in random colours: (3, S, S) bytes."""
    kinds: tuple[Callable[[np.random.Generator, int], Levels], ...] = (
        _checkerboard,
        _lines,
        _ordered_dither,
        _random_dither,
        _screen_tone,
        _flat,
        _ramp,
    )
    mix = kinds[random.integers(len(kinds))](random, side)  # (S, S) in [0, 1]
    if random.random() < 0.5:
        mix = _mirrored(random, mix)
    dark, light = np.sort(random.integers(0, 256, size=(2, 3 if random.random() < 0.5 else 1)), 0)
    if random.random() < 0.25:
        dark, light = np.zeros_like(dark), np.full_like(light, 255)
    picture = dark[:, None, None] + (light - dark)[:, None, None] * mix  # (1 or 3, S, S)
    levels = np.broadcast_to(picture.round().astype(np.uint8), (3, side, side))
    return torch.from_numpy(levels.copy())


def enlarged(pattern: Tensor) -> Tensor:
    """The target for a pattern: (3, S, S) bytes -> (3, 4S, 4S) bytes."""
    low = pattern.amin(dim=(1, 2), keepdim=True)
    high = pattern.amax(dim=(1, 2), keepdim=True)
    return bicubic_up(pattern).clamp(low, high)


def _mirrored(random: np.random.Generator, levels: Levels) -> Levels:
    """The same size, mirrored at a row and a column, as at the border of a picture."""
    height, width = (side - int(random.integers(side // 2)) for side in levels.shape)
    missing = ((0, levels.shape[0] - height), (0, levels.shape[1] - width))
    mirrored: Levels = np.pad(levels[:height, :width], missing, mode="symmetric")
    return np.rot90(mirrored, int(random.integers(4))).copy()


def _checkerboard(random: np.random.Generator, side: int) -> Levels:
    """Squares of one or two pixels."""
    row, column = np.indices((side, side)) // random.integers(1, 3)
    squares: Levels = ((row + column) % 2).astype(float)
    return squares


def _lines(random: np.random.Generator, side: int) -> Levels:
    """Vertical, horizontal or diagonal lines, one or two pixels wide."""
    row, column = np.indices((side, side))
    along = (row, column, row + column, row - column)[random.integers(4)]
    period = random.integers(2, 5)
    return (along % period < random.integers(1, period)).astype(float)


def _ordered_dither(random: np.random.Generator, side: int) -> Levels:
    """A grey gradient dithered to two levels by Bayer's matrix."""
    threshold = np.tile(BAYER, (side // 4 + 1, side // 4 + 1))[:side, :side]
    return (_ramp(random, side) > threshold).astype(float)


def _random_dither(random: np.random.Generator, side: int) -> Levels:
    """A grey gradient dithered to two levels by noise."""
    return (_ramp(random, side) > random.random((side, side))).astype(float)


def _screen_tone(random: np.random.Generator, side: int) -> Levels:
    """A halftone screen whose dots grow along a gradient."""
    row, column = np.indices((side, side))
    angle, period = random.uniform(0, np.pi / 2), random.uniform(2.5, 6)
    u = (np.cos(angle) * row + np.sin(angle) * column) * 2 * np.pi / period
    v = (np.cos(angle) * column - np.sin(angle) * row) * 2 * np.pi / period
    dots = 0.5 + 0.25 * (np.cos(u) + np.cos(v))
    softness = random.uniform(0.02, 0.2)
    tone: Levels = np.clip((_ramp(random, side) - dots) / softness + 0.5, 0, 1)
    return tone


def _flat(random: np.random.Generator, side: int) -> Levels:
    return np.full((side, side), random.random())


def _ramp(random: np.random.Generator, side: int) -> Levels:
    """A linear grey gradient in some direction."""
    row, column = np.indices((side, side)) / side
    angle = random.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * row + np.sin(angle) * column
    low, high = np.sort(random.random(2))
    spread: Levels = low + (high - low) * (ramp - ramp.min()) / np.ptp(ramp)
    return spread
