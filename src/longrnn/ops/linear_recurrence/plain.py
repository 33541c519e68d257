"""`linear_recurrence` in plain PyTorch: for devices without a kernel of ours."""

import itertools

import torch
from torch import Tensor

_WIDE_ROW = 1 << 14  # elements a step from which a loop over time beats the tree


def forward(
    decays: Tensor,
    impulses: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
    reverse: bool,
    algorithm: str,
) -> Tensor:
    """Run the recurrence; see `op.py` for what the arguments mean."""
    dtype = impulses.dtype
    carry = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    a, x = decays.to(carry).movedim(dim, 0), impulses.to(carry).movedim(dim, 0)
    h0 = None if initial_state is None else initial_state.to(carry)
    out = torch.empty_like(impulses, memory_format=torch.contiguous_format)
    pieces = out.movedim(dim, 0)
    ends = [0, x.shape[0]] if cu_seqlens is None else cu_seqlens.tolist()
    for n, (start, end) in enumerate(itertools.pairwise(ends)):
        if h0 is None:
            first = torch.zeros_like(x[0]) if end > start else None
        else:
            first = h0 if cu_seqlens is None else h0.select(dim, n)
        if first is None or end == start:
            continue
        where = slice(start, end)
        pieces[where] = _sequence(a[where], x[where], first, reverse, algorithm)
    return out


def backward(
    grad: Tensor,
    decays: Tensor,
    states: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    dim: int,
    reverse: bool,
    algorithm: str,
    need_decays: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of decays, impulses and initial state."""
    dtype = grad.dtype
    carry = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    a = decays.to(carry).conj().resolve_conj()
    # s_t = a_{t+1} s_{t+1} + grad_t: the recurrence the other way, with decays moved by one step.
    a_next = previous(a, None, cu_seqlens, dim, not reverse)
    s = forward(a_next, grad.to(carry), None, cu_seqlens, dim, not reverse, algorithm)
    grad_initial = final(
        a * s,
        torch.zeros_like(_initial_like(grad, cu_seqlens, dim)).to(carry),
        cu_seqlens,
        dim,
        not reverse,
    )
    grad_decays = grad.new_empty(0)
    if need_decays:
        grad_decays = s * previous(states.to(carry), initial_state, cu_seqlens, dim, reverse).conj()
    return (
        grad_decays.resolve_conj().to(dtype),
        s.to(dtype),
        grad_initial.resolve_conj().to(dtype),
    )


def previous(
    states: Tensor, initial: Tensor | None, cu_seqlens: Tensor | None, dim: int, reverse: bool
) -> Tensor:
    """The state before each step: `states` moved by one step, `initial` (or 0) at each start."""
    T = states.shape[dim]
    if T == 0:
        return states
    zero = torch.zeros_like(states.narrow(dim, 0, 1))
    if cu_seqlens is None:
        first = zero if initial is None else initial.to(states.dtype).unsqueeze(dim)
        parts = (
            [states.narrow(dim, 1, T - 1), first]
            if reverse
            else [first, states.narrow(dim, 0, T - 1)]
        )
        return torch.cat(parts, dim)
    moved = previous(states, None, None, dim, reverse)
    first, empty = _first_steps(cu_seqlens, reverse)
    rows = first.masked_fill(empty, T)  # a row that is cut off again
    moved = torch.cat([moved, zero], dim)
    if initial is None:
        moved = moved.index_fill(dim, rows, 0)
    else:
        moved = moved.index_copy(dim, rows, initial.to(states.dtype))
    return moved.narrow(dim, 0, T)


def final(
    states: Tensor, initial: Tensor, cu_seqlens: Tensor | None, dim: int, reverse: bool
) -> Tensor:
    """The state after the last step of each sequence; `initial` where a sequence is empty."""
    T = states.shape[dim]
    if T == 0:
        return initial.clone()
    if cu_seqlens is None:
        return states.select(dim, 0 if reverse else T - 1)
    ends, empty = _first_steps(cu_seqlens, not reverse)
    after = states.index_select(dim, ends.masked_fill(empty, 0))
    shape = [1] * states.ndim
    shape[dim] = -1
    return initial.where(empty.view(shape), after)


def _first_steps(cu_seqlens: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """Step at which each sequence begins, and which sequences are empty."""
    starts, ends = cu_seqlens[:-1], cu_seqlens[1:]
    return ends - 1 if reverse else starts, starts == ends


def _initial_like(x: Tensor, cu_seqlens: Tensor | None, dim: int) -> Tensor:
    shape = list(x.shape)
    if cu_seqlens is None:
        del shape[dim]
    else:
        shape[dim] = cu_seqlens.numel() - 1
    return x.new_empty(shape)


def _sequence(a: Tensor, x: Tensor, h: Tensor, reverse: bool, algorithm: str) -> Tensor:
    """One sequence, time first."""
    if reverse:
        return _sequence(a.flip(0), x.flip(0), h, False, algorithm).flip(0)
    if algorithm == "auto":
        algorithm = "serial" if x.shape[0] <= 16 or h.numel() >= _WIDE_ROW else "parallel"
    if algorithm == "serial":
        states = []
        for a_t, x_t in zip(a.unbind(0), x.unbind(0), strict=True):
            h = torch.addcmul(x_t, a_t, h)
            states.append(h)
        return torch.stack(states)
    return _tree(a, torch.cat([torch.addcmul(x[:1], a[:1], h.unsqueeze(0)), x[1:]]))


def _tree(a: Tensor, x: Tensor) -> Tensor:
    """Zero initial state: solve every second step from pairs, then fill in the others."""
    T = x.shape[0]
    if T == 1:
        return x
    even = T // 2 * 2
    a0, a1, x0, x1 = a[0:even:2], a[1:even:2], x[0:even:2], x[1:even:2]
    odd_states = _tree(a0 * a1, torch.addcmul(x1, a1, x0))
    out = torch.empty_like(x)
    out[1:even:2] = odd_states
    out[0] = x[0]
    later = (T - 1) // 2
    out[2::2] = torch.addcmul(x[2::2], a[2::2], odd_states[:later])
    return out
