"""What the GPU kernels of layers with weights on their state share: tiles, weights, cells.

One program takes a tile of ROWS sequences through all of their steps. At each it makes the next
state a block of UNITS at a time: their four pre-activations are one product of the tile's rows of
h and x with a block of the weights, which stream from the L2 cache CHUNK by CHUNK. h lies in
memory twice, since every block reads all of the old one; the program's own barrier orders the two,
and no program waits for another.

On the way back a block pulls its products with gradients of pre-activations, which lie in memory
twice too. So there is one barrier a step and layer both ways; a cell that resets before takes two.

A unit's four pre-activations stand side by side, in the order of the merged bias (see
`candidates.py`), with zeros where h or x has no part in one: so a block's weights are one piece.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from longrnn.ops._triton import CARRY
from longrnn.ops._triton_math import load_real, sigmoids, store_real, tanh

# The one place for tuning: chosen by reasoning (see docs/gpu.md), to be measured.
ROWS = 16  # sequences of a tile: what a product on tensor cores takes at least
UNITS = 64  # of a block at most, half as many in float64: four columns of its weights each
CHUNK = 32  # of the sum that a product loads at a time
LEAST = 16  # units of a block
WARPS = 8


class Plan(NamedTuple):
    """How one call is cut up, and where its steps lie."""

    n: int  # units, padded to whole blocks and chunks
    tiles: int
    sizes: tuple[int, ...]  # sequences, most steps, units, features, rows a step, and a sequence
    options: dict[str, Any]  # constants of every kernel

    def scratch(self, planes: int, x: Tensor) -> Tensor:
        """Memory of the programs: each `planes` times ROWS by n numbers, as they are carried."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        return x.new_empty(self.tiles * planes * ROWS * self.n, dtype=dtype)


def plan(x: Tensor, hidden: Tensor, cu_seqlens: Tensor | None, cell: str, dim: int) -> Plan:
    """Choose block sizes for an input `x` and the initial state (..., B, n)."""
    sequences, n = hidden.shape[-2:]
    units = UNITS // (CARRY[x.dtype][0] // 4)
    units = min(units, max(triton.next_power_of_2(n), LEAST))
    whole = max(units, CHUNK)
    padded = triton.cdiv(n, whole) * whole
    T = x.shape[dim]
    step, apart = (1, 0) if cu_seqlens is not None else (1, T) if dim == 1 else (sequences, 1)
    return Plan(
        padded,
        triton.cdiv(sequences, ROWS),
        (sequences, T, n, x.shape[-1], step, apart),
        {
            "CELL": cell,
            "CARRY": CARRY[x.dtype][1],
            # Float32 to a few roundings, on tensor cores; a gate that rounds needs that much.
            "PRECISION": "ieee" if x.dtype == torch.float64 else "tf32x3",
            "ROWS": ROWS,
            "UNITS": units,
            "CHUNK": CHUNK,
            "N": padded,
            "M": triton.cdiv(x.shape[-1], CHUNK) * CHUNK,
            "num_warps": WARPS,
        },
    )


def pack(weights: Sequence[Tensor], p: Plan) -> Tensor:
    """The weights of all layers as the kernels read them, in one piece; see `layer_at`."""
    parts = []
    for k in range(0, len(weights), 3):
        weight_ih, weight_hh, bias = weights[k : k + 3]
        n = weight_hh.shape[-1]
        of_x, of_h = weight_ih.unflatten(0, (-1, n)), weight_hh.unflatten(0, (-1, n))
        cell, resets = p.options["CELL"], []
        if cell != "lstm":  # n of x, r, z, n of h
            of_x = torch.cat([of_x[2:], of_x[:2], torch.zeros_like(of_x[:1])])
            none = torch.zeros_like(of_h[:1])
            if cell == "gru-reset-before":
                resets = [pad(of_h[2], (0, p.n - n, 0, p.n - n))]
                of_h = torch.cat([of_h[:2], none])
            of_h = torch.cat([none, of_h])
        width = p.n if k else p.options["M"]
        parts += [_by_unit(of_h, p.n, p.n), _by_unit(of_x, p.n, width), *resets]
        parts.append(_by_unit(bias.view(4, n, 1), p.n, 1))
    return torch.cat([part.flatten() for part in parts])


def _by_unit(blocks: Tensor, n: int, width: int) -> Tensor:
    """Turn (4, units, width) into (n, 4, width), padded with zeros."""
    _, units, columns = blocks.shape
    return pad(blocks, (0, width - columns, 0, n - units)).transpose(0, 1)


def zero_padding(x: Tensor, lengths: Tensor | None, dim: int) -> Tensor:
    """`x` with zeros past each sequence's last step, where a product must not see what stands."""
    if lengths is None:
        return x
    inside = torch.arange(x.shape[dim], device=x.device) < lengths.unsqueeze(-1)  # (B, T)
    return x.where((inside if dim == 1 else inside.T).unsqueeze(-1), 0)


@triton.jit
def layer_at(packed_ptr, LAYER: tl.constexpr, CELL: tl.constexpr, N: tl.constexpr, M: tl.constexpr):
    """Where a layer's weights begin: by h, by x, by r h of a cell that resets before, biases."""
    WIDTH: tl.constexpr = N if LAYER > 0 else M
    RESETS: tl.constexpr = N * N if CELL == "gru-reset-before" else 0
    FIRST: tl.constexpr = 4 * N * (N + M + 1) + RESETS
    LATER: tl.constexpr = 4 * N * (N + N + 1) + RESETS
    by_h = packed_ptr + (FIRST + (LAYER - 1) * LATER if LAYER > 0 else 0)
    by_x = by_h + 4 * N * N
    by_reset = by_x + 4 * N * WIDTH
    return by_h, by_x, by_reset, by_reset + RESETS


@triton.jit
def sequences_of(tile, count, T, step, apart, lengths_ptr, ends_ptr, ROWS: tl.constexpr):
    """A tile's sequences, which of them there are, their first rows and numbers of steps.

    Values of `lengths` and `cu_seqlens` are not checked, which would stop the host: whatever they
    are, stay inside.
    """
    s = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = s < count
    first = s * apart
    steps = s * 0 + T
    if ends_ptr is not None:
        first = tl.minimum(tl.maximum(tl.load(ends_ptr + s, mask=there, other=0), 0), T)
        end = tl.load(ends_ptr + s + 1, mask=there, other=0)
        steps = tl.minimum(tl.maximum(end, first), T) - first
    if lengths_ptr is not None:
        steps = tl.minimum(tl.maximum(tl.load(lengths_ptr + s, mask=there, other=0), 0), T)
    return s, there, first, tl.where(there, steps, 0)


@triton.jit
def load_plane(
    plane,
    ptr,
    rows,
    live,
    n,
    CARRY: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    N: tl.constexpr,
):
    """Fill a plane of scratch memory with a tensor's rows of n numbers, or with zeros."""
    for j in range(0, N, UNITS):
        unit = j + tl.arange(0, UNITS)
        x = tl.zeros((ROWS, UNITS), CARRY)
        if ptr is not None:
            inside = live[:, None] & (unit < n)[None, :]
            x = load_real(ptr, (rows * n)[:, None] + unit[None, :], inside, CARRY)
        tl.store(plane + (tl.arange(0, ROWS) * N)[:, None] + unit[None, :], x)


@triton.jit
def store_plane(
    ptr, plane, rows, live, n, ROWS: tl.constexpr, UNITS: tl.constexpr, N: tl.constexpr
):
    """Write a plane of scratch memory to a tensor's rows of n numbers."""
    for j in range(0, N, UNITS):
        unit = j + tl.arange(0, UNITS)
        x = tl.load(plane + (tl.arange(0, ROWS) * N)[:, None] + unit[None, :])
        inside = live[:, None] & (unit < n)[None, :]
        store_real(ptr, (rows * n)[:, None] + unit[None, :], x, inside)


@triton.jit
def load_gates(ptr, rows, unit, n, mask, CARRY: tl.constexpr):
    """A block of units of rows of 4 n numbers."""
    at = (rows * (4 * n))[:, None] + unit[None, :]
    g0 = load_real(ptr, at, mask, CARRY)
    g1 = load_real(ptr, at + n, mask, CARRY)
    g2 = load_real(ptr, at + 2 * n, mask, CARRY)
    g3 = load_real(ptr, at + 3 * n, mask, CARRY)
    return g0, g1, g2, g3


@triton.jit
def store_gates(ptr, g0, g1, g2, g3, rows, unit, n, mask):
    """The same, written."""
    at = (rows * (4 * n))[:, None] + unit[None, :]
    store_real(ptr, at, g0, mask)
    store_real(ptr, at + n, g1, mask)
    store_real(ptr, at + 2 * n, g2, mask)
    store_real(ptr, at + 3 * n, g3, mask)


@triton.jit
def add_product(
    acc,
    rows,
    live,
    count,
    weights,
    along,
    LENGTH: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return acc + rows @ weights, over LENGTH, of which rows have `count`; pointers to both."""
    for start in range(0, LENGTH, CHUNK):
        k = start + tl.arange(0, CHUNK)
        a = tl.load(
            rows[:, None] + k[None, :], mask=live[:, None] & (k < count)[None, :], other=0.0
        )
        b = tl.load(weights[None, :] + k[:, None] * along)
        acc = tl.dot(
            a.to(acc.dtype), b.to(acc.dtype), acc, input_precision=PRECISION, out_dtype=acc.dtype
        )
    return acc


@triton.jit
def side_by_side(g0, g1, g2, g3, COLUMNS: tl.constexpr):
    """The four numbers of each unit in one tile, as they stand in the weights."""
    g = tl.join(tl.join(g0, g2), tl.join(g1, g3))
    return tl.reshape(g, (g0.shape[0], COLUMNS))


@triton.jit
def _apart(g, UNITS: tl.constexpr):
    """What `side_by_side` joined."""
    even, odd = tl.split(tl.reshape(g, (g.shape[0], UNITS, 2, 2)))
    g0, g2 = tl.split(even)
    g1, g3 = tl.split(odd)
    return g0, g1, g2, g3


@triton.jit
def pre_activations(
    states,
    features,
    live,
    width,
    by_h,
    by_x,
    bias,
    j,
    WIDTH: tl.constexpr,
    CARRY: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
):
    """Of the block of units from `j`, by rows of h and of x."""
    column = 4 * j + tl.arange(0, 4 * UNITS)
    acc = tl.zeros((ROWS, 4 * UNITS), CARRY) + tl.load(bias + column).to(CARRY)[None, :]
    acc = add_product(acc, states, live, N, by_h + column * N, 1, N, CHUNK, PRECISION)
    acc = add_product(acc, features, live, width, by_x + column * WIDTH, 1, WIDTH, CHUNK, PRECISION)
    return _apart(acc, UNITS)


@triton.jit
def activate(g0, g1, g2, g3, CELL: tl.constexpr):
    """Pre-activations to what is kept of a step; r of a cell that resets before is one already."""
    if CELL == "lstm":
        g0, _ = sigmoids(g0)
        g1, _ = sigmoids(g1)
        g2 = tanh(g2)
        g3, _ = sigmoids(g3)
    else:
        g2, _ = sigmoids(g2)
        if CELL == "gru-reset-before":
            g0 = tanh(g0 + g3)
        else:
            g1, _ = sigmoids(g1)
            g0 = tanh(g0 + g1 * g3)
    return g0, g1, g2, g3


@triton.jit
def candidates(g0, g1, g2, g3, h, c, CELL: tl.constexpr):
    """New h and c from what was kept; a GRU's h stands for both."""
    if CELL == "lstm":
        new_c = g1 * c + g0 * g2
        new_h = g3 * tanh(new_c)
    else:
        new_h = (1.0 - g2) * g0 + g2 * h
        new_c = new_h
    return new_h, new_c


@triton.jit
def differentiate(g0, g1, g2, g3, h, c, gh, gc, CELL: tl.constexpr):
    """Gradients of the pre-activations, and of h and c but for products, from the candidates'.

    Of a cell that resets before, those of r and of h through r h are missing: see `reset_slopes`.
    """
    if CELL == "lstm":
        t = tanh(g1 * c + g0 * g2)
        gc += gh * g3 * (1.0 - t * t)
        d0 = gc * g2 * g0 * (1.0 - g0)
        d1 = gc * c * g1 * (1.0 - g1)
        d2 = gc * g0 * (1.0 - g2 * g2)
        d3 = gh * t * g3 * (1.0 - g3)
        dh = tl.zeros_like(gh)
        dc = gc * g1
    else:
        d0 = gh * (1.0 - g2) * (1.0 - g0 * g0)
        d2 = gh * (h - g0) * g2 * (1.0 - g2)
        if CELL == "gru-reset-before":
            d1 = tl.zeros_like(gh)
            d3 = d0
        else:
            d1 = d0 * g3 * g1 * (1.0 - g1)
            d3 = d0 * g1
        dh = gh * g2
        dc = tl.zeros_like(gh)
    return d0, d1, d2, d3, dh, dc
