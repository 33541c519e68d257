"""The fused kernel of every cell against the cell's definition, judged in float64."""

import pytest
import torch

from longrnn.ops.gated_recurrence.cells import CELLS
from longrnn.ops.gated_recurrence.op import gated_recurrence
from longrnn.ops.gated_recurrence.plain import gated_recurrence_plain

each_cell = pytest.mark.parametrize("cell", CELLS)


def arguments(cell, T, B, n, layout, dtype=torch.float64):
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
    return gates, torch.randn(sequences, n, dtype=torch.float64).to(dtype), highway, options


def value_and_grads(fn, inputs, which):
    """Output, final state, and gradients through one of them or both."""
    inputs = [v.detach().requires_grad_() for v in inputs if v is not None]
    values = fn(*inputs)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(v.shape, generator=generator).to(v) for v in values]
    grads = torch.autograd.grad(
        [values[i] for i in which], inputs, [cotangents[i] for i in which], materialize_grads=True
    )
    return [*values, *grads]


def compare(cell, T, B, n, layout, reverse, dtype=torch.float64, which=(0, 1)):
    gates, state, highway, options = arguments(cell, T, B, n, layout, dtype)

    def ours(gates, state, highway=None):
        return gated_recurrence(gates, state, cell, highway=highway, reverse=reverse, **options)

    def exact(gates, state, highway=None):
        dim = 1 if options.get("batch_first") else 0
        ragged = options.get("lengths"), options.get("cu_seqlens")
        output, _, last = gated_recurrence_plain(gates, highway, state, *ragged, cell, dim, reverse)
        return output, last

    inputs = [gates, state, highway]
    expected = value_and_grads(exact, [None if v is None else v.double() for v in inputs], which)
    got = value_and_grads(ours, inputs, which)
    assert all(v.dtype == dtype for v in got)
    eps = torch.finfo(dtype).eps
    for name, o, e in zip(
        ["output", "state", "gates", "h0", "highway"], got, expected, strict=False
    ):
        scale = e.abs().max().clamp(min=1) if e.numel() else 1
        error = (o.double() - e).abs().max() if e.numel() else 0
        assert error <= 16 * eps * scale, name


@each_cell
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("layout", ["time first", "batch first", "lengths", "end to end"])
def test_every_cell_every_layout(kernel, cell, layout, reverse):
    if kernel == "plain":
        pytest.skip("the plain form is the definition")
    for T, B, n in [(1, 1, 1), (5, 3, 2), (33, 2, 40)]:
        compare(cell, T, B, n, layout, reverse)


@each_cell
@pytest.mark.parametrize("threads", [1, 2])
def test_past_many_tiles(cell, threads):
    torch.set_num_threads(threads)
    compare(cell, 12001, 1, 3, "time first", False)  # split over time
    compare(cell, 12001, 1, 3, "end to end", True)
    compare(cell, 700, 2, 129, "batch first", True)  # split over channels


@each_cell
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_numbers(kernel, cell, dtype):
    if kernel == "plain":
        pytest.skip("the plain form is the definition")
    compare(cell, 33, 2, 40, "time first", False, dtype)


@each_cell
@pytest.mark.parametrize("which", [(0,), (1,)], ids=["output", "final state"])
def test_gradient_through_one_of_the_two(cell, which):
    compare(cell, 9, 3, 5, "time first", False, which=which)
    compare(cell, 9, 3, 5, "lengths", True, which=which)


@each_cell
@pytest.mark.parametrize("layout", ["batch first", "lengths", "end to end"])
def test_gradients_match_finite_differences_twice(cell, layout):
    gates, state, highway, options = arguments(cell, 4, 3, 2, layout)
    inputs = [v.requires_grad_() for v in (gates, state, highway) if v is not None]

    def fn(gates, state, highway=None):
        return gated_recurrence(gates, state, cell, highway=highway, **options)

    assert torch.autograd.gradcheck(fn, inputs)
    assert torch.autograd.gradgradcheck(fn, inputs)


@each_cell
def test_saturated_gates_stay_finite(cell):
    gates, state, highway, _ = arguments(cell, 6, 1, 4, "time first", torch.float32)
    for scale in [100.0, 1e30]:
        inputs = [gates * scale, state, highway]
        values = value_and_grads(
            lambda g, s, h=None: gated_recurrence(g, s, cell, highway=h), inputs, (0, 1)
        )
        assert all(v.isfinite().all() for v in values[:2]) or cell in UNBOUNDED


UNBOUNDED = {"gilr-elu", "gilr-identity", "gilr-relu", "sru-identity", "sru-tanh"} | {
    "strongly-typed-rnn",
    "strongly-typed-gru",
    "strongly-typed-lstm",
    "min-gru",
    "min-lstm",
}


@each_cell
def test_nothing_in_nothing_out(cell):
    gates, state, highway, _ = arguments(cell, 0, 2, 3, "time first")
    inputs = [gates, state, highway]
    output, last, grad_gates, grad_state, *_ = value_and_grads(
        lambda g, s, h=None: gated_recurrence(g, s, cell, highway=h), inputs, (0, 1)
    )
    assert output.shape == (0, 2, 3)
    assert torch.equal(last, state)
    assert grad_gates.shape == gates.shape
    assert (grad_state != 0).all()


@each_cell
def test_padding_is_never_looked_at(cell):
    gates, state, highway, options = arguments(cell, 9, 3, 2, "lengths")
    padded = torch.arange(9).unsqueeze(1) >= options["lengths"]
    gates[padded] = torch.nan
    inputs = [gates, state, highway]
    values = value_and_grads(
        lambda g, s, h=None: gated_recurrence(g, s, cell, highway=h, **options), inputs, (0, 1)
    )
    assert all(v.isfinite().all() for v in values)
    assert (values[0][padded] == 0).all()
    assert (values[2][padded] == 0).all()


@each_cell
def test_dispatcher_registration_is_complete(cell):
    gates, state, highway, _ = arguments(cell, 4, 2, 2, "time first")
    tensors = [None if v is None else v.requires_grad_() for v in (gates, highway, state)]
    op = torch.ops.longrnn.gated_recurrence.default
    torch.library.opcheck(op, (*tensors, torch.tensor([4, 2]), None, cell, 0, False, True))


@pytest.mark.parametrize("cell", [c for c in CELLS if c not in ("lstm", "strongly-typed-gru")])
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
    exact = gated_recurrence_plain(gates, highway, state, None, None, cell, 0, False)[2]
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
        (
            (G[:, 0], H[:1], "gilr-tanh"),
            {"cu_seqlens": torch.tensor([0, 4]), "lengths": torch.tensor([4])},
            "lengths and cu_seqlens must not both be given",
        ),
    ],
)
def test_bad_input_gets_one_clear_error(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        gated_recurrence(*arguments, **options)
