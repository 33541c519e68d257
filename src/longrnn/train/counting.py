"""Work, counted: updates of the state and multiply-adds, for a mean sequence of a batch."""

import torch
from torch import Tensor, nn

from longrnn.tasks import Sequences


def count_sequences(input: Tensor | Sequences) -> int:
    """Sequences of a batch."""
    if isinstance(input, Sequences) and input.cu_seqlens is not None:
        return len(input.cu_seqlens) - 1
    return len(input.values if isinstance(input, Sequences) else input)


def updates_per_sequence(input: Tensor | Sequences, updates: Tensor | None) -> Tensor | float:
    """Steps at which the state was updated: all valid ones, unless a layer tells."""
    sequences = input if isinstance(input, Sequences) else Sequences(input)
    values, lengths, _, ends = sequences
    count = count_sequences(sequences)
    if updates is not None:
        return updates.sum() / count
    if lengths is not None:
        return lengths.sum() / count
    return values.shape[1] if ends is None else len(values) / count


def macs_per_sequence(layer: nn.Module, updates: float) -> float | None:
    """Multiply-adds of a layer's matrix products in so many updates, by the paper's rule.

    An update of an LSTM takes 4 n (n + m) in each layer and one of a GRU 3 n (n + m), which is
    the size of its weights; layers that skip count for themselves. For others there is no rule,
    and None is returned.

    Reference:
        Campos et al., Skip RNN, ICLR 2018, https://arxiv.org/abs/1708.06834, tables 1 and 2.

    Example:
        >>> macs_per_sequence(nn.LSTM(2, 110), 50)  # table 1: 2.46e6
        2464000.0
    """
    if isinstance(layer, (nn.LSTM, nn.GRU)):
        weights = [p for name, p in layer.named_parameters() if name.startswith("weight")]
        return float(updates * sum(weight.numel() for weight in weights))
    count = getattr(layer, "macs", None)
    return None if count is None else float(count(torch.tensor(updates)))


def si(number: float) -> str:
    """A number in thousands, millions or billions.

    >>> si(2464000.0), si(98), si(3.83e10)
    ('2.46M', '98', '38.3G')
    """
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{prefix}"
    return f"{number:.3g}"
