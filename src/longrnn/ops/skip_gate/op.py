r"""The gate of layers that choose by their inputs which steps to skip (Skip RNN).

Where the gate sees the input, only two numbers a sequence go from step to step: the layer's state
need not be known to know which steps update, so that a linear one is found in parallel afterwards.
"""

from typing import Any

import torch
from torch import Tensor

from longrnn import _checks, _native
from longrnn.ops._kernels import fill
from longrnn.ops._second_order import differentiate_plain
from longrnn.ops.linear_recurrence.transforms import transforms_active
from longrnn.ops.skip_gate import cpu
from longrnn.ops.skip_gate.cpu import allocate
from longrnn.ops.skip_gate.plain import skip_gate_plain


def skip_gate(
    x: Tensor,
    weight_u: Tensor,
    bias_u: Tensor,
    update_prob: Tensor,
    accum_prob: Tensor,
    *,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    batch_first: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Tell which steps update.

    $$
    \begin{aligned}
    \tilde u_t &= \kappa_{t-1} + \min(p_{t-1}, 1 - \kappa_{t-1}), \qquad
    u_t = \operatorname{round}(\tilde u_t) \\
    p_t &= u_t\, \sigma(w_u x_t + b_u) + (1 - u_t)\, p_{t-1}, \qquad
    \kappa_t = (1 - u_t)\, \tilde u_t
    \end{aligned}
    $$

    Rounding has the gradient of the identity; a tie skips. Where no gradient is asked for, inputs
    of skipped steps are not looked at.

    Args:
        x: The inputs.
        weight_u: The gate's weights on the input.
        bias_u: The gate's bias.
        update_prob: p, by which the wish to update grows at each step.
        accum_prob: kappa, what has grown since the last update.
        lengths: Valid steps of each sequence; updates past them are 0.
        cu_seqlens: Ends of sequences that lie end to end; see `linear_recurrence`.
        batch_first: Whether `x` and the updates are (B, T, ...).

    Shape:
        - x: (T, B, m), or (B, T, m) with `batch_first`, or (T, m) with `cu_seqlens`
        - weight_u: (1, m); bias_u: (1,); update_prob, accum_prob: (B, 1)
        - returns: updates (T, B, 1), laid out as `x`, and p and kappa after the last step

    Returns:
        The gate, 0 or 1, at every step; p and kappa after each sequence's last. All in at least
        float32.

    Raises:
        ValueError: If a shape, dtype or value is not as above.

    Reference:
        Campos et al., ICLR 2018, https://arxiv.org/abs/1708.06834, section 3; there the gate sees
        the state.

    Example:
        >>> x = torch.tensor([0.2, 0.9, 0.9, 0.3, 0.9, 0.5, 0.9]).logit().view(7, 1, 1)
        >>> gate = torch.ones(1, 1), torch.zeros(1), torch.ones(1, 1), torch.zeros(1, 1)
        >>> updates, p, kappa = skip_gate(x, *gate)
        >>> updates.flatten().tolist()
        [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    """
    dim = 1 if batch_first and cu_seqlens is None else 0
    _check(x, weight_u, bias_u, update_prob, accum_prob, lengths, cu_seqlens, dim)
    wide = torch.promote_types(x.dtype, torch.float32)
    arguments: tuple[Any, ...] = (
        x.to(wide) if x.device.type == "cpu" else x,
        *(t.to(wide) for t in (weight_u, bias_u, update_prob, accum_prob)),
        None if lengths is None else lengths.long().contiguous(),
        None if cu_seqlens is None else cu_seqlens.long().contiguous(),
        dim,
    )
    if transforms_active() or not _has_kernel(x.device):
        return skip_gate_plain(*arguments)
    needed = (x, weight_u, bias_u, update_prob, accum_prob)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in needed)
    updates, p, kappa, _ = torch.ops.longrnn.skip_gate(*arguments, keep)
    return updates, p, kappa


torch.library.define(
    "longrnn::skip_gate",
    "(Tensor x, Tensor weight_u, Tensor bias_u, Tensor update_prob, Tensor accum_prob, "
    "Tensor? lengths, Tensor? cu_seqlens, int dim, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "longrnn::skip_gate_backward",
    "(Tensor?[] grads, Tensor x, Tensor weight_u, Tensor? lengths, Tensor? cu_seqlens, "
    "Tensor gate, int dim, bool needs_x) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def _check(
    x: Tensor,
    weight_u: Tensor,
    bias_u: Tensor,
    update_prob: Tensor,
    accum_prob: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
) -> None:
    _checks.check_floating("x", x)
    if lengths is not None and cu_seqlens is not None:
        raise ValueError("lengths and cu_seqlens must not both be given")
    rank = 3 if cu_seqlens is None else 2
    if x.ndim != rank:
        raise ValueError(f"x must have {rank} dimensions, got shape {tuple(x.shape)}")
    if cu_seqlens is not None:
        _checks.check_cu_seqlens_shape("cu_seqlens", cu_seqlens)
    rows = x.shape[1 - dim] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    _checks.check_shape("weight_u", weight_u, "gate m", (1, x.shape[-1]))
    _checks.check_shape("bias_u", bias_u, "gate", (1,))
    _checks.check_shape("update_prob", update_prob, "B 1", (rows, 1))
    _checks.check_shape("accum_prob", accum_prob, "B 1", (rows, 1))
    if lengths is not None:
        _checks.check_integers("lengths", lengths, "B", rows)


def _has_kernel(device: torch.device) -> bool:
    if device.type == "cpu":  # a compiler always sees the op, which then runs what there is
        return torch.compiler.is_compiling() or _native.available()
    return device.type in ("cuda", "meta")


@torch.library.impl("longrnn::skip_gate", "CPU")
def _forward_cpu(*arguments: Any) -> tuple[Tensor, ...]:
    if _native.available():
        return cpu.forward(*arguments)
    x, _, _, update_prob, *_, keep = arguments
    return fill(allocate(x, update_prob, keep), skip_gate_plain(*arguments[:-1]))


@torch.library.impl("longrnn::skip_gate", "CUDA")
def _forward_cuda(*arguments: Any) -> tuple[Tensor, ...]:
    from longrnn.ops.skip_gate import gpu  # imports Triton, absent on CPU machines

    return gpu.forward(*arguments)


@torch.library.impl("longrnn::skip_gate_backward", "CPU")
def _backward_cpu(*arguments: Any) -> tuple[Tensor, ...]:
    return _backward(cpu.backward, *arguments)


@torch.library.impl("longrnn::skip_gate_backward", "CUDA")
def _backward_cuda(*arguments: Any) -> tuple[Tensor, ...]:
    from longrnn.ops.skip_gate import gpu

    return _backward(gpu.backward, *arguments)


def _backward(
    kernel: Any,
    grads: list[Tensor | None],
    x: Tensor,
    weight_u: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    gate: Tensor,
    dim: int,
    needs_x: bool,
) -> tuple[Tensor, ...]:
    """Gradients of x (empty if not needed), weight_u, bias_u, p and kappa."""
    logits, p, kappa = kernel(grads, x, lengths, cu_seqlens, gate, dim)
    logits = logits.view(-1, 1)
    used = (gate.view(-1, 4)[:, 2] > 0.5).nonzero().squeeze(1)  # others have no part in a product
    given, logits = x.reshape(-1, x.shape[-1]).index_select(0, used), logits.index_select(0, used)
    by_x = x.new_empty(0)
    if needs_x:
        by_x = x.new_zeros(x.shape)
        by_x.view(-1, x.shape[-1]).index_copy_(0, used, (logits * weight_u).to(x.dtype))
    return by_x, logits.T @ given.to(logits.dtype), logits.sum(0), p, kappa


@torch.library.register_fake("longrnn::skip_gate")
def _forward_fake(
    x: Tensor, weight_u: Tensor, bias_u: Tensor, update_prob: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    return allocate(x, update_prob, rest[-1])


@torch.library.register_fake("longrnn::skip_gate_backward")
def _backward_fake(
    grads: list[Tensor | None],
    x: Tensor,
    weight_u: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    gate: Tensor,
    dim: int,
    needs_x: bool,
) -> tuple[Tensor, ...]:
    rows = x.shape[1 - dim] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    scalars = [weight_u.new_empty(rows, 1) for _ in range(2)]
    by_x = x.new_empty(x.shape if needs_x else 0)
    return by_x, weight_u.new_empty(weight_u.shape), weight_u.new_empty(1), *scalars


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.dim, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[3])
    ctx.save_for_backward(*tensors, output[3])


def _differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    *inputs, lengths, cu_seqlens, gate = ctx.saved_tensors
    x, weight_u = inputs[:2]
    if torch.is_grad_enabled() or not (x.device.type != "cpu" or _native.available()):

        def plain(*tensors: Any) -> tuple[Tensor, Tensor, Tensor]:
            arguments = (*tensors, lengths, cu_seqlens, ctx.dim)
            return skip_gate_plain(*arguments)

        return *differentiate_plain(plain, inputs, grads[:3]), *(None,) * 4
    needs_x = ctx.needs_input_grad[0]
    by_x, *others = torch.ops.longrnn.skip_gate_backward(
        list(grads[:3]), x, weight_u, lengths, cu_seqlens, gate, ctx.dim, needs_x
    )
    return by_x if needs_x else None, *others, *(None,) * 4


torch.library.register_autograd("longrnn::skip_gate", _differentiate, setup_context=_save)
