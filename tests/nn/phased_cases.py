"""The phased layers and the equations that define them, one step of one sequence at a time."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, sigmoid, tanh


class Case(NamedTuple):
    name: str
    fields: tuple[str, ...]
    options: dict[str, Any] = {}  # noqa: RUF012

    def __str__(self) -> str:
        return "-".join([self.name, *(k for k, v in self.options.items() if v is not True)])


CASES = [
    Case("phased-lstm", ("h", "c", "steps")),
    Case("phased-lstm", ("h", "c", "steps"), {"peephole": False}),
    Case("phased-gru", ("h", "steps")),
    Case("phased-gilr-lstm", ("surrogate", "c", "h", "steps")),
    Case("phased-gilr-lstm", ("surrogate", "c", "h", "steps"), {"surrogate_shift": False}),
    Case("gilr", ("h", "steps"), {"phased": True}),
    Case("sru", ("c", "h", "steps"), {"phased": True}),
]
# One of each layer, where the cell makes no difference.
PLAIN = [case for case in CASES if case.options in ({}, {"phased": True})]


def time_gate(p: dict[str, Tensor], t: Tensor, leak: float) -> Tensor:
    turns = (t - p["shift"]) / p["log_period"].exp()
    phase, r = turns - turns.floor(), p["on_ratio"]
    ramp = torch.where(phase < r / 2, 2 * phase / r, 2 - 2 * phase / r)
    return torch.where(phase < r, ramp, leak * phase)


def candidate(p: dict[str, Tensor], x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """What an LSTM with peepholes, or torch's GRU, would make of a step; x (m,), h and c (n,)."""
    weights = [p[name] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    if len(p["weight_ih"]) == 3 * len(h):
        h = torch.gru_cell(x[None], h[None], *weights)[0]
        return h, h
    gates = p["weight_ih"] @ x + p["weight_hh"] @ h
    if p["bias_ih"] is not None:
        gates = gates + p["bias_ih"] + p["bias_hh"]
    i, f, g, o = gates.chunk(4)
    w_i, w_f, w_o = torch.zeros(3) if p["weight_peephole"] is None else p["weight_peephole"]
    c = sigmoid(f + w_f * c) * c + sigmoid(i + w_i * c) * tanh(g)
    return sigmoid(o + w_o * c) * tanh(c), c


def lstm_step(layer, p, x, state, k):
    h, c = state[0], state[-1]
    new_h, new_c = candidate(p, x, h, c)
    h, c = k * new_h + (1 - k) * h, k * new_c + (1 - k) * c
    return h, (h, c)[: len(state)]


def affine(p: dict[str, Tensor], x: Tensor, parts: int, kind: str = "ih"):
    y = p["weight_" + kind] @ x
    if p["bias_" + kind] is not None:
        y = y + p["bias_" + kind]
    return y.chunk(parts)


def gilr_step(layer, p, x, state, k, kind="ih"):
    gate, impulse = affine(p, x, 2, kind)
    g = 1 - k * (1 - sigmoid(gate))
    h = g * state[0] + (1 - g) * tanh(impulse)
    return h, (h,)


def gilr_lstm_step(layer, p, x, state, k):
    before, c, h = state
    after, _ = gilr_step(layer, p, x, state, k, "is")
    seen = p["weight_sh"] @ (before if layer.surrogate_shift else after)
    i, f, g, o = (a + b for a, b in zip(affine(p, x, 4), seen.chunk(4), strict=True))
    c = (1 - k * (1 - sigmoid(f))) * c + k * sigmoid(i) * tanh(g)
    h = (1 - k) * h + k * sigmoid(o) * c
    return h, (after, c, h)


def sru_step(layer, p, x, state, k):
    c, h = state
    z, f, r = affine(p, x, 3)
    highway = x if p["weight_highway"] is None else p["weight_highway"] @ x
    c = (1 - k * (1 - sigmoid(f))) * c + k * (1 - sigmoid(f)) * z
    h = (1 - k) * h + k * (sigmoid(r) * c + (1 - sigmoid(r)) * highway)
    return h, (c, h)


STEPS = {"GILR": gilr_step, "SRU": sru_step, "PhasedGILRLSTM": gilr_lstm_step}


def reference(
    layer,
    x: Tensor,
    times: Tensor | None = None,
    lengths: list[int] | None = None,
    state: list[Tensor] | None = None,
) -> list[Tensor]:
    """Run time-first x (T, B, m) at times (T, B): the output and the state in a flat list."""
    T, B = x.shape[:2]
    columns = []
    for b in range(B):
        length = T if lengths is None else lengths[b]
        *states, steps = fresh_state(layer, x) if state is None else [s[:, b] for s in state]
        stamps = steps + torch.arange(T) if times is None else times[:, b]
        outputs, finals = one_sequence(layer, x[:length, b], stamps.flatten(), states)
        padding = x.new_zeros(T - length, outputs.shape[1])
        last = [torch.stack(members) for members in zip(*finals, strict=True)]
        columns.append([torch.cat([outputs, padding]), *last, steps + length])
    return [torch.stack(members, 1) for members in zip(*columns, strict=True)]


def one_sequence(layer, xs: Tensor, times: Tensor, states: list[Tensor]):
    """The outputs of the last layer, and the states of every layer and direction."""
    finals = []
    step = STEPS.get(type(layer).__name__, lstm_step)
    leak = layer.leak if layer.training else 0.0
    for depth in range(layer.num_layers):
        ways = []
        for suffix in [f"_l{depth}", f"_l{depth}_reverse"][: 1 + layer.bidirectional]:
            p = {
                name.removesuffix(suffix): value
                for name, value in layer._parameters.items()
                if name.endswith(suffix)
            }
            now = tuple(member[len(finals)] for member in states)
            outputs = [now[0][:0]] * len(xs)
            order = range(len(xs))
            for t in reversed(order) if "reverse" in suffix else order:
                k = time_gate(p, times[t], leak)
                outputs[t], now = step(layer, p, xs[t], now, k)
            ways.append(torch.stack([now[0], *outputs])[1:])
            finals.append(now)
        xs = torch.cat(ways, -1)
    return xs, finals


def fresh_state(layer, x: Tensor) -> list[Tensor]:
    zeros = x.new_zeros(layer.num_layers * (1 + layer.bidirectional), layer.hidden_size)
    steps = torch.zeros(1, 1, dtype=torch.int64)
    return [*[zeros] * (len(layer.state_type._fields) - 1), steps]


def random_state(layer, B: int, requires_grad: bool = False):
    """A state as the layer takes it, with every member drawn."""
    shape = layer.num_layers * (1 + layer.bidirectional), B, layer.hidden_size
    dtype = next(layer.parameters()).dtype
    *names, _ = layer.state_type._fields
    members = [torch.randn(*shape, dtype=dtype).requires_grad_(requires_grad) for _ in names]
    return layer.state_type(*members, torch.randint(100, (1, B, 1)))
