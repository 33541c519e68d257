"""Frequency discrimination: does a wave have a period between 5 and 6 milliseconds?"""

import math

import numpy as np
import torch
from torch import Tensor

from longrnn.tasks.task import Drawn, Task

PERIODS = (1.0, 100.0)
TARGET = (5.0, 6.0)


class Frequency(Task):
    """Tell sine waves with a period of 5 to 6 ms (class 0) from others of 1 to 100 ms (class 1).

    Half of each batch is of each class. Within a class periods are uniform, and so is the phase
    over a whole turn. Counts as solved at an accuracy above 99 %. Sampled more densely the same
    wave takes more steps but tells nothing new, so that a layer that skips need not do more.

    Args:
        batch_size: Sequences in a batch; an epoch is 100 batches.
        seed: Which waves are drawn.
        sampling_period: Time between two samples, in milliseconds.
        signal_duration: Time that is sampled, in milliseconds.

    Reference:
        Campos et al., "Skip RNN: Learning to Skip State Updates in Recurrent Neural Networks",
        ICLR 2018, https://arxiv.org/abs/1708.06834, appendix A.1. Periods and phases are as in its
        text; its code draws periods from 0 ms on, and takes a part of the period for radians.
    """

    output_size = 2

    def __init__(
        self,
        batch_size: int,
        seed: int = 0,
        *,
        sampling_period: float = 1.0,
        signal_duration: float = 100.0,
    ):
        for name, value in (
            ("sampling_period", sampling_period),
            ("signal_duration", signal_duration),
        ):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number of milliseconds, got {value}")
        self.length = round(signal_duration / sampling_period)
        if self.length < 2:
            raise ValueError(
                "sampling_period must be at most half of signal_duration "
                f"({signal_duration} ms), got {sampling_period}"
            )
        self.sampling_period = sampling_period
        self.train_set = Drawn(self._draw, 100 * batch_size, seed, 0, batch_size)
        self.test_set = Drawn(self._draw, 15 * batch_size, seed, 1, batch_size)

    def _draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        low, high = TARGET
        labels = np.arange(count) % 2
        others = rng.uniform(PERIODS[0], PERIODS[1] - (high - low), count)
        others += (high - low) * (others > low)  # the gap is left out
        periods = np.where(labels == 0, rng.uniform(low, high, count), others)
        phases = rng.uniform(0, 2 * np.pi, count)
        times = self.sampling_period * np.arange(self.length)
        waves = np.sin(2 * np.pi * times / periods[:, None] + phases[:, None])
        return torch.from_numpy(waves[..., None].astype(np.float32)), torch.from_numpy(labels)

    def solved(self, score: float) -> bool:
        """Whether more than 99 % of the answers were right."""
        return score > 0.99
