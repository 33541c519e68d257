"""What the GPU kernels of both recurrences share: block sizes, the scan of a tile, the chain.

A program holds a tile of SEGMENTS times STEPS steps by WIDTH channels in registers, and solves it
by an associative scan of the maps h -> a h + b: along the steps of a segment, which one thread
holds, and then over the segments. (Where time is contiguous there is one segment, and threads share
it.) Two regimes differ in where the state before a tile
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

import itertools
import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Bytes of a number as it is carried, and the dtype of its parts.
CARRY = {
    torch.float16: (4, tl.float32),
    torch.bfloat16: (4, tl.float32),
    torch.float32: (4, tl.float32),
    torch.float64: (8, tl.float64),
    torch.complex64: (8, tl.float32),
    torch.complex128: (16, tl.float64),
}


class Block(NamedTuple):
    """Block sizes of one kernel in one regime."""

    elements: int  # a thread, of numbers carried in 4 bytes: what is live must fit in registers
    warps: int  # of a program, at most
    row: int  # bytes that lie side by side in a tile, at most


# The one place for tuning: chosen by reasoning and by the registers that the compiler reports
# (see docs/gpu.md), to be measured. Chained tiles are large, since each costs a wait, and leave
# room for two programs or more a multiprocessor, so that one loads while another waits. Plain ones
# have one warp, so that no barrier stops it, and a lane for each 16 bytes of a row, so that a
# thread walks along its channels without talking to others.
BLOCKS = {
    ("plain", "linear_forward"): Block(32, 1, 512),
    ("plain", "linear_backward"): Block(16, 1, 512),
    ("plain", "gated_forward"): Block(16, 1, 512),
    ("plain", "gated_backward"): Block(8, 1, 512),
    ("chained", "linear_forward"): Block(32, 8, 128),
    ("chained", "linear_backward"): Block(16, 8, 128),
    ("chained", "gated_forward"): Block(16, 8, 128),
    ("chained", "gated_backward"): Block(8, 4, 128),
}
PROGRAMS = 8  # plain programs a multiprocessor from which the chain is not worth its waits
TILES = 2  # tiles a multiprocessor that small problems are cut into
HOP = 1 << 20  # elements that one wait on another group is spread over: about 1 us of traffic
GROUP = 128  # tiles of a group at most: each reads the maps of those before it
WARP = 32  # threads
LOOK = 4  # maps a thread composes at a time


class Plan(NamedTuple):
    """How one call is cut up: a tile is `steps` by `segments` of time by `width` channels."""

    chained: bool
    time_last: bool
    steps: int
    segments: int
    width: int
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
            "STEPS": self.steps,
            "SEGMENTS": self.segments,
            "WIDTH": self.width,
            "GROUP": self.group,
            "LOOK": self.look,
            "num_warps": self.warps,
        }

    def grid(self) -> tuple[int]:
        """Number of programs."""
        return (self.blocks * (self.chunks if self.chained else 1),)


def plan(kind: str, T: int, outer: int, inner: int, x: Tensor, algorithm: str) -> Plan:
    """Choose regime and block sizes for (outer, T, inner) numbers of the dtype of `x`."""
    processors = _processors(x.device)
    plain = _cut("plain", kind, T, outer, inner, x, processors)
    if algorithm == "serial" or plain.chunks == 1:
        return plain
    if algorithm == "auto" and plain.blocks >= PROGRAMS * processors:
        return plain
    return _cut("chained", kind, T, outer, inner, x, processors)


def _cut(
    regime: str, kind: str, T: int, outer: int, inner: int, x: Tensor, processors: int
) -> Plan:
    block, chained = BLOCKS[regime, kind], regime == "chained"
    nbytes, channels, power = CARRY[x.dtype][0], outer * inner, triton.next_power_of_2
    elements = max(1, block.elements * 4 // nbytes)
    wide = 1 if x.is_complex() else max(1, min(16 // x.element_size(), elements))  # one load
    most = power(triton.cdiv(T * channels, TILES * processors))
    warps = max(1, min(block.warps, most // (WARP * elements)))
    lanes = WARP * warps * wide
    steps, segments = max(1, elements // wide), 1
    if inner == 1:
        steps = min(power(T), steps * lanes)
        width = min(power(channels), max(1, elements * WARP * warps // steps))
    else:
        width = min(power(inner), max(1, block.row // x.element_size()), lanes)
        steps = min(power(T), steps)
        if chained:
            segments = min(triton.cdiv(power(T), steps), lanes // width)
        if steps * segments >= T:
            width = min(power(channels), lanes // segments)
    size = steps * segments * width
    chunks, blocks = triton.cdiv(T, steps * segments), triton.cdiv(channels, width)
    warps = max(1, min(warps, size // (WARP * elements)))
    group = look = 1
    if chained:
        hop = power(triton.cdiv(HOP, size * blocks))
        group = min(hop, GROUP, power(chunks))
        look = max(1, min(group, LOOK * 4 * WARP * warps // (nbytes * width)))
    return Plan(chained, inner == 1, steps, segments, width, group, look, warps, chunks, blocks)


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
    p: Plan, T: int, channels: int, cu_seqlens: Tensor | None, x: Tensor, reverse: bool
) -> Scratch:
    """Allocate and zero what the plan needs, in one piece, and mark the sequences' ends."""
    words = CARRY[x.dtype][0] // 4  # of a number: 64 bits each, 32 of it and a flag
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
    for (_, s), (m, t) in itertools.pairwise(kept):
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
    STEPS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    BACKWARDS: tl.constexpr,
    TIME_LAST: tl.constexpr,
):
    """Times of a tile, (STEPS, SEGMENTS, 1), in run order.

    But where time is contiguous a run backwards keeps the order of memory, for wide loads, and the
    scan is reversed instead.
    """
    BLOCK: tl.constexpr = STEPS * SEGMENTS
    step = tl.arange(0, STEPS).to(tl.int64)[:, None, None]
    step += (tl.arange(0, SEGMENTS) * STEPS)[None, :, None]
    if BACKWARDS:
        if not TIME_LAST:
            step = BLOCK - 1 - step
        t = (chunks - 1 - first) * BLOCK + step
    else:
        t = first * BLOCK + step
    return t


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
    """A b + c."""
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
def _compose_exclusive(a, b, ea, eb, a_next, b_next, ea_next, eb_next):
    """`_compose`, and beside it the composition of all but the last."""
    return a_next * a, a_next * b + b_next, ea_next * a, ea_next * b + eb_next


@triton.jit
def _compose_exclusive_complex(
    ar, ai, br, bi, er, ei, fr, fi, ar1, ai1, br1, bi1, er1, ei1, fr1, fi1
):
    r0, r1, r2, r3 = _compose_complex(ar, ai, br, bi, ar1, ai1, br1, bi1)
    e0, e1, e2, e3 = _compose_complex(ar, ai, br, bi, er1, ei1, fr1, fi1)
    return r0, r1, r2, r3, e0, e1, e2, e3


@triton.jit
def last(x, N: tl.constexpr, REVERSED: tl.constexpr):
    """What axis 0, of length N, ends with."""
    step = tl.arange(0, N)
    END: tl.constexpr = 0 if REVERSED else N - 1
    at = step[:, None] == END if len(x.shape) == 2 else step[:, None, None] == END
    return tl.sum(tl.where(at, x, 0.0), 0)


@triton.jit
def scan_tile(
    ar,
    ai,
    br,
    bi,
    STEPS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    REVERSED: tl.constexpr,
    COMPLEX: tl.constexpr,
):
    """Compose the maps of a tile (STEPS, SEGMENTS, WIDTH).

    Returns, four numbers each: the map from the start of its segment to each step; the map from
    the start of the tile to that of each segment (SEGMENTS, WIDTH); the tile's own map (WIDTH,).
    """
    if STEPS > 1:
        ar, ai, br, bi = scan(ar, ai, br, bi, 0, REVERSED, COMPLEX)
    mr = last(ar, STEPS, REVERSED)
    mi = last(ai, STEPS, REVERSED)
    sr = last(br, STEPS, REVERSED)
    si = last(bi, STEPS, REVERSED)
    er = tl.full(mr.shape, 1.0, mr.dtype)
    ei = tl.zeros(mr.shape, mr.dtype)
    fr = ei
    fi = ei
    if SEGMENTS > 1:
        if COMPLEX:
            mr, mi, sr, si, er, ei, fr, fi = tl.associative_scan(
                (mr, mi, sr, si, er, ei, fr, fi), 0, _compose_exclusive_complex
            )
        else:
            mr, sr, er, fr = tl.associative_scan((mr, sr, er, fr), 0, _compose_exclusive)
    mr = last(mr, SEGMENTS, False)
    mi = last(mi, SEGMENTS, False)
    sr = last(sr, SEGMENTS, False)
    si = last(si, SEGMENTS, False)
    return ar, ai, br, bi, er, ei, fr, fi, mr, mi, sr, si


@triton.jit
def apply_tile(ar, ai, br, bi, er, ei, fr, fi, hr, hi, COMPLEX: tl.constexpr):
    """The state after each step of a tile, from the state before it (WIDTH,)."""
    hr, hi = multiply_add(er, ei, hr[None, :], hi[None, :], fr, fi, COMPLEX)
    return multiply_add(ar, ai, hr[None, :, :], hi[None, :, :], br, bi, COMPLEX)


# A published number lies in 64-bit words, each with 32 bits of it and a flag in one: whoever reads
# the word has both or neither, so no fence orders data and flag, and relaxed accesses do.
_READY = tl.constexpr(1 << 32)
_BITS = tl.constexpr((1 << 32) - 1)


@triton.jit
def _publish(ptr, stride, x, mask, CARRY: tl.constexpr):
    if tl.float64 == CARRY:
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
    if tl.float64 == CARRY:
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
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    LOOK: tl.constexpr,
):
    """The state before a chunk whose own map is h -> a h + b; `h` if it is in the first group.

    All are (WIDTH,). The numbers of a map lie in the order ar, br, ai, bi, those of a state in
    the order re, im.
    """
    W: tl.constexpr = 2 if tl.float64 == CARRY else 1  # words of a number
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

    pr = tl.full((WIDTH,), 1.0, CARRY)
    pi = tl.zeros((WIDTH,), CARRY)
    qr = tl.zeros((WIDTH,), CARRY)
    qi = tl.zeros((WIDTH,), CARRY)
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
        mr = last(mr, LOOK, False)
        sr = last(sr, LOOK, False)
        if COMPLEX:
            mi = last(mi, LOOK, False)
            si = last(si, LOOK, False)
            pr, pi, qr, qi = _compose_complex(pr, pi, qr, qi, mr, mi, sr, si)
        else:
            pr, qr = _compose(pr, qr, mr, sr)

    if group > 0:
        at = states_ptr + (group - 1) * STATE * C + c
        hr = _await(at, C, live, CARRY)
        hi = _await(at + W * C, C, live, CARRY) if COMPLEX else hr
    hr, hi = multiply_add(pr, pi, hr, hi, qr, qi, COMPLEX)
    if place == GROUP - 1:
        after_r, after_i = multiply_add(ar, ai, hr, hi, br, bi, COMPLEX)
        at = states_ptr + group * STATE * C + c
        _publish(at, C, after_r, live, CARRY)
        if COMPLEX:
            _publish(at + W * C, C, after_i, live, CARRY)
    return hr, hi
