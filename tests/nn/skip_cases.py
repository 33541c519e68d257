"""The skip layers and the equations that define them, on the cells they are made of, by steps."""

from typing import Any, NamedTuple

import torch
from layer_cases import gilr_lstm
from torch import Tensor, sigmoid, tanh


class Case(NamedTuple):
    name: str
    fields: tuple[str, ...]
    options: dict[str, Any] = {}  # noqa: RUF012

    def __str__(self) -> str:
        return "-".join([self.name, *(str(v) for v in self.options.values())])


PROBABILITIES = ("update_prob", "accum_prob")
GILR = ("surrogate", "c", "h")
CASES = [
    Case("skip-lstm", ("h", "c", *PROBABILITIES)),
    Case("skip-gru", ("h", *PROBABILITIES)),
    Case("skip-gru", ("h", *PROBABILITIES), {"reset_after": False}),
    Case("skip-gilr-lstm", (*GILR, *PROBABILITIES)),
    Case("skip-gilr-lstm", (*GILR, *PROBABILITIES), {"surrogate_shift": False}),
]
PLAIN = [case for case in CASES if not case.options]
# Made of torch's cells, whose weights they load.
TORCH = [case for case in PLAIN if "surrogate" not in case.fields]


def candidate(case: Case, p: dict[str, Tensor | None], x: Tensor, state: list[Tensor]):
    """What a step would make of a layer's state; x (m,), members (n,)."""
    if case.fields[0] == "surrogate":
        h, (surrogate, c) = gilr_lstm(p, x, state[:2], case.options)
        return [surrogate, c, h]
    weights = [p[name] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    if case.name == "skip-lstm":
        h, c = torch.lstm_cell(x[None], [member[None] for member in state], *weights)
        return [h[0], c[0]]
    (h,) = state
    if not case.options:
        return [torch.gru_cell(x[None], h[None], *weights)[0]]
    weight_ih, weight_hh, *biases = weights
    b_x, b_h = (b.chunk(3) if b is not None else [0.0] * 3 for b in biases)
    x_r, x_z, x_n = (w @ x + b for w, b in zip(weight_ih.chunk(3), b_x, strict=True))
    to_r, to_z, to_n = weight_hh.chunk(3)
    r, z = sigmoid(x_r + to_r @ h + b_h[0]), sigmoid(x_z + to_z @ h + b_h[1])
    return [(1 - z) * tanh(x_n + to_n @ (r * h) + b_h[2]) + z * h]


def reference(layer, case: Case, x: Tensor, lengths: list[int] | None, state: list[Tensor] | None):
    """Run time-first x (T, B, m) step by step; results and final state as a flat list."""
    T, B, layers = x.shape[0], x.shape[1], range(layer.num_layers)
    suffixes = [f"_l{k}" for k in layers]
    weights = [
        {name.removesuffix(end): p for name, p in layer._parameters.items() if name.endswith(end)}
        for end in suffixes
    ]
    output = case.fields.index("h")
    columns = []
    for b in range(B):
        *members, p, kappa = starts(layer, case, x) if state is None else [s[:, b] for s in state]
        states, p, kappa = [[member[k] for member in members] for k in layers], p[0], kappa[0]
        outputs, updates = [], []
        for t in range(T if lengths is None else lengths[b]):
            accumulated = kappa + (p if p <= 1 - kappa else 1 - kappa)
            u = accumulated + (accumulated.round() - accumulated).detach()
            below = x[t, b]
            for k in layers:
                new = candidate(case, weights[k], below, states[k])
                states[k] = [u * a + (1 - u) * s for a, s in zip(new, states[k], strict=True)]
                below = new[output]
            seen = x[t, b] if case.fields[0] == "surrogate" else new[-1]  # an LSTM's c
            p = u * sigmoid(layer.weight_u @ seen + layer.bias_u) + (1 - u) * p
            kappa = (1 - u) * accumulated
            outputs.append(states[-1][output])
            updates.append(u)
        ended = T - len(outputs)
        outputs += [x.new_zeros(layer.hidden_size)] * ended
        updates += [x.new_zeros(1)] * ended
        last = [torch.stack(member) for member in zip(*states, strict=True)]
        columns.append([torch.stack(outputs), torch.stack(updates), *last, p[None], kappa[None]])
    return [torch.stack(members, 1) for members in zip(*columns, strict=True)]


def starts(layer, case: Case, x: Tensor) -> list[Tensor]:
    """What a sequence starts from where no state is given."""
    zeros = x.new_zeros(layer.num_layers, layer.hidden_size)
    names = [f"{field}_0" for field in case.fields[:-2]]
    states = [layer._parameters[name][:, 0] if name in layer._parameters else zeros
              for name in names]  # fmt: skip
    return [*states, x.new_ones(1, 1), x.new_zeros(1, 1)]


def random_state(layer, case: Case, B: int, requires_grad=False):
    """A state as the layer takes it, with every member drawn."""
    dtype = layer.weight_u.dtype
    shape = layer.num_layers, B, layer.hidden_size
    members = [torch.randn(*shape, dtype=dtype) for _ in case.fields[2:]]
    members += [torch.rand(1, B, 1, dtype=dtype), torch.rand(1, B, 1, dtype=dtype) / 2]
    return tuple(member.requires_grad_(requires_grad) for member in members)
