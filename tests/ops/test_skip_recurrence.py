"""`skip_recurrence` against the equations, one sequence and one step at a time, in float64."""

import itertools

import pytest
import torch
from torch import sigmoid, tanh

from longrnn import budget_loss
from longrnn.ops.skip_recurrence.op import skip_recurrence

CELLS = ["lstm", "gru", "gru-reset-before"]
each_cell = pytest.mark.parametrize("cell", CELLS)


def lstm(x, h, c, weight_ih, weight_hh, bias):
    i, f, g, o = (weight_ih @ x + weight_hh @ h + bias).chunk(4)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def gru(x, h, _, weight_ih, weight_hh, bias, before=False):
    (x_r, x_z, x_n), (to_r, to_z, to_n) = (weight_ih @ x).chunk(3), weight_hh.chunk(3)
    b_x, b_r, b_z, b_h = bias.chunk(4)
    r, z = sigmoid(x_r + to_r @ h + b_r), sigmoid(x_z + to_z @ h + b_z)
    n = tanh(x_n + b_x + (to_n @ (r * h) + b_h if before else r * (to_n @ h + b_h)))
    h = (1 - z) * n + z * h
    return h, h


def gru_reset_before(*arguments):
    return gru(*arguments, before=True)


EQUATIONS = {"lstm": lstm, "gru": gru, "gru-reset-before": gru_reset_before}


def one_sequence(cell, xs, weights, weight_u, bias_u, h, c, p, kappa, masks):
    """x (T, m), h and c (L, n), p and kappa (1,), masks (L - 1, T, n) or None."""
    h, c, outputs, updates = list(h), list(c), [], []
    for t, below in enumerate(xs.unbind()):
        accumulated = kappa + (p if p <= 1 - kappa else 1 - kappa)
        u = accumulated + (torch.round(accumulated) - accumulated).detach()
        for k in range(len(h)):
            new_h, new_c = EQUATIONS[cell](below, h[k], c[k], *weights[3 * k : 3 * k + 3])
            h[k] = u * new_h + (1 - u) * h[k]
            c[k] = u * new_c + (1 - u) * c[k]
            below = new_h if masks is None or k == len(h) - 1 else new_h * masks[k, t]
        p = u * sigmoid(weight_u @ new_c + bias_u) + (1 - u) * p
        kappa = (1 - u) * accumulated
        outputs.append(h[-1])
        updates.append(u)
    return outputs, updates, torch.stack(h), torch.stack(c), p, kappa


def reference(cell, tensors, masks=None, lengths=None, cu_seqlens=None, batch_first=False):
    """The same arguments and results as the op's, a sequence at a time."""
    x, weights, weight_u, bias_u, hidden, cells, p, kappa = tensors
    if cu_seqlens is not None:
        pieces = list(itertools.pairwise(cu_seqlens.tolist()))
        xs = [x[start:end] for start, end in pieces]
        per_mask = [None if masks is None else masks[:, start:end] for start, end in pieces]
    else:
        time_first = x.transpose(0, 1) if batch_first else x
        T, B = time_first.shape[:2]
        ends = [T] * B if lengths is None else lengths.tolist()
        xs = [time_first[:end, b] for b, end in enumerate(ends)]
        if masks is not None and batch_first:
            masks = masks.transpose(1, 2)
        per_mask = [None if masks is None else masks[:, :end, b] for b, end in enumerate(ends)]
    results = [
        one_sequence(
            cell, xs[b], weights, weight_u, bias_u, hidden[:, b],
            (hidden if cells is None else cells)[:, b], p[b], kappa[b], per_mask[b],
        )
        for b in range(len(xs))
    ]  # fmt: skip
    n = hidden.shape[-1]
    columns = []
    for which, width in ((0, n), (1, 1)):
        steps = [torch.stack([*r[which], x.new_zeros(width)])[:-1] for r in results]
        if cu_seqlens is not None:
            columns.append(torch.cat(steps))
        else:
            padded = [torch.cat([s, x.new_zeros(T - len(s), width)]) for s in steps]
            columns.append(torch.stack([*padded, x.new_zeros(T, width)])[:-1])
            columns[-1] = columns[-1] if batch_first else columns[-1].transpose(0, 1)
    empty = hidden.new_zeros(hidden.shape[0], 0, n)
    last_h, last_c = (torch.cat([empty, *(r[i].unsqueeze(1) for r in results)], 1) for i in (2, 3))
    scalars = [torch.stack([*(r[i] for r in results), p.new_zeros(1)])[:-1] for i in (4, 5)]
    return *columns, last_h, None if cells is None else last_c, *scalars


def draw(cell, T, B, m, n, layers=1, dtype=torch.float64, lead=None):
    """Arguments of the op, with a gate that opens about every second or third step."""
    gates = 4 if cell == "lstm" else 3

    def normal(*shape, scale=1.0):
        return (torch.randn(*shape, dtype=torch.float64) * scale).to(dtype)

    weights = []
    for k in range(layers):
        width = n if k else m
        weights += [normal(gates * n, width, scale=width**-0.5)]
        weights += [normal(gates * n, n, scale=n**-0.5), normal(4 * n, scale=0.5)]
    wide = torch.promote_types(dtype, torch.float32)
    return [
        normal(*(lead or (T, B)), m),
        weights,
        normal(1, n, scale=n**-0.5).to(wide),
        torch.full((1,), -0.7, dtype=wide),
        normal(layers, B, n),
        normal(layers, B, n) if cell == "lstm" else None,
        torch.rand(B, 1, dtype=torch.float64).to(wide),
        (torch.rand(B, 1, dtype=torch.float64) / 2).to(wide),
    ]


def flat(tensors):
    """Those that gradients flow to."""
    x, weights, *rest = tensors
    return [x, *weights, *(t for t in rest if t is not None)]


def leaves(tensors, dtype=None):
    """Fresh copies that ask for gradients."""

    def copy(t):
        return None if t is None else t.detach().to(dtype or t.dtype).requires_grad_()

    x, weights, *rest = tensors
    return [copy(x), [copy(w) for w in weights], *map(copy, rest)]


def cotangents(values, which):
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in values]
    return [drawn[i].to(values[i]) for i in which]


def value_and_grads(function, tensors, which=range(6)):
    """Results, and gradients through those that `which` counts."""
    values = function(tensors)
    picked = [i for i in which if values[i] is not None]
    present = [values[i] for i in picked]
    grads = torch.autograd.grad(
        present, flat(tensors), cotangents(values_only(values), only(values, picked)),
        materialize_grads=True,
    )  # fmt: skip
    return [*values_only(values), *grads]


def values_only(values):
    return [v for v in values if v is not None]


def only(values, picked):
    """Places among the present values."""
    return [sum(v is not None for v in values[:i]) for i in picked]


def ours(cell, tensors, **options):
    return skip_recurrence(*tensors, cell, **options)


def assert_accurate(got, expected, dtype, eps_count=64):
    eps = torch.finfo(dtype).eps
    for place, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.shape == b.shape, place
        if b.numel():
            allowed = eps_count * eps * b.abs().max().clamp(min=1)
            assert (a.double() - b).abs().max() <= allowed, place


def compare(cell, tensors, which=range(6), **options):
    got = value_and_grads(lambda v: ours(cell, v, **options), leaves(tensors), which)
    expected = value_and_grads(lambda v: reference(cell, v, **options), leaves(tensors), which)
    assert_accurate(got, expected, torch.float64, 1024)
    if got[1].numel() > 20:
        assert 0 < got[1].mean() < 1  # some steps update and some are skipped
    return got


@each_cell
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_as_the_equations_say(kernel, cell, layers):
    for T, B, m, n in [(1, 1, 1, 1), (9, 7, 3, 5), (6, 2, 20, 17)]:
        compare(cell, draw(cell, T, B, m, n, layers))


@each_cell
def test_more_sequences_than_a_team_holds(kernel, cell):
    for threads in (1, 2):
        torch.set_num_threads(threads)
        compare(cell, draw(cell, 7, 25, 4, 5, 2))  # six in a team
    torch.set_num_threads(1)
    # 24 in a team; some end early and make room, one never begins
    tensors = draw(cell, 5, 29, 3, 72, 3)
    lengths = torch.randint(0, 6, (29,))
    lengths[:3] = torch.tensor([0, 1, 5])
    compare(cell, tensors, lengths=lengths)


@each_cell
def test_many_units_and_a_long_sequence(kernel, cell):
    compare(cell, draw(cell, 5, 3, 70, 129))
    compare(cell, draw(cell, 101 if kernel == "plain" else 401, 2, 2, 6))


@each_cell
@pytest.mark.parametrize("threads", [1, 2])
def test_work_worth_a_second_thread(cell, threads):
    torch.set_num_threads(threads)
    compare(cell, draw(cell, 33, 9, 5, 40, 2))


@each_cell
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("layout", ["batch first", "lengths", "batch first lengths", "end to end"])
def test_every_layout(kernel, cell, layout, masked):
    T, B, lead, options = 9, 5, (9, 5), {}
    if "batch first" in layout:
        lead, options["batch_first"] = (B, T), True
    if "lengths" in layout:
        options["lengths"] = torch.tensor([3, 9, 0, 8, 1])
    if layout == "end to end":
        lead, options["cu_seqlens"] = (23,), torch.tensor([0, 0, 9, 10, 10, 23])
    if masked:
        options["masks"] = (torch.rand(2, *lead, 5, dtype=torch.float64) < 0.5) * 2.0
    compare(cell, draw(cell, T, B, 3, 5, 3, lead=lead), **options)


@each_cell
@pytest.mark.parametrize("which", range(6))
def test_gradient_through_one_result(cell, which):
    if cell != "lstm" and which == 3:
        pytest.skip("no cells")
    compare(cell, draw(cell, 9, 3, 2, 5, 2), (which,))
    lengths = torch.tensor([4, 0, 9])
    compare(cell, draw(cell, 9, 3, 2, 5, 2), (which,), lengths=lengths)


@each_cell
def test_a_budget_reaches_the_gate(kernel, cell):
    lengths, tensors = torch.tensor([9, 4, 0]), draw(cell, 9, 3, 2, 5, 2)
    tensors[6] /= 2  # p, not what is left to 1
    grads = []
    for function in (ours, reference):
        copies = leaves(tensors)
        updates = function(cell, copies, lengths=lengths)[1]
        grads.append(
            torch.autograd.grad(
                budget_loss(updates, 0.5, target=3), flat(copies), materialize_grads=True
            )
        )
    torch.testing.assert_close(*grads)
    assert all(g.any() for g in grads[0])


@each_cell
@pytest.mark.parametrize("B", [0, 3])
def test_no_steps_keep_the_state(kernel, cell, B):
    tensors = leaves(draw(cell, 0, B, 2, 5, 2))
    values = ours(cell, tensors)
    assert values[0].shape == (0, B, 5)
    assert values[1].shape == (0, B, 1)
    state = [t for t in tensors[4:] if t is not None]
    last = values_only(values[2:])
    assert all(torch.equal(a, b) for a, b in zip(last, state, strict=True))
    outer = cotangents(last, range(len(last)))
    grads = torch.autograd.grad(last, [*flat(tensors)], outer, materialize_grads=True)
    assert not any(g.any() for g in grads[: -len(state)])
    assert all(torch.equal(a, b) for a, b in zip(grads[-len(state) :], outer, strict=True))


@each_cell
def test_no_sequences_give_empty_results(kernel, cell):
    tensors = leaves(draw(cell, 4, 0, 2, 5, 2))
    values = values_only(ours(cell, tensors))
    assert [v.numel() for v in values] == [0] * len(values)
    grads = torch.autograd.grad(sum(v.sum() for v in values), flat(tensors))
    assert not any(g.any() for g in grads)


@each_cell
def test_arguments_of_any_stride(kernel, cell):
    tensors = draw(cell, 6, 3, 4, 5, 2)
    masks, lengths = torch.rand(1, 6, 3, 5, dtype=torch.float64), torch.tensor([6, 0, 4])
    expected = compare(cell, tensors, masks=masks, lengths=lengths)

    def spread(t):
        if t is None:
            return None
        wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), torch.nan, dtype=t.dtype)
        wide[..., 1::2] = t
        return wide[..., 1::2]

    x, weights, *rest = tensors
    copies = [spread(x), [spread(w) for w in weights], *map(spread, rest)]
    assert not any(t.is_contiguous() for t in flat(copies) if t.shape[-1] > 1)
    for t in flat(copies):
        t.requires_grad_()
    apart = torch.tensor([6, 9, 0, 9, 4])[::2]
    again = value_and_grads(lambda v: ours(cell, v, masks=spread(masks), lengths=apart), copies)
    assert_accurate(again, expected, torch.float64)


@each_cell
def test_skipping_gives_the_bits_of_evaluating_every_step(kernel, cell):
    if kernel == "plain":
        pytest.skip("the plain form evaluates every step and blends")
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        tensors = draw(cell, 17, 9, 3, 7, 2, dtype)
        lengths = torch.tensor([17, 0, 3, 17, 5, 1, 2, 16, 9])
        dense = ours(cell, leaves(tensors), lengths=lengths)
        assert dense[0].requires_grad
        assert 0 < dense[1].sum() < lengths.sum()
        quick = ours(cell, tensors, lengths=lengths)
        with torch.no_grad():
            without = ours(cell, leaves(tensors), lengths=lengths)
        for a, b, c in zip(dense, quick, without, strict=True):
            assert a is None or (torch.equal(a, b) and torch.equal(a, c))
            assert b is None or not b.requires_grad


@each_cell
@pytest.mark.parametrize("layout", ["padded", "end to end"])
def test_a_skipped_input_is_never_looked_at(kernel, cell, layout):
    if kernel == "plain":
        pytest.skip("the plain form evaluates every step and blends")
    if layout == "padded":
        tensors, options = draw(cell, 17, 9, 3, 7, 2), {"lengths": torch.arange(17, 8, -1)}
    else:
        ends = torch.tensor([0, 50, 50, 53, 100])
        tensors, options = draw(cell, 100, 4, 3, 7, 2, lead=(100,)), {"cu_seqlens": ends}
    wanted = ours(cell, tensors, **options)
    skipped = wanted[1].squeeze(-1) == 0
    assert 20 < skipped.sum() < skipped.numel() - 20
    tensors[0][skipped] = torch.nan
    for a, b in zip(ours(cell, tensors, **options), wanted, strict=True):
        assert a is None or torch.equal(a, b)


@each_cell
def test_padding_is_never_looked_at(kernel, cell):
    if kernel == "plain":
        pytest.skip("layers zero the padding of inputs")
    tensors, lengths = draw(cell, 9, 4, 3, 7, 2), torch.tensor([9, 0, 2, 5])
    padded = torch.arange(9).unsqueeze(1) >= lengths
    results = []
    for poison in (0.0, torch.nan):
        tensors[0][padded] = poison
        results.append(value_and_grads(lambda v: ours(cell, v, lengths=lengths), leaves(tensors)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    output, updates = results[0][:2]
    assert not output[padded].any()
    assert not updates[padded].any()


def constant_gate(cell, T, bias_u, p=1.0, dtype=torch.float32):
    """Zero weights, so that an update sets p to the sigmoid of the bias."""
    tensors = [None if t is None else t for t in draw(cell, T, 1, 2, 3, dtype=dtype)]
    tensors[1] = [torch.zeros_like(w) for w in tensors[1]]
    tensors[2] = torch.zeros_like(tensors[2])
    tensors[3] = torch.tensor([bias_u])
    tensors[6:] = [torch.full((1, 1), p), torch.zeros(1, 1)]
    return tensors


@each_cell
@pytest.mark.parametrize(
    ("probability", "pattern"),
    [(0.3, "1010101"), (0.2, "1001001"), (0.731, "1111111"), (0.5, "1010101"), (0.05, "1000000")],
)
def test_patterns_of_a_constant_gate(kernel, cell, probability, pattern):
    bias_u = torch.tensor(probability).logit().item()
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            updates = ours(cell, leaves(constant_gate(cell, 7, bias_u)))[1]
        assert "".join(str(int(u)) for u in updates.flatten()) == pattern
    assert ours(cell, constant_gate(cell, 50, 1.0))[1].all()  # as a layer starts


@pytest.mark.parametrize(
    ("probability", "step"), [(0.1, 6), (0.25, 3), (0.05, 10), (0.5, 2), (0.3, 2), (0.51, 1)]
)
def test_the_wish_grows_by_float_additions_and_a_tie_skips(kernel, probability, step):
    """Not by a product: five times 0.1 is a half, ten times 0.05 more than that."""
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            tensors = leaves(constant_gate("lstm", 12, 1.0, probability))
            _, updates, *_, kappa = ours("lstm", tensors)
            assert updates.flatten().tolist().index(1.0) + 1 == step
            halfway = leaves(constant_gate("lstm", step - 1, 1.0, probability))
            *_, p, kappa = ours("lstm", halfway)
        grown = torch.zeros(())
        for _ in range(step - 1):
            grown = grown + torch.tensor(probability)
        assert kappa.item() == grown.item()
        assert p.item() == torch.tensor(probability).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_small_probabilities_do_not_stall_in_sixteen_bits(kernel, dtype):
    tensors = constant_gate("lstm", 600, 0.0, 0.0005, dtype)
    tensors[7] = torch.full((1, 1), 0.25)
    output, updates, hidden, cells, p, kappa = ours("lstm", tensors)
    assert output.dtype == hidden.dtype == cells.dtype == dtype
    assert updates.dtype == p.dtype == kappa.dtype == torch.float32
    assert 499 <= updates.flatten().tolist().index(1.0) <= 501


@each_cell
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_numbers(kernel, cell, dtype):
    if kernel == "plain" and dtype != torch.float32:
        pytest.skip("the plain form widens its arguments")
    tensors = draw(cell, 13, 3, 4, 9, 2, dtype)
    got = value_and_grads(lambda v: ours(cell, v), leaves(tensors))
    exact = value_and_grads(lambda v: reference(cell, v), leaves(tensors, torch.float64))
    assert [t.dtype for t in got[-len(flat(tensors)) :]] == [t.dtype for t in flat(tensors)]
    assert torch.equal(got[1].double(), exact[1])
    assert_accurate(got, exact, dtype)


@each_cell
def test_second_derivatives(kernel, cell):
    """Of every gradient by every argument; differences cannot judge a rounded gate."""
    for options in ({}, {"lengths": torch.tensor([4, 2])}):
        tensors = draw(cell, 4, 2, 2, 3, 2)
        seconds = []
        for function in (ours, reference):
            copies = leaves(tensors)
            values = values_only(function(cell, copies, **options))
            outer = [v.requires_grad_() for v in cotangents(values, range(len(values)))]
            firsts = torch.autograd.grad(values, flat(copies), outer, create_graph=True)
            seconds.append(
                torch.autograd.grad(
                    firsts, flat(copies) + outer, cotangents(firsts, range(len(firsts)))
                )
            )
        assert_accurate(*seconds, torch.float64, 1024)


def test_transforms_of_torch_func():
    x, weights, *rest = draw("lstm", 5, 2, 3, 4)

    def loss(x):
        output, updates, *_ = skip_recurrence(x, weights, *rest, "lstm")
        return (output**2).sum() + updates.sum()

    copy = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(copy), copy)
    torch.testing.assert_close(torch.func.grad(loss)(x), wanted)
    mapped = torch.func.vmap(loss)(torch.stack([x, x + 1]))
    torch.testing.assert_close(mapped, torch.stack([loss(x), loss(x + 1)]))


@each_cell
@pytest.mark.parametrize("keep", [False, True])
def test_dispatcher_registration_is_complete(cell, keep):
    x, weights, *rest = leaves(draw(cell, 4, 2, 3, 5, 2)) if keep else draw(cell, 4, 2, 3, 5, 2)
    masks = torch.rand(1, 4, 2, 5, dtype=torch.float64)
    op = torch.ops.longrnn.skip_recurrence.default
    for ragged in ((torch.tensor([4, 4]), None), (None, None)):  # what is kept of padding is NaN
        torch.library.opcheck(op, (x, weights, *rest, masks, *ragged, cell, 0, keep))


@each_cell
def test_the_same_bits_whatever_the_threads_and_the_batch(kernel, cell):
    if kernel == "plain":
        pytest.skip("torch's products round as their sizes say")
    tensors = draw(cell, 33, 25, 5, 40, 2)
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(value_and_grads(lambda v: ours(cell, v), leaves(tensors)))
    for a, b in zip(results[1], results[2], strict=True):
        assert torch.equal(a, b)
    x, weights, weight_u, bias_u, *state = tensors
    values = len(values_only(ours(cell, tensors)))
    for a, b in zip(results[0][:values], results[1][:values], strict=True):
        assert torch.equal(a, b)
    for b in (0, 11, 24):
        alone = [None if t is None else t[..., b : b + 1, :] for t in state]
        one = ours(cell, [x[:, b : b + 1], weights, weight_u, bias_u, *alone])
        for a, mine in zip(results[0][:values], values_only(one), strict=True):
            assert torch.equal(a[..., b : b + 1, :], mine)


def test_compiles_to_one_graph():
    tensors, lengths = draw("gru", 5, 2, 3, 4, 2), torch.tensor([5, 3])

    def function(tensors):
        return ours("gru", tensors, lengths=lengths)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    eager = value_and_grads(function, leaves(tensors))
    for a, b in zip(value_and_grads(compiled, leaves(tensors)), eager, strict=True):
        torch.testing.assert_close(a, b)


def changed(place, value):
    tensors = draw("lstm", 4, 3, 2, 5, 2, torch.float32)
    if isinstance(place, tuple):
        tensors[1][place[1]] = value
    else:
        tensors[place] = value
    return tensors


ZERO = torch.zeros(3, 1)


@pytest.mark.parametrize(
    ("place", "value", "options", "message"),
    [
        (0, torch.zeros(4, 3, 2).long(), {}, "x must have a floating dtype, got torch.int64"),
        (0, torch.zeros(4, 2), {}, r"x must have 3 dimensions, got shape \(4, 2\)"),
        (1, [], {}, "weights must be three tensors a layer, got 0"),
        (1, [torch.zeros(20, 2)] * 4, {}, "weights must be three tensors a layer, got 4"),
        ((1, 0), torch.zeros(15, 2), {}, r"weights\[0\] must have shape \(20, 2\), got \(15, 2\)"),
        ((1, 4), torch.zeros(20, 4), {}, r"weights\[4\] must have shape \(20, 5\), got \(20, 4\)"),
        (2, torch.zeros(5), {}, r"weight_u must have shape \(gate=1, n\), got \(5,\)"),
        (3, torch.zeros(0), {}, r"bias_u must have shape \(gate=1\), got \(0,\)"),
        (4, torch.zeros(2, 4, 5), {}, r"hidden must have shape \(L=2, B=3, n=5\), got \(2, 4, 5\)"),
        (5, torch.zeros(1, 3, 5), {}, r"cells must have shape \(L=2, B=3, n=5\), got \(1, 3, 5\)"),
        (5, None, {}, "cells must be given for the cell lstm and no other, got lstm"),
        (6, ZERO[0], {}, r"update_prob must have shape \(B=3, 1\), got \(1,\)"),
        (7, ZERO[:2], {}, r"accum_prob must have shape \(B=3, 1\), got \(2, 1\)"),
        (
            7,
            ZERO,
            {"lengths": torch.tensor([1, 2])},
            r"lengths must have shape \(B=3\), got \(2,\)",
        ),
        (7, ZERO, {"lengths": torch.tensor([1, 2, 5])}, r"lengths must lie in \[0, T=4\]"),
        (7, ZERO, {"masks": torch.zeros(2, 4, 3, 5)}, r"masks must have shape \(1, 4, 3, 5\), got"),
        (
            7,
            ZERO,
            {"lengths": torch.tensor([1, 2, 4]), "cu_seqlens": torch.tensor([0, 4])},
            "lengths and cu_seqlens must not both be given",
        ),
        (0, torch.zeros(4, 2), {"cu_seqlens": torch.tensor([0, 1, 2, 3])}, "cu_seqlens must run"),
        (
            0,
            torch.zeros(4, 2),
            {"cu_seqlens": torch.tensor([0, 3, 2, 4])},
            "cu_seqlens must ascend",
        ),
        (0, torch.zeros(4, 2), {"cu_seqlens": torch.tensor([4])}, "cu_seqlens must hold at least"),
    ],
)
def test_bad_input_gets_one_clear_error(place, value, options, message):
    with pytest.raises(ValueError, match=message):
        skip_recurrence(*changed(place, value), "lstm", **options)


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="cell must be one of lstm, gru, gru-reset-before; got"):
        skip_recurrence(*draw("gru", 4, 3, 2, 5), "rnn")
    with pytest.raises(ValueError, match="cells must be given for the cell lstm and no other"):
        skip_recurrence(*draw("lstm", 4, 3, 2, 5)[:1], *draw("gru", 4, 3, 2, 5)[1:5],
                        torch.zeros(1, 3, 5), ZERO, ZERO, "gru")  # fmt: skip
