"""Does a wave have a period of 5 to 6 ms? Sampled regularly, densely or at any times."""

import numpy as np
import torch
from torch import Tensor

from longrnn import _checks
from longrnn.tasks.task import Drawn, Task
from longrnn.tasks.timed import pad_timed
from longrnn.tasks.waves import Wave, as_sample, draw_periods, inside, wave

TARGET = (5.0, 6.0)
DURATIONS = (15.0, 125.0)
POINTS = (15, 125)
STEPS = {"standard": 1.0, "high-resolution": 0.1, "asynchronous": None}
"""Milliseconds between two samples; None: the times are drawn."""


class AsyncFrequency(Task):
    """Tell sine waves with a period of 5 to 6 ms (class 1) from all others (class 0).

    Half of the waves, by chance, have such a period; the others have one from 1 to 100 ms,
    uniform in the logarithm, and 4 % of these are in class 1 too: always to say 1 is right in
    52.0 % of cases. A wave is seen for 15 to 125 ms that begin at any time in the first 125.

    Args:
        batch_size: Waves drawn together; an epoch is 5,000, and 500 are held out.
        seed: Which waves are drawn.
        sampling: "standard" is a sample each millisecond, "high-resolution" ten of them;
            "asynchronous" is 15 to 125 samples at uniform times.
        absolute_times: Whether layers that take no time stamps are given these as a feature, as
            in the paper, and not the time since the sample before.

    Reference:
        Neil, Pfeiffer and Liu, "Phased LSTM: Accelerating Recurrent Network Training for Long or
        Event-based Sequences", NIPS 2016, https://arxiv.org/abs/1610.09513, section 3.1; numbers
        as in its authors' program. There exactly half of a batch has a period of 5 to 6 ms, the
        padding is before a sequence, and other waves are held out each epoch.
    """

    output_size = 2
    timed = True
    collate = staticmethod(pad_timed)

    def __init__(
        self,
        batch_size: int,
        seed: int = 0,
        *,
        sampling: str = "asynchronous",
        absolute_times: bool = False,
    ):
        _checks.check_choice("sampling", sampling, list(STEPS))
        self.step = STEPS[sampling]
        self.absolute_times = absolute_times
        self.train_set = Drawn(self._draw, 5000, seed, 0, batch_size)
        self.test_set = Drawn(self._draw, 500, seed, 1, batch_size)

    def _draw(self, rng: np.random.Generator, count: int) -> tuple[list[Wave], Tensor]:
        periods = draw_periods(rng, rng.random(count) < 0.5, TARGET)
        durations = rng.uniform(*DURATIONS, count)
        starts = rng.uniform(0, DURATIONS[1] - durations)
        shifts = rng.uniform(0, durations)
        waves = []
        for period, duration, start, shift in zip(periods, durations, starts, shifts, strict=True):
            if self.step is None:
                points = rng.integers(*POINTS, endpoint=True)
                times = start + duration * np.sort(rng.random(points))
            else:
                times = start + self.step * np.arange(np.ceil(duration / self.step))
            waves.append(as_sample(wave(times, period, shift), times))
        return waves, torch.from_numpy(inside(periods, TARGET).astype(np.int64))
