"""`phased_recurrence` against the equations, one sequence and one step at a time, in float64."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch import sigmoid, tanh

from longrnn import time_gate
from longrnn.ops.phased_recurrence.op import phased_recurrence

CELLS = ["lstm", "lstm without peepholes", "gru"]
each_cell = pytest.mark.parametrize("cell", CELLS)
each_leak = pytest.mark.parametrize("leak", [0.0, 0.1])


def gate(t, period, shift, on_ratio, leak):
    phase = (t - shift) / period - ((t - shift) / period).floor()
    ramp = torch.where(phase < on_ratio / 2, 2 * phase / on_ratio, 2 - 2 * phase / on_ratio)
    return torch.where(phase < on_ratio, ramp, leak * phase)


def lstm(x, h, c, weight_ih, weight_hh, bias, peephole):
    i, f, g, o = (weight_ih @ x + weight_hh @ h + bias).chunk(4)
    w_i, w_f, w_o = (0, 0, 0) if peephole is None else peephole
    new_c = sigmoid(f + w_f * c) * c + sigmoid(i + w_i * c) * tanh(g)
    return sigmoid(o + w_o * new_c) * tanh(new_c), new_c


def gru(x, h, _, weight_ih, weight_hh, bias, peephole):
    (x_r, x_z, x_n), (h_r, h_z, h_n) = (weight_ih @ x).chunk(3), (weight_hh @ h).chunk(3)
    b_x, b_r, b_z, b_h = bias.chunk(4)
    r, z = sigmoid(x_r + h_r + b_r), sigmoid(x_z + h_z + b_z)
    h = (1 - z) * tanh(x_n + b_x + r * (h_n + b_h)) + z * h
    return h, h


def one_sequence(cell, xs, times, weights, clock, h, c, leak, reverse):
    step = gru if cell == "gru" else lstm
    outputs = [None] * len(xs)
    for t in reversed(range(len(xs))) if reverse else range(len(xs)):
        k = gate(times[t], *clock, leak)
        new_h, new_c = step(xs[t], h, c, *weights)
        h, c = k * new_h + (1 - k) * h, k * new_c + (1 - k) * c
        outputs[t] = h
    return outputs, h, c


def reference(
    cell, tensors, leak=0.0, lengths=None, cu_seqlens=None, batch_first=False, reverse=False
):
    """The same arguments and results as the op's, a sequence at a time."""
    x, times, *weights_and_clock, hidden, cells = tensors
    weights, clock = weights_and_clock[:4], weights_and_clock[4:]
    if cu_seqlens is not None:
        spans = [slice(*ends) for ends in itertools.pairwise(cu_seqlens.tolist())]
        xs, stamps = [x[span] for span in spans], [times[span] for span in spans]
    else:
        x, times = (v.transpose(0, 1) if batch_first else v for v in (x, times))
        ends = [len(x)] * x.shape[1] if lengths is None else lengths.tolist()
        xs, stamps = ([v[:end, b] for b, end in enumerate(ends)] for v in (x, times))
    states = hidden, hidden if cells is None else cells
    results = [
        one_sequence(cell, *sequence, weights, clock, h, c, leak, reverse)
        for *sequence, h, c in zip(xs, stamps, *states, strict=True)
    ]
    nothing = hidden.new_zeros(0, hidden.shape[1])
    steps = [torch.cat([nothing, *(h[None] for h in outputs)]) for outputs, _, _ in results]
    if cu_seqlens is not None:
        output = torch.cat([nothing, *steps])
    else:
        padded = [torch.cat([s, s.new_zeros(len(x) - len(s), s.shape[1])]) for s in steps]
        output = torch.stack(padded, 1) if padded else hidden.new_zeros(len(x), *hidden.shape)
        output = output.transpose(0, 1) if batch_first else output
    last_h, last_c = (torch.cat([nothing, *(r[i][None] for r in results)]) for i in (1, 2))
    return output, last_h, None if cells is None else last_c


def draw(cell, T, B, m, n, dtype=torch.float64, lead=None, on_ratio=(0.05, 0.95)):
    """Arguments of the op. Stamps ascend, but one in five repeats, and they begin before 0."""
    gates = 3 if cell == "gru" else 4

    def normal(*shape, scale=1.0):
        return (torch.randn(*shape, dtype=torch.float64) * scale).to(dtype)

    lead, wide = lead or (T, B), torch.promote_types(dtype, torch.float32)
    period = torch.logspace(0, 2, n, dtype=torch.float64)[torch.randperm(n)]
    clock = [period, torch.randn(n) * period, torch.linspace(*on_ratio, n)[torch.randperm(n)]]
    return [
        normal(*lead, m),
        (torch.rand(lead, dtype=torch.float64) * (torch.rand(lead) < 0.8)).cumsum(0) * 4 - 5,
        normal(gates * n, m, scale=m**-0.5),
        normal(gates * n, n, scale=n**-0.5),
        normal(4 * n, scale=0.5),
        normal(3, n, scale=0.5).to(wide) if cell == "lstm" else None,
        *(v.to(wide) for v in clock),
        normal(B, n),
        None if cell == "gru" else normal(B, n),
    ]


NAMES = [
    *("x", "times", "weight_ih", "weight_hh", "bias", "peephole"),
    *("period", "shift", "on_ratio", "hidden", "cells"),
]


def present(values):
    return [v for v in values if v is not None]


def leaves(tensors, dtype=None):
    """Fresh copies that ask for gradients."""
    return [
        None if t is None else t.detach().to(dtype or t.dtype).requires_grad_() for t in tensors
    ]


def ours(cell, tensors, **options):
    return phased_recurrence(*tensors, cell.split()[0], **options)


def value_and_grads(function, tensors, which=(0, 1, 2)):
    """Results, and gradients through those that `which` counts, by their names."""
    values = function(tensors)
    generator = torch.Generator().manual_seed(1)
    outer = [
        torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in present(values)
    ]
    picked = [i for i in which if i < len(outer)]
    names = [name for name, t in zip(NAMES, tensors, strict=True) if t is not None]
    grads = torch.autograd.grad(
        [values[i] for i in picked], present(tensors), [outer[i].to(values[i]) for i in picked],
        materialize_grads=True,
    )  # fmt: skip
    results = dict(zip(["output", "last h", "last c"], present(values), strict=False))
    return results | {f"gradient of {name}": g for name, g in zip(names, grads, strict=True)}


def assert_accurate(got, expected, dtype=torch.float64, eps_count=1024):
    assert list(got) == list(expected)
    for name, exact in expected.items():
        assert got[name].shape == exact.shape, name
        if exact.numel():
            allowed = eps_count * torch.finfo(dtype).eps * exact.abs().max().clamp(min=1)
            assert (got[name].double() - exact).abs().max() <= allowed, name


def compare(cell, tensors, which=(0, 1, 2), **options):
    got = value_and_grads(lambda v: ours(cell, v, **options), leaves(tensors), which)
    wanted = value_and_grads(lambda v: reference(cell, v, **options), leaves(tensors), which)
    assert_accurate(got, wanted)
    return got


@each_cell
@each_leak
def test_as_the_equations_say(kernel, cell, leak):
    for T, B, m, n in [(1, 1, 1, 1), (9, 7, 3, 5), (6, 2, 20, 17)]:
        compare(cell, draw(cell, T, B, m, n), leak=leak)


@each_cell
def test_more_sequences_than_a_team_holds(kernel, cell):
    torch.set_num_threads(1)
    compare(cell, draw(cell, 7, 25, 4, 5), leak=0.1)  # six in a team
    # 24 in a team; some end early and make room, one never begins
    lengths = torch.randint(0, 5, (27,))
    lengths[:3] = torch.tensor([0, 1, 4])
    compare(cell, draw(cell, 4, 27, 3, 150), leak=0.1, lengths=lengths)


@each_cell
def test_many_units_many_features_and_a_long_sequence(kernel, cell):
    compare(cell, draw(cell, 5, 3, 70, 129), leak=0.1)
    compare(cell, draw(cell, 3, 2, 300, 3), leak=0.1)
    compare(cell, draw(cell, 101 if kernel == "plain" else 401, 2, 2, 6), leak=0.1)


@each_cell
@pytest.mark.parametrize("threads", [1, 2])
def test_work_worth_a_second_thread(cell, threads):
    torch.set_num_threads(threads)
    tensors = draw(cell, 33, 9, 5, 40, on_ratio=(0.05, 0.3))
    dense = compare(cell, tensors)
    assert_accurate(results_of(ours(cell, tensors)), take(dense, 3))


def results_of(values):
    return dict(zip(["output", "last h", "last c"], present(values), strict=False))


def take(results, count):
    return {name: v for name, v in itertools.islice(results.items(), count) if "grad" not in name}


@each_cell
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("layout", ["batch first", "lengths", "batch first lengths", "end to end"])
def test_every_layout(kernel, cell, layout, reverse):
    T, B, lead, options = 9, 5, (9, 5), {"reverse": reverse}
    if "batch first" in layout:
        lead, options["batch_first"] = (B, T), True
    if "lengths" in layout:
        options["lengths"] = torch.tensor([3, 9, 0, 8, 1])
    if layout == "end to end":
        lead, options["cu_seqlens"] = (23,), torch.tensor([0, 0, 9, 10, 10, 23])
    tensors = draw(cell, T, B, 3, 5, lead=lead, on_ratio=(0.05, 0.7))
    compare(cell, tensors, **options, leak=0.1)
    dense = compare(cell, tensors, **options)
    assert_accurate(results_of(ours(cell, tensors, **options)), take(dense, 3))


@each_cell
@pytest.mark.parametrize("which", range(3), ids=["output", "last h", "last c"])
def test_gradient_through_one_result(cell, which):
    if cell == "gru" and which == 2:
        pytest.skip("no cells")
    compare(cell, draw(cell, 9, 3, 2, 5), (which,), leak=0.1)
    lengths = torch.tensor([4, 0, 9])
    got = compare(cell, draw(cell, 9, 3, 2, 5), (which,), lengths=lengths)
    padded = torch.arange(9).unsqueeze(1) >= lengths
    assert not got["gradient of times"][padded].any()
    assert got["gradient of times"][~padded].any()


@each_cell
@pytest.mark.parametrize("B", [0, 3])
def test_no_steps_keep_the_state(kernel, cell, B):
    tensors = leaves(draw(cell, 0, B, 2, 5))
    output, *last = present(ours(cell, tensors))
    assert output.shape == (0, B, 5)
    state = present(tensors[-2:])
    assert all(torch.equal(a, b) for a, b in zip(last, state, strict=True))
    outer = [torch.randn_like(v) for v in last]
    grads = torch.autograd.grad(last, present(tensors), outer, materialize_grads=True)
    count = len(state)
    assert all(torch.equal(a, b) for a, b in zip(grads[-count:], outer, strict=True))
    assert not any(g.any() for g in grads[:-count])
    with torch.no_grad():
        last = present(ours(cell, tensors))[1:]
    assert all(torch.equal(a, b) for a, b in zip(last, state, strict=True))


@each_cell
def test_no_sequences_give_empty_results(kernel, cell):
    got = value_and_grads(lambda v: ours(cell, v), leaves(draw(cell, 4, 0, 2, 5)))
    assert got["output"].shape == (4, 0, 5)
    assert not any(v.any() for v in got.values())


@each_cell
def test_arguments_of_any_stride(kernel, cell):
    tensors, lengths = draw(cell, 6, 3, 4, 5, on_ratio=(0.05, 0.3)), torch.tensor([6, 0, 4])
    expected = compare(cell, tensors, lengths=lengths)

    def spread(t):
        if t is None:
            return None
        wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), torch.nan, dtype=t.dtype)
        wide[..., 1::2] = t
        return wide[..., 1::2]

    copies, apart = [spread(t) for t in tensors], torch.tensor([6, 9, 0, 9, 4])[::2]
    assert not any(t.is_contiguous() for t in present(copies))
    assert_accurate(results_of(ours(cell, copies, lengths=apart)), take(expected, 3))
    again = value_and_grads(
        lambda v: ours(cell, v, lengths=apart),
        [t if t is None else t.requires_grad_() for t in copies],
    )
    assert_accurate(again, expected)


# In evaluation: only open units are computed where they are few, every unit where they are many.


@each_cell
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("on_ratio", [(0.05, 0.05), (0.05, 0.3), (0.3, 0.95)], ids=str)
def test_evaluation_equals_training_without_a_leak(kernel, cell, dtype, on_ratio):
    for T, B, m, n in [(1, 1, 1, 1), (40, 3, 4, 70), (19, 30, 5, 9)]:
        tensors = draw(cell, T, B, m, n, dtype, on_ratio=on_ratio)
        dense = ours(cell, leaves(tensors))
        assert dense[0].requires_grad
        with torch.no_grad():
            quick = ours(cell, leaves(tensors))
        assert not quick[0].requires_grad
        torch.testing.assert_close(quick, tuple(v if v is None else v.detach() for v in dense))


@each_cell
def test_evaluation_with_a_leak_gives_the_bits_of_training(kernel, cell):
    tensors = draw(cell, 20, 7, 4, 9, torch.float32, on_ratio=(0.05, 0.05))
    for a, b in zip(
        ours(cell, leaves(tensors), leak=0.1), ours(cell, tensors, leak=0.1), strict=True
    ):
        assert a is None or torch.equal(a, b)


@each_cell
@pytest.mark.parametrize("grad", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_closed_unit_keeps_the_bits_of_its_state(kernel, cell, grad, dtype):
    tensors = draw(cell, 50, 4, 3, 21, dtype, on_ratio=(0.05, 0.05))
    output, h, c = ours(cell, leaves(tensors) if grad else tensors)
    opened = time_gate(tensors[1], *tensors[6:9], 0.0) > 0  # (T, B, n)
    before = torch.cat([tensors[9].unsqueeze(0), output[:-1]])
    changed = output != before
    assert not (changed & ~opened).any()
    assert changed.sum() > 0.9 * opened.sum()  # a few changes are lost in sixteen bits
    never = ~opened.any(0)
    assert 0 < never.sum() < never.numel() / 2
    assert torch.equal(h[never], tensors[9][never])
    assert cell == "gru" or torch.equal(c[never], tensors[10][never])


@each_cell
@pytest.mark.parametrize("layout", ["padded", "end to end"])
def test_an_input_that_no_unit_opens_for_is_never_looked_at(kernel, cell, layout):
    if kernel == "plain":
        pytest.skip("the plain form evaluates every unit and blends")
    lead, options = (60, 5), {"lengths": torch.tensor([60, 0, 30, 59, 1])}
    if layout == "end to end":
        lead, options = (90,), {"cu_seqlens": torch.tensor([0, 9, 9, 60, 62, 90])}
    tensors = draw(cell, 60, 5, 3, 6, torch.float32, lead, on_ratio=(0.05, 0.05))
    wanted = ours(cell, tensors, **options)
    opened = (time_gate(tensors[1], *tensors[6:9], 0.0) > 0).any(-1)
    assert 10 < opened.sum() < opened.numel() - 10
    tensors[0][~opened] = torch.nan
    for a, b in zip(ours(cell, tensors, **options), wanted, strict=True):
        assert a is None or torch.equal(a, b)


@each_cell
@pytest.mark.parametrize("on_ratio", [(0.05, 0.05), (0.9, 0.9)], ids=["sparse", "dense"])
def test_padding_is_never_looked_at(kernel, cell, on_ratio):
    if kernel == "plain":
        pytest.skip("layers zero the padding of inputs")
    tensors, lengths = draw(cell, 9, 4, 3, 7, on_ratio=on_ratio), torch.tensor([9, 0, 2, 5])
    padded, results = torch.arange(9).unsqueeze(1) >= lengths, []
    for poison in (0.0, torch.nan):
        tensors[0][padded], tensors[1][padded] = poison, poison
        got = value_and_grads(lambda v: ours(cell, v, lengths=lengths), leaves(tensors))
        quick = results_of(ours(cell, tensors, lengths=lengths))
        assert not quick["output"][padded].any()
        assert not any(got[name][padded].any() for name in ("output", "gradient of x"))
        results.append([*got.values(), *quick.values()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@each_cell
@pytest.mark.parametrize("on_ratio", [(0.05, 0.05), (0.9, 0.9)], ids=["sparse", "dense"])
def test_a_sequence_does_not_depend_on_its_mates_nor_on_threads(kernel, cell, on_ratio):
    if kernel == "plain":
        pytest.skip("the products are torch's")
    tensors = draw(cell, 12, 26, 70, 75, torch.float32, on_ratio=on_ratio)
    runs = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        dense = value_and_grads(lambda v: ours(cell, v), leaves(tensors))
        runs.append([*present(ours(cell, tensors)), *dense.values()])
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))
    x, times, *shared, hidden, cells = tensors
    for b in (0, 13, 25):
        one = slice(b, b + 1)
        alone = [
            x[:, one],
            times[:, one],
            *shared,
            hidden[one],
            None if cells is None else cells[one],
        ]
        output, h, _ = ours(cell, alone)
        assert torch.equal(output, runs[0][0][:, one])
        assert torch.equal(h, runs[0][1][one])


@each_cell
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("layout", ["one", "two", "end to end"])
def test_threads_share_the_units_of_few_sequences(kernel, cell, dtype, layout):
    if kernel == "plain":
        pytest.skip("the products are torch's")
    rows, lead, options = {
        "one": (1, (20, 1), {"reverse": True}),
        "two": (2, (20, 2), {"lengths": torch.tensor([20, 7])}),
        "end to end": (3, (40,), {"cu_seqlens": torch.tensor([0, 17, 17, 40])}),
    }[layout]
    tensors = draw(cell, 20, rows, 90, 299, dtype, lead, on_ratio=(0.05, 0.2))
    runs = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        runs.append(present(ours(cell, tensors, **options)))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


# The clock. With these weights an LSTM's candidate is 1, so that c becomes k.


def openness(times, period, shift, on_ratio, leak, grad):
    """k of units at `times` (B,), as the kernel finds it; in evaluation or in training."""
    n, dtype = len(period), period.dtype
    bias = torch.tensor([800.0, -800.0, 800.0, 0.0], dtype=dtype).repeat_interleave(n)
    zeros = torch.zeros(len(times), n, dtype=dtype)
    tensors = [
        torch.zeros(1, len(times), 1, dtype=dtype), times[None], torch.zeros(4 * n, 1),
        torch.zeros(4 * n, n), bias, None, period, shift, on_ratio, zeros, zeros,
    ]  # fmt: skip
    return ours("lstm", leaves(tensors) if grad else tensors, leak=leak)[2].detach()


def exactly(times, period, shift, on_ratio, leak):
    """The definition in rational numbers."""

    def one(t, period, shift, ratio):
        t, period, shift, ratio = map(Fraction, (t, period, shift, ratio))
        phase = (t - shift) % period / period
        ramp = 2 * phase / ratio if phase < ratio / 2 else 2 - 2 * phase / ratio
        return float(ramp if phase < ratio else Fraction(leak) * phase)

    units = list(zip(period.tolist(), shift.tolist(), on_ratio.tolist(), strict=True))
    return torch.tensor([[one(t, *u) for u in units] for t in times.tolist()], dtype=torch.float64)


each_mode = pytest.mark.parametrize("grad", [False, True], ids=["evaluation", "training"])


def clock(n=11, dtype=torch.float32, low=0.0, ratios=(0.02, 0.2)):
    """Periods of 10^low to 1,000, shifts on both sides of 0, on ratios of `ratios`."""
    period = torch.logspace(low, 3, n, dtype=torch.float64)
    shift = period * torch.linspace(-0.9, 1.9, n, dtype=torch.float64)
    return [v.to(dtype) for v in (period, shift, torch.linspace(*ratios, n))]


@each_mode
def test_the_gate_turns_exactly_at_its_boundaries(kernel, grad):
    times = torch.tensor([1.0, 2, 3, 4, 5, 7, 9, 17, -7, 0], dtype=torch.float64)
    gate = [torch.tensor([v, 64.0, 64.0]) for v in (8.0, 1.0, 0.5)]
    gate[2][1:] = 0.01  # so that few units are open in evaluation
    k = openness(times, *gate, 0.5 if grad else 0.0, grad)[:, 0].tolist()
    assert k == (
        [0, 0.5, 1, 0.5, 0.25, 0.375, 0, 0, 0, 0.4375] if grad else [0, 0.5, 1, 0.5] + [0] * 6
    )


@each_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("start", "ulp", "low"),
    [
        (-3.6e9, 2**-21, 0),
        (0, 2**-42, 0),
        (3.6e9, 2**-21, 0),
        (3.6e9 * 24, 2**-16, 0),
        (1.76e15, 0.25, 3),
    ],
    ids=["an hour before", "the start", "an hour", "a day", "since 1970"],
)
def test_microseconds_have_the_right_phase(kernel, grad, dtype, start, ulp, low):
    gate = clock(dtype=dtype, low=low)
    times = start + torch.rand(60, dtype=torch.float64) * 3000
    k = openness(times, *gate, 0.0, grad)
    assert 0 < (k > 0).double().mean() < 0.3
    # A stamp's distance to the shift is rounded, and without a fused multiply-add so are whole
    # periods; then the phase is.
    eps = torch.finfo(dtype).eps
    allowed = 2 * (2 * ulp / gate[0].double() + 2 * eps) / gate[2].double()
    assert ((k.double() - exactly(times, *gate, 0.0)).abs() <= allowed).all()
    assert ((k.double() - time_gate(times, *gate, leak=0.0)).abs() <= allowed).all()


@each_mode
@pytest.mark.parametrize("leak", [0.0, 0.25])
def test_stamps_in_any_order_and_before_the_shift(kernel, grad, leak):
    gate = clock(dtype=torch.float64)
    times = torch.cat([torch.linspace(500, -3000, 80, dtype=torch.float64), torch.full((9,), -7.5)])
    times = torch.cat([times, gate[1][3:5], times[:5]])
    k = openness(times, *gate, leak, grad)
    torch.testing.assert_close(k, exactly(times, *gate, leak), rtol=0, atol=1e-11)
    assert torch.equal(k[-5:], k[:5])


@each_mode
@pytest.mark.parametrize("size", [1e16, 1.76e18, -1e22, 1e80])
def test_stamps_far_beyond_their_precision_still_have_a_gate(kernel, grad, size):
    times = size * (1 + torch.rand(40, dtype=torch.float64))
    gate = clock()
    k = openness(times, *gate, 0.0, grad)
    torch.testing.assert_close(k, time_gate(times, *gate, leak=0.0))


@each_mode
@pytest.mark.parametrize("stamp", [math.nan, math.inf, -math.inf])
def test_a_stamp_that_is_no_time_shows_in_the_state(kernel, grad, stamp):
    times = torch.tensor([1.0, stamp], dtype=torch.float64)
    k = openness(times, *clock(), 0.0, grad)
    assert k[0].isfinite().all()
    assert k[1].isnan().all()


@each_cell
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_numbers(kernel, cell, dtype):
    if kernel == "plain" and dtype != torch.float32:
        pytest.skip("the plain form widens its arguments")
    tensors = draw(cell, 13, 3, 4, 9, dtype)
    got = value_and_grads(lambda v: ours(cell, v, leak=0.1), leaves(tensors))
    exact = value_and_grads(lambda v: reference(cell, v, leak=0.1), leaves(tensors, torch.float64))
    types = [t.dtype for t in present(tensors)]
    assert [v.dtype for name, v in got.items() if "gradient" in name] == types
    assert got["output"].dtype == dtype
    assert_accurate(got, exact, dtype, 64)


def test_sixteen_bits_carry_the_state_in_thirty_two(kernel):
    """Each of 512 steps adds 2^-12 to c, which in bfloat16 would not grow past 2^-4."""
    tensors = draw("lstm without peepholes", 512, 1, 1, 1, torch.bfloat16)
    for i in (2, 3, 9, 10):
        tensors[i] = torch.zeros_like(tensors[i])
    tensors[4] = torch.tensor([0, 90, 0, 0]).bfloat16()
    tensors[4][2] = 2**-11
    tensors[1] = torch.full((512, 1), 0.25)
    tensors[6:9] = [torch.ones(1), torch.zeros(1), torch.full((1,), 0.5)]
    for given in (tensors, leaves(tensors)):
        assert ours("lstm", given)[2].item() == pytest.approx(0.125, rel=0.01)


@each_cell
@pytest.mark.parametrize("layout", ["batch first", "lengths", "end to end"])
@each_leak
def test_gradients_match_finite_differences_twice(cell, layout, leak):
    lead, options = (4, 3), {"leak": leak}
    if layout == "batch first":
        lead, options["batch_first"] = (3, 4), True
    if layout == "lengths":
        options |= {"lengths": torch.tensor([4, 0, 2]), "reverse": True}
    if layout == "end to end":
        lead, options["cu_seqlens"] = (7,), torch.tensor([0, 3, 3, 7])
    tensors = leaves(draw(cell, 4, 3, 2, 3, lead=lead, on_ratio=(0.5, 0.9)))

    def function(*given):
        given = iter(given)
        return tuple(
            present(ours(cell, [t if t is None else next(given) for t in tensors], **options))
        )

    assert torch.autograd.gradcheck(function, present(tensors))
    assert torch.autograd.gradgradcheck(function, present(tensors))


@each_cell
@pytest.mark.parametrize("keep", [True, False])
def test_dispatcher_registration_is_complete(cell, keep):
    tensors = draw(cell, 4, 2, 3, 5)
    given = leaves(tensors) if keep else tensors
    op = torch.ops.longrnn.phased_recurrence.default
    torch.library.opcheck(
        op, (*given, torch.tensor([4, 4]), None, cell.split()[0], 0.1, 0, False, keep)
    )


@each_cell
def test_the_backward_is_registered_too(cell):
    tensors = draw(cell, 4, 2, 3, 5)
    settings = (None, None), (cell.split()[0], 0.1, 0, False)
    output, _, c, *kept = torch.ops.longrnn.phased_recurrence(
        *tensors, *settings[0], *settings[1], True
    )
    op = torch.ops.longrnn.phased_recurrence_backward.default
    grads = [torch.ones_like(output), None, None if cell == "gru" else torch.ones_like(c)]
    torch.library.opcheck(op, (grads, *tensors, *settings[0], kept, *settings[1], [True] * 11))


def test_torch_func():
    tensors = draw("lstm", 5, 2, 3, 4)

    def loss(x):
        return (ours("lstm", [x, *tensors[1:]], leak=0.1)[0] ** 2).sum()

    x = tensors[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(tensors[0]), expected)


def changed(cell="lstm", **arguments):
    tensors = dict(zip(NAMES, draw(cell, 4, 3, 2, 5), strict=True))
    return list((tensors | arguments).values())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({"x": torch.zeros(4, 3, 2).long()}, {}, "x must have a floating dtype"),
        ({"x": torch.zeros(4, 2)}, {}, r"x must have 3 dimensions, got shape \(4, 2\)"),
        ({}, {"cu_seqlens": torch.tensor([0, 4])}, r"x must have 2 dimensions, got shape"),
        (
            {"times": torch.zeros(4, 3).long()},
            {},
            "times must have a floating dtype, got torch.int64",
        ),
        ({"times": torch.zeros(4)}, {}, r"times must have shape \(4, 3\), one a step, got \(4,\)"),
        ({"weight_ih": torch.zeros(20, 3)}, {}, r"weight_ih must have shape \(G\*n=20, m=2\)"),
        ({"weight_hh": torch.zeros(15, 5)}, {}, r"weight_hh must have shape \(G\*n=20, n=5\)"),
        ({"bias": torch.zeros(15)}, {}, r"bias must have shape \(4\*n=20\), got \(15,\)"),
        ({"peephole": torch.zeros(5)}, {}, r"peephole must have shape \(3, n=5\), got \(5,\)"),
        ({"period": torch.ones(1)}, {}, r"period must have shape \(n=5\), got \(1,\)"),
        ({"shift": torch.ones(4)}, {}, r"shift must have shape \(n=5\), got \(4,\)"),
        ({"on_ratio": torch.ones(5, 1)}, {}, r"on_ratio must have shape \(n=5\), got \(5, 1\)"),
        ({"hidden": torch.zeros(1, 5)}, {}, r"hidden must have shape \(B=3, n=5\), got \(1, 5\)"),
        ({"cells": torch.zeros(3, 4)}, {}, r"cells must have shape \(B=3, n=5\), got \(3, 4\)"),
        ({"cells": None}, {}, "cells must be given for the cell lstm and no other"),
        ({}, {"lengths": torch.tensor([1, 2])}, r"lengths must have shape \(B=3\), got"),
        ({}, {"lengths": torch.tensor([1, 2, 5])}, r"lengths must lie in \[0, T=4\]"),
    ],
)
def test_bad_input_gets_one_clear_error(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ours("lstm", changed(**arguments), **options)


def test_what_only_one_cell_has():
    with pytest.raises(ValueError, match="cell must be one of lstm, gru; got 'rnn'"):
        ours("rnn", changed())
    with pytest.raises(ValueError, match="cells must be given for the cell lstm and no other"):
        ours("gru", changed("gru", cells=torch.zeros(3, 5)))
    with pytest.raises(ValueError, match="peephole must be None for the cell gru"):
        ours("gru", changed("gru", peephole=torch.zeros(3, 5)))
    with pytest.raises(ValueError, match="lengths and cu_seqlens must not both be given"):
        ours("lstm", changed(), lengths=torch.tensor([4]), cu_seqlens=torch.tensor([0, 4]))
    with pytest.raises(ValueError, match=r"cu_seqlens must run from 0 to T=4, got \[0, 2, 3\]"):
        ours("lstm", draw("lstm", 0, 2, 3, 5, lead=(4,)), cu_seqlens=torch.tensor([0, 2, 3]))
