"""Makes one tensor of sequences of many lengths: padded to a bucket, or end to end."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from longrnn.batching.plan import check_buckets


def pad_to_bucket(
    sequences: Sequence[Tensor], buckets: Sequence[int] | None = None, *, batch_first: bool = False
) -> tuple[Tensor, Tensor]:
    """Pad sequences with zeros to the smallest bucket that holds the longest.

    Args:
        sequences: Each (T, ...), alike in all but T.
        buckets: Ascending; None pads to the longest.
        batch_first: Whether the result is (B, T, ...) instead of (T, B, ...).

    Returns:
        The values and the lengths (B,).

    Raises:
        ValueError: If a sequence is longer than the last bucket, or of another shape or dtype than
            the first, or there is none.

    Example:
        >>> values, lengths = pad_to_bucket([torch.ones(3), torch.ones(1)], [2, 4])
        >>> values.T.tolist(), lengths.tolist()
        ([[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]], [3, 1])
    """
    _check_alike(sequences)
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    longest = int(lengths.max())
    T = longest
    if buckets is not None:
        T = next((bucket for bucket in check_buckets(buckets) if bucket >= longest), 0)
        if longest > T:
            raise ValueError(
                f"sequences must fit the last bucket, {buckets[-1]} steps, got {longest}"
            )
    first = sequences[0]
    shape = (len(sequences), T) if batch_first else (T, len(sequences))
    values = first.new_zeros(*shape, *first.shape[1:])
    for row, sequence in zip(values if batch_first else values.unbind(1), sequences, strict=True):
        row[: len(sequence)] = sequence
    return values, lengths


def pack_end_to_end(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Lay sequences end to end: nothing is padded.

    Args:
        sequences: Each (T, ...), alike in all but T.

    Returns:
        The values, (total, ...), and `cu_seqlens` (N + 1,), from 0 to the total.

    Raises:
        ValueError: If a sequence is of another shape or dtype than the first, or there is none.

    Example:
        >>> values, cu_seqlens = pack_end_to_end([torch.ones(3), torch.ones(1)])
        >>> values.shape, cu_seqlens.tolist()
        (torch.Size([4]), [0, 3, 4])
    """
    _check_alike(sequences)
    lengths = torch.tensor([0, *(len(sequence) for sequence in sequences)])
    return torch.cat(list(sequences)), lengths.cumsum(0)


def collate_padded(
    samples: Sequence[Any], buckets: Sequence[int] | None = None, *, batch_first: bool = False
) -> tuple[Any, ...]:
    """A `DataLoader`'s `collate_fn`: `pad_to_bucket`, and the rest of each sample stacked.

    Args:
        samples: Tuples (sequence, ...).
        buckets: As in `pad_to_bucket`; bind them with `functools.partial`.
        batch_first: As there.

    Returns:
        `(values, lengths, ...)`.
    """
    sequences, rest = _split(samples)
    return *pad_to_bucket(sequences, buckets, batch_first=batch_first), *rest


def collate_packed(samples: Sequence[Any]) -> tuple[Any, ...]:
    """A `DataLoader`'s `collate_fn`: `pack_end_to_end`, and the rest of each sample stacked.

    Args:
        samples: Tuples (sequence, ...).

    Returns:
        `(values, cu_seqlens, ...)`.
    """
    sequences, rest = _split(samples)
    return *pack_end_to_end(sequences), *rest


def _check_alike(sequences: Sequence[Tensor]) -> None:
    """Raise unless there are sequences, alike in all but T."""
    kinds = {f"({', '.join(map(str, ('T', *s.shape[1:])))}) {s.dtype}" for s in sequences}
    if len(kinds) != 1:
        came = " beside ".join(sorted(kinds)) or "none"
        raise ValueError(f"sequences must be one or more, alike in all but T, got {came}")


def _split(samples: Sequence[Any]) -> tuple[list[Tensor], list[Any]]:
    for sample in samples:
        if not isinstance(sample, (tuple, list)):
            raise ValueError(f"samples must be tuples (sequence, ...), got {type(sample).__name__}")
    return [sample[0] for sample in samples], default_collate([sample[1:] for sample in samples])
