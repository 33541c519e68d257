r"""A layer of LSTM or GRU cells whose units open by the clock (Phased LSTM).

With gradients or a leak every unit is evaluated. Without, only the rows of open units are
multiplied: when a unit opens is known from the time stamps alone.
"""

from typing import Any

import torch
from torch import Tensor

from longrnn import _checks, _native
from longrnn.ops._kernels import fill, register_gpu
from longrnn.ops._second_order import differentiate_plain
from longrnn.ops.linear_recurrence.transforms import transforms_active
from longrnn.ops.phased_recurrence import cpu
from longrnn.ops.phased_recurrence.cpu import allocate
from longrnn.ops.phased_recurrence.plain import Results, phased_recurrence_plain


def phased_recurrence(
    x: Tensor,
    times: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    peephole: Tensor | None,
    period: Tensor,
    shift: Tensor,
    on_ratio: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    cell: str,
    *,
    leak: float = 0.0,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    batch_first: bool = False,
    reverse: bool = False,
) -> Results:
    """Run one layer and direction.

    Args:
        x: The input.
        times: When each step is, in any unit; phases are computed in float64.
        weight_ih: As in `nn.LSTM` or `nn.GRU`.
        weight_hh: As in `nn.LSTM` or `nn.GRU`.
        bias: The merged bias; see `ops.candidates`.
        peephole: What i and f see of c and o of its candidate, for the cell "lstm", or None.
        period: Of each unit, positive, in the unit of `times`.
        shift: When a period begins.
        on_ratio: Share of its period in which a unit is open, in (0, 1].
        hidden: h before the first step.
        cells: c, for the cell "lstm".
        cell: "lstm" or "gru".
        leak: Slope of a closed unit's gate over its phase.
        lengths: Valid steps of each sequence; outputs past them are 0.
        cu_seqlens: Ends of sequences that lie end to end; see `linear_recurrence`.
        batch_first: Whether `x` and the output are (B, T, ...).
        reverse: Run from each sequence's last step to its first.

    Shape:
        - x: (T, B, m), or (B, T, m) with `batch_first`, or (T, m) with `cu_seqlens`
        - times: as `x` without its last dimension
        - weight_ih: (G n, m), weight_hh: (G n, n), bias: (4 n,), peephole: (3, n)
        - period, shift, on_ratio: (n,)
        - hidden, cells: (B, n)
        - returns: output (T, B, n) laid out as `x`, and hidden and cells (None without) after the
          last step

    Returns:
        h at every step, and the state after each sequence's last.

    Raises:
        ValueError: If a shape, dtype or value is not as above.

    Reference:
        Neil, Pfeiffer and Liu, NIPS 2016, https://arxiv.org/abs/1610.09513, section 2.

    Example:
        >>> n = 2  # zero weights, a state of ones; unit 0 opens at odd times, unit 1 at even ones
        >>> weights = [torch.zeros(4 * n, 1), torch.zeros(4 * n, n), torch.zeros(4 * n)]
        >>> clock = [torch.full((n,), 2.0), torch.tensor([0.5, -0.5]), torch.full((n,), 0.5)]
        >>> _, _, c = phased_recurrence(
        ...     torch.zeros(1, 1, 1), torch.ones(1, 1), *weights, None, *clock,
        ...     torch.ones(1, n), torch.ones(1, n), "lstm",
        ... )  # fmt: skip
        >>> c.tolist()
        [[0.5, 1.0]]
    """
    dim = 1 if batch_first and cu_seqlens is None else 0
    _check(x, times, weight_ih, weight_hh, bias, peephole, period, shift, on_ratio, hidden, cells,
           cell, lengths, cu_seqlens, dim)  # fmt: skip
    wide = torch.promote_types(x.dtype, torch.float32)
    dtype = x.dtype
    inner = wide if x.device.type == "cpu" else dtype  # what is computed and kept in
    tensors = (
        x.to(inner),
        times.double(),
        weight_ih.to(inner),
        weight_hh.to(inner),
        bias.to(inner),
        None if peephole is None else peephole.to(wide),
        period.to(wide),
        shift.to(wide),
        on_ratio.to(wide),
        hidden.to(inner),
        None if cells is None else cells.to(inner),
        None if lengths is None else lengths.long().contiguous(),
        None if cu_seqlens is None else cu_seqlens.long().contiguous(),
    )
    if transforms_active() or not _has_kernel(x.device):
        found = phased_recurrence_plain(*tensors, cell, leak, dim, reverse)
    else:
        keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        options = (cell, leak, dim, reverse, keep)
        found = torch.ops.longrnn.phased_recurrence(*tensors, *options)[:3]
    output, hidden, last_cells = found
    cells = None if cells is None or last_cells is None else last_cells.to(dtype)
    return output.to(dtype), hidden.to(dtype), cells


torch.library.define(
    "longrnn::phased_recurrence",
    "(Tensor x, Tensor times, Tensor weight_ih, Tensor weight_hh, Tensor bias, Tensor? peephole, "
    "Tensor period, Tensor shift, Tensor on_ratio, Tensor hidden, Tensor? cells, Tensor? lengths, "
    "Tensor? cu_seqlens, str cell, float leak, int dim, bool reverse, bool keep) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "longrnn::phased_recurrence_backward",
    "(Tensor?[] grads, Tensor x, Tensor times, Tensor weight_ih, Tensor weight_hh, Tensor bias, "
    "Tensor? peephole, Tensor period, Tensor shift, Tensor on_ratio, Tensor hidden, "
    "Tensor? cells, Tensor? lengths, Tensor? cu_seqlens, Tensor[] kept, str cell, float leak, "
    "int dim, bool reverse, bool[] needs) -> Tensor[]",
)


def _check(
    x: Tensor,
    times: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    peephole: Tensor | None,
    period: Tensor,
    shift: Tensor,
    on_ratio: Tensor,
    hidden: Tensor,
    cells: Tensor | None,
    cell: str,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
) -> None:
    _checks.check_choice("cell", cell, ["lstm", "gru"])
    _checks.check_floating("x", x)
    _checks.check_floating("times", times)
    if lengths is not None and cu_seqlens is not None:
        raise ValueError("lengths and cu_seqlens must not both be given")
    rank = 3 if cu_seqlens is None else 2
    if x.ndim != rank:
        raise ValueError(f"x must have {rank} dimensions, got shape {tuple(x.shape)}")
    if times.shape != x.shape[:-1]:
        raise ValueError(
            f"times must have shape {tuple(x.shape[:-1])}, one a step, got {tuple(times.shape)}"
        )
    rows = x.shape[1 - dim] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    n, gates = hidden.shape[-1], 4 if cell == "lstm" else 3
    _checks.check_shape("hidden", hidden, "B n", (rows, n))
    _checks.check_shape("weight_ih", weight_ih, "G*n m", (gates * n, x.shape[-1]))
    _checks.check_shape("weight_hh", weight_hh, "G*n n", (gates * n, n))
    _checks.check_shape("bias", bias, "4*n", (4 * n,))
    for name, clock in (("period", period), ("shift", shift), ("on_ratio", on_ratio)):
        _checks.check_shape(name, clock, "n", (n,))
    if (cells is not None) != (cell == "lstm"):
        raise ValueError(f"cells must be given for the cell lstm and no other, got {cell}")
    if cells is not None:
        _checks.check_shape("cells", cells, "B n", (rows, n))
    if peephole is not None:
        if cell != "lstm":
            raise ValueError(f"peephole must be None for the cell {cell}")
        _checks.check_shape("peephole", peephole, "3 n", (3, n))
    if lengths is not None:
        _checks.check_integers("lengths", lengths, "B", rows)


def _has_kernel(device: torch.device) -> bool:
    if device.type == "cpu":  # a compiler always sees the op, which then runs what there is
        return torch.compiler.is_compiling() or _native.available()
    return device.type in ("cuda", "meta")


@torch.library.impl("longrnn::phased_recurrence", "CPU")
def _forward_cpu(*arguments: Any) -> tuple[Tensor, ...]:
    if _native.available():
        return cpu.forward(*arguments)
    x, *_, hidden, cells, _, _, _, _, _, _, keep = arguments
    return fill(allocate(x, hidden, cells, keep), phased_recurrence_plain(*arguments[:-1]))


@torch.library.impl("longrnn::phased_recurrence_backward", "CPU")
def _backward_cpu(*arguments: Any) -> list[Tensor]:
    return cpu.backward(*arguments)


register_gpu("phased_recurrence")


@torch.library.register_fake("longrnn::phased_recurrence")
def _forward_fake(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    hidden, cells, keep = arguments[8], arguments[9], arguments[-1]
    return allocate(x, hidden, cells, keep)


@torch.library.register_fake("longrnn::phased_recurrence_backward")
def _backward_fake(grads: list[Tensor | None], *arguments: Any) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in arguments[:11] if t is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.cell, ctx.leak, ctx.dim, ctx.reverse, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[3:])
    ctx.save_for_backward(*tensors, *output[3:])


def _differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    *tensors, lengths, cu_seqlens = ctx.saved_tensors[:13]
    rest: tuple[Any, ...] = (lengths, cu_seqlens, ctx.cell, ctx.leak, ctx.dim, ctx.reverse)
    if torch.is_grad_enabled() or not (tensors[0].device.type != "cpu" or _native.available()):

        def plain(*inputs: Any) -> Results:
            return phased_recurrence_plain(*inputs, *rest)

        return *differentiate_plain(plain, tensors, grads[:3]), *(None,) * 7
    kept, needs = list(ctx.saved_tensors[13:]), list(ctx.needs_input_grad[:11])
    *layout, cell, leak, dim, reverse = rest
    found = iter(
        torch.ops.longrnn.phased_recurrence_backward(
            list(grads[:3]), *tensors, *layout, kept, cell, leak, dim, reverse, needs
        )
    )
    return *(None if t is None else next(found) for t in tensors), *(None,) * 7


torch.library.register_autograd("longrnn::phased_recurrence", _differentiate, setup_context=_save)
