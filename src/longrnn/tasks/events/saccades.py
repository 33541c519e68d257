"""Events made from an image: what a camera would see that moves as N-MNIST's did.

N-MNIST was recorded by turning an event camera three times for 100 ms, along the sides of an
isosceles triangle, before a screen that showed an MNIST digit. Here the digit moves along such a
triangle and each pixel reports by how much its brightness changes. It is a model, without the
noise, the blur and the unequal pixels of a camera: no result on it is one on N-MNIST.
"""

import functools
import itertools

import numpy as np

from longrnn.tasks.events.event import Events

SIDE = 34
"""Pixels of the sensor, each way."""
CORNERS = ((0.5, 1.5), (3.0, 6.0), (5.5, 1.5), (0.5, 1.5))
"""Where the image's left upper corner is before and after each saccade, in pixels (x, y).

So goes the mean position of the events in 1,000 recordings of N-MNIST.
"""
STEPS = 100
"""Time steps of a saccade, each a millisecond; between them brightness changes linearly."""
DARK = 0.1
"""Luminance of a black pixel, that of a white one being 1."""
THRESHOLD = 0.38
"""Change of the logarithm of luminance that makes an event."""


def make_events(image: np.ndarray) -> Events:
    """The events of three saccades over an image.

    A pixel makes an event each time that the logarithm of its luminance has moved by `THRESHOLD`
    from where it was at the pixel's last event.

    Args:
        image: Brightness from 0 to 255, (28, 28).

    Returns:
        Events on 34 x 34 pixels, time stamps in whole microseconds below 300,000.
    """
    rows, columns = _motion()
    luminance = DARK + (1 - DARK) * (rows @ (image / 255) @ columns)  # (steps, SIDE, SIDE)
    levels = np.log(luminance / luminance[0]) / THRESHOLD
    pixel, steps, crossed = _crossings(levels.reshape(len(levels), -1))
    previous = np.concatenate([[0], crossed[:-1]])
    previous[np.flatnonzero(np.diff(pixel, prepend=-1))] = 0  # a pixel's first crossing
    moved = crossed != previous  # turning back through the same level is no change yet
    times = np.rint(steps * 1000)
    order = np.flatnonzero(moved)[np.argsort(times[moved], kind="stable")]
    y, x = np.divmod(pixel[order], SIDE)
    return Events(times[order], x, y, (crossed > previous)[order].astype(np.int64))


def _crossings(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where signals (steps, N) that start at 0 cross whole numbers, one signal after another.

    Returns:
        The signal, the time in steps and the number of each crossing.
    """
    floor, ceil = np.floor(levels).astype(np.int16), np.ceil(levels).astype(np.int16)
    count = np.maximum(np.diff(floor, axis=0), -np.diff(ceil, axis=0))  # upwards, or downwards
    signal, step = np.nonzero(np.ascontiguousarray(count.T))
    count = count[step, signal]
    signal, step = signal.repeat(count), step.repeat(count)
    index = np.arange(len(step)) - (count.cumsum() - count).repeat(count)  # among those of a step
    start, end = levels[step, signal], levels[step + 1, signal]
    up, down = floor[step, signal] + 1 + index, ceil[step, signal] - 1 - index
    crossed = np.where(end > start, up, down)
    return signal, step + (crossed - start) / (end - start), crossed


@functools.cache
def _motion() -> tuple[np.ndarray, np.ndarray]:
    """Linear interpolation of the moved image: rows (steps, 34, 28), columns (..., 28, 34)."""
    done = np.arange(STEPS) / STEPS
    share = done - np.sin(2 * np.pi * done) / (2 * np.pi)  # at rest in the corners
    corners = np.array(CORNERS)
    sides = [a + share[:, None] * (b - a) for a, b in itertools.pairwise(corners)]
    # Not the last corner: there each pixel is back at 0, and rounding would decide on an event.
    x, y = np.concatenate(sides).T

    def interpolation(offset: np.ndarray) -> np.ndarray:
        distance = np.arange(SIDE)[:, None] - np.arange(28) - offset[:, None, None]
        return np.maximum(0, 1 - abs(distance))

    return interpolation(y), interpolation(x).transpose(0, 2, 1)
