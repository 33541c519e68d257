"""The skip layers and the equations that define them, on torch's own cells, a step at a time."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, sigmoid, tanh


class Case(NamedTuple):
    name: str
    fields: tuple[str, ...]
    options: dict[str, Any] = {}  # noqa: RUF012

    def __str__(self) -> str:
        return "-".join([self.name, *(str(v) for v in self.options.values())])


PROBABILITIES = ("update_prob", "accum_prob")
CASES = [
    Case("skip-lstm", ("h", "c", *PROBABILITIES)),
    Case("skip-gru", ("h", *PROBABILITIES)),
    Case("skip-gru", ("h", *PROBABILITIES), {"reset_after": False}),
]
PLAIN = [case for case in CASES if not case.options]


def candidate(case: Case, p: list[Tensor | None], x: Tensor, h: Tensor, c: Tensor):
    """What torch's cell would make of a step, or the GRU of Cho et al.; x (m,), h and c (n,)."""
    if case.name == "skip-lstm":
        h, c = torch.lstm_cell(x[None], (h[None], c[None]), *p)
        return h[0], c[0]
    if not case.options:
        h = torch.gru_cell(x[None], h[None], *p)[0]
        return h, h
    weight_ih, weight_hh, *biases = p
    b_x, b_h = (b.chunk(3) if b is not None else [0.0] * 3 for b in biases)
    x_r, x_z, x_n = (w @ x + b for w, b in zip(weight_ih.chunk(3), b_x, strict=True))
    to_r, to_z, to_n = weight_hh.chunk(3)
    r, z = sigmoid(x_r + to_r @ h + b_h[0]), sigmoid(x_z + to_z @ h + b_h[1])
    h = (1 - z) * tanh(x_n + to_n @ (r * h) + b_h[2]) + z * h
    return h, h


def reference(layer, case: Case, x: Tensor, lengths: list[int] | None, state: list[Tensor] | None):
    """Run time-first x (T, B, m) step by step; results and final state as a flat list."""
    T, B, layers = x.shape[0], x.shape[1], range(layer.num_layers)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = [[getattr(layer, f"{name}_l{k}") for name in names] for k in layers]
    columns = []
    for b in range(B):
        *states, p, kappa = starts(layer, case, x) if state is None else [s[:, b] for s in state]
        h, c, p, kappa = list(states[0]), list(states[-1]), p[0], kappa[0]
        outputs, updates = [], []
        for t in range(T if lengths is None else lengths[b]):
            accumulated = kappa + (p if p <= 1 - kappa else 1 - kappa)
            u = accumulated + (accumulated.round() - accumulated).detach()
            below = x[t, b]
            for k in layers:
                below, cell = candidate(case, weights[k], below, h[k], c[k])
                h[k] = u * below + (1 - u) * h[k]
                c[k] = u * cell + (1 - u) * c[k]
            p = u * sigmoid(layer.weight_u @ cell + layer.bias_u) + (1 - u) * p
            kappa = (1 - u) * accumulated
            outputs.append(h[-1])
            updates.append(u)
        ended = T - len(outputs)
        outputs += [x.new_zeros(layer.hidden_size)] * ended
        updates += [x.new_zeros(1)] * ended
        last = [torch.stack(h), torch.stack(c)][: len(states)]
        columns.append([torch.stack(outputs), torch.stack(updates), *last, p[None], kappa[None]])
    return [torch.stack(members, 1) for members in zip(*columns, strict=True)]


def starts(layer, case: Case, x: Tensor) -> list[Tensor]:
    """What a sequence starts from where no state is given."""
    zeros = x.new_zeros(layer.num_layers, layer.hidden_size)
    learned = ["h_0", "c_0"][: len(case.fields) - 2]
    states = [layer._parameters[name][:, 0] if name in layer._parameters else zeros
              for name in learned]  # fmt: skip
    return [*states, x.new_ones(1, 1), x.new_zeros(1, 1)]


def random_state(layer, case: Case, B: int, requires_grad=False):
    """A state as the layer takes it, with every member drawn."""
    dtype = layer.weight_u.dtype
    shape = layer.num_layers, B, layer.hidden_size
    members = [torch.randn(*shape, dtype=dtype) for _ in case.fields[2:]]
    members += [torch.rand(1, B, 1, dtype=dtype), torch.rand(1, B, 1, dtype=dtype) / 2]
    return tuple(member.requires_grad_(requires_grad) for member in members)
