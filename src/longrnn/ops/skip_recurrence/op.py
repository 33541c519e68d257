r"""A stack of LSTM or GRU cells under one gate that skips steps (Skip RNN).

With gradients every step is evaluated, since the gate's gradient at a skipped step needs the
candidates; what a skipped step does not reach is left out of the way back. Without gradients each
sequence goes straight from one update to the next.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longrnn import _checks, _native
from longrnn.ops._kernels import fill, register_gpu
from longrnn.ops._second_order import differentiate_plain
from longrnn.ops.candidates import CANDIDATES
from longrnn.ops.linear_recurrence.transforms import transforms_active
from longrnn.ops.skip_recurrence import cpu
from longrnn.ops.skip_recurrence.cpu import allocate
from longrnn.ops.skip_recurrence.plain import Results, skip_recurrence_plain


def skip_recurrence(
    x: Tensor,
    weights: Sequence[Tensor],
    weight_u: Tensor,
    bias_u: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    update_prob: Tensor,
    accum_prob: Tensor,
    cell: str,
    *,
    masks: Tensor | None = None,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    batch_first: bool = False,
) -> Results:
    """Run the stack.

    Args:
        x: The input of the first layer.
        weights: Of each layer weight_ih, weight_hh and the merged bias; see `ops.candidates`.
        weight_u: The gate's weights on the top layer's candidate, the cell's where there is one.
        bias_u: The gate's bias.
        hidden: h of each layer before the first step.
        cells: c of each layer, for the cell "lstm".
        update_prob: p, by which the wish to update grows at each step.
        accum_prob: kappa, what has grown since the last update.
        cell: A name in `CANDIDATES`.
        masks: What each layer's candidate but the top one's is multiplied by on its way up.
        lengths: Valid steps of each sequence; outputs and updates past them are 0.
        cu_seqlens: Ends of sequences that lie end to end; see `linear_recurrence`.
        batch_first: Whether `x` and the output are (B, T, ...).

    Shape:
        - x: (T, B, m), or (B, T, m) with `batch_first`, or (T, m) with `cu_seqlens`
        - weights: (G n, m or n), (G n, n) and (4 n,) a layer, G = 4 for LSTM and 3 for GRU
        - weight_u: (1, n); bias_u: (1,)
        - hidden, cells: (L, B, n); update_prob, accum_prob: (B, 1)
        - masks: (L - 1, T, B, n), laid out as `x`
        - returns: output (T, B, n), updates (T, B, 1), and the state after the last step: hidden,
          cells (None without), update_prob, accum_prob

    Returns:
        The top layer's h and the gate, 0 or 1, at every step; the state after each sequence's last.
        The gate and its probabilities are carried in at least float32.

    Raises:
        ValueError: If a shape, dtype or value is not as above.

    Reference:
        Campos et al., ICLR 2018, https://arxiv.org/abs/1708.06834, section 3.

    Example:
        >>> n = 2  # zero weights, and a gate that wants an update every third step
        >>> weights = [torch.zeros(4 * n, 1), torch.zeros(4 * n, n), torch.zeros(4 * n)]
        >>> bias_u = torch.tensor([0.2]).logit()
        >>> zeros, one = torch.zeros(1, 1, n), torch.ones(1, 1)
        >>> _, updates, *_ = skip_recurrence(
        ...     torch.zeros(7, 1, 1), weights, torch.zeros(1, n), bias_u,
        ...     zeros, zeros, one, torch.zeros(1, 1), "lstm",
        ... )  # fmt: skip
        >>> updates.flatten().tolist()
        [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    """
    dim = 1 if batch_first and cu_seqlens is None else 0
    _check(x, weights, weight_u, bias_u, hidden, cells, update_prob, accum_prob, cell, masks,
           lengths, cu_seqlens, dim)  # fmt: skip
    wide = torch.promote_types(x.dtype, torch.float32)
    dtype = x.dtype
    inner = wide if x.device.type == "cpu" else dtype  # what is computed and kept in
    tensors = (
        x.to(inner),
        [w.to(inner) for w in weights],
        weight_u.to(wide),
        bias_u.to(wide),
        hidden.to(inner),
        None if cells is None else cells.to(inner),
        update_prob.to(wide),
        accum_prob.to(wide),
        None if masks is None else masks.to(inner),
        None if lengths is None else lengths.long().contiguous(),
        None if cu_seqlens is None else cu_seqlens.long().contiguous(),
    )
    if transforms_active() or not _has_kernel(x.device):
        found = skip_recurrence_plain(*tensors, cell, dim)
    else:
        needed = (x, *weights, weight_u, bias_u, hidden, cells, update_prob, accum_prob)
        keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in needed)
        found = torch.ops.longrnn.skip_recurrence(*tensors, cell, dim, keep)[:6]
    output, updates, hidden, last_cells, update_prob, accum_prob = found
    cells = None if cells is None or last_cells is None else last_cells.to(dtype)
    return output.to(dtype), updates, hidden.to(dtype), cells, update_prob, accum_prob


torch.library.define(
    "longrnn::skip_recurrence",
    "(Tensor x, Tensor[] weights, Tensor weight_u, Tensor bias_u, Tensor hidden, Tensor? cells, "
    "Tensor update_prob, Tensor accum_prob, Tensor? masks, Tensor? lengths, Tensor? cu_seqlens, "
    "str cell, int dim, bool keep) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "longrnn::skip_recurrence_backward",
    "(Tensor?[] grads, Tensor x, Tensor[] weights, Tensor weight_u, Tensor hidden, "
    "Tensor? masks, Tensor? lengths, Tensor? cu_seqlens, Tensor[] kept, str cell, int dim, "
    "bool needs_x) -> Tensor[]",
)


def _check(
    x: Tensor,
    weights: Sequence[Tensor],
    weight_u: Tensor,
    bias_u: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    update_prob: Tensor,
    accum_prob: Tensor,
    cell: str,
    masks: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
) -> None:
    _checks.check_choice("cell", cell, list(CANDIDATES))
    _checks.check_floating("x", x)
    if lengths is not None and cu_seqlens is not None:
        raise ValueError("lengths and cu_seqlens must not both be given")
    rank = 3 if cu_seqlens is None else 2
    if x.ndim != rank:
        raise ValueError(f"x must have {rank} dimensions, got shape {tuple(x.shape)}")
    if cu_seqlens is not None:
        _checks.check_cu_seqlens_shape("cu_seqlens", cu_seqlens)
    rows = x.shape[1 - dim] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    _checks.check_shape("weight_u", weight_u, "gate n", (1, None))
    _checks.check_shape("bias_u", bias_u, "gate", (1,))
    depth, n, gates = len(weights) // 3, weight_u.shape[-1], 4 if cell == "lstm" else 3
    if len(weights) != 3 * depth or depth == 0:
        raise ValueError(f"weights must be three tensors a layer, got {len(weights)}")
    for k in range(depth):
        width = n if k else x.shape[-1]
        shapes = ((gates * n, width), (gates * n, n), (4 * n,))
        for j, shape in enumerate(shapes, 3 * k):
            if weights[j].shape != shape:
                raise ValueError(
                    f"weights[{j}] must have shape {shape}, got {tuple(weights[j].shape)}"
                )
    _checks.check_shape("hidden", hidden, "L B n", (depth, rows, n))
    if (cells is not None) != (cell == "lstm"):
        raise ValueError(f"cells must be given for the cell lstm and no other, got {cell}")
    if cells is not None:
        _checks.check_shape("cells", cells, "L B n", (depth, rows, n))
    _checks.check_shape("update_prob", update_prob, "B 1", (rows, 1))
    _checks.check_shape("accum_prob", accum_prob, "B 1", (rows, 1))
    if lengths is not None:
        _checks.check_integers("lengths", lengths, "B", rows)
    if masks is not None and masks.shape != (depth - 1, *x.shape[:-1], n):
        raise ValueError(
            f"masks must have shape {(depth - 1, *x.shape[:-1], n)}, got {tuple(masks.shape)}"
        )


def _has_kernel(device: torch.device) -> bool:
    if device.type == "cpu":  # a compiler always sees the op, which then runs what there is
        return torch.compiler.is_compiling() or _native.available()
    return device.type in ("cuda", "meta")


@torch.library.impl("longrnn::skip_recurrence", "CPU")
def _forward_cpu(*arguments: Any) -> tuple[Tensor, ...]:
    if _native.available():
        return cpu.forward(*arguments)
    x, _, _, _, hidden, cells, *_, keep = arguments
    return fill(allocate(x, hidden, cells, keep), skip_recurrence_plain(*arguments[:-1]))


@torch.library.impl("longrnn::skip_recurrence_backward", "CPU")
def _backward_cpu(*arguments: Any) -> list[Tensor]:
    return cpu.backward(*arguments)


register_gpu("skip_recurrence")


@torch.library.register_fake("longrnn::skip_recurrence")
def _forward_fake(
    x: Tensor,
    weights: list[Tensor],
    weight_u: Tensor,
    bias_u: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    return allocate(x, hidden, cells, rest[-1])


@torch.library.register_fake("longrnn::skip_recurrence_backward")
def _backward_fake(
    grads: list[Tensor | None],
    x: Tensor,
    weights: list[Tensor],
    weight_u: Tensor,
    hidden: Tensor,
    masks: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    kept: list[Tensor],
    cell: str,
    dim: int,
    needs_x: bool,
) -> list[Tensor]:
    by_x = x.new_empty(x.shape if needs_x else 0)
    states = [hidden.new_empty(hidden.shape) for _ in range(2 if cell == "lstm" else 1)]
    scalars = [weight_u.new_empty(hidden.shape[1], 1) for _ in range(2)]
    like = (*weights, weight_u, weight_u[0, :1])
    return [by_x, *(t.new_empty(t.shape) for t in like), *states, *scalars]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weights, *tensors, ctx.cell, ctx.dim, _ = inputs
    ctx.layers = len(weights)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[6:])
    ctx.save_for_backward(x, *weights, *tensors, *output[6:])


def _differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    saved, count = ctx.saved_tensors, 1 + ctx.layers
    x, *weights = saved[:count]
    *gate_and_state, masks, lengths, cu_seqlens = saved[count : count + 9]
    inputs = [x, *weights, *gate_and_state]
    ragged: tuple[Any, ...] = (masks, lengths, cu_seqlens)
    if torch.is_grad_enabled() or not (x.device.type != "cpu" or _native.available()):

        def plain(x: Any, *rest: Any) -> Results:
            arguments = (*rest[ctx.layers :], *ragged, ctx.cell, ctx.dim)
            return skip_recurrence_plain(x, rest[: ctx.layers], *arguments)

        firsts = differentiate_plain(plain, inputs, grads[:6])
    else:
        weight_u, _, hidden, *_ = gate_and_state
        kept, needs_x = list(saved[count + 9 :]), ctx.needs_input_grad[0]
        found = torch.ops.longrnn.skip_recurrence_backward(
            list(grads[:6]), x, weights, weight_u, hidden, *ragged, kept, ctx.cell, ctx.dim, needs_x
        )
        if not needs_x:
            found[0] = None
        rest = iter(found)
        firsts = [None if t is None else next(rest) for t in inputs]
    return firsts[0], firsts[1:count], *firsts[count:], *(None,) * 6


torch.library.register_autograd("longrnn::skip_recurrence", _differentiate, setup_context=_save)
