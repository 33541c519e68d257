"""The layers and the equations that define them, one step of one sequence in plain PyTorch.

`step(p, x, state, options) -> h, state`: p holds one layer's parameters by name, x is (m,), a
state is a tuple of (n,) tensors and, where the layer keeps inputs, a list of them, oldest first.
A new layer is one line in `CASES`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, sigmoid, tanh

ACTIVATIONS = {
    "tanh": tanh,
    "elu": torch.nn.functional.elu,
    "identity": lambda x: x,
    "relu": torch.relu,
}


class Case(NamedTuple):
    name: str
    step: Callable[..., Any]
    options: dict[str, Any] = {}  # noqa: RUF012
    fields: tuple[str, ...] = ("h",)
    kept: int = 0  # inputs in the state
    blocks: dict[str, int] = {}  # noqa: RUF012 (rows of each weight, in units of n)

    def __str__(self) -> str:
        return "-".join([self.name, *(str(v) for v in self.options.values())])


def affine(p: dict[str, Tensor | None], x: Tensor, parts: int, weight="weight_ih", bias="bias_ih"):
    y = p[weight] @ x
    if p[bias] is not None:
        y = y + p[bias]
    return y.chunk(parts)


def gilr(p, x, state, options):
    gate, impulse = affine(p, x, 2)
    g, i = sigmoid(gate), ACTIVATIONS[options.get("activation", "tanh")](impulse)
    h = g * state[0] + (1 - g) * i
    return h, (h,)


def gilr_lstm(p, x, state, options):
    before, c = state
    gate, impulse = affine(p, x, 2, "weight_is", "bias_is")
    after = sigmoid(gate) * before + (1 - sigmoid(gate)) * tanh(impulse)
    seen = before if options.get("surrogate_shift", True) else after
    i, f, g, o = (
        a + b for a, b in zip(affine(p, x, 4), (p["weight_sh"] @ seen).chunk(4), strict=True)
    )
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * c, (after, c)


def sru(p, x, state, options):
    z, f, r = affine(p, x, 3)
    highway = x if p["weight_highway"] is None else p["weight_highway"] @ x
    c = sigmoid(f) * state[0] + (1 - sigmoid(f)) * z
    activation = ACTIVATIONS[options.get("activation", "identity")]
    return sigmoid(r) * activation(c) + (1 - sigmoid(r)) * highway, (c,)


def newest_first(x, inputs):
    return torch.cat([x, *reversed(inputs)])


def qrnn(p, x, state, options):
    c, inputs = state
    z, f, o = affine(p, newest_first(x, inputs), 3)
    c = sigmoid(f) * c + (1 - sigmoid(f)) * tanh(z)
    return sigmoid(o) * c, (c, [*inputs, x][1:] if inputs else [])


def strongly_typed_rnn(p, x, state, options):
    z, f = (p["weight_ih"] @ x).chunk(2)
    if p["bias_ih"] is not None:
        f = f + p["bias_ih"]
    h = sigmoid(f) * state[0] + (1 - sigmoid(f)) * z
    return h, (h,)


def strongly_typed_gru(p, x, state, options):
    h, inputs = state
    z, f, o = affine(p, newest_first(x, inputs), 3)
    h = sigmoid(f) * h + z * tanh(o)
    return h, (h, [x])


def strongly_typed_lstm(p, x, state, options):
    c, inputs = state
    z, f, o = affine(p, newest_first(x, inputs), 3)
    c = sigmoid(f) * c + (1 - sigmoid(f)) * z
    return c * tanh(o), (c, [x])


def min_gru(p, x, state, options):
    z, candidate = affine(p, x, 2)
    h = (1 - sigmoid(z)) * state[0] + sigmoid(z) * candidate
    return h, (h,)


def min_lstm(p, x, state, options):
    f, i, candidate = affine(p, x, 3)
    f, i = sigmoid(f), sigmoid(i)
    h = f / (f + i) * state[0] + i / (f + i) * candidate
    return h, (h,)


def parallel_gru(p, x, state, options):
    (h,) = state
    z, r, c = affine(p, x, 3)
    a = p["weight_hh"]
    z, r = sigmoid(z + a[0] * h), sigmoid(r + a[1] * h)
    h = (1 - z) * h + z * tanh(c + a[2] * (r * h))
    return h, (h,)


def parallel_lstm(p, x, state, options):
    h, c = state
    f, g, o = (y + a * h for y, a in zip(affine(p, x, 3), p["weight_hh"], strict=True))
    peephole = p["weight_peephole"]
    f = sigmoid(f + peephole[0] * c)
    c = f * c + (1 - f) * tanh(g)
    h = sigmoid(o + peephole[1] * c) * tanh(c)
    return h, (h, c)


C_INPUTS = ("c", "inputs")
CASES = [
    Case("gilr", gilr),
    Case("gilr", gilr, {"activation": "elu"}),
    Case("gilr", gilr, {"activation": "identity"}),
    Case("gilr", gilr, {"activation": "relu"}),
    Case("gilr-lstm", gilr_lstm, {}, ("surrogate", "c")),
    Case("gilr-lstm", gilr_lstm, {"surrogate_shift": False}, ("surrogate", "c")),
    Case("sru", sru, {}, ("c",)),
    Case("sru", sru, {"activation": "tanh"}, ("c",)),
    Case("qrnn", qrnn, {}, C_INPUTS, 1),
    Case("qrnn", qrnn, {"kernel_size": 1}, C_INPUTS, 0),
    Case("qrnn", qrnn, {"kernel_size": 4}, C_INPUTS, 3),
    Case("strongly-typed-rnn", strongly_typed_rnn),
    Case("strongly-typed-gru", strongly_typed_gru, {}, ("h", "inputs"), 1),
    Case("strongly-typed-lstm", strongly_typed_lstm, {}, C_INPUTS, 1),
    Case("min-gru", min_gru),
    Case("min-lstm", min_lstm),
    Case("parallel-gru", parallel_gru),
    Case("parallel-gru", parallel_gru, {"algorithm": "parallel"}),
    Case("parallel-lstm", parallel_lstm, {}, ("h", "c")),
    Case("parallel-lstm", parallel_lstm, {"algorithm": "parallel"}, ("h", "c")),
]
# One of each layer, where the cell makes no difference.
PLAIN = [case for case in CASES if not case.options or case.options == {"kernel_size": 4}]


def reference(layer, case: Case, x: Tensor, lengths: list[int] | None, state: list[Any] | None):
    """Run time-first x (T, B, m) step by step; `state` and the returned one as `flat_state`'s."""
    T, B = x.shape[:2]
    lengths = [T] * B if lengths is None else lengths
    directions = 2 if layer.bidirectional else 1
    columns, finals = [], []
    for b in range(B):
        steps, last = list(x[: lengths[b], b].unbind(0)), []
        for depth in range(layer.num_layers):
            ways = []
            for way in range(directions):
                suffix = f"_l{depth}" + "_reverse" * way
                p = {
                    name.removesuffix(suffix): value
                    for name, value in layer._parameters.items()
                    if name.endswith(suffix)
                }
                k = depth * directions + way
                now = initial(case, layer, state, k, b, x)
                outputs = []
                for x_t in reversed(steps) if way else steps:
                    h, now = case.step(p, x_t, now, case.options)
                    outputs.append(h)
                last.append(now)
                ways.append(outputs[::-1] if way else outputs)
            steps = [torch.cat(pair) for pair in zip(*ways, strict=True)]
        zeros = x.new_zeros(directions * layer.hidden_size)
        columns.append(torch.stack([*steps, *[zeros] * (T - lengths[b])]) if T else zeros[None][:0])
        finals.append(last)
    output = torch.stack(columns, 1)
    flat = []
    for field, name in enumerate(case.fields):
        per_layer = [
            torch.stack([stack_kept(last[k][field], last[k][0], layer, k) for last in finals], -2)
            for k in range(layer.num_layers * directions)
        ]
        flat += per_layer if name == "inputs" else [torch.stack(per_layer)]
    return output, flat


def stack_kept(value, like, layer, k):
    """Kept inputs as (kept, m); other members of a state as they are."""
    if isinstance(value, Tensor):
        return value
    return torch.stack(value) if value else like.new_zeros(0, width(layer, k))


def width(layer, k: int) -> int:
    directions = 2 if layer.bidirectional else 1
    return layer.hidden_size * directions if k >= directions else layer.input_size


def initial(case, layer, state, k, b, x):
    members = []
    for field, name in enumerate(case.fields):
        if name == "inputs":
            if state is None:
                members.append([x.new_zeros(width(layer, k))] * case.kept)
            else:
                members.append(list(state[field + k][:, b].unbind(0)))
        else:
            members.append(x.new_zeros(layer.hidden_size) if state is None else state[field][k, b])
    return tuple(members)


def random_state(layer, case: Case, B: int, requires_grad=False):
    """A state as the layer takes it, with every member drawn."""
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    dtype = next(layer.parameters()).dtype

    def draw(*shape):
        return torch.randn(*shape, dtype=dtype).requires_grad_(requires_grad)

    members = [
        tuple(draw(case.kept, B, width(layer, k)) for k in range(count))
        if name == "inputs"
        else draw(count, B, layer.hidden_size)
        for name in case.fields
    ]
    return members[0] if len(members) == 1 else tuple(members)


def flat_state(state) -> list[Tensor]:
    """Every tensor of a state, in order."""
    if isinstance(state, Tensor):
        return [state]
    return [tensor for member in state for tensor in flat_state(member)]
