r"""The cells of `diagonal_recurrence`, each as the equations that define it and their derivatives.

A unit sees its own state only, so that all here is elementwise. `x` are the pre-activations by the
input, `w` the weights on the unit's state, a state is (h,) or (h, c).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, sigmoid, tanh

Parts = Sequence[Tensor]

GATES = 3  # pre-activations of a unit, of either cell


class Cell(NamedTuple):
    """One cell: sizes, a step, and the gradients of a step."""

    weights: int  # on the state, of a unit
    states: int
    step: Callable[[Parts, Parts, Parts], tuple[Tensor, ...]]  # (x, w, before) -> after
    # (x, w, before, gradients of after) -> gradients of x, w (at each step) and before
    backward: Callable[[Parts, Parts, Parts, Parts], tuple[Parts, Parts, Parts]]


def _gru(x: Parts, w: Parts, before: Parts) -> tuple[Tensor, ...]:
    (h,) = before
    z, r = sigmoid(x[0] + w[0] * h), sigmoid(x[1] + w[1] * h)
    return ((1 - z) * h + z * tanh(x[2] + w[2] * (r * h)),)


def _gru_backward(x: Parts, w: Parts, before: Parts, grads: Parts) -> tuple[Parts, Parts, Parts]:
    (h,), (g,) = before, grads
    z, r = sigmoid(x[0] + w[0] * h), sigmoid(x[1] + w[1] * h)
    c = tanh(x[2] + w[2] * (r * h))
    dz, dc = g * (c - h) * z * (1 - z), g * z * (1 - c * c)
    dr = w[2] * dc * h * r * (1 - r)
    by_h = g * (1 - z) + w[2] * dc * r + w[0] * dz + w[1] * dr
    return (dz, dr, dc), (dz * h, dr * h, dc * (r * h)), (by_h,)


def _lstm(x: Parts, w: Parts, before: Parts) -> tuple[Tensor, ...]:
    h, c = before
    f = sigmoid(x[0] + w[0] * h + w[3] * c)
    c = f * c + (1 - f) * tanh(x[1] + w[1] * h)
    o = sigmoid(x[2] + w[2] * h + w[4] * c)
    return o * tanh(c), c


def _lstm_backward(x: Parts, w: Parts, before: Parts, grads: Parts) -> tuple[Parts, Parts, Parts]:
    (h, c), (by_h, by_c) = before, grads
    f, g = sigmoid(x[0] + w[0] * h + w[3] * c), tanh(x[1] + w[1] * h)
    after = f * c + (1 - f) * g
    o, y = sigmoid(x[2] + w[2] * h + w[4] * after), tanh(after)
    do = by_h * y * o * (1 - o)
    by_c = by_c + by_h * o * (1 - y * y) + w[4] * do
    df, dg = by_c * (c - g) * f * (1 - f), by_c * (1 - f) * (1 - g * g)
    before_h = w[0] * df + w[1] * dg + w[2] * do
    before_c = by_c * f + w[3] * df
    return (df, dg, do), (df * h, dg * h, do * h, df * c, do * after), (before_h, before_c)


CELLS = {"gru": Cell(3, 1, _gru, _gru_backward), "lstm": Cell(5, 2, _lstm, _lstm_backward)}


def allocate(
    gates: Tensor,
    initial_state: Tensor,
    keep: bool,
    empty: Callable[[tuple[int, ...], Tensor], Tensor] = lambda shape, like: like.new_empty(shape),
) -> tuple[Tensor, Tensor, Tensor]:
    """Fresh output, final state, and c at every step, each made by `empty(shape, like)`.

    The last is empty where nobody asks for it, and where the cell has none.
    """
    shape = (*gates.shape[:-1], initial_state.shape[-1])
    keep = keep and initial_state.shape[0] > 1
    cells = empty(shape, gates) if keep else gates.new_empty(0)
    return empty(shape, gates), initial_state.new_empty(initial_state.shape), cells
