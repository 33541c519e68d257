"""`block_linear_recurrence` in plain PyTorch: for devices without a kernel of ours."""

import torch
from torch import Tensor

from longrnn.ops.linear_recurrence.plain import previous

_WIDE_ROW = 1 << 14  # numbers of a step's transitions from which a loop over time beats the tree
_LARGEST_BLOCK = 8  # products of larger blocks cost more than the steps that the tree saves


def forward(
    transitions: Tensor, impulses: Tensor, initial_state: Tensor | None, dim: int, reverse: bool
) -> Tensor:
    """Run the recurrence; see `op.py` for what the arguments mean."""
    out = torch.empty_like(impulses, memory_format=torch.contiguous_format)
    if not impulses.numel():
        return out
    carry = _carry(impulses.dtype)
    a, x = transitions.to(carry).movedim(dim, 0), impulses.to(carry).movedim(dim, 0)
    h = torch.zeros_like(x[0]) if initial_state is None else initial_state.to(carry)
    states = _sequence(a.flip(0), x.flip(0), h).flip(0) if reverse else _sequence(a, x, h)
    out.movedim(dim, 0).copy_(states)
    return out


def backward(
    grad: Tensor,
    transitions: Tensor,
    states: Tensor,
    initial_state: Tensor | None,
    dim: int,
    reverse: bool,
    need_transitions: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of transitions, impulses and initial state."""
    dtype, carry = grad.dtype, _carry(grad.dtype)
    a = transitions.to(carry).mH.resolve_conj()
    # s_t = A_{t+1}^H s_{t+1} + grad_t: the recurrence the other way, transitions moved by one step.
    a_next = previous(a, None, None, dim, not reverse)
    s = forward(a_next, grad.to(carry), None, dim, not reverse)
    grad_initial = before_first(a, s, dim, reverse)
    grad_transitions = grad.new_empty(0)
    if need_transitions:
        grad_transitions = outer(s, previous(states.to(carry), initial_state, None, dim, reverse))
    return grad_transitions.to(dtype), s.to(dtype), grad_initial.to(dtype)


def matvec(a: Tensor, x: Tensor) -> Tensor:
    """Each (n, n) times its (n,); not a matrix product, which autocast and TF32 would round."""
    return (a * x.unsqueeze(-2)).sum(-1)


def outer(x: Tensor, y: Tensor) -> Tensor:
    """Every product of an (n,) with the conjugate of another, (n, n)."""
    return x.unsqueeze(-1) * y.conj().unsqueeze(-2)


def before_first(a: Tensor, s: Tensor, dim: int, reverse: bool) -> Tensor:
    """The gradient of the initial state: that of the first impulse by the first transition."""
    if not s.shape[dim]:
        return torch.zeros_like(initial_like(s, dim))
    first = s.shape[dim] - 1 if reverse else 0
    return matvec(a.select(dim, first), s.select(dim, first))


def initial_like(x: Tensor, dim: int) -> Tensor:
    """A tensor of the shape of an initial state of impulses `x`."""
    return x.new_empty((*x.shape[:dim], *x.shape[dim + 1 :]))


def _carry(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _sequence(a: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """Time first, at least one step."""
    if x.shape[0] <= 16 or a[0].numel() >= _WIDE_ROW or x.shape[-1] > _LARGEST_BLOCK:
        states = []
        for a_t, x_t in zip(a.unbind(0), x.unbind(0), strict=True):
            h = matvec(a_t, h) + x_t
            states.append(h)
        return torch.stack(states)
    return _tree(a, torch.cat([matvec(a[:1], h.unsqueeze(0)) + x[:1], x[1:]]))


def _tree(a: Tensor, x: Tensor) -> Tensor:
    """Zero initial state: solve every second step from pairs, then fill in the others."""
    T = x.shape[0]
    if T == 1:
        return x
    even = T // 2 * 2
    a0, a1, x0, x1 = a[0:even:2], a[1:even:2], x[0:even:2], x[1:even:2]
    product = (a1.unsqueeze(-1) * a0.unsqueeze(-3)).sum(-2)
    odd_states = _tree(product, matvec(a1, x0) + x1)
    out = torch.empty_like(x)
    out[1:even:2] = odd_states
    out[0] = x[0]
    later = (T - 1) // 2
    out[2::2] = matvec(a[2::2], odd_states[:later]) + x[2::2]
    return out
