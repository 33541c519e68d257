"""What a task is: data, a loss and a score. It knows no model."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


class Sequences(NamedTuple):
    """A batch's input where a bare tensor does not say enough.

    Either padded, (B, T, ...), with `lengths` if they differ, or end to end, (total, ...), with
    `cu_seqlens`.
    """

    values: Tensor
    """Features (B, T, m) or symbols (B, T)."""
    lengths: Tensor | None = None
    """Valid steps of each sequence, (B,) integers."""
    times: Tensor | None = None
    """Time stamp of each step, (B, T) float64."""
    cu_seqlens: Tensor | None = None
    """Ends of sequences that lie end to end, (N + 1,) integers from 0 to the total."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Sequences":
        """The same on a device; only `lengths` stay where their values can be looked at."""
        moved = {
            name: tensor.to(device, non_blocking=non_blocking)
            for name, tensor in self._asdict().items()
            if name != "lengths" and tensor is not None
        }
        return self._replace(**moved)


class Task:
    """The questions that the training program asks of a task.

    A task gives two data sets of (input, target) pairs without a batch dimension, and judges
    outputs with one. An input is (T, m) features, or (T,) symbols if `vocabulary` is set; where
    it is more than that, `collate` makes a batch's `Sequences` of it.
    """

    input_size = 1
    """Features of one step."""
    vocabulary: int | None = None
    """Number of symbols, for a task whose inputs are indices."""
    embedding_size: int | None = None
    """Features that a symbol is embedded in; as many as the layer has units if None."""
    output_size = 1
    """Features of the output."""
    every_step = False
    """Whether the output is one a step, (B, T, output_size), or one in all, (B, output_size)."""
    carries_state = False
    """Whether a batch goes on where the one before it stopped."""
    shuffle = False
    """Whether the training set is visited in a new order each epoch."""
    timed = False
    """Whether steps have time stamps; an input is then (values, time stamps)."""
    time_scale = 1.0
    """A usual distance between two steps, in the unit of the time stamps."""
    absolute_times = False
    """Whether layers that take no time stamps are given these, and not the time between steps."""
    train_lengths: Sequence[int] | None = None
    """Steps of each training sample, for a task whose sequences differ in length."""
    collate: Callable[[list[Any]], tuple[Any, Tensor]] | None = None
    """Makes (input, target) for a batch of samples; stacks them if None."""
    score_name = "accuracy"
    higher_is_better = True
    note: str | None = None
    """What a reader of the score must know, such as that the data are a part of the published."""

    train_set: Dataset
    test_set: Dataset

    def __init__(self, batch_size: int, seed: int = 0):
        raise NotImplementedError("a task makes its train_set and test_set here")

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The scalar to minimise: cross-entropy, unless a task says otherwise."""
        return nn.functional.cross_entropy(output.flatten(0, -2), target.flatten())

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """The scalar that people read: the share of right answers, unless a task says otherwise."""
        return (output.argmax(-1) == target).float().mean()

    def solved(self, score: float) -> bool:
        """Whether a batch of this score counts as solved; a few in a row end the training."""
        return False


class Drawn(Dataset):
    """Samples drawn when they are asked for, the same ones for the same (seed, split, epoch).

    They are drawn a block at a time, which costs far less than one by one. Which samples a block
    holds does not depend on the order in which they are asked for.

    Args:
        draw: Makes as many samples as it is told from a random generator: inputs and targets,
            batch first.
        samples: Length of an epoch.
        seed: The run's seed.
        split: Data sets of different splits share no sample.
        block: Samples drawn together; best a batch.
    """

    def __init__(
        self,
        draw: Callable[[np.random.Generator, int], tuple[Any, Any]],
        samples: int,
        seed: int,
        split: int,
        block: int,
    ):
        self.draw = draw
        self.samples = samples
        self.key = (seed, split)
        self.block = block
        self.epoch = 0
        self._newest: tuple[tuple[int, int], tuple[Any, Any]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Go to the samples of another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        number, row = divmod(index, self.block)
        place = (self.epoch, number)
        if self._newest is None or self._newest[0] != place:
            random = np.random.default_rng((*self.key, *place))
            self._newest = (place, self.draw(random, self.block))
        inputs, targets = self._newest[1]
        return inputs[row], targets[row]


def check_length(length: int, least: int) -> None:
    """Raise unless a sequence of `length` steps can carry the task."""
    if not isinstance(length, int) or length < least:
        raise ValueError(f"length must be an integer of at least {least}, got {length!r}")
