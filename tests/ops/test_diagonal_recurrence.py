"""Both forms of every cell against its definition, a loop over steps, judged in float64."""

import pytest
import torch

from longrnn.ops.diagonal_recurrence import newton
from longrnn.ops.diagonal_recurrence.cells import CELLS
from longrnn.ops.diagonal_recurrence.op import diagonal_recurrence
from longrnn.ops.diagonal_recurrence.plain import diagonal_recurrence_plain

each_cell = pytest.mark.parametrize("cell", CELLS)
each_algorithm = pytest.mark.parametrize("algorithm", ["serial", "parallel"])


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
    gates = torch.randn(*lead, 3 * n, dtype=torch.float64) * 2
    weight = torch.randn(CELLS[cell].weights, n, dtype=torch.float64)
    state = torch.randn(CELLS[cell].states, sequences, n, dtype=torch.float64)
    return [v.to(dtype) for v in (gates, weight, state)], options


def value_and_grads(fn, inputs, which=(0, 1)):
    """Output, final state, and gradients through one of them or both."""
    inputs = [v.detach().requires_grad_() for v in inputs]
    values = fn(*inputs)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(v.shape, generator=generator).to(v) for v in values]
    grads = torch.autograd.grad(
        [values[i] for i in which], inputs, [cotangents[i] for i in which], materialize_grads=True
    )
    return [*values, *grads]


def compare(inputs, options, cell, algorithm, reverse=False, which=(0, 1)):
    def ours(*tensors):
        return diagonal_recurrence(*tensors, cell, reverse=reverse, algorithm=algorithm, **options)

    def exact(*tensors):
        ragged = options.get("lengths"), options.get("cu_seqlens")
        dim = 1 if options.get("batch_first") else 0
        return diagonal_recurrence_plain(*tensors, *ragged, cell, dim, reverse)

    expected = value_and_grads(exact, [v.double() for v in inputs], which)
    got = value_and_grads(ours, inputs, which)
    dtype = inputs[0].dtype
    assert all(v.dtype == dtype for v in got)
    eps = torch.finfo(dtype).eps
    for name, o, e in zip(["output", "state", "gates", "weight", "h0"], got, expected, strict=True):
        assert o.shape == e.shape, name
        if e.numel():
            error = (o.double() - e).abs().max()
            assert error <= 32 * eps * e.abs().max().clamp(min=1), name


@pytest.fixture
def turns(monkeypatch):
    """One entry for each linear recurrence that Newton's method solves."""
    made, solve = [], newton._solve
    monkeypatch.setattr(newton, "_solve", lambda *a: made.append(1) or solve(*a))
    return made


def skip_definition(kernel, algorithm):
    if kernel == "plain" and algorithm == "serial":
        pytest.skip("the plain form is the definition")


@each_cell
@each_algorithm
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("layout", ["time first", "batch first", "lengths", "end to end"])
def test_every_cell_every_layout(kernel, cell, algorithm, layout, reverse):
    skip_definition(kernel, algorithm)
    for T, B, n in [(1, 1, 1), (5, 3, 2), (33, 2, 40)]:
        compare(*arguments(cell, T, B, n, layout), cell, algorithm, reverse)


@each_cell
@pytest.mark.parametrize("threads", [1, 2])
def test_more_units_and_steps_than_go_side_by_side(cell, threads):
    torch.set_num_threads(threads)
    compare(*arguments(cell, 300, 3, 129, "lengths"), cell, "serial", True)
    compare(*arguments(cell, 300, 1, 300, "batch first"), cell, "serial")
    compare(*arguments(cell, 600, 1, 70, "end to end"), cell, "auto")


@each_cell
@each_algorithm
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_numbers(kernel, cell, algorithm, dtype):
    skip_definition(kernel, algorithm)
    compare(*arguments(cell, 33, 2, 40, "time first", dtype), cell, algorithm)


@each_cell
@each_algorithm
@pytest.mark.parametrize("which", [(0,), (1,)], ids=["output", "final state"])
def test_gradient_through_one_of_the_two(cell, algorithm, which):
    compare(*arguments(cell, 9, 3, 5, "time first"), cell, algorithm, which=which)
    compare(*arguments(cell, 9, 3, 5, "lengths"), cell, algorithm, True, which)


@each_cell
@each_algorithm
@pytest.mark.parametrize("layout", ["batch first", "lengths", "end to end"])
def test_gradients_match_finite_differences_twice(cell, algorithm, layout):
    inputs, options = arguments(cell, 4, 3, 2, layout)
    inputs = [v.requires_grad_() for v in inputs]

    def fn(*tensors):
        return diagonal_recurrence(*tensors, cell, algorithm=algorithm, **options)

    assert torch.autograd.gradcheck(fn, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(fn, inputs, fast_mode=True)


@each_cell
@pytest.mark.parametrize("sign", [1, -1], ids=["flees", "swings"])
def test_both_forms_agree_where_the_first_guess_is_far_off(cell, sign, turns):
    """States flee from 0, where the derivative is 3: over all steps it would overflow."""
    gates, weight, state = arguments(cell, 300, 2, 8, "time first", torch.float32)[0]
    parts, candidate = list((gates / 100).chunk(3, -1)), 2 if cell == "gru" else 1
    parts[0] += 3 if cell == "gru" else -3  # always open to the candidate
    parts[3 - candidate] += 3
    weight = weight / 100
    weight[candidate] += 3 * sign
    inputs = torch.cat(parts, -1), weight, state / 100, cell
    serial = diagonal_recurrence(*inputs, algorithm="serial")
    parallel = diagonal_recurrence(*inputs, algorithm="parallel")
    torch.testing.assert_close(parallel, serial, rtol=0, atol=1e-4)
    assert len(turns) < 20


@each_cell
def test_a_method_that_does_not_converge_still_ends_at_the_result(cell, monkeypatch, turns):
    """With no derivative at all each turn makes one more state exact."""
    monkeypatch.setattr(newton, "_solve", lambda rows, missing, *_: turns.append(1) or missing)
    gates, weight, state = arguments(cell, 40, 2, 4, "time first")[0]
    gates[..., :4] += 4 if cell == "lstm" else -4  # a long memory
    parallel = diagonal_recurrence(gates, weight, state, cell, algorithm="parallel")
    serial = diagonal_recurrence(gates, weight, state, cell, algorithm="serial")
    torch.testing.assert_close(parallel, serial, rtol=0, atol=1e-14)
    assert len(turns) > 20


@each_cell
def test_newtons_method_takes_a_few_turns(cell, turns):
    """With a wrong derivative it would reach the same result, a step or so a turn."""
    (gates, weight, state), _ = arguments(cell, 1000, 2, 4, "time first")
    diagonal_recurrence(gates, weight / 2, state, cell, algorithm="parallel")
    assert 2 < len(turns) <= 10


@each_cell
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
def test_states_that_are_no_number_stop_nothing(cell, reverse, turns):
    (gates, weight, state), _ = arguments(cell, 200, 1, 3, "time first")
    gates[50, 0, 4] = torch.nan
    inputs, options = (gates, weight, state, cell), {"reverse": reverse}
    serial = diagonal_recurrence(*inputs, algorithm="serial", **options)
    parallel = diagonal_recurrence(*inputs, algorithm="parallel", **options)
    torch.testing.assert_close(parallel, serial, equal_nan=True)
    assert serial[0].isnan().sum() == (51 if reverse else 150)
    assert len(turns) < 50


@each_cell
@pytest.mark.parametrize("size", [1e12, 1e30, torch.inf, torch.nan])
def test_a_huge_state_excuses_no_other_number(cell, size, turns):
    """Nor does one that is no number hold them up."""
    (gates, weight, state), _ = arguments(cell, 200, 3, 4, "time first")
    state[-1, 0, 0] = size
    wanted, _ = diagonal_recurrence_plain(gates, weight, state, None, None, cell, 0, False)
    got, _ = diagonal_recurrence(gates, weight, state, cell, algorithm="parallel")
    torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-13, equal_nan=True)
    assert len(turns) < 20


@each_cell
def test_roundings_of_a_huge_state_are_no_moves(cell, turns):
    (gates, weight, state), _ = arguments(cell, 500, 1, 8, "time first")
    gates[..., :8] += 4 if cell == "lstm" else -4  # a long memory
    inputs = gates, weight * 1e-12, state * 1e12, cell
    serial = diagonal_recurrence(*inputs, algorithm="serial")
    parallel = diagonal_recurrence(*inputs, algorithm="parallel")
    torch.testing.assert_close(parallel, serial, rtol=1e-12, atol=1e-12)
    assert len(turns) < 15


@each_cell
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
def test_gradients_are_finite_where_products_of_derivatives_are_not(cell, reverse):
    """States rest at 0, where the derivative of a step is 3; the first steps are looked at."""
    (gates, weight, state), _ = arguments(cell, 1000, 1, 4, "time first", torch.float32)
    gates, weight, candidate = 0 * gates, 0 * weight, 2 if cell == "gru" else 1
    gates.chunk(3, -1)[3 - candidate].fill_(2.0)  # open
    weight[candidate] = 6.0
    seen = slice(-20, None) if reverse else slice(20)

    def grads(algorithm):
        inputs = [v.detach().requires_grad_() for v in (gates, weight, 0 * state)]
        y, _ = diagonal_recurrence(*inputs, cell, reverse=reverse, algorithm=algorithm)
        return torch.autograd.grad(y[seen].sum(), inputs)

    found, wanted = grads("parallel"), grads("serial")
    assert wanted[2].max() > 1e3
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


@each_cell
@each_algorithm
def test_saturated_gates_stay_finite(kernel, cell, algorithm):
    (gates, weight, state), _ = arguments(cell, 6, 1, 4, "time first", torch.float32)
    for scale in [100.0, 1e30]:
        values = value_and_grads(
            lambda *t: diagonal_recurrence(*t, cell, algorithm=algorithm),
            [gates * scale, weight, state],
        )
        assert all(v.isfinite().all() for v in values)
        assert values[0].abs().max() <= 1.00001 * state.abs().max().clamp(min=1)


@each_cell
@each_algorithm
def test_no_sequences(kernel, cell, algorithm):
    (gates, weight, state), options = arguments(cell, 5, 0, 3, "lengths")
    values = value_and_grads(
        lambda *t: diagonal_recurrence(*t, cell, algorithm=algorithm, **options),
        [gates, weight, state],
    )
    shapes = [(5, 0, 3), state.shape, gates.shape, weight.shape, state.shape]
    assert [v.shape for v in values] == shapes
    assert not values[3].any()


@each_cell
@each_algorithm
def test_nothing_in_nothing_out(cell, algorithm):
    for layout in ("time first", "end to end"):
        (gates, weight, state), options = arguments(cell, 0, 2, 3, layout)
        output, last, grad_gates, grad_weight, grad_state = value_and_grads(
            lambda *t, o=options: diagonal_recurrence(*t, cell, algorithm=algorithm, **o),
            [gates, weight, state],
        )
        assert output.shape == (*gates.shape[:-1], 3)
        assert torch.equal(last, state)
        assert grad_gates.shape == gates.shape
        assert not grad_weight.any()
        assert (grad_state != 0).all()


@each_cell
@each_algorithm
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
def test_padding_is_never_looked_at(cell, algorithm, reverse):
    (gates, weight, state), options = arguments(cell, 9, 3, 2, "lengths")
    padded = torch.arange(9).unsqueeze(1) >= options["lengths"]
    gates[padded] = torch.nan
    values = value_and_grads(
        lambda *t: diagonal_recurrence(*t, cell, algorithm=algorithm, reverse=reverse, **options),
        [gates, weight, state],
    )
    assert all(v.isfinite().all() for v in values)
    assert (values[0][padded] == 0).all()
    assert (values[2][padded] == 0).all()


@pytest.mark.parametrize(("cell", "algorithm"), [("gru", "serial"), ("lstm", "parallel")])
def test_dispatcher_registration_is_complete(cell, algorithm):
    tensors, _ = arguments(cell, 4, 2, 2, "time first")
    tensors = [v.requires_grad_() for v in tensors]
    op = torch.ops.longrnn.diagonal_recurrence.default
    rest = (torch.tensor([4, 2]), None, cell, 0, False, True, algorithm)
    torch.library.opcheck(op, (*tensors, *rest))


@each_cell
def test_strided_arguments(cell):
    (gates, weight, state), _ = arguments(cell, 6, 3, 4, "time first")
    wanted = diagonal_recurrence(gates, weight, state, cell)
    strided = [torch.stack([v, v], -1)[..., 0] for v in (gates, weight, state)]
    assert torch.equal(diagonal_recurrence(*strided, cell)[0], wanted[0])
    short = diagonal_recurrence(*strided, cell, lengths=torch.tensor([5]).expand(3))
    assert torch.equal(short[0][:5], wanted[0][:5])


def test_torch_func_and_forward_mode():
    (gates, weight, state), _ = arguments("lstm", 5, 2, 3, "time first")

    def loss(g):
        return (diagonal_recurrence(g, weight, state, "lstm")[0] ** 2).sum()

    inputs = gates.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(inputs), inputs)
    torch.testing.assert_close(torch.func.grad(loss)(gates), expected)
    _, tangent = torch.func.jvp(loss, (gates,), (torch.ones_like(gates),))
    torch.testing.assert_close(tangent, expected.sum())
    many = torch.func.vmap(loss)(torch.stack([gates, gates / 2]))
    torch.testing.assert_close(many, torch.stack([loss(gates), loss(gates / 2)]))


G, W, H = torch.zeros(4, 3, 12), torch.zeros(3, 4), torch.zeros(1, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((G, W, H, "rnn"), {}, "cell must be one of gru, lstm"),
        ((G, W, H, "gru"), {"algorithm": "newton"}, "algorithm must be one of auto, serial, par"),
        ((G.long(), W, H, "gru"), {}, "gates must have a floating dtype"),
        ((G[..., :7], W, H, "gru"), {}, "gates must have 3 dimensions, the last 3 blocks"),
        ((G, W[:2], H, "gru"), {}, r"weight must have shape \(W=3, n=4\), got \(2, 4\)"),
        ((G, W, H, "lstm"), {}, r"weight must have shape \(W=5, n=4\), got \(3, 4\)"),
        (
            (G, W, H[:, :2], "gru"),
            {},
            r"initial_state must have shape \(S=1, B=3, n=4\), got \(1, 2, 4\)",
        ),
        ((G, W, H, "gru"), {"lengths": torch.tensor([1])}, r"lengths must have shape \(B=3\)"),
        (
            (G, W, H, "gru"),
            {"lengths": torch.tensor([1, 2, 5])},
            r"lengths must lie in \[0, T=4",
        ),
        (
            (G[:, 0], W, H[:, :1], "gru"),
            {"cu_seqlens": torch.tensor([0, 3])},
            "cu_seqlens must run from 0 to T=4",
        ),
        (
            (G[:, 0], W, H[:, :1], "gru"),
            {"cu_seqlens": torch.tensor([0, 4]), "lengths": torch.tensor([4])},
            "lengths and cu_seqlens must not both be given",
        ),
    ],
)
@each_algorithm
def test_bad_input_gets_one_clear_error(arguments, options, message, algorithm):
    with pytest.raises(ValueError, match=message):
        diagonal_recurrence(*arguments, **{"algorithm": algorithm, **options})


@pytest.mark.parametrize("name", ["weight", "initial_state", "lengths", "cu_seqlens"])
def test_another_device_is_refused(name):
    gates, layout = G, {"lengths": torch.tensor([4, 2, 0])}
    if name == "cu_seqlens":
        gates, layout = G[:, 0], {"cu_seqlens": torch.tensor([0, 1, 1, 4])}
    given = {"weight": W, "initial_state": H, **layout}
    given[name] = given[name].to("meta")
    with pytest.raises(ValueError, match=rf"{name} must be on gates's device \(cpu\), got meta"):
        diagonal_recurrence(gates, cell="gru", **given)
