"""How a cell runs at all steps at once, given what its gates see in place of its state.

Each function takes a cell, inputs, what stands for the state before each step, what the cell
carries, and the layout, and returns the output at every step and what is carried out. Matrix
products and gates are those of all steps together; what is carried stays a recurrence, a linear
one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn, sigmoid, tanh

from longrnn.nn.convolution import recent_inputs
from longrnn.nn.stack import inside
from longrnn.ops.gated_recurrence.op import gated_recurrence
from longrnn.ops.linear import linear
from longrnn.ops.linear_recurrence.op import linear_recurrence

Carry = tuple[Tensor, ...]
"""What a cell carries beside the state that its gates see: nothing, or one tensor."""
Steps = Callable[[Any, Tensor, Tensor, Carry, dict[str, Any]], tuple[Tensor, Carry]]

_ROWS = 5  # of a trial: so many that a tensor of them is not taken for a pair
_SIZES = (1.0, 1e1, 1e2, 1e3)  # of c in a trial: what a cell clips or squashes shows


def steps_of(cell: Any, input_size: int, hidden_size: int) -> Steps:
    """Find how a cell runs at all steps at once: by what it is, or by trial.

    Raises:
        ValueError: If it can not be called as a cell, or carries a second state that does not
            enter its own next value unit by unit and linearly.
    """
    forward = getattr(type(cell), "forward", None)  # a subclass may have one of its own
    if forward is nn.LSTMCell.forward:
        return lstm
    if forward is nn.GRUCell.forward:
        return gru
    return _by_trial(cell, input_size, hidden_size)


def lstm(
    cell: nn.LSTMCell, x: Tensor, seen: Tensor, carry: Carry, layout: dict[str, Any]
) -> tuple[Tensor, Carry]:
    """An LSTM whose gates see something else than h: c is a linear recurrence."""
    bias = cell.bias_ih + cell.bias_hh if cell.bias else None
    i, f, g, o = linear(x, cell.weight_ih, bias, seen, cell.weight_hh).chunk(4, -1)
    # The recurrence of a strongly typed GRU: sigmoid(f) c + z tanh(g), with z as it is given.
    gates = torch.cat([sigmoid(i), f, g], -1)
    c, last = gated_recurrence(gates, carry[0], "strongly-typed-gru", **layout)
    return sigmoid(o) * tanh(c), (last,)


def gru(
    cell: nn.GRUCell, x: Tensor, seen: Tensor, carry: Carry, layout: dict[str, Any]
) -> tuple[Tensor, Carry]:
    """A GRU whose gates see something else than h: what is left is a GILR."""
    reset, update, new = linear(x, cell.weight_ih, cell.bias_ih).chunk(3, -1)
    reset_h, update_h, new_h = linear(seen, cell.weight_hh, cell.bias_hh).chunk(3, -1)
    gates = torch.cat([update + update_h, new + sigmoid(reset + reset_h) * new_h], -1)
    h, last = gated_recurrence(gates, carry[0], "gilr-tanh", **layout)
    return h, (last,)


def one_state(
    cell: Callable[..., Tensor], x: Tensor, seen: Tensor, carry: Carry, layout: dict[str, Any]
) -> tuple[Tensor, Carry]:
    """A cell of one state, h = cell(x, h): nothing is carried."""
    rows = cell(x.flatten(0, -2), seen.flatten(0, -2))
    return _mask(rows.view(seen.shape), layout), ()


def two_states(
    cell: Callable[..., Carry], x: Tensor, seen: Tensor, carry: Carry, layout: dict[str, Any]
) -> tuple[Tensor, Carry]:
    """A cell of two states, h, c = cell(x, (h, c)), whose next c is affine in c, unit by unit."""
    inputs, states = x.flatten(0, -2), seen.flatten(0, -2)
    impulses, decays = affine(lambda c: cell(inputs, (states, c))[1], torch.zeros_like(states))
    c = linear_recurrence(
        decays.view(seen.shape),
        impulses.view(seen.shape),
        carry[0].to(x.dtype),
        dim=1 if layout["batch_first"] and layout["cu_seqlens"] is None else 0,
        cu_seqlens=layout["cu_seqlens"],
    )
    pairs, last = recent_inputs(c, carry[0].unsqueeze(0), layout)
    before = pairs[..., seen.shape[-1] :].to(seen.dtype)
    h, _ = cell(inputs, (states, before.flatten(0, -2)))
    return _mask(h.view(seen.shape), layout), (last[0],)


def affine(function: Callable[[Tensor], Tensor], zeros: Tensor) -> tuple[Tensor, Tensor]:
    """Return b and a of a function that is a c + b, element by element."""
    if torch.compiler.is_exporting():  # forward differentiation fixes the sizes that it sees
        b = function(zeros)
        return b, function(torch.ones_like(zeros)) - b
    found = torch.func.jvp(function, (zeros,), (torch.ones_like(zeros),))
    return found[0], found[1]


def _mask(output: Tensor, layout: dict[str, Any]) -> Tensor:
    """Zero the output past each sequence's end."""
    lengths = layout["lengths"]
    if lengths is None:
        return output
    valid = inside(lengths, output, 1 if layout["batch_first"] else 0)
    return output.where(valid.unsqueeze(-1), 0.0)


@torch.no_grad()
def _by_trial(cell: Any, input_size: int, hidden_size: int) -> Steps:
    """Call a cell with a pair of states and, if it takes none, with one."""
    parameters = cell.parameters() if isinstance(cell, nn.Module) else iter(())
    like = next(parameters, torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    x, h, c = (
        torch.randn(_ROWS, width, generator=generator, device="cpu").to(like)
        for width in (input_size, hidden_size, hidden_size)
    )
    with_pair = _complaint(cell, x, (h, c))
    if with_pair is None:
        _check_affine(cell, x, h, c)
        return two_states
    with_one = _complaint(cell, x, h)
    if with_one is None:
        return one_state
    raise ValueError(
        f"cell must make of an input {tuple(x.shape)} and a state h {tuple(h.shape)} the next h, "
        f"or of (h, c) the next (h, c); given h, {with_one}; given (h, c), {with_pair}"
    )


def _complaint(cell: Any, x: Tensor, state: Tensor | tuple[Tensor, ...]) -> str | None:
    """Why a call does not give a state like the one before; None if it does."""
    try:
        made = cell(x, state)
    except Exception as error:
        return f"it raised {type(error).__name__}: {error}"
    shapes = [
        [tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in members]
        for members in (y if isinstance(y, tuple) else [y] for y in (made, state))
    ]
    if isinstance(made, tuple) == isinstance(state, tuple) and shapes[0] == shapes[1]:
        return None
    return f"it returned {', '.join(map(str, shapes[0]))}"


def _check_affine(cell: Any, x: Tensor, h: Tensor, c: Tensor) -> None:
    """Raise unless the cell's next c is affine in c, unit by unit, and the same twice."""
    impulses, decays = affine(lambda c: cell(x, (h, c))[1], torch.zeros_like(c))
    if impulses.is_meta:
        return
    for size in _SIZES:
        found, wanted = cell(x, (h, size * c))[1], decays * (size * c) + impulses
        off = ((found - wanted).abs().max() / wanted.abs().max().clamp_min(1.0)).item()
        if not off <= torch.finfo(c.dtype).eps ** 0.5:
            raise ValueError(
                "cell must carry its second state c unit by unit and linearly, as an LSTM: its "
                "next c must be a c + b, a and b of the input and of h alone, and is off that by "
                f"{off:.1e} of the largest where c is of size {size:g}"
            )
