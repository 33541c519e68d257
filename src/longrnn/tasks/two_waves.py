"""Does a sum of two waves have periods of 5 to 6 ms and of 13 to 15 ms?"""

import numpy as np
import torch
from torch import Tensor

from longrnn.tasks.task import Drawn, Task
from longrnn.tasks.timed import pad_timed
from longrnn.tasks.waves import Wave, as_sample, draw_periods, inside, wave

TARGETS = ((5.0, 6.0), (13.0, 15.0))
DURATIONS = (1.0, 100.0)
POINTS = (100, 1000)


class TwoWaves(Task):
    """Tell sums of a wave of 5 to 6 ms and one of 13 to 15 ms (class 1) from other sums (class 0).

    Half of the sums, by chance, are of such waves; in the others both have any period from 1 to
    100 ms, uniform in the logarithm. A sum is seen for 1 to 100 ms, at 100 to 1,000 uniform
    times; many are seen for less than a period of their waves, so that nobody can be always right.

    Args:
        batch_size: Sums drawn together; an epoch is 5,000, and 500 are held out.
        seed: Which sums are drawn.

    Reference:
        The second task of Neil, Pfeiffer and Liu, "Phased LSTM: Accelerating Recurrent Network
        Training for Long or Event-based Sequences", NIPS 2016, https://arxiv.org/abs/1610.09513;
        numbers as in its authors' program, which leaves out the factor 2π, so that its periods
        are 2π times as long as it says.
    """

    output_size = 2
    timed = True
    time_scale = 0.1
    collate = staticmethod(pad_timed)

    def __init__(self, batch_size: int, seed: int = 0):
        self.train_set = Drawn(self._draw, 5000, seed, 0, batch_size)
        self.test_set = Drawn(self._draw, 500, seed, 1, batch_size)

    def _draw(self, rng: np.random.Generator, count: int) -> tuple[list[Wave], Tensor]:
        special = rng.random(count) < 0.5
        periods = np.stack([draw_periods(rng, special, target) for target in TARGETS])  # (2, B)
        durations = rng.uniform(*DURATIONS, count)
        starts = rng.uniform(0, DURATIONS[1] - durations)
        shifts = rng.uniform(0, durations, (2, count))
        sums = []
        for i, points in enumerate(rng.integers(*POINTS, size=count, endpoint=True)):
            times = starts[i] + durations[i] * np.sort(rng.random(points))
            both = [wave(times, periods[j, i], shifts[j, i]) for j in range(2)]
            sums.append(as_sample(both[0] + both[1], times))
        right = inside(periods[0], TARGETS[0]) & inside(periods[1], TARGETS[1])
        return sums, torch.from_numpy(right.astype(np.int64))
