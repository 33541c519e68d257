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
        residuals: Of each step, relative to the states so far, (T, B).
        right: How many steps are right in every sequence; T where all converged.
    """

    states: Tensor
    iterations: Tensor
    residuals: Tensor
    right: int


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
    $d_t = J_t d_{t-1} + y_t - s_t$ for the correction of $s$. Whatever $J$ is, the first step that
    was wrong is right afterwards: it only needs the one before it. Steps that are right are not
    touched again, so that T iterations solve any recurrence, and none is disturbed by what
    overflows behind it.

    Args:
        steps: The cell.
        inputs: (T, B, ...) each.
        initial: The state before, packed, (B, M, n).
        guess: States to begin with, packed, (T, B, M, n).
        tol: Largest residual.
        max_iterations: After so many linear recurrences the chunk is given up.
        trust: Residual up to which J is taken as it is; see `_trusted`.
    """
    states, (T, B) = guess.clone(), guess.shape[:2]
    residuals = torch.full_like(guess[..., 0, 0], torch.nan)
    iterations = torch.full((B,), max_iterations, dtype=torch.long, device=guess.device)
    left = torch.ones_like(iterations, dtype=torch.bool)  # sequences that have not converged
    right = 0  # steps that are right in all of them
    for iteration in range(max_iterations + 1):
        before = previous(states, initial, None, 0, False)[right:]
        graph, before = steps.with_graph([x[right:] for x in inputs], before)
        after = graph.detach()
        residuals[right:] = _residual(steps, after, states, initial)
        fine = residuals[right:] <= tol  # a nan is not
        iterations[left & fine.all(0)] = iteration
        left = ~fine.all(0)
        ahead = int(fine.all(1).cumprod(0).sum())
        right += ahead
        if right == T or iteration == max_iterations or not after[ahead].isfinite().all():
            break  # the last: from a state that is right
        window, after = states[right:], after[ahead:]
        correction = (after - window).nan_to_num(0, 0, 0)
        jacobian = steps.jacobian(graph, before)[ahead:]
        jacobian = _trusted(jacobian, residuals[right:] <= trust)
        new = window + solve_linear(jacobian, correction)
        after = torch.where(after.isfinite(), after, window)
        new = torch.where(new.isfinite(), new, after)
        new[0] = after[0]  # to the bit what the cell says, whatever stood there
        states[right:] = torch.where(left.view(B, 1, 1), new, window)
        residuals[right].masked_fill_(left, 0)
        right += 1
        if right == T:
            iterations[left] = iteration + 1
            break
    return Solution(states, iterations, residuals, right)


def _trusted(jacobian: Tensor, trusted: Tensor) -> Tensor:
    """Jacobians as they are where they are trusted, (T, B), and of norm at most 1 elsewhere.

    Far from the solution a step that expands says nothing of the steps after it, and products of
    such steps overflow; a correction that passes through them unexpanded does no harm.
    """
    jacobian = jacobian.nan_to_num(0, 0, 0)
    rows, columns = (jacobian.abs().sum(dim).amax(-1) for dim in (-1, -2))
    norm = (rows * columns).sqrt().clamp_min(1)  # no less than the spectral norm
    return jacobian / torch.where(trusted.unsqueeze(-1), 1, norm)[..., None, None]


def _residual(steps: Steps, after: Tensor, states: Tensor, initial: Tensor) -> Tensor:
    """How far the last states are from what the cell says, over the largest number until then.

    Each tensor of the state is held against itself; the largest counts, (T', B).
    """
    found = []
    begin = len(states) - len(after)
    wholes = (steps.unpack(x) for x in (states, after, initial))
    for state, cell, first in zip(*wholes, strict=True):
        size = torch.cat([first.unsqueeze(0), state]).abs().flatten(2).amax(2).cummax(0).values
        off = (cell - state[begin:]).abs().flatten(2).amax(2)
        found.append(off / size[begin + 1 :].clamp_min(torch.finfo(off.dtype).tiny))
    return torch.stack(found).amax(0)
