r"""Gates, linear recurrence and output of a layer in one pass over the sequence.

Every layer that is linear in its state computes

    a_t, b_t = gates of the pre-activations      c_t = a_t c_{t-1} + b_t      h_t = output(c_t, ...)

and differs only in the cell (`cells.py`). Doing the three in one kernel moves each big tensor
once: pre-activations in, outputs and states out. The gradient recomputes the gates.

A step can be taken in part: with an openness $k_t$ the recurrence is
$c_t = (1 - k_t) c_{t-1} + k_t (a_t c_{t-1} + b_t)$, which is linear in the state as well. The
output is made of $c_t$, or by the cells "*-candidate" of $a_t c_{t-1} + b_t$, which a step that is
shut has too.
"""

from typing import Any

import torch
from torch import Tensor

from longrnn import _checks, _native
from longrnn.ops._kernels import fill, register_gpu
from longrnn.ops._second_order import differentiate_plain
from longrnn.ops.gated_recurrence import cpu
from longrnn.ops.gated_recurrence.cells import CELLS, allocate
from longrnn.ops.gated_recurrence.plain import gated_recurrence_plain
from longrnn.ops.linear_recurrence.transforms import transforms_active


def gated_recurrence(
    gates: Tensor,
    initial_state: Tensor,
    cell: str,
    *,
    highway: Tensor | None = None,
    openness: Tensor | None = None,
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
        openness: To what share each unit takes each step, for any cell: 1 is the step as it is, 0
            keeps the state. Where it is 0, pre-activations that are no numbers do no harm to it.
            The cells "*-candidate" put out what the whole step would, whatever share is taken.
        lengths: Valid steps of each sequence; outputs past them are 0.
        cu_seqlens: Ends of sequences that lie end to end; see `linear_recurrence`.
        batch_first: Whether `gates` and the output are (B, T, ...).
        reverse: Run from each sequence's last step to its first.

    Shape:
        - gates: (T, B, G * n), or (B, T, G * n) with `batch_first`, or (T, G * n) with `cu_seqlens`
        - initial_state: (B, n), or (N, n) with `cu_seqlens`
        - highway, openness: as the output
        - returns: output (T, B, n) laid out as `gates`, and final state as `initial_state`

    Returns:
        The output at every step, and the state after each sequence's last step. Both have the
        dtype of `gates`; the state is carried in at least float32. A state that is kept is so to
        the bit by the CPU kernel, and to rounding where a scan composes steps.

    Raises:
        ValueError: If a shape, dtype, device or value is not as above.

    Reference:
        Martin and Cundy, ICLR 2018, https://arxiv.org/abs/1709.04057, section 3.

    Example:
        >>> gates = torch.zeros(3, 1, 2)  # every gate is 1/2, every candidate 0
        >>> output, state = gated_recurrence(gates, torch.ones(1, 1), "gilr-tanh")
        >>> output.flatten().tolist(), state.tolist()
        ([0.5, 0.25, 0.125], [[0.125]])
        >>> openness = torch.tensor([1.0, 0.0, 0.5]).view(3, 1, 1)
        >>> output, _ = gated_recurrence(gates, torch.ones(1, 1), "gilr-tanh", openness=openness)
        >>> output.flatten().tolist()
        [0.5, 0.5, 0.375]
    """
    dim = 1 if batch_first and cu_seqlens is None else 0
    _check(gates, initial_state, cell, highway, openness, lengths, cu_seqlens, dim)
    initial_state = initial_state.to(gates.dtype)
    highway = None if highway is None else highway.to(gates.dtype)
    openness = None if openness is None else openness.to(gates.dtype)
    lengths = None if lengths is None else lengths.long().contiguous()
    cu_seqlens = None if cu_seqlens is None else cu_seqlens.long().contiguous()
    keep = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (gates, initial_state, highway, openness)
    )
    if transforms_active() or not _has_kernel(gates.device):
        output, _, last = gated_recurrence_plain(
            gates, highway, openness, initial_state, lengths, cu_seqlens, cell, dim, reverse
        )
        return output, last
    output, _, last = torch.ops.longrnn.gated_recurrence(
        gates, highway, openness, initial_state, lengths, cu_seqlens, cell, dim, reverse, keep
    )
    return output, last


torch.library.define(
    "longrnn::gated_recurrence",
    "(Tensor gates, Tensor? highway, Tensor? openness, Tensor initial_state, Tensor? lengths, "
    "Tensor? cu_seqlens, str cell, int dim, bool reverse, bool keep_states) "
    "-> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "longrnn::gated_recurrence_backward",
    "(Tensor? grad_output, Tensor? grad_final, Tensor gates, Tensor? highway, Tensor? openness, "
    "Tensor initial_state, Tensor? lengths, Tensor? cu_seqlens, Tensor output, Tensor states, "
    "str cell, int dim, bool reverse) -> (Tensor, Tensor, Tensor, Tensor)",
)


def _check(
    gates: Tensor,
    initial_state: Tensor,
    cell: str,
    highway: Tensor | None,
    openness: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
) -> None:
    _checks.check_choice("cell", cell, list(CELLS))
    _checks.check_floating("gates", gates)
    count, features, rank = CELLS[cell].gates, gates.shape[-1], 3 if cu_seqlens is None else 2
    if gates.ndim != rank or features % count:
        raise ValueError(
            f"gates must have {rank} dimensions, the last {count} blocks of features, "
            f"got shape {tuple(gates.shape)}"
        )
    if lengths is not None and cu_seqlens is not None:
        raise ValueError("lengths and cu_seqlens must not both be given")
    rows = gates.shape[1 - dim]
    if cu_seqlens is not None:
        _checks.check_cu_seqlens_shape("cu_seqlens", cu_seqlens)
        _checks.check_same_device("cu_seqlens", cu_seqlens, "gates", gates)
        rows = cu_seqlens.shape[0] - 1
    _checks.check_shape("initial_state", initial_state, "B n", (rows, features // count))
    _checks.check_same_device("initial_state", initial_state, "gates", gates)
    if lengths is not None:
        _checks.check_integers("lengths", lengths, "B", rows)
        _checks.check_same_device("lengths", lengths, "gates", gates)
    if (highway is not None) != CELLS[cell].highway:
        raise ValueError(f"highway must be given for the cells sru-* and no others, got {cell}")
    for name, x in (("highway", highway), ("openness", openness)):
        if x is None:
            continue
        if x.shape != (*gates.shape[:-1], features // count):
            raise ValueError(f"{name} must have the output's shape, got {tuple(x.shape)}")
        _checks.check_same_device(name, x, "gates", gates)


def _has_kernel(device: torch.device) -> bool:
    if device.type == "cpu":  # a compiler always sees the op, which then runs what there is
        return torch.compiler.is_compiling() or _native.available()
    return device.type in ("cuda", "meta")


@torch.library.impl("longrnn::gated_recurrence", "CPU")
def _forward_cpu(*arguments: Any) -> tuple[Tensor, ...]:
    if _native.available():
        return cpu.forward(*arguments)
    gates, _, _, initial_state, _, _, cell, *_, keep = arguments
    return fill(allocate(gates, initial_state, cell, keep), gated_recurrence_plain(*arguments[:-1]))


@torch.library.impl("longrnn::gated_recurrence_backward", "CPU")
def _backward_cpu(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return cpu.backward(*arguments)


register_gpu("gated_recurrence")


@torch.library.register_fake("longrnn::gated_recurrence")
def _forward_fake(
    gates: Tensor,
    highway: Tensor | None,
    openness: Tensor | None,
    initial_state: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    cell: str,
    dim: int,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, ...]:
    return allocate(gates, initial_state, cell, keep)


@torch.library.register_fake("longrnn::gated_recurrence_backward")
def _backward_fake(
    grad_output: Tensor | None,
    grad_final: Tensor | None,
    *tensors: Any,
) -> tuple[Tensor, ...]:
    return tuple(tensors[0].new_empty(0 if x is None else x.shape) for x in tensors[:4])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.cell, ctx.dim, ctx.reverse, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output[:2])


def _differentiate(
    ctx: Any, grad_output: Tensor | None, _: Tensor | None, grad_final: Tensor | None
) -> tuple[Tensor | None, ...]:
    *inputs, lengths, cu_seqlens, states, kept = ctx.saved_tensors
    options: tuple[Any, ...] = (ctx.cell, ctx.dim, ctx.reverse)
    if torch.is_grad_enabled() or (inputs[0].is_cpu and not _native.available()):

        def plain(*given: Any) -> tuple[Tensor, Tensor]:
            arguments: tuple[Any, ...] = (*given, lengths, cu_seqlens, *options)
            output, _, final = gated_recurrence_plain(*arguments)
            return output, final

        return *differentiate_plain(plain, inputs, (grad_output, grad_final)), *(None,) * 6
    if CELLS[ctx.cell].output is not None and not kept.numel() and states.numel():
        raise RuntimeError("keep_states must be True where a gradient is asked for")
    grads = torch.ops.longrnn.gated_recurrence_backward(
        grad_output, grad_final, *ctx.saved_tensors, *options
    )
    found = (None if x is None else g for x, g in zip(inputs, grads, strict=True))
    return *found, *(None,) * 6


torch.library.register_autograd("longrnn::gated_recurrence", _differentiate, setup_context=_save)
