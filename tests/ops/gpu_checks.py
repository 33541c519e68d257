"""What the GPU kernels must do; run by `test_gpu.py`, in Triton's interpreter or on a GPU.

The name keeps pytest from collecting this file by itself: in a process where Triton's interpreter
is on, `torch.compile` and other tests would see it too.
"""

import os

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

from longrnn.ops import _triton as shared
from longrnn.ops.gated_recurrence import gpu as gated
from longrnn.ops.gated_recurrence.cells import CELLS
from longrnn.ops.gated_recurrence.plain import gated_recurrence_plain
from longrnn.ops.linear_recurrence import gpu as linear
from longrnn.ops.linear_recurrence import plain
from longrnn.ops.linear_recurrence.reference import linear_recurrence_reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
WIDE = {torch.complex64: torch.complex128}
ENDS = [0, 0, 5, 6, 14, 14, 21, 21]  # empty sequences first, inside and last
SEQUENCES = torch.tensor(ENDS)


def _scan_by_doubling(self, inputs):
    """Triton's own interpreted scan goes one by one; this one composes pairs, as a GPU does."""
    out = [np.moveaxis(x.handle.data, self.axis, 0).copy() for x in inputs]
    distance = 1
    while distance < len(out[0]):
        earlier = [np.roll(o, distance, axis=0) for o in out]
        values = self.combine_fn.fn(
            *(self.to_tensor(o, x.dtype) for o, x in zip(earlier, inputs, strict=True)),
            *(self.to_tensor(o.copy(), x.dtype) for o, x in zip(out, inputs, strict=True)),
        )
        for o, value in zip(out, values, strict=True):
            o[distance:] = value.handle.data[distance:]
        distance *= 2
    return [
        self.to_tensor(np.ascontiguousarray(np.moveaxis(o, 0, self.axis)), x.dtype)
        for o, x in zip(out, inputs, strict=True)
    ]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles so small that short sequences cross tiles and groups of tiles."""
    torch.manual_seed(0)
    if INTERPRETED:
        monkeypatch.setattr(interpreter.ScanOps, "generic_scan", _scan_by_doubling)
        monkeypatch.setattr(shared, "WARP", 1)
        monkeypatch.setattr(shared, "_processors", lambda device: 1)
        for regime, kind in shared.BLOCKS:
            block = shared.Block(8, 2 if regime == "chained" else 1, 16)
            monkeypatch.setitem(shared.BLOCKS, (regime, kind), block)
    monkeypatch.setattr(shared, "GROUP", 2)


@pytest.fixture
def plans(monkeypatch):
    """Every plan that is made."""
    made, plan = [], shared.plan
    monkeypatch.setattr(shared, "plan", lambda *a: made.append(plan(*a)) or made[-1])
    return made


def assert_as_accurate(ours, loop, exact, what, roundings=4):
    """No further from float64 than twice the plain loop in the same dtype."""
    eps = torch.finfo(ours.dtype).eps
    assert ours.dtype == loop.dtype, what
    assert ours.shape == exact.shape, what
    if exact.numel():
        allowed = 2 * (loop - exact).abs().max() + roundings * eps * exact.abs().max()
        assert (ours.cpu() - exact).abs().max() <= allowed, what


def value_and_grads(fn, inputs, cotangents):
    inputs = [x.detach().requires_grad_() for x in inputs]
    outputs = fn(*inputs)
    pairs = [(y, g) for y, g in zip(outputs, cotangents, strict=True) if g is not None]
    ys, gs = [y for y, _ in pairs], [g.to(y.dtype) for y, g in pairs]
    grads = torch.autograd.grad(ys, inputs, gs, allow_unused=True, materialize_grads=True)
    return [y.detach() for y in outputs] + list(grads)


def on_device(*tensors):
    return [None if x is None else x.to(DEVICE) for x in tensors]


def check_linear(a, x, h0, dim=0, reverse=False, ends=None, algorithm="auto"):
    wide = WIDE.get(x.dtype, torch.float64 if not x.is_complex() else x.dtype)
    options = {"dim": dim, "reverse": reverse, "cu_seqlens": ends}
    y = torch.randn(x.shape, dtype=torch.float32 if not x.is_complex() else x.dtype).to(x.dtype)

    def reference(*tensors):
        return (linear_recurrence_reference(*tensors, **options),)

    inputs = [a.expand(x.shape), x] + ([] if h0 is None else [h0])
    exact = value_and_grads(reference, [v.to(wide) for v in inputs], [y.to(wide)])
    carry = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    loop = value_and_grads(reference, [v.to(carry) for v in inputs], [y.to(carry)])
    loop = [v.to(x.dtype) for v in loop]

    a, x, h0, ends, y = on_device(a.expand(x.shape), x, h0, ends, y)
    states = linear.forward(a, x, h0, ends, dim, reverse, algorithm)
    run = (y, a, states, h0, ends, dim, reverse, algorithm)
    grads = linear.backward(*run, True)
    for what, o, r, e in zip(
        ("states", "decays", "impulses", "initial"), (states, *grads), loop, exact, strict=False
    ):
        assert_as_accurate(o, r, e, what)
    # without the decays' gradient, the others are the same to the bit
    assert torch.equal(linear.backward(*run, False)[1], grads[1])
    return states


def draw(*shape, dtype=torch.float32):
    if dtype.is_complex:
        return torch.randn(shape, dtype=dtype)
    return torch.randn(shape).to(dtype)


REGIMES = pytest.mark.parametrize("algorithm", ["serial", "parallel"])
DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
LAYOUTS = pytest.mark.parametrize(
    ("shape", "dim"), [((21, 2, 3), 0), ((2, 21, 3), 1), ((2, 67), 1)], ids=str
)


@LAYOUTS
@DIRECTIONS
@REGIMES
def test_linear(shape, dim, reverse, algorithm, plans):
    h0 = draw(*shape[:dim], *shape[dim + 1 :])
    check_linear(0.9 * draw(*shape), draw(*shape), h0, dim, reverse, None, algorithm)
    if INTERPRETED:
        for p in plans:
            assert p.chained == (algorithm == "parallel")
            assert p.chunks > 2 * p.group
            assert p.group > 1 or not p.chained
            assert p.steps > 1
            assert p.segments > 1 or not p.chained or p.time_last


@pytest.mark.parametrize("T", [0, 1, 2, 9])
@pytest.mark.parametrize("dim", [0, 1])
def test_every_length(T, dim):
    shape = (T, 3) if dim == 0 else (3, T)
    check_linear(draw(*shape), draw(*shape), draw(3), dim, False, None, "parallel")
    check_linear(draw(*shape), draw(*shape), None, dim, True, None, "parallel")


@DIRECTIONS
@REGIMES
@pytest.mark.parametrize("with_initial", [False, True])
def test_sequences_end_to_end(reverse, algorithm, with_initial):
    h0 = draw(2, 7, 3) if with_initial else None
    check_linear(draw(2, 21, 3), draw(2, 21, 3), h0, 1, reverse, SEQUENCES, algorithm)
    if with_initial:
        check_linear(draw(2, 21), draw(2, 21), draw(2, 7), 1, reverse, SEQUENCES, algorithm)


@REGIMES
@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.complex128],
    ids=str,
)
def test_dtypes(dtype, algorithm):
    for shape, dim in (((7, 2), 0), ((2, 21 if not dtype.is_complex else 11), 1)):
        a, x = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype)
        h0 = draw(shape[1 - dim], dtype=dtype)
        check_linear(0.7 * a, x, h0, dim, False, None, algorithm)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3,), (13, 1, 1), (2, 1), (13, 2, 1)], ids=str)
def test_decays_that_repeat_are_not_copied(shape):
    check_linear(draw(*shape), draw(13, 2, 3), draw(2, 3), 0, False, None, "parallel")


def test_strides():
    a, x = draw(3, 2, 13).permute(2, 1, 0), draw(26, 2, 6)[::2, :, ::2]
    check_linear(a, x, draw(3, 2).T, 0, True, None, "parallel")
    complex_pair = draw(13, 4, dtype=torch.complex64)
    check_linear(complex_pair[:, ::2].conj(), complex_pair[:, 1::2], None, 0)


def test_chained_results_are_reproducible():
    a, x = on_device(draw(31, 3), draw(31, 3))
    first = linear.forward(a, x, None, None, 0, False, "parallel")
    assert torch.equal(first, linear.forward(a, x, None, None, 0, False, "parallel"))


def test_marks_never_leave_memory():
    ends = torch.tensor([0, -7, 3, 21, 40, 3, 1000, 21], device=DEVICE)
    marks = torch.zeros(2, 63, dtype=torch.int64, device=DEVICE)
    for reverse in (False, True):
        middle = [row[21:42] for row in marks]
        shared._mark_kernel[(1,)](ends, *middle, 7, 21, REVERSE=reverse, BLOCK=8)
    assert marks[:, 21:42].any()
    assert not marks[:, :21].any()
    assert not marks[:, 42:].any()


@pytest.mark.skipif(not INTERPRETED, reason="calls a kernel's part as a function")
@pytest.mark.parametrize(("name", "parts"), [("_compose", 2), ("_compose_exclusive", 4)])
@pytest.mark.parametrize("suffix", ["", "_complex"])
def test_compositions_are_associative(name, parts, suffix):
    compose = getattr(shared, name + suffix).fn
    x, y, z = np.random.default_rng(0).normal(size=(3, parts * (2 if suffix else 1)))
    left = compose(*compose(*x, *y), *z)
    np.testing.assert_allclose(left, compose(*x, *compose(*y, *z)), rtol=1e-12)


def check_gated(cell, T, B, n, dim=0, reverse=False, lengths=None, ends=None, final_only=False):
    packed = ends is not None
    lead = (T,) if packed else (T, B) if dim == 0 else (B, T)
    dtype = torch.float32
    gates, state = 2 * draw(*lead, CELLS[cell].gates * n), draw(7 if packed else B, n)
    highway = draw(*lead, n) if CELLS[cell].highway else None
    y, final = None if final_only else draw(*lead, n), draw(*state.shape)
    lengths = None if lengths is None else torch.tensor(lengths)

    def composed(*tensors):
        x = tensors[1] if highway is not None else None
        options = (lengths, ends, cell, dim, reverse)
        out, _, last = gated_recurrence_plain(tensors[0], x, tensors[-1], *options)
        return out, last

    inputs = [v for v in (gates, highway, state) if v is not None]
    exact = value_and_grads(composed, [v.double() for v in inputs], [y, final])
    loop = value_and_grads(composed, [v.to(dtype) for v in inputs], [y, final])

    z, x, h0, L, C, y, final = on_device(gates, highway, state, lengths, ends, y, final)
    out, states, last = gated.forward(z, x, h0, L, C, cell, dim, reverse, True)
    grads = gated.backward(y, final, z, x, h0, L, C, out, states, cell, dim, reverse)
    ours = [out, last, *(grads if highway is not None else (grads[0], grads[2]))]
    for k, (o, r, e) in enumerate(zip(ours, loop, exact, strict=True)):
        # 16: the gradient of a gate is small beside the factors that it is the product of
        assert_as_accurate(o, r, e, (cell, k), roundings=16)


@pytest.mark.parametrize("cell", CELLS)
@DIRECTIONS
def test_cells(cell, reverse, plans):
    check_gated(cell, 19, 2, 3, 1, reverse, lengths=[19, 5])
    assert not INTERPRETED or all(p.chained and p.chunks > p.group for p in plans)


@pytest.mark.parametrize("cell", ["surrogate", "sru-tanh", "gilr-tanh"])
@DIRECTIONS
def test_cells_over_sequences(cell, reverse):
    check_gated(cell, 21, 1, 3, 0, reverse, ends=SEQUENCES)
    check_gated(cell, 9, 3, 2, 0, reverse, lengths=[0, 9, 4])


@pytest.mark.parametrize("cell", ["surrogate", "lstm"])
@DIRECTIONS
def test_cells_in_one_pass(cell, reverse, monkeypatch, plans):
    monkeypatch.setattr(shared, "PROGRAMS", 0)
    check_gated(cell, 9, 2, 3, 0, reverse)
    check_gated(cell, 9, 2, 3, 1, reverse, lengths=[9, 0], final_only=True)
    assert not any(p.chained for p in plans)


@pytest.mark.parametrize("cell", ["surrogate", "sru-identity"])
def test_cells_without_steps(cell):
    check_gated(cell, 0, 2, 3)
    check_gated(cell, 1, 2, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_cells_in_other_dtypes(dtype):
    z, h0 = draw(9, 2, 12).to(dtype), draw(2, 3).to(dtype)
    out, _, last = gated.forward(*on_device(z, None, h0, None, None), "lstm", 0, False, False)
    exact = gated_recurrence_plain(z.double(), None, h0.double(), None, None, "lstm", 0, False)
    loop = gated_recurrence_plain(z, None, h0, None, None, "lstm", 0, False)
    assert_as_accurate(out, loop[0], exact[0], "output")
    assert_as_accurate(last, loop[2], exact[2], "final")


# What an interpreter cannot show: tiles at their real size, at once, in any order.
ON_A_GPU = pytest.mark.skipif(INTERPRETED, reason="needs programs that run at the same time")


@ON_A_GPU
@DIRECTIONS
@REGIMES
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((70001, 1, 3), 0), ((3, 70001), 1), ((4, 9001, 96), 1), ((20000, 1, 1000), 0)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_linear_at_full_size(shape, dim, dtype, reverse, algorithm, ragged, monkeypatch):
    monkeypatch.undo()  # real groups too
    T = shape[dim]
    ends = torch.tensor([0, 0, 5, T // 3, T // 2, T // 2, T], device=DEVICE) if ragged else None
    state = (*shape[:dim], *([6] if ragged else []), *shape[dim + 1 :])
    a, x, h0, y = on_device(*(draw(*s, dtype=dtype) for s in (shape, shape, state, shape)))
    a = torch.where(a.abs() > 1, a / a.abs().clamp(min=1), a)
    states = linear.forward(a, x, h0, ends, dim, reverse, algorithm)
    run = (h0, ends, dim, reverse, algorithm)
    grads = linear.backward(y, a, states, *run, True)
    wide = WIDE.get(dtype, torch.float64)
    plain_run = (h0.to(wide), ends, dim, reverse, "parallel")
    exact = plain.forward(a.to(wide), x.to(wide), *plain_run)
    wide_grads = plain.backward(y.to(wide), a.to(wide), exact, *plain_run, True)
    for ours, e in zip((states, *grads), (exact, *wide_grads), strict=True):
        error = (ours.to(wide) - e).abs().max() / e.abs().max()
        assert error < 32 * torch.finfo(ours.dtype).eps
    for _ in range(10):
        assert torch.equal(states, linear.forward(a, x, *run))
        again = linear.backward(y, a, states, *run, True)
        assert all(map(torch.equal, grads, again))


@ON_A_GPU
@pytest.mark.parametrize("cell", CELLS)
@DIRECTIONS
def test_cells_at_full_size(cell, reverse, monkeypatch):
    monkeypatch.undo()
    check_gated(cell, 4001, 3, 40, 1, reverse, lengths=[4001, 0, 1234])
