"""What the two tasks on sampled waves of the Phased LSTM's authors share."""

import numpy as np
import torch
from torch import Tensor

PERIODS = (1.0, 100.0)
"""Milliseconds of a wave's period; where it is to be anything, its logarithm is uniform."""

Wave = tuple[Tensor, Tensor]
"""Samples (T, 1) and their time stamps in milliseconds (T,)."""


def draw_periods(
    rng: np.random.Generator, special: np.ndarray, target: tuple[float, float]
) -> np.ndarray:
    """Periods, uniform over `target` where `special`, over all periods elsewhere."""
    low, high = np.log(PERIODS)
    anything = np.exp(rng.uniform(low, high, len(special)))
    return np.where(special, rng.uniform(*target, len(special)), anything)


def inside(periods: np.ndarray, target: tuple[float, float]) -> np.ndarray:
    """Which periods lie in `target`."""
    return (target[0] <= periods) & (periods <= target[1])


def wave(times: np.ndarray, period: float, shift: float) -> np.ndarray:
    """A sine wave at the given times, `shift` radians late."""
    return np.sin(2 * np.pi * times / period - shift)


def as_sample(values: np.ndarray, times: np.ndarray) -> Wave:
    """A wave as a task gives it."""
    return torch.from_numpy(values.astype(np.float32)).unsqueeze(-1), torch.from_numpy(times)
