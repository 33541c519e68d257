"""Batches of time-stamped sequences."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from longrnn.tasks.task import Sequences

NO_TARGET = -100
"""What the target is at a step that asks for no answer; cross-entropy passes over it."""

Timed = tuple[tuple[Tensor, Tensor], Tensor]
"""A sample: values (T,) or (T, m) and time stamps (T,), and a target, one or one a step."""


def pad_timed(samples: list[Timed]) -> tuple[Sequences, Tensor]:
    """Make a batch of samples of any lengths, padded at their ends."""
    values, times = [v for (v, _), _ in samples], [t for (_, t), _ in samples]
    targets = [target for _, target in samples]
    sequences = Sequences(
        pad_sequence(values, batch_first=True),
        lengths=torch.tensor([len(v) for v in values]),
        times=pad_sequence(times, batch_first=True),
    )
    if targets[0].ndim == 0:
        return sequences, torch.stack(targets)
    return sequences, pad_sequence(targets, batch_first=True, padding_value=NO_TARGET)
