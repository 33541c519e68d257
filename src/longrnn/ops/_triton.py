"""What the GPU kernels of both recurrences share: block sizes, the scan of a tile, the chain.

A program holds a tile of BLOCK_T steps by BLOCK_D channels in registers and solves it by an
associative scan of the maps h -> a h + b. Two regimes differ in where the state before a tile
comes from:

    plain     one program a block of channels walks over all of time and keeps the state
    chained   one program a tile; the state comes from the tiles before it, through device memory

Chained tiles read their inputs once, however few channels there are. Each tile publishes its own
map as soon as it has it. GROUP tiles form a group; the last of a group publishes its state. A tile
composes the maps before it in its group, waits for the state of the group before, and so knows its
own: only one wait in GROUP tiles depends on another. What is composed with what is fixed by the
sizes alone, never by which tile came first, so that results are reproducible to the bit.

Numbers are pairs (re, im) throughout; for real dtypes im is an alias that nothing uses.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Block(NamedTuple):
    """Block sizes of one kernel in one regime, for numbers carried in 4 bytes."""

    elements: int  # of a tile, a thread: the widest that keeps what is live in registers
    warps: int  # at most, of a program
    row: int  # channels of a tile at most, where channels are contiguous: 128 bytes or more
    rows: int  # steps of a tile at most, where channels are contiguous


# The one place for tuning. Chosen by reasoning, to be measured: a forward keeps two numbers an
# element alive, a linear backward four, a gated one up to eight; 255 registers a thread spill.
# Chained tiles are large, since a tile costs a wait; plain ones are narrow in time, so that a
# thread walks along its channels without talking to others, and have one warp, so that no barrier
# stops it.
BLOCKS = {
    ("plain", "linear_forward"): Block(32, 1, 128, 16),
    ("plain", "linear_backward"): Block(16, 1, 128, 16),
    ("plain", "gated_forward"): Block(16, 1, 128, 16),
    ("plain", "gated_backward"): Block(8, 1, 128, 16),
    ("chained", "linear_forward"): Block(32, 8, 32, 1 << 20),
    ("chained", "linear_backward"): Block(16, 8, 32, 1 << 20),
    ("chained", "gated_forward"): Block(16, 8, 32, 1 << 20),
    ("chained", "gated_backward"): Block(8, 8, 32, 1 << 20),
}
PROGRAMS = 8  # plain programs a multiprocessor from which the chain is not worth its waits
TILES = 2  # tiles a multiprocessor that small problems are cut into
HOP = 1 << 20  # elements that one wait on another group is spread over: about 1 us of traffic
GROUP = 128  # tiles of a group at most: each reads the maps of those before it
LOOK = 8  # maps a thread composes at a time


class Plan(NamedTuple):
    """How one call is cut up."""

    chained: bool
    time_last: bool
    block_t: int
    block_d: int
    group: int
    look: int
    warps: int
    chunks: int
    blocks: int

    def options(self) -> dict[str, Any]:
        """The constants that every kernel takes."""
        return {
            "CHAINED": self.chained,
            "TIME_LAST": self.time_last,
            "BLOCK_T": self.block_t,
            "BLOCK_D": self.block_d,
            "GROUP": self.group,
            "LOOK": self.look,
            "num_warps": self.warps,
        }

    def grid(self) -> tuple[int]:
        """Number of programs."""
        return (self.blocks * (self.chunks if self.chained else 1),)


def plan(
    kind: str, T: int, outer: int, inner: int, nbytes: int, algorithm: str, device: torch.device
) -> Plan:
    """Choose regime and block sizes for (outer, T, inner) numbers carried in `nbytes`."""
    processors = _processors(device)
    plain = _cut("plain", kind, T, outer, inner, nbytes, processors)
    if algorithm == "serial" or plain.chunks == 1:
        return plain
    if algorithm == "auto" and plain.blocks >= PROGRAMS * processors:
        return plain
    return _cut("chained", kind, T, outer, inner, nbytes, processors)


def _cut(
    regime: str, kind: str, T: int, outer: int, inner: int, nbytes: int, processors: int
) -> Plan:
    block = BLOCKS[regime, kind]
    per_thread = max(1, block.elements * 4 // nbytes)
    most = triton.next_power_of_2(triton.cdiv(T * outer * inner, TILES * processors))
    size = 32 * per_thread * max(1, min(block.warps, most // (32 * per_thread)))
    if inner == 1:
        block_t = min(triton.next_power_of_2(T), size)
    else:
        # A power of two: odd widths leave lanes idle, which costs less than a ragged row.
        row = min(triton.next_power_of_2(inner), block.row, size)
        block_t = min(triton.next_power_of_2(T), block.rows, size // row)
    block_d = min(triton.next_power_of_2(outer * inner), size // block_t)
    chained = regime == "chained"
    chunks, blocks = triton.cdiv(T, block_t), triton.cdiv(outer * inner, block_d)
    warps = max(1, min(block.warps, block_t * block_d // (32 * per_thread)))
    group = look = 1
    if chained:
        hop = triton.next_power_of_2(triton.cdiv(HOP, block_t * block_d * blocks))
        group = min(hop, GROUP, triton.next_power_of_2(chunks))
        look = max(1, min(group, LOOK * 4 * 32 * warps // (nbytes * block_d)))
    return Plan(chained, inner == 1, block_t, block_d, group, look, warps, chunks, blocks)


@lru_cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 132  # tensors of Triton's interpreter
    return torch.cuda.get_device_properties(device).multi_processor_count


class Scratch(NamedTuple):
    """Zeroed memory of one call: the chain's, and marks where sequences begin and end."""

    ticket: Tensor | None
    maps: Tensor | None
    states: Tensor | None
    first: Tensor | None
    last: Tensor | None


def scratch(
    p: Plan, T: int, channels: int, nbytes: int, cu_seqlens: Tensor | None, x: Tensor, reverse: bool
) -> Scratch:
    """Allocate and zero what the plan needs, in one piece, and mark the sequences' ends."""
    words = nbytes // 4  # of a number; each word of 64 bits holds 32 of it and a flag
    sizes = [1, p.chunks * channels * 2 * words, triton.cdiv(p.chunks, p.group) * channels * words]
    sizes = [*(sizes if p.chained else [0] * 3), *([0, 0] if cu_seqlens is None else [T, T])]
    if not sum(sizes):
        return Scratch(*[None] * 5)
    memory = torch.zeros(sum(sizes), dtype=torch.int64, device=x.device)
    parts = [part if part.numel() else None for part in memory.split(sizes)]
    if cu_seqlens is not None:
        ends = cu_seqlens.contiguous()
        n = ends.numel() - 1
        _mark_kernel[(triton.cdiv(n, 128),)](
            ends, parts[3], parts[4], n, T, REVERSE=reverse, BLOCK=128, num_warps=4
        )
    return Scratch(*parts)


def three(x: Tensor, dim: int) -> tuple[Tensor, tuple[int, int, int]]:
    """View `x` as (outer, T, inner) of real numbers; returns it and its three strides.

    Complex numbers become pairs. Copies only where no three strides describe `x`.
    """
    pairs = x.is_complex()
    if pairs:
        x = torch.view_as_real(x.resolve_conj())
    rank = x.ndim - pairs
    shape, strides = x.shape[:rank], x.stride()[:rank]
    outer, inner = (
        _collapse(shape[:dim], strides[:dim]),
        _collapse(shape[dim + 1 :], strides[dim + 1 :]),
    )
    if outer is None or inner is None:
        x = x.contiguous()
        inner = max(1, math.prod(shape[dim + 1 :])) * (1 + pairs)
        return x, (shape[dim] * inner, inner, 1 + pairs)
    return x, (outer, strides[dim], inner)


def _collapse(shape: tuple[int, ...], strides: tuple[int, ...]) -> int | None:
    """The one stride that steps through several dimensions in order; None if there is none."""
    kept = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    for (_, s), (m, t) in zip(kept, kept[1:], strict=False):
        if s != m * t:
            return None
    return kept[-1][1] if kept else 0


@triton.jit
def _mark_kernel(ends_ptr, first_ptr, last_ptr, N, T, REVERSE: tl.constexpr, BLOCK: tl.constexpr):
    """Write n + 1 where sequence n takes its first step, and where it takes its last."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    start = tl.load(ends_ptr + n, mask=n < N, other=0)
    end = tl.load(ends_ptr + n + 1, mask=n < N, other=0)
    # Values are not checked, which would stop the host: whatever they are, stay inside.
    live = (n < N) & (start >= 0) & (end <= T) & (start < end)
    tl.store((last_ptr if REVERSE else first_ptr) + start, n + 1, mask=live)
    tl.store((first_ptr if REVERSE else last_ptr) + end - 1, n + 1, mask=live)


@triton.jit
def claim(ticket_ptr, chunks, blocks, CHAINED: tl.constexpr):
    """Which block of channels a program takes, and from which chunk to which, in run order."""
    if CHAINED:
        # Tickets are drawn in the order in which programs start, whatever their numbers. So all
        # that a tile waits for has started before it, and the chain always moves on.
        ticket = tl.atomic_add(ticket_ptr, 1, sem="relaxed")
        first = ticket // blocks
        block = ticket - first * blocks
        stop = first + 1
    else:
        block = tl.program_id(0).to(tl.int64)
        first = block * 0
        stop = first + chunks
    return block, first, stop


@triton.jit
def times(
    first,
    chunks,
    BLOCK_T: tl.constexpr,
    BACKWARDS: tl.constexpr,
    TIME_LAST: tl.constexpr,
):
    """Steps of a chunk, (BLOCK_T,).

    A run backwards lists rows latest first. Where time is contiguous it keeps the order of memory,
    for wide loads, and the scan is reversed instead.
    """
    step = tl.arange(0, BLOCK_T).to(tl.int64)
    if BACKWARDS:
        if not TIME_LAST:
            step = BLOCK_T - 1 - step
        t = (chunks - 1 - first) * BLOCK_T + step
    else:
        t = first * BLOCK_T + step
    return t


@triton.jit
def over_time(t, TIME_LAST: tl.constexpr):
    """Lay what has an entry a step along the tile's time axis."""
    if TIME_LAST:
        tile = t[None, :]
    else:
        tile = t[:, None]
    return tile


@triton.jit
def over_channels(c, TIME_LAST: tl.constexpr):
    """Lay what has an entry a channel along the tile's other axis."""
    if TIME_LAST:
        tile = c[:, None]
    else:
        tile = c[None, :]
    return tile


@triton.jit
def load(ptr, offset, mask, other: tl.constexpr, CARRY: tl.constexpr, COMPLEX: tl.constexpr):
    """Load numbers in the dtype in which the state is carried."""
    re = tl.load(ptr + offset, mask=mask, other=other).to(CARRY)
    im = re
    if COMPLEX:
        im = tl.load(ptr + offset + 1, mask=mask, other=0.0).to(CARRY)
    return re, im


@triton.jit
def store(ptr, offset, re, im, mask, COMPLEX: tl.constexpr):
    """Round to the dtype of the memory, once."""
    tl.store(ptr + offset, re.to(ptr.dtype.element_ty), mask=mask)
    if COMPLEX:
        tl.store(ptr + offset + 1, im.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def multiply_add(ar, ai, br, bi, cr, ci, COMPLEX: tl.constexpr):
    """a b + c."""
    if COMPLEX:
        re = ar * br - ai * bi + cr
        im = ar * bi + ai * br + ci
    else:
        re = ar * br + cr
        im = re
    return re, im


@triton.jit
def _compose(a, b, a_next, b_next):
    return a_next * a, a_next * b + b_next


@triton.jit
def _compose_complex(ar, ai, br, bi, ar_next, ai_next, br_next, bi_next):
    return (
        ar_next * ar - ai_next * ai,
        ar_next * ai + ai_next * ar,
        ar_next * br - ai_next * bi + br_next,
        ar_next * bi + ai_next * br + bi_next,
    )


@triton.jit
def scan(ar, ai, br, bi, AXIS: tl.constexpr, REVERSED: tl.constexpr, COMPLEX: tl.constexpr):
    """Compose each map h -> a h + b with all those before it in the tile."""
    if COMPLEX:
        ar, ai, br, bi = tl.associative_scan(
            (ar, ai, br, bi), AXIS, _compose_complex, reverse=REVERSED
        )
    else:
        ar, br = tl.associative_scan((ar, br), AXIS, _compose, reverse=REVERSED)
        ai = ar
        bi = br
    return ar, ai, br, bi


@triton.jit
def scan_tile(
    ar, ai, br, bi, BACKWARDS: tl.constexpr, TIME_LAST: tl.constexpr, COMPLEX: tl.constexpr
):
    """`scan` along the tile's time axis, in run order."""
    if TIME_LAST:
        ar, ai, br, bi = scan(ar, ai, br, bi, 1, BACKWARDS, COMPLEX)
    else:
        ar, ai, br, bi = scan(ar, ai, br, bi, 0, False, COMPLEX)
    return ar, ai, br, bi


@triton.jit
def final(x, BLOCK_T: tl.constexpr, BACKWARDS: tl.constexpr, TIME_LAST: tl.constexpr):
    """What a tile holds for its last step in run order, (BLOCK_D,)."""
    step = tl.arange(0, BLOCK_T)
    if TIME_LAST:
        if BACKWARDS:
            step = BLOCK_T - 1 - step
        row = tl.sum(tl.where(step[None, :] == BLOCK_T - 1, x, 0.0), 1)
    else:
        row = tl.sum(tl.where(step[:, None] == BLOCK_T - 1, x, 0.0), 0)
    return row


# A published number lies in 64-bit words, each with 32 bits of it and a flag in one: whoever reads
# the word has both or neither, so no fence orders data and flag, and relaxed accesses do.
_READY = tl.constexpr(1 << 32)
_BITS = tl.constexpr((1 << 32) - 1)


@triton.jit
def _publish(ptr, stride, x, mask, CARRY: tl.constexpr):
    if CARRY == tl.float64:
        bits = x.to(tl.int64, bitcast=True)
        tl.atomic_xchg(ptr, (bits & _BITS) | _READY, mask=mask, sem="relaxed")
        tl.atomic_xchg(ptr + stride, ((bits >> 32) & _BITS) | _READY, mask=mask, sem="relaxed")
    else:
        bits = x.to(tl.int32, bitcast=True).to(tl.int64)
        tl.atomic_xchg(ptr, (bits & _BITS) | _READY, mask=mask, sem="relaxed")


@triton.jit
def _await_word(ptr, mask):
    word = tl.load(ptr, mask=mask, other=_READY, volatile=True)
    while tl.min(word) < _READY:
        word = tl.load(ptr, mask=mask, other=_READY, volatile=True)
    return word & _BITS


@triton.jit
def _await(ptr, stride, mask, CARRY: tl.constexpr):
    if CARRY == tl.float64:
        low = _await_word(ptr, mask)
        x = (low | (_await_word(ptr + stride, mask) << 32)).to(tl.float64, bitcast=True)
    else:
        x = _await_word(ptr, mask).to(tl.int32).to(tl.float32, bitcast=True)
    return x


@triton.jit
def chain(
    ar,
    ai,
    br,
    bi,
    hr,
    hi,
    maps_ptr,
    states_ptr,
    chunk,
    c,
    C,
    CARRY: tl.constexpr,
    COMPLEX: tl.constexpr,
    BLOCK_D: tl.constexpr,
    GROUP: tl.constexpr,
    LOOK: tl.constexpr,
):
    """The state before a chunk whose own map is h -> a h + b; `h` if it is in the first group.

    All are (BLOCK_D,). The numbers of a map lie in the order ar, br, ai, bi, those of a state in
    the order re, im.
    """
    W: tl.constexpr = 2 if CARRY == tl.float64 else 1  # words of a number
    MAP: tl.constexpr = 4 * W if COMPLEX else 2 * W
    STATE: tl.constexpr = 2 * W if COMPLEX else W
    live = c < C
    group = chunk // GROUP
    place = chunk - group * GROUP
    if place < GROUP - 1:
        at = maps_ptr + chunk * MAP * C + c
        _publish(at, C, ar, live, CARRY)
        _publish(at + W * C, C, br, live, CARRY)
        if COMPLEX:
            _publish(at + 2 * W * C, C, ai, live, CARRY)
            _publish(at + 3 * W * C, C, bi, live, CARRY)

    pr = tl.full((BLOCK_D,), 1.0, CARRY)
    pi = tl.zeros((BLOCK_D,), CARRY)
    qr = tl.zeros((BLOCK_D,), CARRY)
    qi = tl.zeros((BLOCK_D,), CARRY)
    for start in range(0, place, LOOK):
        row = start + tl.arange(0, LOOK)
        there = (row < place)[:, None] & live[None, :]
        at = maps_ptr + (group * GROUP + row)[:, None] * MAP * C + c[None, :]
        mr = tl.where(there, _await(at, C, there, CARRY), 1.0)
        sr = tl.where(there, _await(at + W * C, C, there, CARRY), 0.0)
        mi = mr
        si = sr
        if COMPLEX:
            mi = tl.where(there, _await(at + 2 * W * C, C, there, CARRY), 0.0)
            si = tl.where(there, _await(at + 3 * W * C, C, there, CARRY), 0.0)
        mr, mi, sr, si = scan(mr, mi, sr, si, 0, False, COMPLEX)
        # A scan and its last row, since Triton's reduce may swap what it combines.
        mr = final(mr, LOOK, False, False)
        sr = final(sr, LOOK, False, False)
        if COMPLEX:
            mi = final(mi, LOOK, False, False)
            si = final(si, LOOK, False, False)
            pr, pi, qr, qi = _compose_complex(pr, pi, qr, qi, mr, mi, sr, si)
        else:
            pr, qr = _compose(pr, qr, mr, sr)

    if group > 0:
        at = states_ptr + (group - 1) * STATE * C + c
        hr = _await(at, C, live, CARRY)
        if COMPLEX:
            hi = _await(at + W * C, C, live, CARRY)
        else:
            hi = hr
    hr, hi = multiply_add(pr, pi, hr, hi, qr, qi, COMPLEX)
    if place == GROUP - 1:
        after_r, after_i = multiply_add(ar, ai, hr, hi, br, bi, COMPLEX)
        at = states_ptr + group * STATE * C + c
        _publish(at, C, after_r, live, CARRY)
        if COMPLEX:
            _publish(at + W * C, C, after_i, live, CARRY)
    return hr, hi
