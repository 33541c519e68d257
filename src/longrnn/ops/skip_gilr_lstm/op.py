r"""A stack of GILR-LSTM layers under one gate that skips steps (Skip RNN).

The gate sees the input, so that which steps update is known before the states are (`skip_gate`).
With gradients every step is evaluated, in parallel over time, since the gate's gradient at a
skipped step needs the candidates. Without, the steps that update are evaluated, in parallel too.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longrnn.ops.linear_recurrence.transforms import transforms_active
from longrnn.ops.skip_gate.op import skip_gate
from longrnn.ops.skip_gilr_lstm.every_step import run_every_step
from longrnn.ops.skip_gilr_lstm.used_steps import run_used_steps


def skip_gilr_lstm(
    x: Tensor,
    weights: Sequence[Any],
    weight_u: Tensor,
    bias_u: Tensor,
    states: Sequence[Tensor],
    update_prob: Tensor,
    accum_prob: Tensor,
    surrogate_shift: bool,
    *,
    masks: Tensor | None = None,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    batch_first: bool = False,
) -> tuple[Tensor, ...]:
    """Run the stack.

    Args:
        x: The input, of the gate and of the first layer.
        weights: Of each layer weight_is, bias_is, weight_ih, weight_sh and bias_ih, as `GILRLSTM`
            has them, in the dtype to compute in; biases may be None.
        weight_u: The gate's weights on the input.
        bias_u: The gate's bias.
        states: Surrogate, cell and output of each layer before the first step.
        update_prob: p, by which the wish to update grows at each step.
        accum_prob: kappa, what has grown since the last update.
        surrogate_shift: Whether a layer's gates see the surrogate before the step, or after it.
        masks: What each layer's candidate but the top one's is multiplied by on its way up.
        lengths: Valid steps of each sequence; outputs and updates past them are 0.
        cu_seqlens: Ends of sequences that lie end to end; see `linear_recurrence`.
        batch_first: Whether `x` and the output are (B, T, ...).

    Shape:
        - x: (T, B, m), or (B, T, m) with `batch_first`, or (T, m) with `cu_seqlens`
        - weights: (2 n, m or n), (2 n,), (4 n, m or n), (4 n, n) and (4 n,) a layer
        - weight_u: (1, m); bias_u: (1,)
        - states: (L, B, n) each; update_prob, accum_prob: (B, 1)
        - masks: (L - 1, T, B, n), laid out as `x`

    Returns:
        Output (T, B, n), updates (T, B, 1), and the state after each sequence's last step:
        surrogate, cell and output of each layer, p and kappa.
    """
    dim = 1 if batch_first and cu_seqlens is None else 0
    needed = (x, *weights, weight_u, bias_u, *states, update_prob, accum_prob)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in needed)
    gate = (weight_u, bias_u, update_prob, accum_prob)
    given: tuple[Any, ...] = (surrogate_shift, masks, lengths, cu_seqlens, dim)
    if keep or transforms_active():
        updates, p, kappa = skip_gate(
            x, *gate, lengths=lengths, cu_seqlens=cu_seqlens, batch_first=batch_first
        )
        output, *last = run_every_step(x, updates, weights, states, *given)
        return output, updates, *last, p, kappa
    states = [member.to(weights[0].dtype) for member in states]
    run: Any = _forward
    if torch.compiler.is_compiling() or x.is_meta:
        run = torch.ops.longrnn.skip_gilr_lstm
    return run(x, weights, *gate, states, *given)


# For a compiler, which cannot follow tensors whose size is the number of updates.
torch.library.define(
    "longrnn::skip_gilr_lstm",
    "(Tensor x, Tensor?[] weights, Tensor weight_u, Tensor bias_u, Tensor update_prob, "
    "Tensor accum_prob, Tensor[] states, bool surrogate_shift, Tensor? masks, Tensor? lengths, "
    "Tensor? cu_seqlens, int dim) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def _forward(
    x: Tensor,
    weights: list[Any],
    weight_u: Tensor,
    bias_u: Tensor,
    update_prob: Tensor,
    accum_prob: Tensor,
    states: list[Tensor],
    surrogate_shift: bool,
    masks: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
) -> tuple[Tensor, ...]:
    updates, p, kappa = skip_gate(
        x,
        weight_u,
        bias_u,
        update_prob,
        accum_prob,
        lengths=lengths,
        cu_seqlens=cu_seqlens,
        batch_first=dim == 1,
    )
    given = (surrogate_shift, masks, lengths, cu_seqlens, dim)
    output, *last = run_used_steps(x, updates, weights, states, *given)
    return output, updates, *last, p, kappa


torch.library.impl("longrnn::skip_gilr_lstm", "CompositeExplicitAutograd", _forward)


@torch.library.register_fake("longrnn::skip_gilr_lstm")
def _forward_fake(
    x: Tensor,
    weights: list[Any],
    weight_u: Tensor,
    bias_u: Tensor,
    update_prob: Tensor,
    accum_prob: Tensor,
    states: list[Tensor],
    *_: Any,
) -> tuple[Tensor, ...]:
    wide = torch.promote_types(x.dtype, torch.float32)
    scalars = [t.new_empty(t.shape, dtype=wide) for t in (update_prob, accum_prob)]
    return (
        states[0].new_empty(*x.shape[:-1], states[0].shape[-1]),
        x.new_empty(*x.shape[:-1], 1, dtype=wide),
        *(member.new_empty(member.shape) for member in states),
        *scalars,
    )
