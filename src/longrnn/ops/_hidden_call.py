"""What the CPU kernels of cells with weights on their state are called with."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longrnn import _checks
from longrnn.ops.candidates import CANDIDATES
from longrnn.ops.linear_recurrence.cpu import DTYPES


def hidden_call(
    x: Tensor,
    n: int,
    cell: str,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
    reverse: bool = False,
) -> tuple[int | None, ...]:
    """The first arguments of every call: numbers, sizes and how the sequences lie."""
    if x.dtype not in (torch.float32, torch.float64):  # the ops' front doors widen
        raise ValueError(f"x must have dtype float32 or float64 on a CPU, got {x.dtype}")
    if lengths is not None:  # unchecked until here in a compiled program
        _checks.check_lengths_values(lengths, x.shape[dim])
    if cu_seqlens is not None:
        _checks.check_cu_seqlens_values(cu_seqlens, x.shape[dim])
    return (
        DTYPES[x.dtype],
        list(CANDIDATES).index(cell),
        1 if cu_seqlens is not None else x.shape[1 - dim],
        x.shape[dim],
        n,
        pointer(cu_seqlens),
        1 if cu_seqlens is None else cu_seqlens.numel() - 1,
        pointer(lengths),
        dim == 1,
        reverse,
        torch.get_num_threads(),
    )


def pointer(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers lie; None where there are none."""
    return None if tensor is None or not tensor.numel() else tensor.data_ptr()


def pointers(tensors: Sequence[Tensor]) -> Any:
    """An array of pointers."""
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))
