"""Newton's method over the steps of one chunk."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from longrnn.ops.linear_recurrence.plain import previous
from longrnn.ops.solve_recurrence.steps import Steps, solve_linear


class Solution(NamedTuple):
    """What became of a chunk.

    Attributes:
        states: Packed, (T, B, M, n).
        iterations: Linear recurrences solved until each sequence had converged, (B,).
        residuals: Of each step, relative to what each number is made of, (T, B).
        right: How many steps of each sequence are right, (B,); T where it converged.
    """

    states: Tensor
    iterations: Tensor
    residuals: Tensor
    right: Tensor


@torch.no_grad()
def newton(
    steps: Steps,
    inputs: Sequence[Tensor],
    initial: Tensor,
    guess: Tensor,
    tol: float,
    max_iterations: int,
    trust: float,
) -> Solution:
    r"""Solve $s_t = f(x_t, s_{t-1})$ for all t.

    An iteration evaluates $y_t = f(x_t, s_{t-1})$ and $J_t$ at every step, and solves
    $d_t = J_t d_{t-1} + y_t - s_t$ for the correction of $s$. Whatever $J$ is, a sequence's first
    wrong step is right afterwards: it only needs the one before it. Steps that are right are not
    touched again, so that T iterations solve any recurrence, and none is disturbed by what
    overflows behind it, nor by the sequences beside it.

    Args:
        steps: The cell.
        inputs: (T, B, ...) each.
        initial: The state before, packed, (B, M, n).
        guess: States to begin with, packed, (T, B, M, n).
        tol: Largest residual.
        max_iterations: After so many linear recurrences the chunk is given up.
        trust: `_distance` up to which J is taken as it is; see `_trusted`.
    """
    states, (T, B) = guess.clone(), guess.shape[:2]
    residuals = torch.full_like(guess[..., 0, 0], torch.nan)
    right = torch.zeros(B, dtype=torch.long, device=guess.device)
    iterations = torch.full_like(right, max_iterations)
    for iteration in range(max_iterations + 1):
        begin, left = int(right.min()), right < T  # before `begin` all is done
        window, last = states[begin:], states[begin - 1] if begin else initial
        before = previous(window, last, None, 0, False)
        graph, before = steps.with_graph([x[begin:] for x in inputs], before)
        after, step = graph.detach(), torch.arange(begin, T, device=right.device).unsqueeze(1)
        off, size = (after - window).abs(), after.abs().maximum(window.abs())
        residual = _relative(off, size)
        if not ((residual <= tol) | (step < right)).all():
            # Each number is judged by its own size and by what flows into it, |J| |s_{t-1}|: one
            # that passes is what the cell says of a state whose numbers are each off by tol of
            # themselves (Oettli and Prager's backward error), as rounding leaves them in a loop.
            # No larger number excuses a small one that it does not reach, and one that is nearly
            # zero because large ones cancel is not asked for more than their rounding.
            jacobian, flow = steps.jacobian(graph, before)
            residual = _relative(off, size + flow.nan_to_num(0, 0, 0))
        residual = torch.where(step < right, residuals[begin:], residual)
        residuals[begin:] = residual
        right = begin + (residual <= tol).cumprod(0).sum(0)  # a nan is not
        iterations[left & (right == T)] = iteration
        if right.min() == T or iteration == max_iterations:
            break
        first = (right - begin).clamp_max(T - begin - 1), torch.arange(B, device=right.device)
        if not after[first].isfinite().all():  # from a state that is right
            break
        jacobian = _trusted(jacobian, _distance(steps, after, states, initial) <= trust)
        done = (step < right)[..., None, None]
        usable = after.isfinite().flatten(2).all(2)[..., None, None]
        new = window + solve_linear(jacobian, torch.where(usable & ~done, after - window, 0))
        if not (usable.all() and new.isfinite().all()):
            new = torch.where(new.isfinite(), new, after)
            new = torch.where(usable, new, before.detach()[first])  # as without a guess
        new[first] = after[first]  # to the bit what the cell says, whatever stood there
        states[begin:] = torch.where(done, window, new)
    return Solution(states, iterations, residuals, right)


def _trusted(jacobian: Tensor, trusted: Tensor) -> Tensor:
    """Jacobians as they are where they are trusted, (T, B), and of norm at most 1 elsewhere.

    Far from the solution a step that expands says nothing of the steps after it, and products of
    such steps overflow; a correction that passes through them unexpanded does no harm.
    """
    jacobian = jacobian.nan_to_num(0, 0, 0)
    if trusted.all():
        return jacobian
    rows, columns = (jacobian.abs().sum(dim).amax(-1) for dim in (-1, -2))
    norm = (rows * columns).sqrt().clamp_min(1)  # no less than the spectral norm
    return jacobian / torch.where(trusted.unsqueeze(-1), 1, norm)[..., None, None]


def _relative(off: Tensor, size: Tensor) -> Tensor:
    """The largest relative error of each step and sequence, (T, B)."""
    return (off / size.clamp_min(torch.finfo(off.dtype).tiny)).flatten(2).amax(2)


def _distance(steps: Steps, after: Tensor, states: Tensor, initial: Tensor) -> Tensor:
    """How far the last states are from what the cell says, over the largest number until then.

    Each tensor of the state is held against itself; the largest counts, (T', B).
    """
    found = []
    begin = len(states) - len(after)
    wholes = (steps.unpack(x) for x in (states, after, initial))
    for state, cell, first in zip(*wholes, strict=True):
        size = _largest(torch.cat([first.unsqueeze(0), state])).cummax(0).values
        off = _largest(cell - state[begin:])
        found.append(off / size[begin + 1 :].clamp_min(torch.finfo(off.dtype).tiny))
    return torch.stack(found).amax(0)


def _largest(x: Tensor) -> Tensor:
    """The largest number of each step and sequence, (T, B)."""
    return x.abs().reshape(*x.shape[:2], -1).amax(2)
