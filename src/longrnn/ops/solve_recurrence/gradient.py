r"""Derivatives of a solved recurrence, of any order.

The states are defined by $s_t = f(x_t, s_{t-1})$, whatever found them. With $J_t$ the cell's
Jacobian by the state before, and g the gradient of the states,

    backward   l_t = J_{t+1}^T l_{t+1} + g_t                        (one linear recurrence)
               grad_x_t = l_t df/dx_t,  grad_w = sum_t l_t df/dw,  grad_s0 = l_1 J_1

and a linear recurrence with l for its solution has, for a cotangent u of l,

    backward   v_t = J_t v_{t-1} + u_t                              (the other way)
               grad_g = v,  and of everything in J: that of sum_t l_t J_t v_{t-1}

whose gradient is the first with l and v exchanged: each is the other's derivative.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from longrnn.ops._second_order import differentiate_plain
from longrnn.ops.linear_recurrence.plain import previous
from longrnn.ops.solve_recurrence.steps import Steps, pull, solve_linear


class Solved(torch.autograd.Function):
    """The states that were found, and their gradients.

    Called with the steps, their largest residual, a list of the packed states, and what these
    depend on: the packed initial state, the inputs, and what else the cell uses.
    """

    @staticmethod
    def forward(
        ctx: Any, steps: Steps, tol: float, states: list[Tensor], initial: Tensor, *tensors: Tensor
    ) -> Tensor:
        """Hand on the states."""
        ctx.steps, ctx.tol = steps, tol
        ctx.save_for_backward(states[0], initial, *tensors)
        return states[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """One linear recurrence, and one step of the cell."""
        tensors = ctx.saved_tensors
        with torch.autocast(grads[0].device.type, enabled=False):
            adjoint = LinearSolved.apply(ctx.steps, ctx.tol, True, grads[0], *tensors)
            by_states, *found = _differentiate(ctx.steps, lambda after, _: after, tensors, adjoint)
        assert by_states is not None  # they need a gradient, or nobody would ask for one
        _check(adjoint.detach(), grads[0].detach() + by_states.detach())
        return None, None, None, *found


class LinearSolved(torch.autograd.Function):
    """`solve_linear` with the Jacobian at the states.

    Called with the steps, their largest residual, whether the Jacobian is transposed, the right
    side, and what the Jacobian depends on: the packed states and initial state, the inputs, and
    what the cell uses.
    """

    @staticmethod
    def forward(
        ctx: Any, steps: Steps, tol: float, transposed: bool, right: Tensor, *tensors: Tensor
    ) -> Tensor:
        """Solve it."""
        states, initial, *rest = tensors
        before = previous(states, initial, None, 0, False)
        after, before = steps.with_graph(rest[: steps.inputs], before)
        jacobian, flow = steps.jacobian(after, before)
        _check_unchanged(after.detach(), states, flow, tol)
        ctx.steps, ctx.tol, ctx.transposed = steps, tol, transposed
        solution = solve_linear(jacobian, right, transposed=transposed)
        if not solution.isfinite().all():  # as gradients may be where products of J are not
            solution = solve_linear(jacobian, right, transposed=transposed, one_by_one=True)
        ctx.save_for_backward(solution, *tensors)
        return solution

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The other way, and the gradient of what is in the Jacobian."""
        solution, *tensors = ctx.saved_tensors
        with torch.autocast(solution.device.type, enabled=False):
            other = LinearSolved.apply(ctx.steps, ctx.tol, not ctx.transposed, grads[0], *tensors)
            adjoint, tangent = (solution, other) if ctx.transposed else (other, solution)
            found = _differentiate(
                ctx.steps,
                lambda after, before: pull(after, before, adjoint, create_graph=True),
                tensors,
                previous(tangent, None, None, 0, False),
            )
        return None, None, None, other, *found


def _differentiate(
    steps: Steps,
    function: Callable[[Tensor, Tensor], Tensor],
    tensors: Sequence[Tensor],
    grad: Tensor,
) -> list[Tensor | None]:
    """Gradients of `function(state after, state before)` by what these come from.

    `tensors` are the packed states and initial state, the inputs, and what else the cell uses.
    """

    def plain(*aliases: Tensor | None) -> list[Tensor]:
        states, initial, *rest = (
            t if alias is None else alias for t, alias in zip(tensors, aliases, strict=True)
        )
        before = previous(states, initial, None, 0, False)
        after = steps.evaluate(rest[: steps.inputs], before, rest[steps.inputs :])
        return [function(after, before)]

    return differentiate_plain(plain, [t if t.requires_grad else None for t in tensors], [grad])


def _check_unchanged(after: Tensor, states: Tensor, flow: Tensor, tol: float) -> None:
    """Raise unless the cell still says what the states were found by, but for other rounding."""
    limit = max(4 * tol, torch.finfo(after.dtype).eps ** 0.5)
    size = states.abs().flatten(2).amax(2)[..., None, None] + flow.nan_to_num(0, 0, 0)
    off = (after - states).abs()
    if not (off <= limit * size).all():
        raise RuntimeError(
            "the gradient of solve_recurrence needs the cell as it was when it was solved, got one "
            f"that differs by {off.max():.1e}: a buffer, an attribute or a variable that it uses "
            "has changed since"
        )


def _check(adjoint: Tensor, expected: Tensor) -> None:
    """Raise where the linear recurrence was not solved; infinite gradients show themselves."""
    off = (adjoint - expected).abs().flatten(2).amax(2)
    size = adjoint.abs().flatten(2).amax(2).flip(0).cummax(0).values.flip(0)
    if (off > torch.finfo(off.dtype).eps ** 0.5 * size).any():  # an infinite or nan is not
        raise RuntimeError(
            "the gradient of solve_recurrence could not be verified: the cell's Jacobian has "
            'more than the blocks seen where it was looked at; use jacobian="dense"'
        )
