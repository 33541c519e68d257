r"""`diagonal_recurrence` over all steps at once, in PyTorch: Newton's method, and its gradient.

Let F be a step and s_t a guess of the state after each. What has to be added to it solves

    d_t = A_t d_{t-1} + (F(s_{t-1}) - s_t)        A_t: the derivative of F at s_{t-1}

a linear recurrence, but for an error that squares at each turn. Guesses are kept inside what a
state can be, an average of its start and of numbers between -1 and 1. And whatever A is, once the
first states are exact and stay, so is the next one: a cell that does not converge costs turns, and
never the result. Where products of A's overflow, F(s_{t-1}) is the next guess, which keeps to that.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from longrnn import _checks
from longrnn.ops.block_linear_recurrence.op import block_linear_recurrence
from longrnn.ops.block_linear_recurrence.reference import block_linear_recurrence_reference
from longrnn.ops.diagonal_recurrence.cells import CELLS, GATES, Parts
from longrnn.ops.diagonal_recurrence.plain import pad
from longrnn.ops.linear_recurrence.op import linear_recurrence
from longrnn.ops.linear_recurrence.plain import final, previous
from longrnn.ops.linear_recurrence.reference import linear_recurrence_reference

# Roundings of a number: guesses of which each moves by less are the solution, and so are those that
# move by less than the second and no longer approach.
SETTLED, STUCK = 4, 1024
TURNS = 2  # a step: one for the next state, one for its rounding


def forward(
    gates: Tensor,
    weight: Tensor,
    initial_state: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    cell: str,
    dim: int,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, final state, and c at every step if `keep`; see `op.py` for the arguments."""
    if lengths is not None:  # unchecked until here in a compiled program
        _checks.check_lengths_values(lengths, gates.shape[dim])
    if cu_seqlens is not None:
        _checks.check_cu_seqlens_values(cu_seqlens, gates.shape[dim])
    gates, valid, _, dim = padded = pad(gates, lengths, cu_seqlens, dim)
    x, w, starts = gates.chunk(GATES, -1), weight.unbind(), initial_state.unbind()
    bounds = [start.abs().clamp(min=1).unsqueeze(dim) for start in starts]

    def step(before: Parts) -> list[Tensor]:
        after = CELLS[cell].step(x, w, before)
        return [_inside(new, valid, old) for new, old in zip(after, before, strict=True)]

    def befores(states: Parts) -> list[Tensor]:
        return [previous(s, h, None, dim, reverse) for s, h in zip(states, starts, strict=True)]

    states = [start.unsqueeze(dim).expand_as(x[0]) for start in starts]  # the guess
    before, moved = befores(states), float("inf")
    rounding = torch.finfo(gates.dtype).eps
    for _ in range(TURNS * gates.shape[dim] if gates.numel() else 0):
        new = step(before)
        missing = [n - s for n, s in zip(new, states, strict=True)]
        steps = _solve(_transitions(x, w, before, valid, cell), missing, None, dim, reverse)
        guess = [(s + d).clamp_(-b, b) for s, d, b in zip(states, steps, bounds, strict=True)]
        moves = [_move(g, s).max() for g, s in zip(guess, states, strict=True)]
        last, moved = moved, torch.stack(moves).max().item()
        if math.isnan(moved):
            lost = _nan_so_far(new, dim, reverse)
            guess = [g.where(lost | ~g.isnan(), n) for g, n in zip(guess, new, strict=True)]
            # A state that is no number stays none.
            pairs = zip(guess, states, strict=True)
            moved = max(_move(g, s).nan_to_num_(0.0).max().item() for g, s in pairs)
        states, before = guess, befores(guess)
        if moved <= SETTLED * rounding or (last <= moved <= STUCK * rounding):
            break
    states = step(before)
    last_states = [final(s, h, None, dim, reverse) for s, h in zip(states, starts, strict=True)]
    kept = padded.gather(states[1]) if keep and len(states) > 1 else gates.new_empty(0)
    return padded.gather(states[0]), torch.stack(last_states), kept


def backward(
    grad_output: Tensor | None,
    grad_last: Tensor | None,
    gates: Tensor,
    weight: Tensor,
    initial_state: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    output: Tensor,
    cells: Tensor,
    cell: str,
    dim: int,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of gates, weight and initial state.

    Those of the states before each step solve r_t = A_t^T (g_t + r_{t+1}), g being what reaches the
    state after the step from outside.
    """
    gates, valid, _, dim = padded = pad(gates, lengths, cu_seqlens, dim)
    x, w, starts = gates.chunk(GATES, -1), weight.unbind(), initial_state.unbind()
    kept = [padded.spread(s) for s in (output, cells)[: len(starts)]]
    before = [
        # past the end a state is the one that it starts with, for a run in reverse
        previous(_inside(s, valid, h.unsqueeze(dim)), h, None, dim, reverse)
        for s, h in zip(kept, starts, strict=True)
    ]
    incoming = [torch.zeros_like(x[0]) for _ in starts]
    if grad_output is not None:
        incoming[0] = _inside(padded.spread(grad_output), valid, incoming[0])
    ends = torch.zeros_like(initial_state) if grad_last is None else grad_last
    transposed = list(zip(*_transitions(x, w, before, valid, cell), strict=True))
    impulses = [sum(a * g for a, g in zip(row, incoming, strict=True)) for row in transposed]
    r = _solve(transposed, impulses, ends.unbind(), dim, not reverse)
    if not math.isfinite(sum(s.sum().item() for s in r)):  # though gradients may be
        r = _solve(transposed, impulses, ends.unbind(), dim, not reverse, one_by_one=True)
    after = [
        g + previous(s, end, None, dim, not reverse)
        for g, s, end in zip(incoming, r, ends.unbind(), strict=True)
    ]
    by_gates, by_weight, _ = CELLS[cell].backward(x, w, before, after)
    none = torch.zeros_like(x[0])
    others = tuple(k for k in range(gates.ndim - 1))
    return (
        padded.gather(torch.cat([_inside(d, valid, none) for d in by_gates], -1)),
        torch.stack([_inside(d, valid, none).sum(others) for d in by_weight]),
        torch.stack(
            [final(s, end, None, dim, not reverse) for s, end in zip(r, ends.unbind(), strict=True)]
        ),
    )


def _inside(new: Tensor, valid: Tensor | None, otherwise: Tensor) -> Tensor:
    return new if valid is None else new.where(valid, otherwise)


def _move(new: Tensor, old: Tensor) -> Tensor:
    """How far each number moved, by its own size or 1."""
    return (new - old).abs_().div_(new.abs().clamp_(min=1))


def _nan_so_far(parts: Parts, dim: int, reverse: bool) -> Tensor:
    """Whether any part is NaN at a step or at one before it."""
    x = torch.stack(list(parts)).isnan().any(0)
    x = x.flip(dim).cumsum(dim).flip(dim) if reverse else x.cumsum(dim)
    return x > 0


def _transitions(
    x: Parts, w: Parts, before: Parts, valid: Tensor | None, cell: str
) -> list[list[Tensor]]:
    """The derivative of each state after a step by each before it; past the end it is held."""
    one, zero = torch.ones_like(x[0]), torch.zeros_like(x[0])
    rows = []
    for k in range(len(before)):
        unit = [one if j == k else zero for j in range(len(before))]
        row = CELLS[cell].backward(x, w, before, unit)[2]
        rows.append([_inside(a, valid, held) for a, held in zip(row, unit, strict=True)])
    return rows


def _solve(
    transitions: Sequence[Sequence[Tensor]],
    impulses: Parts,
    initial: Parts | None,
    dim: int,
    reverse: bool,
    one_by_one: bool = False,
) -> Parts:
    """The states s_t = A_t s_{t-1} + b_t; by products of A, unless one by one."""
    elementwise = linear_recurrence_reference if one_by_one else linear_recurrence
    in_blocks = block_linear_recurrence_reference if one_by_one else block_linear_recurrence
    if len(impulses) == 1:
        (((a,),), (b,)) = transitions, impulses
        h = None if initial is None else initial[0]
        return [elementwise(a, b, h, dim=dim, reverse=reverse)]
    blocks = torch.stack([torch.stack(list(row), -1) for row in transitions], -2)
    start = None if initial is None else torch.stack(list(initial), -1)
    b = torch.stack(list(impulses), -1)
    return in_blocks(blocks, b, start, dim=dim, reverse=reverse).unbind(-1)
