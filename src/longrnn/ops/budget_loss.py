"""What updates cost: the term that teaches a skip layer to leave steps out."""

import math

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from longrnn import _checks


def budget_loss(
    updates: Tensor | PackedSequence,
    cost_per_sample: float,
    *,
    lengths: Tensor | None = None,
    target: float | None = None,
    batch_first: bool = False,
) -> Tensor:
    r"""Charge a batch of sequences for the updates of their state.

    $$
    \frac{\lambda}{B} \sum_{b=1}^{B} \sum_{t=1}^{T_b} u_{b,t}
    \qquad \text{or, with a target } N, \qquad
    \frac{\lambda}{B} \sum_{b=1}^{B} \Big| \sum_{t=1}^{T_b} u_{b,t} - N \Big|
    $$

    The cost multiplies the sum over time, not the mean: one update costs the same in a short
    sequence as in a long one.

    Args:
        updates: The gates u that a skip layer returns, 0 or 1.
        cost_per_sample: The cost λ of one update, at least 0.
        lengths: Valid steps of each sequence; what lies past them is not charged.
        target: Number of updates a sequence that costs nothing; more cost, and so do fewer.
        batch_first: Whether updates are (B, T, 1) instead of (T, B, 1).

    Shape:
        - updates: (T, B, 1), or (B, T, 1) with `batch_first`, or (T, 1), or a `PackedSequence`
        - lengths: (B,) integers
        - returns: a scalar, to be added to the task's loss

    Raises:
        ValueError: If a cost or target is negative or not finite, or a shape is not as above.

    Reference:
        Campos et al., "Skip RNN: Learning to Skip State Updates in Recurrent Neural Networks",
        ICLR 2018, https://arxiv.org/abs/1708.06834, section 3.2.

    Example:
        >>> updates = torch.tensor([[1.0, 0, 1, 0, 0], [1, 1, 1, 1, 0]]).unsqueeze(-1)
        >>> budget_loss(updates, 0.5, batch_first=True)  # 2 and 4 updates
        tensor(1.5000)
        >>> budget_loss(updates, 0.5, target=3, batch_first=True)
        tensor(0.5000)
    """
    _check_amount("cost_per_sample", cost_per_sample)
    if target is not None:
        _check_amount("target", target)
    if isinstance(updates, PackedSequence):
        if lengths is not None:
            raise ValueError("lengths must be None where updates are packed: they have them")
        updates, lengths = pad_packed_sequence(updates, batch_first=batch_first)
    _checks.check_floating("updates", updates)
    if updates.ndim == 2:
        _checks.check_shape("updates", updates, "T gate", (None, 1))
        updates, batch_first = updates.unsqueeze(0), True
    _checks.check_shape(
        "updates", updates, "B T gate" if batch_first else "T B gate", (None, None, 1)
    )
    gates = updates.squeeze(-1) if batch_first else updates.squeeze(-1).t()  # (B, T)
    if lengths is not None:
        B, T = gates.shape
        _checks.check_lengths("lengths", lengths, B, T)
        steps = torch.arange(T, device=gates.device)
        gates = gates.where(steps < lengths.to(gates.device).unsqueeze(-1), 0.0)
    counts = gates.sum(1)
    if target is not None:
        counts = (counts - target).abs()
    return cost_per_sample * counts.mean()


def _check_amount(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
