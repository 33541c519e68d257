r"""`diagonal_recurrence` over all steps at once, in PyTorch: Newton's method, and its gradient.

Let F be a step. Of a guess u_t of the state before each step, the next guess solves

    s_t = F(u_t) + A_t (s_{t-1} - u_t)

which is linear in s. With the derivative of F as A the error squares at each turn. With whatever A
the first k states are exact after k turns, so that a cell that does not converge costs time and
never the result. So A is kept from growing (its rows' absolute sums, below 1), and guesses inside
what a state can be: an average of its start and of numbers between -1 and 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from longrnn.ops.block_linear_recurrence.op import block_linear_recurrence
from longrnn.ops.diagonal_recurrence.cells import CELLS, GATES, Parts
from longrnn.ops.diagonal_recurrence.plain import pad
from longrnn.ops.linear_recurrence.op import linear_recurrence
from longrnn.ops.linear_recurrence.plain import final, previous

# Roundings: a guess that moves by less is the solution, and so is one that moves by less than the
# second and no longer approaches.
SETTLED, STUCK = 4, 1024


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
    gates, valid, _, dim = padded = pad(gates, lengths, cu_seqlens, dim)
    x, w, starts = gates.chunk(GATES, -1), weight.unbind(), initial_state.unbind()
    bounds = [start.abs().clamp(min=1).unsqueeze(dim) for start in starts]

    def step(before: Parts) -> list[Tensor]:
        after = CELLS[cell].step(x, w, before)
        return [_inside(new, valid, old) for new, old in zip(after, before, strict=True)]

    def befores(states: Parts) -> list[Tensor]:
        return [previous(s, h, None, dim, reverse) for s, h in zip(states, starts, strict=True)]

    before = befores([torch.zeros_like(x[0])] * len(starts))
    moved = float("inf")
    rounding = torch.finfo(gates.dtype).eps * max(
        (float(b.max()) for b in bounds if b.numel()), default=1
    )
    for _ in range(gates.shape[dim]):
        transitions = _bounded(_transitions(x, w, before, valid, cell))
        impulses = [
            new - sum(a * old for a, old in zip(row, before, strict=True))
            for new, row in zip(step(before), transitions, strict=True)
        ]
        states = _solve(transitions, impulses, starts, dim, reverse)
        guess = befores([s.clamp(-b, b) for s, b in zip(states, bounds, strict=True)])
        last, moved = (
            moved,
            max(
                # a state that is no number stays none
                float((new - old).abs().nan_to_num(0.0).max())
                for new, old in zip(guess, before, strict=True)
            ),
        )
        before = guess
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


def _bounded(transitions: list[list[Tensor]]) -> list[list[Tensor]]:
    sums = torch.stack([torch.stack(row).abs().sum(0) for row in transitions])
    scale = 1 / sums.amax(0).clamp(min=1)
    return [[a * scale for a in row] for row in transitions]


def _solve(
    transitions: Sequence[Sequence[Tensor]],
    impulses: Parts,
    initial: Parts,
    dim: int,
    reverse: bool,
) -> Parts:
    """The states s_t = A_t s_{t-1} + b_t."""
    if len(impulses) == 1:
        (((a,),), (b,), (h,)) = transitions, impulses, initial
        return [linear_recurrence(a, b, h, dim=dim, reverse=reverse)]
    blocks = torch.stack([torch.stack(list(row), -1) for row in transitions], -2)
    states = block_linear_recurrence(
        blocks,
        torch.stack(list(impulses), -1),
        torch.stack(list(initial), -1),
        dim=dim,
        reverse=reverse,
    )
    return states.unbind(-1)
