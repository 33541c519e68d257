r"""The cells of `gated_recurrence`, each as the equations that define it.

A cell turns pre-activations into a decay $a_t$ and an impulse $b_t$, the recurrence is always
$c_t = a_t c_{t-1} + b_t$, and the output is a function of $c_t$ and the pre-activations. The order
of `CELLS` is the numbering that the C++ and Triton kernels use.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, sigmoid, tanh


class Cell(NamedTuple):
    """One cell: how many pre-activations a unit has, and what is made of them."""

    gates: int
    recurrence: Callable[..., tuple[Tensor, Tensor]]  # pre-activations -> decay, impulse
    output: Callable[..., Tensor] | None = None  # (c, highway, *pre-activations) -> output
    highway: bool = False  # the output also sees the layer's input
    candidate: bool = False  # the output sees, for c, the state that the whole step would make


def _gilr(activation: Callable[[Tensor], Tensor]) -> Cell:
    return Cell(2, lambda g, i: (sigmoid(g), sigmoid(-g) * activation(i)))


def _sru(activation: Callable[[Tensor], Tensor]) -> Cell:
    return Cell(
        3,
        lambda z, f, r: (sigmoid(f), sigmoid(-f) * z),
        lambda c, x, z, f, r: sigmoid(r) * activation(c) + sigmoid(-r) * x,
        highway=True,
    )


def _identity(x: Tensor) -> Tensor:
    return x


def _min_lstm(f: Tensor, i: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    # sigmoid(f) / (sigmoid(f) + sigmoid(i)), without the quotient that may be 0 / 0
    logit = F.softplus(-i) - F.softplus(-f)
    return sigmoid(logit), sigmoid(-logit) * z


_LSTM = Cell(
    4,
    lambda i, f, g, o: (sigmoid(f), sigmoid(i) * tanh(g)),
    lambda c, x, i, f, g, o: sigmoid(o) * c,
)

CELLS: dict[str, Cell] = {
    "gilr-tanh": _gilr(tanh),
    "gilr-elu": _gilr(F.elu),
    "gilr-identity": _gilr(_identity),
    "gilr-relu": _gilr(torch.relu),
    # "gilr-tanh" whose output at t is the state *before* step t, as GILR-LSTM's gates see it.
    "surrogate": _gilr(tanh),
    "lstm": _LSTM,
    "sru-identity": _sru(_identity),
    "sru-tanh": _sru(tanh),
    "qrnn": Cell(
        3,
        lambda z, f, o: (sigmoid(f), sigmoid(-f) * tanh(z)),
        lambda c, x, z, f, o: sigmoid(o) * c,
    ),
    "strongly-typed-rnn": Cell(2, lambda z, f: (sigmoid(f), sigmoid(-f) * z)),
    "strongly-typed-gru": Cell(3, lambda z, f, o: (sigmoid(f), z * tanh(o))),
    "strongly-typed-lstm": Cell(
        3,
        lambda z, f, o: (sigmoid(f), sigmoid(-f) * z),
        lambda c, x, z, f, o: c * tanh(o),
    ),
    "min-gru": Cell(2, lambda z, h: (sigmoid(-z), sigmoid(z) * h)),
    "min-lstm": Cell(3, _min_lstm),
    # The state is what comes in: with an openness, what came in while the unit was open.
    "hold": Cell(1, lambda y: (torch.zeros_like(y), y)),
    # With an openness, a_t c_{t-1} + b_t is a candidate for the state, which goes there in part.
    # These put out what they make of the candidate, whatever becomes of it.
    "gilr-tanh-candidate": _gilr(tanh)._replace(output=lambda c, x, g, i: c, candidate=True),
    "lstm-candidate": _LSTM._replace(candidate=True),
}


def allocate(
    gates: Tensor,
    initial_state: Tensor,
    cell: str,
    keep_states: bool,
    empty: Callable[[tuple[int, ...], Tensor], Tensor] = lambda shape, like: like.new_empty(shape),
) -> tuple[Tensor, Tensor, Tensor]:
    """Fresh output, states for the backward, and final state, each made by `empty(shape, like)`.

    The states are empty where nobody asks for them, and where the output holds them already.
    """
    shape = (*gates.shape[:-1], gates.shape[-1] // CELLS[cell].gates)
    keep_states = keep_states and CELLS[cell].output is not None
    states = empty(shape, gates) if keep_states else gates.new_empty(0)
    return empty(shape, gates), states, initial_state.new_empty(initial_state.shape)
