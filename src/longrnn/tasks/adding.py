"""The adding task: the sum of the two marked numbers among T."""

import numpy as np
import torch
from torch import Tensor, nn

from longrnn.tasks.task import Drawn, Task, check_length


class Adding(Task):
    """Regress the sum of two marked values; everything between them is to be ignored.

    Each step holds a value from U(-0.5, 0.5) and a marker. One marker lies in the first tenth
    of the sequence, the other in its second half. The score is the mean squared error; the task
    counts as solved at a hundredth of the target's variance, 1/600.

    Args:
        batch_size: Sequences in a batch; an epoch is 100 batches.
        seed: Which sequences are drawn.
        length: T, at least 2.

    Reference:
        Hochreiter and Schmidhuber, 1997; markers as in Campos et al., 2018,
        https://arxiv.org/abs/1708.06834.
    """

    input_size = 2
    score_name = "MSE"
    higher_is_better = False

    def __init__(self, batch_size: int, seed: int = 0, *, length: int = 50):
        check_length(length, 2)
        self.length = length
        self.train_set = Drawn(self._draw, 100 * batch_size, seed, 0, batch_size)
        self.test_set = Drawn(self._draw, 15 * batch_size, seed, 1, batch_size)

    def _draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        steps = np.zeros((count, self.length, 2), dtype=np.float32)
        steps[..., 0] = rng.uniform(-0.5, 0.5, (count, self.length))
        first = rng.integers(max(1, self.length // 10), size=count)
        second = rng.integers(self.length // 2, self.length, size=count)
        rows = np.arange(count)
        steps[rows, first, 1] = steps[rows, second, 1] = 1
        sums = steps[rows, first, 0] + steps[rows, second, 0]
        return torch.from_numpy(steps), torch.from_numpy(sums)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean squared error."""
        return nn.functional.mse_loss(output[..., 0], target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean squared error."""
        return self.loss(output, target)

    def solved(self, score: float) -> bool:
        """Whether the error is at most 1 % of the target's variance."""
        return score <= 1 / 600
