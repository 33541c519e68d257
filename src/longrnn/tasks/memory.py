"""The one-bit memory task: was the first symbol plus or minus?"""

import numpy as np
import torch
from torch import Tensor

from longrnn.tasks.task import Drawn, Task, check_length

SYMBOLS = 128


class Memory(Task):
    """Tell the sign of the first symbol after T - 1 others that mean nothing.

    Element 0 is +e_1 or -e_1; each later one is one of the 128 e_j at random, e_1 included. The
    symbols are indices, 0 to 127 for e_j and 128 for -e_1, so that a sequence of 1,048,576 steps
    takes 8 MiB and not 512. A batch counts as solved if every answer in it is right.

    Args:
        batch_size: Sequences in a batch; an epoch is 100 batches.
        seed: Which sequences are drawn.
        length: T, at least 1.

    Reference:
        Task 2b of Hochreiter and Schmidhuber, 1997, as in Martin and Cundy, 2018,
        https://arxiv.org/abs/1709.04057, section 4.2.
    """

    vocabulary = SYMBOLS + 1
    output_size = 2

    def __init__(self, batch_size: int, seed: int = 0, *, length: int = 1024):
        check_length(length, 1)
        self.length = length
        self.train_set = Drawn(self._draw, 100 * batch_size, seed, 0, batch_size)
        self.test_set = Drawn(self._draw, 5 * batch_size, seed, 1, batch_size)

    def _draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        symbols = rng.integers(SYMBOLS, size=(count, self.length))
        minus = rng.integers(2, size=count)
        symbols[:, 0] = SYMBOLS * minus
        return torch.from_numpy(symbols), torch.from_numpy(minus)

    def solved(self, score: float) -> bool:
        """Whether every answer was right."""
        return score == 1
