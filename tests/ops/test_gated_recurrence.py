"""The fused kernel of every cell against the cell's definition, judged in float64."""

import pytest
import torch

from longrnn.ops.gated_recurrence.cells import CELLS
from longrnn.ops.gated_recurrence.op import gated_recurrence
from longrnn.ops.gated_recurrence.plain import gated_recurrence_plain

each_cell = pytest.mark.parametrize("cell", CELLS)
opened_or_not = pytest.mark.parametrize("opened", [False, True], ids=["whole steps", "opened"])


def arguments(cell, T, B, n, layout, dtype=torch.float64, opened=False):
    """Gates, state, highway and openness, the last two None where there is none; options."""
    options = {}
    lead, sequences = (T, B), B
    if layout == "batch first":
        lead, options["batch_first"] = (B, T), True
    elif layout == "lengths":
        options["lengths"] = torch.arange(T, T - 2 * B, -2).clamp(min=0)
    elif layout == "end to end":
        lead, sequences = (T,), 4
        options["cu_seqlens"] = torch.tensor([0, T // 3, T // 3, T // 2, T])
    gates = (torch.randn(*lead, CELLS[cell].gates * n, dtype=torch.float64) * 2).to(dtype)
    highway = torch.randn(*lead, n, dtype=torch.float64).to(dtype) if CELLS[cell].highway else None
    state = torch.randn(sequences, n, dtype=torch.float64).to(dtype)
    openness = draw_openness(*lead, n).to(dtype) if opened else None
    return [gates, state, highway, openness], options


def draw_openness(*shape):
    """Some steps are taken whole and some not at all."""
    return (torch.rand(shape, dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1)


def in_order(cell, options, reverse=False):
    """The op as a function of its tensors."""

    def fn(gates, state, highway, openness):
        beside = {"highway": highway, "openness": openness}
        return gated_recurrence(gates, state, cell, **beside, reverse=reverse, **options)

    return fn


def value_and_grads(fn, inputs, which):
    """Output, final state, and gradients through one of them or both."""
    inputs = [None if v is None else v.detach().requires_grad_() for v in inputs]
    values = fn(*inputs)
    inputs = [v for v in inputs if v is not None]
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(v.shape, generator=generator).to(v) for v in values]
    grads = torch.autograd.grad(
        [values[i] for i in which], inputs, [cotangents[i] for i in which], materialize_grads=True
    )
    return [*values, *grads]


def compare(
    cell, T, B, n, layout, reverse, dtype=torch.float64, which=(0, 1), opened=False, roundings=16
):
    inputs, options = arguments(cell, T, B, n, layout, dtype, opened)
    ours = in_order(cell, options, reverse)

    def exact(gates, state, highway, openness):
        dim = 1 if options.get("batch_first") else 0
        ragged = options.get("lengths"), options.get("cu_seqlens")
        run = (*ragged, cell, dim, reverse)
        output, _, last = gated_recurrence_plain(gates, highway, openness, state, *run)
        return output, last

    expected = value_and_grads(exact, [None if v is None else v.double() for v in inputs], which)
    got = value_and_grads(ours, inputs, which)
    assert all(v.dtype == dtype for v in got)
    eps = torch.finfo(dtype).eps
    names = ["output", "state", "gates", "h0"]
    names += [
        name for name, v in zip(("highway", "openness"), inputs[2:], strict=True) if v is not None
    ]
    for name, o, e in zip(names, got, expected, strict=True):
        scale = e.abs().max().clamp(min=1) if e.numel() else 1
        error = (o.double() - e).abs().max() if e.numel() else 0
        assert error <= roundings * eps * scale, name


@each_cell
@opened_or_not
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("layout", ["time first", "batch first", "lengths", "end to end"])
def test_every_cell_every_layout(kernel, cell, layout, reverse, opened):
    if kernel == "plain":
        pytest.skip("the plain form is the definition")
    for T, B, n in [(1, 1, 1), (5, 3, 2), (33, 2, 40)]:
        compare(cell, T, B, n, layout, reverse, opened=opened)


@each_cell
@opened_or_not
@pytest.mark.parametrize("threads", [1, 2])
def test_past_many_tiles(cell, threads, opened):
    torch.set_num_threads(threads)
    compare(cell, 12001, 1, 3, "time first", False, opened=opened)  # split over time
    compare(cell, 12001, 1, 3, "end to end", True, opened=opened)
    compare(cell, 700, 2, 129, "batch first", True, opened=opened)  # split over channels


@each_cell
@opened_or_not
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_numbers(kernel, cell, dtype, opened):
    if kernel == "plain":
        pytest.skip("the plain form is the definition")
    compare(cell, 33, 2, 40, "time first", False, dtype, opened=opened)


@each_cell
@opened_or_not
@pytest.mark.parametrize("which", [(0,), (1,)], ids=["output", "final state"])
def test_gradient_through_one_of_the_two(cell, which, opened):
    compare(cell, 9, 3, 5, "time first", False, which=which, opened=opened)
    compare(cell, 9, 3, 5, "lengths", True, which=which, opened=opened)


@each_cell
@opened_or_not
@pytest.mark.parametrize("layout", ["batch first", "lengths", "end to end"])
def test_gradients_match_finite_differences_twice(cell, layout, opened):
    inputs, options = arguments(cell, 4, 3, 2, layout, opened=opened)
    present = [v is not None for v in inputs]
    run = in_order(cell, options)

    def fn(*tensors):
        left = iter(tensors)
        return run(*(next(left) if there else None for there in present))

    inputs = [v.requires_grad_() for v in inputs if v is not None]
    assert torch.autograd.gradcheck(fn, inputs)
    assert torch.autograd.gradgradcheck(fn, inputs)


def states_of(cell, gates, state, highway, openness):
    """The states before and after every step."""
    output, states, last = torch.ops.longrnn.gated_recurrence(
        gates, highway, openness, state, None, None, cell, 0, False, True
    )
    if cell == "surrogate":
        return output, torch.cat([output[1:], last.unsqueeze(0)])
    states = states if states.numel() else output
    return torch.cat([state.unsqueeze(0), states[:-1]]), states


@each_cell
@pytest.mark.parametrize("threads", [1, 2])
def test_shut_steps_keep_the_state_to_the_bit(cell, threads):
    torch.set_num_threads(threads)
    for T, n, rarely in [(2001, 3, 1), (701, 40, 1), (40001, 3, 1e-4), (4001, 40, 1e-3)]:
        inputs, _ = arguments(cell, T, 1, n, "time first", torch.float32, opened=True)
        inputs[-1] *= torch.rand(T, 1, n) < rarely  # long enough shut for a state to cross seams
        before, after = states_of(cell, *inputs)
        shut = inputs[-1] == 0
        assert 0.1 < shut.float().mean() < (0.3 if rarely == 1 else 1)
        assert torch.equal(after[shut], before[shut])
        assert (after != before)[~shut].any()


@pytest.mark.parametrize("cell", [c for c in CELLS if CELLS[c].candidate])
def test_candidates_are_what_whole_steps_make_of_the_states(cell):
    inputs, options = arguments(cell, 50, 2, 20, "time first", opened=True)
    before, _ = states_of(cell, *inputs)
    output, _ = in_order(cell, options)(*inputs)
    whole = cell.removesuffix("-candidate")
    for t in range(50):
        expected, _ = gated_recurrence(inputs[0][t : t + 1], before[t], whole)
        torch.testing.assert_close(output[t : t + 1], expected)


@pytest.mark.parametrize(
    "cell", [c for c in CELLS if CELLS[c].output is None or CELLS[c].candidate]
)
def test_shut_steps_are_not_looked_at(kernel, cell):
    inputs, options = arguments(cell, 33, 2, 20, "time first", opened=True)
    shut = inputs[-1] == 0
    expected = in_order(cell, options)(*inputs)[1]
    for nothing in (torch.nan, torch.inf, -torch.inf):
        inputs[0][shut.repeat(1, 1, CELLS[cell].gates)] = nothing
        inputs[0].requires_grad_()
        output, last = in_order(cell, options)(*inputs)
        assert output.isfinite().all()
        torch.testing.assert_close(last, expected, rtol=0, atol=1e-12)
        (grad,) = torch.autograd.grad(last.sum(), inputs[0])
        assert grad.isfinite().all()
        assert (grad[shut.repeat(1, 1, CELLS[cell].gates)] == 0).all()
        inputs[0] = inputs[0].detach()


@each_cell
def test_steps_taken_whole_are_as_without_openness(kernel, cell):
    inputs, options = arguments(cell, 33, 2, 20, "time first", torch.float32)
    without = value_and_grads(in_order(cell, options), inputs, (0, 1))
    inputs[-1] = torch.ones(33, 2, 20)
    opened = value_and_grads(in_order(cell, options), inputs, (0, 1))
    for o, w in zip(opened, without, strict=False):
        torch.testing.assert_close(o, w, rtol=1e-6, atol=2e-6)


def test_hold_is_the_last_that_came_in_while_open():
    y, openness = torch.arange(5.0).view(5, 1, 1), torch.tensor([0.0, 1, 0, 0.5, 0]).view(5, 1, 1)
    output, last = gated_recurrence(y, torch.full((1, 1), 7.0), "hold", openness=openness)
    assert output.flatten().tolist() == [7, 1, 1, 2, 2]
    assert last.item() == 2


@each_cell
def test_saturated_gates_stay_finite(cell):
    (gates, *beside), options = arguments(cell, 6, 1, 4, "time first", torch.float32)
    for scale in [100.0, 1e30]:
        values = value_and_grads(in_order(cell, options), [gates * scale, *beside], (0, 1))
        assert all(v.isfinite().all() for v in values[:2]) or cell in UNBOUNDED


UNBOUNDED = {"gilr-elu", "gilr-identity", "gilr-relu", "sru-identity", "sru-tanh"} | {
    "strongly-typed-rnn",
    "strongly-typed-gru",
    "strongly-typed-lstm",
    "min-gru",
    "min-lstm",
}


@each_cell
@opened_or_not
def test_nothing_in_nothing_out(cell, opened):
    inputs, options = arguments(cell, 0, 2, 3, "time first", opened=opened)
    gates, state, *_ = inputs
    output, last, grad_gates, grad_state, *_ = value_and_grads(
        in_order(cell, options), inputs, (0, 1)
    )
    assert output.shape == (0, 2, 3)
    assert torch.equal(last, state)
    assert grad_gates.shape == gates.shape
    assert (grad_state != 0).all()


@each_cell
@opened_or_not
def test_padding_is_never_looked_at(cell, opened):
    inputs, options = arguments(cell, 9, 3, 2, "lengths", opened=opened)
    padded = torch.arange(9).unsqueeze(1) >= options["lengths"]
    for tensor in (inputs[0], inputs[-1]):
        if tensor is not None:
            tensor[padded] = torch.nan
    values = value_and_grads(in_order(cell, options), inputs, (0, 1))
    assert all(v.isfinite().all() for v in values)
    assert (values[0][padded] == 0).all()
    assert (values[2][padded] == 0).all()
    assert not opened or (values[-1][padded] == 0).all()


@each_cell
@opened_or_not
def test_dispatcher_registration_is_complete(cell, opened):
    (gates, state, *beside), _ = arguments(cell, 4, 2, 2, "time first", opened=opened)
    tensors = [None if v is None else v.requires_grad_() for v in (gates, *beside, state)]
    op = torch.ops.longrnn.gated_recurrence.default
    torch.library.opcheck(op, (*tensors, torch.tensor([4, 2]), None, cell, 0, False, True))


@pytest.mark.parametrize(
    "cell", [c for c in CELLS if c not in ("lstm", "strongly-typed-gru", "hold")]
)
def test_gates_with_long_memories_keep_their_digits(kernel, cell):
    """What a gate near 1 lets through is small, but not rounded away."""
    if kernel == "plain":
        pytest.skip("the plain form is the definition")
    count = CELLS[cell].gates
    blocks = [torch.randn(9, 1, 8, dtype=torch.float64) for _ in range(count)]
    keeps = {"gilr": 0, "surrogate": 0, "min-gru": 0, "min-lstm": 0}
    which = next((k for name, k in keeps.items() if cell.startswith(name)), 1)
    sign = -1 if cell == "min-gru" else 1
    blocks[which] = sign * torch.full((9, 1, 8), 14.0, dtype=torch.float64)
    gates = torch.cat(blocks, -1)
    state = torch.zeros(1, 8, dtype=torch.float64)
    highway = torch.zeros(9, 1, 8, dtype=torch.float64) if CELLS[cell].highway else None
    exact = gated_recurrence_plain(gates, highway, None, state, None, None, cell, 0, False)[2]
    narrow = [None if v is None else v.float() for v in (gates, state, highway)]
    _, last = gated_recurrence(narrow[0], narrow[1], cell, highway=narrow[2])
    assert (last - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_ragged_arguments_of_any_stride():
    gates = torch.randn(6, 3, 8)
    expanded = torch.tensor([5]).expand(3)
    output, last = gated_recurrence(gates, torch.zeros(3, 4), "gilr-tanh", lengths=expanded)
    plain = gated_recurrence(gates[:5], torch.zeros(3, 4), "gilr-tanh")
    torch.testing.assert_close((output[:5], last), plain)
    strided = torch.tensor([0, 9, 4, 9, 6])[::2]
    flat = torch.randn(6, 8)
    ours = gated_recurrence(flat, torch.zeros(2, 4), "gilr-tanh", cu_seqlens=strided)
    dense = gated_recurrence(flat, torch.zeros(2, 4), "gilr-tanh", cu_seqlens=strided.clone())
    assert torch.equal(ours[0], dense[0])


def test_torch_func_and_forward_mode():
    gates, state = torch.randn(5, 2, 6, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)

    def loss(g):
        return (gated_recurrence(g, state, "gilr-tanh")[0] ** 2).sum()

    inputs = gates.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(inputs), inputs)
    torch.testing.assert_close(torch.func.grad(loss)(gates), expected)
    _, tangent = torch.func.jvp(loss, (gates,), (torch.ones_like(gates),))
    torch.testing.assert_close(tangent, expected.sum())


def test_openness_under_vmap():
    (gates, state, _, openness), _ = arguments("lstm", 5, 2, 3, "time first", opened=True)

    def run(gates, state, openness):
        return gated_recurrence(gates, state, "lstm", openness=openness)

    many = [torch.stack([v, v.flip(0)]) for v in (gates, state, openness)]
    expected = [
        torch.stack(pair) for pair in zip(*(run(*v) for v in zip(*many, strict=True)), strict=True)
    ]
    torch.testing.assert_close(torch.func.vmap(run)(*many), tuple(expected))


G, H = torch.zeros(4, 3, 8), torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((G, H, "gru"), {}, "cell must be one of gilr-tanh"),
        ((G.long(), H, "gilr-tanh"), {}, "gates must have a floating dtype"),
        ((G[..., :7], H, "gilr-tanh"), {}, "gates must have 3 dimensions, the last 2 blocks"),
        ((G, H[:1], "gilr-tanh"), {}, r"initial_state must have shape \(B=3, n=4\), got \(1, 4\)"),
        (
            (G, H, "gilr-tanh"),
            {"lengths": torch.tensor([1, 2])},
            r"lengths must have shape \(B=3\)",
        ),
        (
            (G, H, "gilr-tanh"),
            {"lengths": torch.tensor([1, 2, 5])},
            r"lengths must lie in \[0, T=4",
        ),
        ((G, H, "gilr-tanh"), {"highway": G[..., :4]}, "highway must be given for the cells sru"),
        ((torch.zeros(4, 3, 12), H, "sru-tanh"), {}, "highway must be given for the cells sru"),
        (
            (torch.zeros(4, 3, 12), H, "sru-tanh"),
            {"highway": torch.zeros(1, 1, 4)},
            "highway must have the output's shape",
        ),
        ((G, H, "gilr-tanh"), {"openness": G}, "openness must have the output's shape"),
        (
            (G[:, 0], H[:1], "gilr-tanh"),
            {"cu_seqlens": torch.tensor([0, 4]), "lengths": torch.tensor([4])},
            "lengths and cu_seqlens must not both be given",
        ),
        (
            (G[:, 0], H[:1], "gilr-tanh"),
            {"cu_seqlens": torch.tensor([0.0, 4.0])},
            "cu_seqlens must have dtype int32 or int64",
        ),
    ],
)
def test_bad_input_gets_one_clear_error(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        gated_recurrence(*arguments, **options)


@pytest.mark.parametrize("name", ["initial_state", "highway", "openness", "lengths", "cu_seqlens"])
def test_another_device_is_refused(name):
    gates = torch.zeros(4, 3, 12)
    layout = {"lengths": torch.tensor([4, 2, 0])}
    if name == "cu_seqlens":
        gates, layout = gates[:, 0], {"cu_seqlens": torch.tensor([0, 1, 1, 4])}
    shape = (*gates.shape[:-1], 4)
    given = {"initial_state": H, "highway": torch.zeros(shape), "openness": torch.ones(shape)}
    given |= layout
    given[name] = given[name].to("meta")
    with pytest.raises(ValueError, match=rf"{name} must be on gates's device \(cpu\), got meta"):
        gated_recurrence(gates, cell="sru-tanh", **given)
