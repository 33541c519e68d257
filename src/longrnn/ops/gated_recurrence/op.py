r"""Gates, linear recurrence and output of a layer in one pass over the sequence.

Every layer that is linear in its state computes

    a_t, b_t = gates of the pre-activations      c_t = a_t c_{t-1} + b_t      h_t = output(c_t, ...)

and differs only in the cell (`cells.py`). Doing the three in one kernel moves each big tensor
once: pre-activations in, outputs and states out. The gradient recomputes the gates.
"""

from typing import Any

import torch
from torch import Tensor

from longrnn import _checks, _native
from longrnn.ops.gated_recurrence.cells import CELLS
from longrnn.ops.gated_recurrence.plain import gated_recurrence_plain


def gated_recurrence(
    gates: Tensor,
    initial_state: Tensor,
    cell: str,
    *,
    highway: Tensor | None = None,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    batch_first: bool = False,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run one layer and direction from its pre-activations.

    Args:
        gates: The pre-activations, one block of n features a gate in the order of the cell.
        initial_state: The state before the first step.
        cell: A name in `CELLS`.
        highway: What the cells "sru-*" pass around the recurrence.
        lengths: Valid steps of each sequence; outputs past them are 0.
        cu_seqlens: Ends of sequences that lie end to end; see `linear_recurrence`.
        batch_first: Whether `gates` and the output are (B, T, ...).
        reverse: Run from each sequence's last step to its first.

    Shape:
        - gates: (T, B, G * n), or (B, T, G * n) with `batch_first`, or (T, G * n) with `cu_seqlens`
        - initial_state: (B, n), or (N, n) with `cu_seqlens`
        - highway: as the output
        - returns: output (T, B, n) laid out as `gates`, and final state as `initial_state`

    Returns:
        The output at every step, and the state after each sequence's last step. Both have the
        dtype of `gates`; the state is carried in at least float32.

    Raises:
        ValueError: If a shape, device or value is not as above.

    Reference:
        Martin and Cundy, ICLR 2018, https://arxiv.org/abs/1709.04057, section 3.

    Example:
        >>> gates = torch.zeros(3, 1, 2)  # every gate is 1/2, every candidate 0
        >>> output, state = gated_recurrence(gates, torch.ones(1, 1), "gilr-tanh")
        >>> output.flatten().tolist(), state.tolist()
        ([0.5, 0.25, 0.125], [[0.125]])
    """
    n = gates.shape[-1] // CELLS[cell].gates
    dim = 1 if batch_first and cu_seqlens is None else 0
    initial_state = initial_state.to(gates.dtype)
    if highway is not None:
        highway = highway.to(gates.dtype)
    keep = torch.is_grad_enabled() and (
        gates.requires_grad
        or initial_state.requires_grad
        or (highway is not None and highway.requires_grad)
    )
    output, _, last = torch.ops.longrnn.gated_recurrence(
        gates, highway, initial_state, lengths, cu_seqlens, cell, dim, reverse, keep
    )
    return output, last
