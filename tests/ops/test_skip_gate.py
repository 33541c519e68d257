"""`skip_gate` against the equations, one sequence and one step at a time, in float64."""

import itertools

import pytest
import torch
from torch import sigmoid

from longrnn import budget_loss
from longrnn.ops.skip_gate.op import skip_gate


def one_sequence(xs, weight_u, bias_u, p, kappa):
    """xs (T, m), p and kappa (1,)."""
    updates = []
    for x in xs.unbind():
        accumulated = kappa + (p if p <= 1 - kappa else 1 - kappa)
        u = accumulated + (torch.round(accumulated) - accumulated).detach()
        p = u * sigmoid(weight_u @ x + bias_u) + (1 - u) * p
        kappa = (1 - u) * accumulated
        updates.append(u)
    return torch.stack([*updates, p.new_zeros(1)])[:-1], p, kappa


def reference(tensors, lengths=None, cu_seqlens=None, batch_first=False):
    """The same arguments and results as the op's, a sequence at a time."""
    x, weight_u, bias_u, p, kappa = tensors
    if cu_seqlens is not None:
        xs = [x[start:end] for start, end in itertools.pairwise(cu_seqlens.tolist())]
    else:
        time_first = x.transpose(0, 1) if batch_first else x
        T, B = time_first.shape[:2]
        ends = [T] * B if lengths is None else lengths.tolist()
        xs = [time_first[:end, b] for b, end in enumerate(ends)]
    results = [one_sequence(xs[b], weight_u, bias_u, p[b], kappa[b]) for b in range(len(xs))]
    updates, *last = zip(*results, strict=True)
    last = [torch.stack(member) for member in last]
    if cu_seqlens is not None:
        return torch.cat(updates), *last
    padded = [torch.cat([u, x.new_zeros(T - len(u), 1)]) for u in updates]
    return torch.stack(padded, 0 if batch_first else 1), *last


def draw(T, B, m, dtype=torch.float64, lead=None):
    """Arguments of the op, with a gate that opens about every second or third step."""
    wide = torch.promote_types(dtype, torch.float32)
    return [
        torch.randn(*(lead or (T, B)), m, dtype=torch.float64).to(dtype),
        (torch.randn(1, m, dtype=torch.float64) / m**0.5).to(wide),
        torch.full((1,), -0.7, dtype=wide),
        torch.rand(B, 1, dtype=torch.float64).to(wide),
        (torch.rand(B, 1, dtype=torch.float64) / 2).to(wide),
    ]


def leaves(tensors, dtype=None):
    """Fresh copies that ask for gradients."""
    return [t.detach().to(dtype or t.dtype).requires_grad_() for t in tensors]


def cotangents(values, which):
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in values]
    return [drawn[i].to(values[i]) for i in which]


def value_and_grads(function, tensors, which=range(3)):
    """Results, and gradients through those that `which` counts."""
    values = function(tensors)
    picked = [values[i] for i in which]
    outer = cotangents(values, which)
    grads = torch.autograd.grad(picked, tensors, outer, materialize_grads=True)
    return [*values, *grads]


def ours(tensors, **options):
    return skip_gate(*tensors, **options)


def assert_accurate(got, expected, eps_count=64):
    for place, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.shape == b.shape, place
        if b.numel():
            allowed = eps_count * torch.finfo(a.dtype).eps * b.abs().max().clamp(min=1)
            assert (a.double() - b).abs().max() <= allowed, place


def compare(tensors, which=range(3), **options):
    got = value_and_grads(lambda v: ours(v, **options), leaves(tensors), which)
    expected = value_and_grads(lambda v: reference(v, **options), leaves(tensors), which)
    assert_accurate(got, expected, 1024)
    assert torch.equal(got[0], expected[0])
    if got[0].numel() > 20:
        assert 0 < got[0].mean() < 1  # some steps update and some are skipped
    return got


def test_as_the_equations_say(kernel):
    for T, B, m in [(1, 1, 1), (9, 7, 3), (6, 2, 16), (401, 2, 33)]:
        compare(draw(T, B, m))


@pytest.mark.parametrize("threads", [1, 2])
def test_work_worth_a_second_thread(threads):
    torch.set_num_threads(threads)
    compare(draw(401, 3, 1001))


@pytest.mark.parametrize("layout", ["batch first", "lengths", "batch first lengths", "end to end"])
def test_every_layout(kernel, layout):
    T, B, lead, options = 9, 5, (9, 5), {}
    if "batch first" in layout:
        lead, options["batch_first"] = (B, T), True
    if "lengths" in layout:
        options["lengths"] = torch.tensor([3, 9, 0, 8, 1])
    if layout == "end to end":
        lead, options["cu_seqlens"] = (23,), torch.tensor([0, 0, 9, 10, 10, 23])
    compare(draw(T, B, 3, lead=lead), **options)


@pytest.mark.parametrize("which", range(3))
def test_gradient_through_one_result(kernel, which):
    compare(draw(9, 3, 2), (which,))
    compare(draw(9, 3, 2), (which,), lengths=torch.tensor([4, 0, 9]))


def test_a_budget_reaches_the_gate(kernel):
    lengths, tensors = torch.tensor([9, 4, 0]), draw(9, 3, 2)
    tensors[3] /= 2  # p, not what is left to 1
    grads = []
    for function in (ours, reference):
        copies = leaves(tensors)
        updates = function(copies, lengths=lengths)[0]
        grads.append(torch.autograd.grad(budget_loss(updates, 0.5, target=3), copies))
    torch.testing.assert_close(*grads)
    assert all(g.any() for g in grads[0])


@pytest.mark.parametrize("B", [0, 3])
def test_no_steps_keep_the_state(kernel, B):
    tensors = leaves(draw(0, B, 2))
    updates, *last = ours(tensors)
    assert updates.shape == (0, B, 1)
    assert all(torch.equal(a, b) for a, b in zip(last, tensors[3:], strict=True))
    outer = cotangents(last, range(2))
    grads = torch.autograd.grad(last, tensors, outer, materialize_grads=True)
    assert not any(g.any() for g in grads[:3])
    assert all(torch.equal(a, b) for a, b in zip(grads[3:], outer, strict=True))


def test_no_sequences_give_empty_results(kernel):
    tensors = leaves(draw(4, 0, 2))
    values = ours(tensors)
    assert [v.numel() for v in values] == [0, 0, 0]
    grads = torch.autograd.grad(sum(v.sum() for v in values), tensors)
    assert not any(g.any() for g in grads)


def test_arguments_of_any_stride(kernel):
    tensors, lengths = draw(6, 3, 4), torch.tensor([6, 0, 4])
    expected = compare(tensors, lengths=lengths)

    def spread(t):
        wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), torch.nan, dtype=t.dtype)
        wide[..., 1::2] = t
        return wide[..., 1::2].requires_grad_()

    copies = [spread(t) for t in tensors]
    apart = torch.tensor([6, 9, 0, 9, 4])[::2]
    assert_accurate(value_and_grads(lambda v: ours(v, lengths=apart), copies), expected)


@pytest.mark.parametrize("layout", ["padded", "end to end"])
@pytest.mark.parametrize("m", [1, 7, 40])
def test_a_skipped_input_is_never_looked_at(kernel, layout, m):
    """And the gate is the same, to the bit, as where every input is."""
    if kernel == "plain":
        pytest.skip("the plain form reads every input")
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        if layout == "padded":
            tensors, options = draw(17, 9, m, dtype), {"lengths": torch.arange(17, 8, -1)}
        else:
            tensors = draw(100, 4, m, dtype, (100,))
            options = {"cu_seqlens": torch.tensor([0, 50, 50, 53, 100])}
        wanted = ours(leaves(tensors), **options)
        assert wanted[0].requires_grad
        skipped = wanted[0].squeeze(-1) == 0
        assert 20 < skipped.sum() < skipped.numel() - 20
        tensors[0][skipped] = torch.nan
        for a, b in zip(ours(tensors, **options), wanted, strict=True):
            assert not a.requires_grad
            assert torch.equal(a, b)
        with torch.no_grad():
            assert torch.equal(ours(leaves(tensors), **options)[0], wanted[0])


def test_padding_is_never_looked_at(kernel):
    if kernel == "plain":
        pytest.skip("layers zero the padding of inputs")
    tensors, lengths = draw(9, 4, 3), torch.tensor([9, 0, 2, 5])
    padded = torch.arange(9).unsqueeze(1) >= lengths
    results = []
    for poison in (0.0, torch.nan):
        tensors[0][padded] = poison
        results.append(value_and_grads(lambda v: ours(v, lengths=lengths), leaves(tensors)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    assert not results[0][0][padded].any()


@pytest.mark.parametrize(
    ("probability", "step"), [(0.1, 6), (0.25, 3), (0.05, 10), (0.5, 2), (0.3, 2), (0.51, 1)]
)
def test_the_wish_grows_by_float_additions_and_a_tie_skips(kernel, probability, step):
    """Not by a product: five times 0.1 is a half, ten times 0.05 more than that."""
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            tensors = draw(12, 1, 2, torch.float32)
            tensors[3:] = [torch.full((1, 1), probability), torch.zeros(1, 1)]
            updates, *_ = ours(leaves(tensors))
            assert updates.flatten().tolist().index(1.0) + 1 == step
            _, p, kappa = ours(leaves([tensors[0][: step - 1], *tensors[1:]]))
        grown = torch.zeros(())
        for _ in range(step - 1):
            grown = grown + torch.tensor(probability)
        assert kappa.item() == grown.item()
        assert p.item() == torch.tensor(probability).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_inputs_have_a_wide_gate(kernel, dtype):
    tensors = draw(13, 3, 4, dtype)
    got = value_and_grads(ours, leaves(tensors))
    exact = value_and_grads(reference, leaves(tensors, torch.float64))
    assert [t.dtype for t in got] == [torch.float32] * 3 + [dtype] + [torch.float32] * 4
    assert torch.equal(got[0].double(), exact[0])
    assert_accurate(got, exact)
    small = draw(600, 1, 2, dtype)
    small[3:] = [torch.full((1, 1), 0.0005), torch.full((1, 1), 0.25)]
    assert 499 <= ours(small)[0].flatten().tolist().index(1.0) <= 501


def test_second_derivatives(kernel):
    """Of every gradient by every argument; differences cannot judge a rounded gate."""
    for options in ({}, {"lengths": torch.tensor([4, 2])}):
        tensors, seconds = draw(5, 2, 2), []
        for function in (ours, reference):
            copies = leaves(tensors)
            values = function(copies, **options)
            outer = [v.requires_grad_() for v in cotangents(values, range(3))]
            firsts = torch.autograd.grad(values, copies, outer, create_graph=True)
            seconds.append(
                torch.autograd.grad(firsts, copies + outer, cotangents(firsts, range(5)))
            )
        assert_accurate(*seconds)


def test_transforms_of_torch_func():
    x, *rest = draw(5, 2, 3)

    def loss(x):
        updates, p, kappa = skip_gate(x, *rest)
        return updates.sum() + (p * kappa).sum()

    copy = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(copy), copy)
    torch.testing.assert_close(torch.func.grad(loss)(x), wanted)
    mapped = torch.func.vmap(loss)(torch.stack([x, x + 1]))
    torch.testing.assert_close(mapped, torch.stack([loss(x), loss(x + 1)]))


@pytest.mark.parametrize("keep", [False, True])
def test_dispatcher_registration_is_complete(keep):
    tensors = leaves(draw(4, 2, 3)) if keep else draw(4, 2, 3)
    op = torch.ops.longrnn.skip_gate.default
    for ragged in ((torch.tensor([4, 4]), None), (None, None)):
        torch.library.opcheck(op, (*tensors, *ragged, 0, keep))


def test_the_same_bits_whatever_the_threads_and_the_batch(kernel):
    if kernel == "plain":
        pytest.skip("torch's products round as their sizes say")
    x, *gate = tensors = draw(201, 25, 401)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(value_and_grads(ours, leaves(tensors)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    for b in (0, 11, 24):
        one = ours([x[:, b : b + 1], *gate[:2], gate[2][b : b + 1], gate[3][b : b + 1]])
        for a, mine in zip(results[0], one, strict=False):
            assert torch.equal(a[..., b : b + 1, :], mine)


def test_compiles_to_one_graph():
    tensors, lengths = draw(5, 2, 3), torch.tensor([5, 3])

    def function(tensors):
        return ours(tensors, lengths=lengths)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    eager = value_and_grads(function, leaves(tensors))
    for a, b in zip(value_and_grads(compiled, leaves(tensors)), eager, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("place", "value", "options", "message"),
    [
        (0, torch.zeros(4, 3, 2).long(), {}, "x must have a floating dtype, got torch.int64"),
        (0, torch.zeros(4, 2), {}, r"x must have 3 dimensions, got shape \(4, 2\)"),
        (1, torch.zeros(2), {}, r"weight_u must have shape \(gate=1, m=2\), got \(2,\)"),
        (1, torch.zeros(1, 3), {}, r"weight_u must have shape \(gate=1, m=2\), got \(1, 3\)"),
        (2, torch.zeros(0), {}, r"bias_u must have shape \(gate=1\), got \(0,\)"),
        (3, torch.zeros(1), {}, r"update_prob must have shape \(B=3, 1\), got \(1,\)"),
        (4, torch.zeros(2, 1), {}, r"accum_prob must have shape \(B=3, 1\), got \(2, 1\)"),
        (
            4,
            torch.zeros(3, 1),
            {"lengths": torch.tensor([1, 2])},
            r"lengths must have shape \(B=3\), got \(2,\)",
        ),
        (4, torch.zeros(3, 1), {"lengths": torch.tensor([1, 2, 5])}, r"lengths must lie in \[0, T"),
        (
            4,
            torch.zeros(3, 1),
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
    tensors = draw(4, 3, 2, torch.float32)
    tensors[place] = value
    with pytest.raises(ValueError, match=message):
        skip_gate(*tensors, **options)
