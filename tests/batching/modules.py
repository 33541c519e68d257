"""Modules that a `MuxUnroll` runs in the tests, and what they must compute: one sequence a call."""

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

from longrnn import create_model, models


class LoopOverCell(nn.Module):
    """A user's own module: a loop over time in Python, with lengths and with time stamps."""

    def __init__(self, m, n):
        super().__init__()
        self.cell = nn.GRUCell(m + 1, n)

    def forward(self, x, state=None, *, lengths=None, times=None):
        T, B, _ = x.shape
        h = x.new_zeros(B, self.cell.hidden_size) if state is None else state
        times = torch.zeros(T, B) if times is None else times
        lengths = torch.full((B,), T) if lengths is None else lengths
        outputs = []
        for t, (x_t, time) in enumerate(zip(x.unbind(0), times.unbind(0), strict=True)):
            valid = (t < lengths).unsqueeze(1)
            seen = torch.cat([x_t.where(valid, 0), time.unsqueeze(1).to(x_t)], 1)
            new = self.cell(seen, h)
            h = torch.where(valid, new, h)
            outputs.append(torch.where(valid, new, 0))
        return torch.stack(outputs), h


def build(name, m=3, n=5, **given):
    if name == "loop":
        return LoopOverCell(m, n).double()
    return create_model(name, m, n, 2, dtype=torch.float64, **given)


NAMES = [*models(), "loop"]


def is_torchs(name):
    return name in ("lstm", "gru")


def draw(lengths, T, m=3, batch_first=False):
    """Padded sequences with NaN past their ends, where nobody may look."""
    x = torch.randn(T, len(lengths), m, dtype=torch.float64)
    x[torch.arange(T).unsqueeze(1) >= torch.tensor(lengths)] = float("nan")
    return x.transpose(0, 1).contiguous() if batch_first else x


def one_by_one(module, x, lengths, state=None, batch_first=False):
    """Outputs (padded to T) and states of a module that is given each sequence by itself."""
    rows = x if batch_first else x.transpose(0, 1)
    outputs, states = [], []
    for i, n in enumerate(lengths):
        own = None if state is None else tree_map(lambda s, i=i: s[..., i : i + 1, :], state)
        piece = rows[i : i + 1, :n]
        y, last, *more = module(piece if batch_first else piece.transpose(0, 1), own)
        time = 1 if batch_first else 0
        pad = [0, 0] * (2 - time) + [0, rows.shape[1] - n]
        outputs.append([nn.functional.pad(v, pad) for v in (y, *more)])
        states.append(last)
    batch = 0 if batch_first else 1
    joined = [torch.cat(v, batch) for v in zip(*outputs, strict=True)]
    leaves = [tree_flatten(last)[0] for last in states]
    return joined, [torch.cat(leaf, -2) for leaf in zip(*leaves, strict=True)]


def gradients(outputs, states, sources):
    """Of a fixed mixture of all that depends on the sources."""
    generator = torch.Generator().manual_seed(1)
    total = 0.0
    for value in (*outputs, *states):
        weight = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if value.requires_grad:
            total = total + (value * weight).sum()
    return torch.autograd.grad(total, sources, allow_unused=True)
