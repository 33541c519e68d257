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
from longrnn.ops import _triton_cells as tiles
from longrnn.ops.block_linear_recurrence import gpu as block
from longrnn.ops.block_linear_recurrence.reference import block_linear_recurrence_reference
from longrnn.ops.diagonal_recurrence import gpu as diagonal
from longrnn.ops.diagonal_recurrence.plain import diagonal_recurrence_plain
from longrnn.ops.gated_recurrence import gpu as gated
from longrnn.ops.gated_recurrence.cells import CELLS
from longrnn.ops.gated_recurrence.plain import gated_recurrence_plain
from longrnn.ops.linear_recurrence import gpu as linear
from longrnn.ops.linear_recurrence import plain
from longrnn.ops.linear_recurrence.reference import linear_recurrence_reference
from longrnn.ops.phased_recurrence import gpu as phased
from longrnn.ops.phased_recurrence import op as phased_op
from longrnn.ops.phased_recurrence.plain import phased_recurrence_plain
from longrnn.ops.skip_gate import gpu as skip_gate
from longrnn.ops.skip_gate import op as skip_gate_op
from longrnn.ops.skip_gate.plain import skip_gate_plain
from longrnn.ops.skip_recurrence import gpu as skip
from longrnn.ops.skip_recurrence import op as skip_op
from longrnn.ops.skip_recurrence.plain import skip_recurrence_plain
from longrnn.ops.time_gate import gpu as gate
from longrnn.ops.time_gate.plain import time_gate_plain

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


def check_gated(
    cell, T, B, n, dim=0, reverse=False, lengths=None, ends=None, final_only=False, opened=False
):
    packed = ends is not None
    lead = (T,) if packed else (T, B) if dim == 0 else (B, T)
    dtype = torch.float32
    gates, state = 2 * draw(*lead, CELLS[cell].gates * n), draw(7 if packed else B, n)
    highway = draw(*lead, n) if CELLS[cell].highway else None
    openness = (torch.rand(*lead, n) * 1.6 - 0.3).clamp(0, 1) if opened else None
    y, final = None if final_only else draw(*lead, n), draw(*state.shape)
    lengths = None if lengths is None else torch.tensor(lengths)

    def composed(z, *beside):
        *beside, h0 = beside
        x = beside.pop(0) if highway is not None else None
        k = beside.pop(0) if opened else None
        out, _, last = gated_recurrence_plain(z, x, k, h0, lengths, ends, cell, dim, reverse)
        return out, last

    inputs = present((gates, highway, openness, state))
    exact = value_and_grads(composed, [v.double() for v in inputs], [y, final])
    loop = value_and_grads(composed, [v.to(dtype) for v in inputs], [y, final])

    inputs = on_device(gates, highway, openness, state, lengths, ends)
    y, final = on_device(y, final)
    out, states, last = gated.forward(*inputs, cell, dim, reverse, True)
    grads = gated.backward(y, final, *inputs, out, states, cell, dim, reverse)
    ours = [out, last, *(g for g, x in zip(grads, inputs, strict=False) if x is not None)]
    for k, (o, r, e) in enumerate(zip(ours, loop, exact, strict=True)):
        # 16: the gradient of a gate is small beside the factors that it is the product of
        assert_as_accurate(o, r, e, (cell, k), roundings=16)


@pytest.mark.parametrize("cell", CELLS)
@DIRECTIONS
def test_cells(cell, reverse, plans):
    check_gated(cell, 19, 2, 3, 1, reverse, lengths=[19, 5], opened=reverse)
    assert not INTERPRETED or all(p.chained and p.chunks > p.group for p in plans)


@pytest.mark.parametrize("cell", ["surrogate", "sru-tanh", "gilr-tanh", "lstm-candidate"])
@DIRECTIONS
def test_cells_over_sequences(cell, reverse):
    check_gated(cell, 21, 1, 3, 0, reverse, ends=SEQUENCES, opened=not reverse)
    check_gated(cell, 9, 3, 2, 0, reverse, lengths=[0, 9, 4])


def test_steps_that_are_shut_are_not_looked_at():
    z, k, h0 = draw(21, 1, 6), torch.ones(21, 1, 3), draw(1, 3)
    z[2:], k[2:] = torch.nan, 0
    inputs = on_device(z, None, k, h0, None, None)
    out, states, last = gated.forward(*inputs, "gilr-tanh", 0, False, True)
    torch.testing.assert_close(last, out[1])
    y, final = on_device(torch.zeros_like(k), torch.ones_like(h0))
    grads = gated.backward(y, final, *inputs, out, states, "gilr-tanh", 0, False)
    assert (grads[0][2:] == 0).all()
    assert (grads[0][:2] != 0).all()


@pytest.mark.parametrize("cell", ["surrogate", "lstm", "lstm-candidate"])
@DIRECTIONS
def test_cells_in_one_pass(cell, reverse, monkeypatch, plans):
    monkeypatch.setattr(shared, "PROGRAMS", 0)
    check_gated(cell, 9, 2, 3, 0, reverse, opened=CELLS[cell].candidate)
    check_gated(cell, 9, 2, 3, 1, reverse, lengths=[9, 0], final_only=True)
    assert not any(p.chained for p in plans)


@pytest.mark.parametrize("cell", ["surrogate", "sru-identity"])
def test_cells_without_steps(cell):
    check_gated(cell, 0, 2, 3)
    check_gated(cell, 1, 2, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_cells_in_other_dtypes(dtype):
    z, h0 = draw(9, 2, 12).to(dtype), draw(2, 3).to(dtype)
    out, _, last = gated.forward(*on_device(z, None, None, h0, None, None), "lstm", 0, False, False)
    run = (None, None, "lstm", 0, False)
    exact = gated_recurrence_plain(z.double(), None, None, h0.double(), *run)
    loop = gated_recurrence_plain(z, None, None, h0, *run)
    assert_as_accurate(out, loop[0], exact[0], "output")
    assert_as_accurate(last, loop[2], exact[2], "final")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "n"), [((3, 23), 37), ((), 1), ((0,), 3), ((2,), 0)], ids=str)
def test_time_gate(shape, n, dtype):
    times = 100 * torch.rand(shape, dtype=torch.float64) - 30
    clock = [1 + 20 * torch.rand(n), 5 * torch.rand(n), 0.1 + 0.9 * torch.rand(n)]
    inputs, y = [times, *(x.to(dtype) for x in clock)], draw(*shape, n).to(dtype)

    def plain(*inputs):
        return (time_gate_plain(*inputs, 0.1),)

    loop = value_and_grads(plain, inputs, [y])
    exact = value_and_grads(plain, [x.double() for x in inputs], [y])
    inputs, (y,) = on_device(*inputs), on_device(y)
    ours = [gate.forward(*inputs, 0.1), *gate.backward(y, *inputs, 0.1)]
    for k, (o, r, e) in enumerate(zip(ours, loop, exact, strict=True)):
        assert_as_accurate(o.float(), r.float(), e, k, roundings=16)


# Layers with weights on their state: two tiles of sequences, two blocks of units, two chunks.
@pytest.fixture
def small_blocks(monkeypatch):
    if INTERPRETED:
        for name, size in (("ROWS", 2), ("UNITS", 4), ("CHUNK", 4), ("LEAST", 1)):
            monkeypatch.setattr(tiles, name, size)


@pytest.fixture
def products(monkeypatch):
    """A list that grows with every product."""
    made, dot = [], interpreter.InterpreterBuilder.create_dot
    monkeypatch.setattr(
        interpreter.InterpreterBuilder, "create_dot", lambda *a: made.append(1) or dot(*a)
    )
    return made


def assert_agree(ours, composed, inputs, cotangents, what, roundings=16):
    """Results and gradients, against the plain form's in float64."""
    exact = value_and_grads(composed, [v.double() for v in inputs], cotangents)
    loop = value_and_grads(composed, inputs, cotangents)
    for k, (o, r, e) in enumerate(zip(ours, loop, exact, strict=True)):
        assert o.dtype == r.dtype  # float64 for times, of numbers in float32
        assert_as_accurate(o.float(), r.float(), e, (what, k), roundings)


def present(values):
    return [v for v in values if v is not None]


def skip_arguments(flat, cell):
    """The op's first eight, from a list of those that the cell has."""
    state = 5 + (cell == "lstm")
    x, weights, state = flat[0], flat[1:-state], list(flat[-state:])
    return [x, weights, *state[:3], state[3] if cell == "lstm" else None, *state[-2:]]


def draw_skip(cell, lead, B, m, n, layers):
    """A gate that opens about every second step."""
    G, weights = 4 if cell == "lstm" else 3, []
    for k in range(layers):
        width = n if k else m
        weights += [draw(G * n, width) / width**0.5, draw(G * n, n) / n**0.5, draw(4 * n) / 2]
    states = [draw(layers, B, n) for _ in range(1 + (cell == "lstm"))]
    gate = [2 * draw(1, n) / n**0.5, torch.tensor([-0.5])]
    before = [0.4 + torch.rand(B, 1) / 2, torch.rand(B, 1) / 2]
    return [draw(*lead, m), *weights, *gate, *states, *before]


def check_skip(
    cell, T, B, m, n, layers=1, dim=0, lengths=None, ends=None, masked=False, given=range(6)
):
    lead = (T,) if ends is not None else (T, B) if dim == 0 else (B, T)
    inputs = draw_skip(cell, lead, B, m, n, layers)
    masks = (torch.rand(layers - 1, *lead, n) < 0.7) / 0.7 if masked else None
    lengths = None if lengths is None else torch.tensor(lengths)
    shapes = [(*lead, n), (*lead, 1), *[(layers, B, n)] * (1 + (cell == "lstm")), (B, 1), (B, 1)]
    cotangents = [draw(*s) if k in given else None for k, s in enumerate(shapes)]

    def composed(*flat):
        mask = None if masks is None else masks.to(flat[0].dtype)
        arguments = skip_arguments(flat, cell)
        return present(skip_recurrence_plain(*arguments, mask, lengths, ends, cell, dim))

    x, weights, *state = skip_arguments(on_device(*inputs), cell)
    ragged = on_device(masks, lengths, ends)
    fast = skip.forward(x, weights, *state, *ragged, cell, dim, False)
    *results, _, _, _, _, _ = every = skip.forward(x, weights, *state, *ragged, cell, dim, True)
    assert all(map(torch.equal, fast[:6], results))
    if cell != "lstm":
        results.pop(3)
    grads = on_device(*cotangents)
    if cell != "lstm":
        grads.insert(3, None)
    run = (grads, x, weights, state[0], state[2], *ragged, every[6:], cell, dim, True)
    found = skip.backward(*run)
    fake = skip_op._backward_fake(*run)
    assert [(g.shape, g.dtype) for g in found] == [(g.shape, g.dtype) for g in fake]
    assert_agree([*results, *found], composed, inputs, cotangents, cell)
    return results[1]


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru-reset-before"])
def test_skip(cell, small_blocks):
    updates = check_skip(cell, 5, 3, 5, 6, layers=2, dim=1, lengths=[5, 0, 4], masked=True)
    assert 0 < updates[0].mean() < 1


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru-reset-before"])
def test_skip_over_sequences(cell, small_blocks):
    ends = torch.tensor([0, 3, 3, 7])
    check_skip(cell, 7, 3, 1, 3, ends=ends, given=[0, 1])


@pytest.mark.parametrize("given", [[0], [2, 4], [3, 5]], ids=str)
def test_skip_with_some_gradients(given, small_blocks):
    check_skip("lstm", 4, 2, 2, 3, given=given)


def test_skip_without_steps(small_blocks):
    check_skip("lstm", 0, 2, 2, 3, given=range(2, 6))
    check_skip("gru", 1, 1, 1, 1)


@pytest.mark.parametrize("cell", ["lstm", "gru-reset-before"])
def test_skip_in_whole_blocks(cell):
    check_skip(cell, 2, 17, 33, 70, layers=2)


def test_skip_counts_as_the_definition_does(small_blocks):
    """A tie skips; so does a sum of tenths, as floats add up."""
    x, weights, *state = skip_arguments(draw_skip("gru", (14, 2), 2, 1, 2, 1), "gru")
    state[0], state[4] = 0 * state[0], torch.tensor([[0.25], [0.1]])
    state[5], state[1] = torch.zeros(2, 1), torch.tensor([0.1]).logit()
    tensors = on_device(x, *weights, *state)
    results = skip.forward(
        tensors[0], tensors[1:4], *tensors[4:], None, None, None, "gru", 0, False
    )
    plain_results = skip_recurrence_plain(x, weights, *state, None, None, None, "gru", 0)
    assert results[1].cpu().equal(plain_results[1])
    assert results[1][:, 0].flatten().tolist()[:3] == [0, 0, 1]  # 1/4, 1/2, 3/4


COUNTED = pytest.mark.skipif(not INTERPRETED, reason="sees what the interpreter does")


@COUNTED
@pytest.mark.parametrize("cell", ["lstm", "gru-reset-before"])
def test_skipped_steps_cost_no_product(cell, small_blocks, products):
    x, weights, *state = skip_arguments(draw_skip(cell, (6, 2), 2, 3, 6, 2), cell)
    state[0], state[1] = 0 * state[0], torch.zeros(1)  # p is a half after an update
    made = []
    for p in (0.05, 0.1, 0.15):
        products.clear()
        state[4], state[5] = torch.full((2, 1), p), torch.zeros(2, 1)
        updates = skip.forward(x, weights, *state, None, None, None, cell, 0, False)[1]
        made.append((int(updates[:, 0].sum()), len(products)))
    (none, nothing), (once, some), (twice, more) = made
    assert (none, once, twice) == (0, 1, 2)
    assert nothing == 0 < some
    assert more == 2 * some


@COUNTED
def test_the_way_back_passes_skipped_steps(small_blocks, products):
    flat = draw_skip("lstm", (6, 2), 2, 3, 6, 1)
    x, weights, *state = skip_arguments(flat, "lstm")
    made = []
    state[0], state[1] = 0 * state[0], torch.zeros(1)
    for p in (0.05, 0.1, 0.15):
        state[4], state[5] = torch.full((2, 1), p), torch.zeros(2, 1)
        every = skip.forward(x, weights, *state, None, None, None, "lstm", 0, True)
        products.clear()
        grads = [torch.ones_like(every[0]), *[None] * 5]
        layout = (None, None, None, every[6:], "lstm", 0, False)
        skip.backward(grads, x, weights, state[0], state[2], *layout)
        made.append(len(products))
    assert made[0] == 0 < made[1]
    assert made[2] == 2 * made[1]


def check_skip_gate(T, B, m, dim=0, lengths=None, ends=None, given=range(3), dtype=torch.float32):
    lead = (T,) if ends is not None else (T, B) if dim == 0 else (B, T)
    x = draw(*lead, m).to(dtype)
    before = [torch.rand(B, 1), torch.rand(B, 1) / 2]
    gate = [draw(1, m) / m**0.5, torch.tensor([-0.5]), *before]
    lengths = None if lengths is None else torch.tensor(lengths)
    shapes = [(*lead, 1), (B, 1), (B, 1)]
    cotangents = [draw(*s) if k in given else None for k, s in enumerate(shapes)]

    def composed(*flat):
        return skip_gate_plain(*flat, lengths, ends, dim)

    tensors, ragged = on_device(x, *gate), on_device(lengths, ends)
    *results, kept = skip_gate.forward(*tensors, *ragged, dim, True)
    skipped = (results[0] == 0) & (tensors[0] == tensors[0])
    poisoned = tensors[0].masked_fill(skipped, float("nan"))
    quick = skip_gate.forward(poisoned, *tensors[1:], *ragged, dim, False)
    assert all(map(torch.equal, quick[:3], results))
    run = (on_device(*cotangents), tensors[0], tensors[1], *ragged, kept, dim, True)
    found = skip_gate_op._backward(skip_gate.backward, *run)
    fake = skip_gate_op._backward_fake(*run)
    assert [(g.shape, g.dtype) for g in found] == [(g.shape, g.dtype) for g in fake]
    assert_agree([*results, *found], composed, [x, *gate], cotangents, "skip gate")
    return results[0]


@pytest.mark.parametrize("rows", [2, 16])
def test_skip_gate(rows, monkeypatch):
    monkeypatch.setattr(skip_gate, "ROWS", rows)
    monkeypatch.setattr(skip_gate, "CHUNK", 4)
    updates = check_skip_gate(9, 3, 6, dim=1, lengths=[9, 0, 5])
    assert 0 < updates[0].mean() < 1
    check_skip_gate(7, 3, 1, ends=torch.tensor([0, 3, 3, 7]))
    check_skip_gate(4, 3, 5, dtype=torch.bfloat16)


@pytest.mark.parametrize("given", [[0], [1], [2]], ids=str)
def test_skip_gate_with_some_gradients(given):
    check_skip_gate(6, 2, 3, given=given)


def test_skip_gate_without_steps():
    check_skip_gate(0, 2, 2, given=[1, 2])
    check_skip_gate(1, 1, 1)


def test_skip_gate_counts_as_the_definition_does():
    """A tie skips; so does a sum of tenths, as floats add up."""
    given = [torch.zeros(14, 2, 1), torch.zeros(1, 1), torch.tensor([0.1]).logit()]
    given += [torch.tensor([[0.25], [0.1]]), torch.zeros(2, 1)]
    updates, *_ = skip_gate.forward(*on_device(*given), None, None, 0, False)
    assert updates.cpu().equal(skip_gate_plain(*given, None, None, 0)[0])
    assert updates[:, 0].flatten().tolist()[:3] == [0, 0, 1]  # 1/4, 1/2, 3/4


def draw_phased(cell, lead, B, m, n, peephole=True):
    G = 4 if cell == "lstm" else 3
    weights = [draw(G * n, m) / m**0.5, draw(G * n, n) / n**0.5, draw(4 * n) / 2]
    peepholes = [draw(3, n)] if cell == "lstm" and peephole else []
    clock = [torch.rand(n) * 3 + 0.5, draw(n), torch.rand(n) * 0.6 + 0.2]
    states = [draw(B, n) for _ in range(1 + (cell == "lstm"))]
    times = torch.randn(lead, dtype=torch.float64) * 5
    return [draw(*lead, m), times, *weights, *peepholes, *clock, *states]


def phased_arguments(flat, cell, peephole=True):
    """The op's first eleven, from a list of those that there are."""
    flat = list(flat)
    if cell != "lstm":
        flat.append(None)
    if cell != "lstm" or not peephole:
        flat.insert(5, None)
    return flat


def check_phased(
    cell,
    T,
    B,
    m,
    n,
    dim=0,
    reverse=False,
    lengths=None,
    ends=None,
    leak=0.001,
    peephole=True,
    given=range(3),
):
    lead = (T,) if ends is not None else (T, B) if dim == 0 else (B, T)
    inputs = draw_phased(cell, lead, B, m, n, peephole)
    lengths = None if lengths is None else torch.tensor(lengths)
    shapes = [(*lead, n), *[(B, n)] * (1 + (cell == "lstm"))]
    cotangents = [draw(*s) if k in given else None for k, s in enumerate(shapes)]
    options = (cell, leak, dim, reverse)

    def composed(*flat):
        arguments = phased_arguments(flat, cell, peephole)
        return present(phased_recurrence_plain(*arguments, lengths, ends, *options))

    tensors = phased_arguments(on_device(*inputs), cell, peephole)
    ragged = on_device(lengths, ends)
    fast = phased.forward(*tensors, *ragged, *options, False)
    every = phased.forward(*tensors, *ragged, *options, True)
    assert all(map(torch.equal, fast[:3], every))
    results = list(every[: 2 + (cell == "lstm")])
    grads = on_device(*cotangents) + [None] * (cell != "lstm")
    run = (grads, *tensors, *ragged, every[3:], *options, [True] * 11)
    found = phased.backward(*run)
    fake = phased_op._backward_fake(*run)
    assert [(g.shape, g.dtype) for g in found] == [(g.shape, g.dtype) for g in fake]
    # 64: a gate is a difference of phases, which are those of float64 rounded
    assert_agree([*results, *found], composed, inputs, cotangents, cell, roundings=64)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@DIRECTIONS
def test_phased(cell, reverse, small_blocks):
    check_phased(cell, 5, 3, 5, 6, 1, reverse, lengths=[5, 0, 4])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@DIRECTIONS
def test_phased_over_sequences(cell, reverse, small_blocks):
    ends = torch.tensor([0, 3, 3, 7])
    check_phased(cell, 7, 3, 1, 3, 0, reverse, ends=ends, leak=0.0, peephole=False)


def test_phased_with_some_gradients(small_blocks):
    check_phased("lstm", 3, 2, 2, 3, given=[1])
    check_phased("gru", 0, 2, 2, 3, given=[1])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_phased_in_whole_blocks(cell):
    check_phased(cell, 2, 17, 33, 70)


def test_phases_of_late_times(small_blocks):
    """Microseconds of an hour-long recording: float32 would have lost them."""
    flat = draw_phased("gru", (4, 1), 1, 1, 3)
    flat[1] = 3.6e9 + torch.arange(4, dtype=torch.float64).unsqueeze(1)
    flat[5:8] = torch.tensor([[7.0, 9.0, 11.0], [0.3, 0.5, 0.7], [0.5, 0.5, 0.5]])
    exact = phased_recurrence_plain(
        *phased_arguments([v.double() for v in flat], "gru"), None, None, "gru", 0.0, 0, False
    )
    tensors = phased_arguments(on_device(*flat), "gru")
    output = phased.forward(*tensors, None, None, "gru", 0.0, 0, False, False)[0]
    assert (output.cpu() - exact[0]).abs().max() < 1e-6


def test_a_time_that_is_no_number_shows(small_blocks):
    flat = on_device(*draw_phased("gru", (2, 3), 3, 1, 3))
    flat[1][1, 2] = torch.nan  # alone in its tile
    tensors = phased_arguments(flat, "gru")
    output = phased.forward(*tensors, None, None, "gru", 0.0, 0, False, False)[0]
    assert output[1, 2].isnan().all()
    assert not output[0].isnan().any()
    assert not output[:, :2].isnan().any()


@COUNTED
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_closed_blocks_cost_no_product(cell, small_blocks, products):
    flat = phased_arguments(draw_phased(cell, (3, 2), 2, 3, 6), cell)
    n, zeros, steps = 6, torch.zeros(6), torch.arange(3.0).double()
    flat[6], flat[7] = torch.full((n,), 100.0), zeros
    flat[8] = torch.tensor([0.03, 0.03, 0.03, 0.03, 0.015, 0.015])  # open for 3, and for 1.5
    made = []
    for start in (10.0, 1.0, 0.0):  # all closed; blocks open at 1 2 - and 1 - -; and 0 starts at 0
        products.clear()
        flat[1] = (start + steps).unsqueeze(1).expand(3, 2)
        output = phased.forward(*flat, None, None, cell, 0.0, 0, False, False)[0]
        made.append(len(products))
        if start == 10:
            assert output.equal(flat[9].expand(3, 2, n))  # bit by bit
        if start == 1:
            assert output[1:, :, 4:].equal(output[:1, :, 4:].expand(2, 2, 2))
    assert made[0] == 0 < made[1]
    assert made[1] == made[2]  # three of six


@pytest.fixture
def barriers(monkeypatch):
    """Fail where what a program does to a number between two barriers depends on threads' order.

    That is a store before a load or store, and a store after a load; but for a tile that is loaded
    and stored in place, of which each number is made from the one that was there.
    """
    builder = interpreter.InterpreterBuilder
    stored, loaded, started, passed = set(), {}, builder.set_grid_idx, []

    def forget(*_):
        stored.clear()
        loaded.clear()
        passed.append(1)

    def load(self, ptrs, mask, *rest):
        tile = hash(ptrs.data.tobytes())
        for address in ptrs.data[mask.data].tolist():
            assert address not in stored, "loaded after a store"
            loaded.setdefault(address, set()).add(tile)
        return masked_load(self, ptrs, mask, *rest)

    def store(self, ptrs, value, mask, *rest):
        in_place = {hash(ptrs.data.tobytes())}
        for address in ptrs.data[mask.data].tolist():
            assert address not in stored, "stored twice"
            assert loaded.get(address, in_place) == in_place, "stored after a load"
            stored.add(address)
        return masked_store(self, ptrs, value, mask, *rest)

    masked_load, masked_store = builder.create_masked_load, builder.create_masked_store
    monkeypatch.setattr(builder, "create_masked_load", load)
    monkeypatch.setattr(builder, "create_masked_store", store)
    monkeypatch.setattr(builder, "create_barrier", forget)
    monkeypatch.setattr(builder, "set_grid_idx", lambda *a: forget() or started(*a))
    monkeypatch.setattr(tiles, "CHUNK", 8)  # else a tile of a product may look like one in place
    return passed


@COUNTED
@pytest.mark.parametrize("cell", ["lstm", "gru-reset-before"])
def test_barriers_order_a_skip_recurrence(cell, small_blocks, barriers):
    check_skip(cell, 5, 2, 1, 6, layers=2)
    assert len(barriers) > 20


@COUNTED
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_barriers_order_a_phased_recurrence(cell, small_blocks, barriers):
    check_phased(cell, 3, 2, 1, 6)
    assert len(barriers) > 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_on_the_state_in_other_dtypes(dtype, small_blocks):
    carry = torch.promote_types(dtype, torch.float32)

    def cast(v, k, wide):
        return v if v is None or v.dtype == torch.float64 else v.to(carry if k in wide else dtype)

    flat = [cast(v, k, (5, 6, 7, 8)) for k, v in enumerate(draw_phased("lstm", (4, 2), 2, 3, 5))]
    run = (None, None, "lstm", 0.01, 0, False)
    results = phased.forward(*on_device(*flat), *run, True)[:3]
    exact = phased_recurrence_plain(*[v.double() for v in flat], *run)
    for o, r, e in zip(results, phased_recurrence_plain(*flat, *run), exact, strict=True):
        assert_as_accurate(o, r, e, "phased")
    drawn = draw_skip("gru", (4, 2), 2, 3, 5, 1)
    flat = [cast(v, k, (4, 5, 7, 8)) for k, v in enumerate(drawn)]
    run = (None, None, None, "gru", 0)
    x, weights, *state = skip_arguments(on_device(*flat), "gru")
    results = skip.forward(x, weights, *state, *run, True)[:6]
    exact, loop = (
        skip_recurrence_plain(*skip_arguments(v, "gru"), *run)
        for v in ([v.double() for v in flat], flat)
    )
    for o, r, e in zip(results, loop, exact, strict=True):
        if e is not None:
            assert_as_accurate(o, r, e, "skip")


def test_wrong_ends_never_leave_memory(small_blocks):
    """They count as the nearest ones that are right."""
    x, weights, *state = skip_arguments(on_device(*draw_skip("gru", (3, 2), 2, 1, 2, 1)), "gru")
    for wrong, right in (([9, -2], [3, 0]), ([2, 9], [2, 3])):
        runs = [
            skip.forward(
                x, weights, *state, None, torch.tensor(v, device=DEVICE), None, "gru", 0, True
            )
            for v in (wrong, right)
        ]
        assert all(map(torch.equal, *runs))
    for wrong, right in (([-5, 2, 99], [0, 2, 3]), ([40, 50, 2], [3, 3, 3])):
        runs = [
            skip.forward(
                x[:, 0], weights, *state, None, None, torch.tensor(v, device=DEVICE), "gru", 0, True
            )
            for v in (wrong, right)
        ]
        assert all(map(torch.equal, runs[0][2:6], runs[1][2:6]))


@pytest.fixture
def short_stretches(monkeypatch):
    """Stretches of time so short that a few steps are several."""
    if INTERPRETED:
        for name, size in (("STEPS", 4), ("WARPS", 2), ("SIDE_BY_SIDE", 2)):
            monkeypatch.setattr(diagonal, name, size)


@pytest.fixture
def turns(monkeypatch, small_tiles):
    """A list that grows with every linear recurrence that is solved."""
    made, scan = [], interpreter.ScanOps.generic_scan
    monkeypatch.setattr(interpreter.ScanOps, "generic_scan", lambda *a: made.append(1) or scan(*a))
    return made


def draw_diagonal(cell, lead, B, n):
    weights, states = (5, 2) if cell == "lstm" else (3, 1)
    return [draw(*lead, 3 * n) * 2, draw(weights, n), draw(states, B, n)]


def check_diagonal(
    cell, algorithm, T, B, n, dim=0, reverse=False, lengths=None, ends=None, given=(0, 1)
):
    lead = (T,) if ends is not None else (T, B) if dim == 0 else (B, T)
    inputs = draw_diagonal(cell, lead, B, n)
    lengths = None if lengths is None else torch.tensor(lengths)
    shapes = (*lead, n), inputs[2].shape
    cotangents = [draw(*s) if k in given else None for k, s in enumerate(shapes)]
    options = (cell, dim, reverse)

    def composed(*flat):
        return diagonal_recurrence_plain(*flat, lengths, ends, *options)

    tensors, layout = on_device(*inputs), on_device(lengths, ends)
    output, last, cells = diagonal.forward(*tensors, *layout, *options, True, algorithm)
    assert cells.numel() == (output.numel() if cell == "lstm" else 0)
    grads = diagonal.backward(
        *on_device(*cotangents), *tensors, *layout, output, cells, *options, algorithm
    )
    assert_agree([output, last, *grads], composed, inputs, cotangents, cell, roundings=16)


CELLS_AND_FORMS = pytest.mark.parametrize(
    ("cell", "algorithm"), [(c, a) for c in ("gru", "lstm") for a in ("serial", "parallel")]
)


@CELLS_AND_FORMS
def test_diagonal(cell, algorithm, short_stretches):
    check_diagonal(cell, algorithm, 7, 2, 3, 1, True, lengths=[6, 0])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_diagonal_over_sequences(cell, short_stretches):
    ends = torch.tensor([0, 5, 5, 7])
    check_diagonal(cell, "parallel", 7, 3, 2, ends=ends, given=[1])


@CELLS_AND_FORMS
def test_diagonal_of_few_steps(cell, algorithm, short_stretches):
    for T in (0, 1):
        check_diagonal(cell, algorithm, T, 2, 1, given=[T])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_diagonal_in_other_dtypes(dtype, short_stretches):
    carry = torch.promote_types(dtype, torch.float32)
    gates, weight, state = draw_diagonal("lstm", (5, 1), 1, 2)
    flat = [gates.to(dtype), weight.to(carry), state.to(dtype)]
    run = (None, None, "lstm", 0, False)
    exact = diagonal_recurrence_plain(*[v.double() for v in flat], *run)
    loop = diagonal_recurrence_plain(*flat, *run)
    results = diagonal.forward(*on_device(*flat), *run, False, "parallel")
    for o, r, e in zip(results, loop, exact, strict=False):
        assert_as_accurate(o, r, e, dtype, roundings=16)


@COUNTED
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_newtons_method_takes_a_few_turns(cell, turns):
    """With a wrong derivative it would reach the same result, a step or so a turn."""
    gates, weight, state = draw_diagonal(cell, (150, 1), 1, 1)
    run = (None, None, cell, 0, False)
    output, last, _ = diagonal.forward(gates, weight / 2, state, *run, False, "parallel")
    wanted = diagonal_recurrence_plain(gates, weight / 2, state, *run)
    torch.testing.assert_close((output, last), wanted, rtol=0, atol=1e-5)
    assert 2 < len(turns) <= 16  # of both stretches


@COUNTED
def test_turns_without_a_derivative_end_at_the_result(turns, monkeypatch, short_stretches):
    """Each makes one more state exact."""
    monkeypatch.setattr(
        interpreter.ScanOps, "generic_scan", lambda self, x: turns.append(1) or list(x)
    )
    monkeypatch.setattr(diagonal, "STEPS", 16)
    gates, weight, state = draw_diagonal("gru", (16, 1), 1, 1)
    gates[..., 0] -= 4  # a long memory
    run = (None, None, "gru", 0, False)
    output, last, _ = diagonal.forward(gates, weight, 0 * state, *run, False, "parallel")
    wanted = diagonal_recurrence_plain(gates, weight, 0 * state, *run)
    torch.testing.assert_close((output, last), wanted, rtol=0, atol=2e-6)
    assert len(turns) > 8


@COUNTED
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_states_that_are_no_number_stop_nothing(cell, turns, short_stretches):
    gates, weight, state = draw_diagonal(cell, (12, 1), 1, 1)
    gates[5, 0, 1] = torch.nan
    run = (None, None, cell, 0, False)
    output = diagonal.forward(gates, weight, state, *run, False, "parallel")[0]
    wanted = diagonal_recurrence_plain(gates, weight, state, *run)[0]
    torch.testing.assert_close(output, wanted, equal_nan=True)
    assert output.isnan().sum() == 7
    assert len(turns) < 24


@pytest.mark.parametrize(("cell", "sign"), [("lstm", 1), ("gru", -1)])
def test_corrections_do_not_overflow(cell, sign):
    """Where every state flees from 0, where the derivative is 3 or -3, over all steps."""
    gates, weight, state = draw_diagonal(cell, (128, 1), 1, 1)
    parts, candidate = list((gates / 100).chunk(3, -1)), 2 if cell == "gru" else 1
    parts[0] += 3 if cell == "gru" else -3  # always open to the candidate
    parts[3 - candidate] += 3
    weight = weight / 100
    weight[candidate] += 3 * sign
    inputs, run = (torch.cat(parts, -1), weight, state / 100), (None, None, cell, 0, False)
    output = diagonal.forward(*on_device(*inputs), *run, False, "parallel")[0]
    wanted = diagonal_recurrence_plain(*inputs, *run)[0]
    torch.testing.assert_close(output.cpu(), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_diagonal_gradients_are_finite_where_products_of_derivatives_are_not(cell):
    """States rest at 0, where the derivative is 3; the first steps are looked at."""
    T, candidate = 140, 2 if cell == "gru" else 1
    gates, weight, state = [0 * x for x in draw_diagonal(cell, (T, 1), 1, 1)]
    gates[..., 3 - candidate] = 2.0  # open
    weight[candidate] = 6.0
    inputs, run = (gates, weight, state), (None, None, cell, 0, False)
    seen = (torch.arange(T) < 20).float().view(T, 1, 1)
    _, _, *wanted = value_and_grads(
        lambda *x: diagonal_recurrence_plain(*x, *run), [x.double() for x in inputs], [seen, None]
    )
    tensors, run = on_device(*inputs), (*run, True, "parallel")
    output, _, cells = diagonal.forward(*tensors, *run)
    kept = (output, cells, *run[2:5], "parallel")
    with np.errstate(over="ignore", invalid="ignore"):
        found = diagonal.backward(*on_device(seen), None, *tensors, *run[:2], *kept)
    assert wanted[2].max() > 1e3
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.cpu().double(), theirs, rtol=1e-5, atol=0)


@COUNTED
@pytest.mark.parametrize("size", [1e30, torch.inf, torch.nan])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_huge_state_excuses_no_other_number(cell, size, turns, monkeypatch):
    """Nor does one that is no number hold them up."""
    monkeypatch.setattr(diagonal, "WARPS", 32)  # two units a tile
    gates, weight, state = draw_diagonal(cell, (32, 1), 1, 4)
    state[-1, 0, 0] = size
    run = (None, None, cell, 0, False)
    with np.errstate(over="ignore", invalid="ignore"):
        output, _, _ = diagonal.forward(gates, weight, state, *run, False, "parallel")
    wanted, _ = diagonal_recurrence_plain(gates, weight, state, *run)
    torch.testing.assert_close(output[..., 1:], wanted[..., 1:], rtol=0, atol=4e-6)
    assert len(turns) < 30


def test_diagonal_chooses_its_form_by_what_there_is_to_do():
    def steps(T, B, n):
        gates, _, state = draw_diagonal("gru", (T, B), B, n)
        return diagonal.plan(gates, state, None, "gru", 0, False, "auto").options["STEPS"]

    assert steps(1000, 1, 8) == 128
    assert steps(50, 1, 8) == 64
    assert steps(1, 1, 8) == 1
    assert steps(20, 64, 512) == 1


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


@ON_A_GPU
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru-reset-before"])
def test_skip_at_full_size(cell, layers):
    check_skip(cell, 201, 37, 3, 110, layers, 1, lengths=[201, 0, *range(20, 190, 5), 201])


@ON_A_GPU
def test_skip_gate_at_full_size():
    check_skip_gate(2001, 37, 300, 1, lengths=[2001, 0, *range(20, 190, 5), 201])


@ON_A_GPU
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@DIRECTIONS
def test_phased_at_full_size(cell, reverse):
    check_phased(cell, 201, 37, 3, 300, 1, reverse, lengths=[201, 0, *range(20, 190, 5), 201])


@ON_A_GPU
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru-reset-before"])
def test_skip_gives_the_same_bits_again(cell):
    """A step that reads what another has not yet written, or no longer, would differ."""
    drawn = draw_skip(cell, (401, 67), 67, 3, 110, 2)
    x, weights, *state = skip_arguments(on_device(*drawn), cell)
    layout = (None, None, None, cell, 0)
    first = skip.forward(x, weights, *state, *layout, True)
    grads = [torch.ones_like(first[0]), *[None] * 5]
    run = (grads, x, weights, state[0], state[2], *layout[:3], first[6:], cell, 0, True)
    found = skip.backward(*run)
    for _ in range(10):
        assert all(map(torch.equal, first, skip.forward(x, weights, *state, *layout, True)))
        assert all(map(torch.equal, found, skip.backward(*run)))


@ON_A_GPU
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_phased_gives_the_same_bits_again(cell):
    drawn = draw_phased(cell, (401, 67), 67, 3, 300)
    tensors = phased_arguments(on_device(*drawn), cell)
    layout, options = (None, None), (cell, 0.001, 0, False)
    first = phased.forward(*tensors, *layout, *options, True)
    grads = [torch.ones_like(first[0]), None, None]
    run = (grads, *tensors, *layout, first[3:], *options, [True] * 11)
    found = phased.backward(*run)
    for _ in range(10):
        assert all(map(torch.equal, first, phased.forward(*tensors, *layout, *options, True)))
        assert all(map(torch.equal, found, phased.backward(*run)))


def check_block(a, x, h0, dim=0, reverse=False):
    wide = WIDE.get(x.dtype, torch.float64 if not x.is_complex() else x.dtype)
    carry = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    y = draw(*x.shape, dtype=x.dtype)

    def reference(*tensors):
        return (block_linear_recurrence_reference(*tensors, dim=dim, reverse=reverse),)

    inputs = [a.expand(*x.shape, x.shape[-1]), x] + ([] if h0 is None else [h0])
    exact = value_and_grads(reference, [v.to(wide) for v in inputs], [y.to(wide)])
    loop = value_and_grads(reference, [v.to(carry) for v in inputs], [y.to(carry)])
    a, x, h0, y = on_device(inputs[0], x, h0, y)
    states = block.forward(a, x, h0, dim, reverse)
    run = (y, a, states, h0, dim, reverse)
    grads = block.backward(*run, True)
    for what, o, r, e in zip(
        ("states", "transitions", "impulses", "initial"),
        (states, *grads),
        loop,
        exact,
        strict=False,
    ):
        assert_as_accurate(o, r.to(o.dtype), e, what, roundings=4 * x.shape[-1])
    # without the transitions' gradient, the others are the same to the bit
    assert all(map(torch.equal, block.backward(*run, False)[1:], grads[1:]))


def draw_block(*shape, dtype=torch.float32):
    """Transitions that lengthen no state, impulses and an initial state, time at 0."""
    a = draw(*shape, shape[-1], dtype=torch.complex64 if dtype.is_complex else torch.float32)
    a = a / torch.linalg.matrix_norm(a, 2, keepdim=True).clamp(min=1e-3)
    return a.to(dtype), draw(*shape, dtype=dtype), draw(*shape[1:], dtype=dtype)


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr(block, "STEPS", 2)
    monkeypatch.setattr(block, "ELEMENTS", 32)


@DIRECTIONS
@pytest.mark.parametrize(
    "shape", [(21, 2, 3, 2), (9, 3, 4), (11, 1, 5), (1, 2, 2), (0, 2, 3)], ids=str
)
def test_block_split_over_time(shape, reverse, short_chunks):
    a, x, h0 = draw_block(*shape)
    check_block(a, x, h0, 0, reverse)
    if shape[0] == 21:
        assert block._plan(x, 0).chunks > 5
        check_block(a.movedim(0, 2), x.movedim(0, 2), h0, 2, reverse)  # any strides
        check_block(a.movedim(0, 1).mT.contiguous().mT, x.movedim(0, 1), None, 1, reverse)


@DIRECTIONS
def test_block_of_many_sequences_and_large_ones(reverse, monkeypatch):
    monkeypatch.setattr(block, "PROGRAMS", 0)
    check_block(*draw_block(4, 7, 3), 0, reverse)
    check_block(*draw_block(3, 2, 11), 0, reverse)
    monkeypatch.setattr(block, "LARGEST", 4)
    check_block(*draw_block(3, 2, 5), 0, reverse)


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.complex128],
    ids=str,
)
def test_block_dtypes(dtype, short_chunks):
    check_block(*draw_block(7, 2, 2, dtype=dtype), 0, False)


def test_block_transitions_that_repeat_are_not_copied(short_chunks):
    a, x, h0 = draw_block(9, 3, 2)
    check_block(a[:1], x, h0)
    check_block(a[:, :1], x, h0)
