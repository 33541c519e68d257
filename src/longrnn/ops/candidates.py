"""What the cells of `nn.LSTM` and `nn.GRU` would make of a step, in plain PyTorch.

Skip and phased layers take it, take a part of it, or leave it. `bias` has 4 n entries: an LSTM's
gates i, f, g, o; a GRU's candidate from the input, r, z, and candidate from the state. So the
columns that see the input stand together, and so do those that see the state.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

Candidate = Callable[..., tuple[Tensor, Tensor]]


def lstm(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    peephole: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the candidates for h and c; by `peephole` (3, n) i and f see c, o its candidate."""
    i, f, g, o = (linear(x, weight_ih, bias) + linear(h, weight_hh)).chunk(4, -1)
    if peephole is not None:
        i, f = i + peephole[0] * c, f + peephole[1] * c
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    if peephole is not None:
        o = o + peephole[2] * c
    return o.sigmoid() * c.tanh(), c


def gru(
    x: Tensor, h: Tensor, _: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the candidate for h, twice; r resets what the state contributes, as in `nn.GRU`."""
    b_input, b_r, b_z, b_state = bias.chunk(4)
    x_r, x_z, x_n = linear(x, weight_ih).chunk(3, -1)
    h_r, h_z, h_n = linear(h, weight_hh).chunk(3, -1)
    r, z = (x_r + h_r + b_r).sigmoid(), (x_z + h_z + b_z).sigmoid()
    n = (x_n + b_input + r * (h_n + b_state)).tanh()
    h = (1 - z) * n + z * h
    return h, h


def gru_reset_before(
    x: Tensor, h: Tensor, _: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the candidate for h, twice; r resets the state before the product (Cho et al.)."""
    b_input, b_r, b_z, b_state = bias.chunk(4)
    x_r, x_z, x_n = linear(x, weight_ih).chunk(3, -1)
    weight_r, weight_z, weight_n = weight_hh.chunk(3)
    r = (x_r + linear(h, weight_r) + b_r).sigmoid()
    z = (x_z + linear(h, weight_z) + b_z).sigmoid()
    n = (x_n + b_input + linear(r * h, weight_n) + b_state).tanh()
    h = (1 - z) * n + z * h
    return h, h


CANDIDATES: dict[str, Candidate] = {"lstm": lstm, "gru": gru, "gru-reset-before": gru_reset_before}


def merge_biases(cell: str, bias_ih: Tensor | None, bias_hh: Tensor | None, like: Tensor) -> Tensor:
    """The biases of `nn.LSTM` or `nn.GRU` as the 4 n that the candidates take.

    Args:
        cell: A name in `CANDIDATES`.
        bias_ih: Of the input's part; None, as `bias_hh`, for a layer without biases.
        bias_hh: Of the state's part.
        like: weight_hh, for sizes.
    """
    if bias_ih is None or bias_hh is None:
        return like.new_zeros(4 * like.shape[1])
    if cell == "lstm":
        return bias_ih + bias_hh
    rz = 2 * like.shape[1]
    return torch.cat([bias_ih[rz:], bias_ih[:rz] + bias_hh[:rz], bias_hh[rz:]])


def weight_gradients(
    cell: str, d: Tensor, seen: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight_ih, weight_hh and the merged bias.

    Args:
        cell: A name in `CANDIDATES`.
        d: Gradients of the pre-activations, (steps, 4 n), in the order of the bias.
        seen: What they are products of, (steps, ...): [h | r h of "gru-reset-before" | x | 1].
        width: Features of x.
    """
    n = d.shape[-1] // 4
    h, x = seen[:, :n], seen[:, -1 - width :]
    if cell == "lstm":
        both = d.T @ seen
        return both[:, n:-1].contiguous(), both[:, :n].contiguous(), both[:, -1].contiguous()
    by_input = d.T @ x
    weight_ih, bias = torch.cat([by_input[n : 3 * n, :-1], by_input[:n, :-1]]), by_input[:, -1]
    bias = bias.contiguous()
    if cell == "gru":
        return weight_ih, d[:, n:].T @ h, bias
    by_reset = d[:, 3 * n :].T @ seen[:, n : 2 * n]
    return weight_ih, torch.cat([d[:, n : 3 * n].T @ h, by_reset]), bias


def input_gradient(cell: str, d: Tensor, weight_ih: Tensor) -> Tensor:
    """The gradient of x, from those of the pre-activations."""
    if cell == "lstm":
        return d @ weight_ih
    n = d.shape[-1] // 4
    return d[:, : 3 * n] @ torch.cat([weight_ih[2 * n :], weight_ih[: 2 * n]])
