r"""A layer of LSTM or GRU cells whose units see their own state only.

With a diagonal in the place of the matrix on the state, a step is elementwise, and its derivative
by the state before it a number a unit (GRU) or a block of 2 x 2 (LSTM). So a sequence can be run

    serial      step after step, many units at a time
    parallel    all steps at once: guess every state, make the cell linear there, solve the linear
                recurrence, and again until nothing moves (Newton's method)

to the same result. Its gradient is one linear recurrence backwards in either case.
"""

from typing import Any

import torch
from torch import Tensor

from longrnn import _checks, _native
from longrnn.ops._kernels import fill, register_gpu
from longrnn.ops._second_order import differentiate_plain
from longrnn.ops.diagonal_recurrence import cpu, newton
from longrnn.ops.diagonal_recurrence.cells import CELLS, GATES, allocate
from longrnn.ops.diagonal_recurrence.plain import diagonal_recurrence_plain
from longrnn.ops.linear_recurrence.op import ALGORITHMS
from longrnn.ops.linear_recurrence.transforms import transforms_active


def diagonal_recurrence(
    gates: Tensor,
    weight: Tensor,
    initial_state: Tensor,
    cell: str,
    *,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    batch_first: bool = False,
    reverse: bool = False,
    algorithm: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run one layer and direction from its pre-activations by the input.

    Args:
        gates: The pre-activations, one block of n features a gate: z, r and the candidate of the
            cell "gru"; f, the candidate and o of the cell "lstm".
        weight: What each gate sees of h, in the same order; of the cell "lstm" then what f sees of
            c, and o of the new c.
        initial_state: h, and c of the cell "lstm", before the first step.
        cell: "gru" or "lstm".
        lengths: Valid steps of each sequence; outputs past them are 0.
        cu_seqlens: Ends of sequences that lie end to end; see `linear_recurrence`.
        batch_first: Whether `gates` and the output are (B, T, ...).
        reverse: Run from each sequence's last step to its first.
        algorithm: "serial", "parallel", or "auto": serial on a CPU; on a GPU parallel where there
            are too few units and sequences to fill it.

    Shape:
        - gates: (T, B, 3 n), or (B, T, 3 n) with `batch_first`, or (T, 3 n) with `cu_seqlens`
        - weight: (3, n) of the cell "gru", (5, n) of the cell "lstm"
        - initial_state: (1, B, n) of the cell "gru", (2, B, n) of the cell "lstm"
        - returns: output (T, B, n) laid out as `gates`, and final state as `initial_state`

    Returns:
        h at every step, and the state after each sequence's last. Both have the dtype of `gates`;
        the state is carried in at least float32.

    Raises:
        ValueError: If a shape, dtype, device or value is not as above.

    Reference:
        Danieli, Rodriguez, Sarabia, Suau and Zappella, "ParaRNN: Unlocking Parallel Training of
        Nonlinear RNNs for Large Language Models", 2025, https://arxiv.org/abs/2510.21450.

    Example:
        >>> gates = torch.zeros(3, 1, 3)  # every gate is 1/2, every candidate 0
        >>> output, state = diagonal_recurrence(
        ...     gates, torch.zeros(3, 1), torch.ones(1, 1, 1), "gru"
        ... )
        >>> output.flatten().tolist(), state.tolist()
        ([0.5, 0.25, 0.125], [[[0.125]]])
    """
    dim = 1 if batch_first and cu_seqlens is None else 0
    _check(gates, weight, initial_state, cell, lengths, cu_seqlens, dim, algorithm)
    dtype = gates.dtype
    wide = torch.promote_types(dtype, torch.float32)
    inner = wide if gates.device.type == "cpu" else dtype  # what is read and kept in
    tensors = (
        gates.to(inner),
        weight.to(wide),
        initial_state.to(inner),
        None if lengths is None else lengths.long().contiguous(),
        None if cu_seqlens is None else cu_seqlens.long().contiguous(),
    )
    if transforms_active() or not _has_kernel(gates.device, algorithm):
        output, last = diagonal_recurrence_plain(*tensors, cell, dim, reverse)
    else:
        keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        options = (cell, dim, reverse, keep, algorithm)
        output, last, _ = torch.ops.longrnn.diagonal_recurrence(*tensors, *options)
    return output.to(dtype), last.to(dtype)


torch.library.define(
    "longrnn::diagonal_recurrence",
    "(Tensor gates, Tensor weight, Tensor initial_state, Tensor? lengths, Tensor? cu_seqlens, "
    "str cell, int dim, bool reverse, bool keep, str algorithm) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "longrnn::diagonal_recurrence_backward",
    "(Tensor? grad_output, Tensor? grad_last, Tensor gates, Tensor weight, Tensor initial_state, "
    "Tensor? lengths, Tensor? cu_seqlens, Tensor output, Tensor cells, str cell, int dim, "
    "bool reverse, str algorithm) -> (Tensor, Tensor, Tensor)",
)


def _check(
    gates: Tensor,
    weight: Tensor,
    initial_state: Tensor,
    cell: str,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
    algorithm: str,
) -> None:
    _checks.check_choice("cell", cell, list(CELLS))
    _checks.check_choice("algorithm", algorithm, ALGORITHMS)
    _checks.check_floating("gates", gates)
    features, rank = gates.shape[-1], 3 if cu_seqlens is None else 2
    if gates.ndim != rank or features % GATES:
        raise ValueError(
            f"gates must have {rank} dimensions, the last {GATES} blocks of features, "
            f"got shape {tuple(gates.shape)}"
        )
    if lengths is not None and cu_seqlens is not None:
        raise ValueError("lengths and cu_seqlens must not both be given")
    rows, n = gates.shape[1 - dim], features // GATES
    if cu_seqlens is not None:
        _checks.check_cu_seqlens_shape("cu_seqlens", cu_seqlens)
        _checks.check_same_device("cu_seqlens", cu_seqlens, "gates", gates)
        rows = cu_seqlens.shape[0] - 1
    _checks.check_shape("weight", weight, "W n", (CELLS[cell].weights, n))
    _checks.check_shape("initial_state", initial_state, "S B n", (CELLS[cell].states, rows, n))
    _checks.check_same_device("weight", weight, "gates", gates)
    _checks.check_same_device("initial_state", initial_state, "gates", gates)
    if lengths is not None:
        _checks.check_integers("lengths", lengths, "B", rows)
        _checks.check_same_device("lengths", lengths, "gates", gates)


def _has_kernel(device: torch.device, algorithm: str) -> bool:
    if device.type == "cpu":  # a compiler always sees the op, which then runs what there is
        return torch.compiler.is_compiling() or algorithm == "parallel" or _native.available()
    return device.type in ("cuda", "meta")


@torch.library.impl("longrnn::diagonal_recurrence", "CPU")
def _forward_cpu(*arguments: Any) -> tuple[Tensor, ...]:
    *rest, algorithm = arguments
    if algorithm == "parallel":
        return newton.forward(*rest)
    if _native.available():
        return cpu.forward(*rest)
    return fill(allocate(rest[0], rest[2], rest[-1]), diagonal_recurrence_plain(*rest[:-1]))


@torch.library.impl("longrnn::diagonal_recurrence_backward", "CPU")
def _backward_cpu(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *rest, algorithm = arguments
    return (newton if algorithm == "parallel" else cpu).backward(*rest)


register_gpu("diagonal_recurrence")


@torch.library.register_fake("longrnn::diagonal_recurrence")
def _forward_fake(
    gates: Tensor, weight: Tensor, initial_state: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return allocate(gates, initial_state, arguments[-2])


@torch.library.register_fake("longrnn::diagonal_recurrence_backward")
def _backward_fake(
    grad_output: Tensor | None, grad_last: Tensor | None, *arguments: Any
) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in arguments[:3])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.cell, ctx.dim, ctx.reverse, _, ctx.algorithm = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[0], output[2])


def _differentiate(
    ctx: Any, grad_output: Tensor | None, grad_last: Tensor | None, _: Tensor | None
) -> tuple[Any, ...]:
    *tensors, output, cells = ctx.saved_tensors
    tensors, layout = tensors[:3], tensors[3:]
    options: tuple[Any, ...] = (ctx.cell, ctx.dim, ctx.reverse)
    cpu_alone = tensors[0].device.type == "cpu" and ctx.algorithm != "parallel"
    if torch.is_grad_enabled() or (cpu_alone and not _native.available()):

        def plain(*inputs: Any) -> tuple[Tensor, Tensor]:
            return diagonal_recurrence_plain(*inputs, *layout, *options)

        return *differentiate_plain(plain, tensors, (grad_output, grad_last)), *(None,) * 7
    if CELLS[ctx.cell].states > 1 and not cells.numel() and output.numel():
        raise RuntimeError("keep must be True where a gradient is asked for")
    grads = torch.ops.longrnn.diagonal_recurrence_backward(
        grad_output,
        grad_last,
        *tensors,
        *layout,
        output,
        cells,
        *options,
        ctx.algorithm,
    )
    return *grads, *(None,) * 7


torch.library.register_autograd("longrnn::diagonal_recurrence", _differentiate, setup_context=_save)
