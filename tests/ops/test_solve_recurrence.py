"""`solve_recurrence` against its definition, the loop of `reference.py`, judged in float64."""

import copy
import math
from typing import NamedTuple

import pytest
import torch
from torch import nn

from longrnn import solve_recurrence
from longrnn.ops.solve_recurrence.reference import solve_recurrence_reference as reference
from longrnn.ops.solve_recurrence.steps import members

JACOBIANS = ["diagonal", "block", "dense"]


class Case(NamedTuple):
    """A cell, what it is given, and what it uses besides."""

    cell: object
    inputs: object
    state: object
    parameters: list

    def args(self):
        return [*members(self.inputs), *members(self.state), *self.parameters]


class HiddenAndCell(NamedTuple):
    h: torch.Tensor
    c: torch.Tensor


def fresh(*shape, scale=1.0):
    return (torch.randn(shape, dtype=torch.float64) * scale).requires_grad_()


def gru(T, B=2, m=3, n=4):
    cell = nn.GRUCell(m, n, dtype=torch.float64)
    return Case(cell, fresh(T, B, m), fresh(B, n), list(cell.parameters()))


def lstm(T, B=2, m=3, n=3):
    cell = nn.LSTMCell(m, n, dtype=torch.float64)
    return Case(
        cell, fresh(T, B, m), HiddenAndCell(fresh(B, n), fresh(B, n)), list(cell.parameters())
    )


def elementwise(T, B=2, n=5):
    """Each unit sees itself; two inputs, a closure, and a weight that is computed before."""
    a, b = fresh(n, scale=0.5), fresh(n)
    softer = torch.tanh(b)

    def cell(inputs, state):
        x, gate = inputs
        return torch.sigmoid(gate) * torch.tanh(a * state + x) + softer * x

    return Case(cell, (fresh(T, B, n), fresh(T, B, n)), fresh(B, n), [a, b])


def two_by_two(T, B=2, units=3):
    """Each pair of numbers sees itself."""
    w = fresh(units, 2, 2, scale=0.6)

    def cell(x, state):
        return torch.tanh((w @ state.unsqueeze(-1)).squeeze(-1) + x)

    return Case(cell, fresh(T, B, units, 2), fresh(B, units, 2), [w])


def paired(T, B=2, n=3):
    """An LSTM of units that each see themselves: blocks across two tensors."""
    w = fresh(4, n)

    def cell(x, state):
        h, c = state
        i, f, g, o = (x.unsqueeze(-2) + w * h.unsqueeze(-2)).unbind(-2)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    return Case(cell, fresh(T, B, n), (fresh(B, n), fresh(B, n)), [w])


CASES = [gru, lstm, elementwise, two_by_two, paired]
each_case = pytest.mark.parametrize("make", CASES)
each_jacobian = pytest.mark.parametrize("jacobian", JACOBIANS)


def solved(case, **options):
    states, report = solve_recurrence(case.cell, case.inputs, case.state, **options)
    return states, report


def assert_as_the_loop(case, states, tolerance=1e-10):
    """States, and gradients to everything, through every state."""
    exact = reference(case.cell, case.inputs, case.state)
    assert type(states) is type(exact)
    weights = [torch.randn_like(s) for s in members(exact)]
    for ours, loop in zip(members(states), members(exact), strict=True):
        torch.testing.assert_close(ours, loop, rtol=0, atol=tolerance)
    grads = [
        torch.autograd.grad(
            sum((s * w).sum() for s, w in zip(members(found), weights, strict=True)),
            case.args(),
            retain_graph=True,
        )
        for found in (states, exact)
    ]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=tolerance)


@each_jacobian
@each_case
def test_states_and_gradients_are_those_of_the_loop(make, jacobian):
    for T in [1, 37]:
        case = make(T)
        states, report = solved(case, jacobian=jacobian)
        assert_as_the_loop(case, states)
        assert report.iterations.shape == report.residuals.shape == (1, 2)
        assert (report.iterations <= T).all()
        assert (report.residuals <= 16 * torch.finfo(torch.float64).eps).all()
        assert report.sequential.tolist() == [False]


@pytest.mark.parametrize(
    ("make", "jacobian"),
    [(gru, "diagonal"), (lstm, "dense"), (elementwise, "diagonal"), (two_by_two, "block")],
)
def test_derivatives_match_finite_differences_twice(make, jacobian):
    case = make(2, B=1)
    inputs, state = len(members(case.inputs)), len(members(case.state))

    def fn(*args):
        x, s = args[:inputs], args[inputs : inputs + state]
        x = x[0] if isinstance(case.inputs, torch.Tensor) else x
        s = s[0] if isinstance(case.state, torch.Tensor) else tuple(s)
        return tuple(members(solve_recurrence(case.cell, x, s, jacobian=jacobian)[0]))

    args = case.args()[: inputs + state]
    assert torch.autograd.gradcheck(fn, args)
    assert torch.autograd.gradgradcheck(fn, args)


@each_jacobian
@each_case
def test_second_and_third_derivatives_by_parameters_are_those_of_the_loop(make, jacobian):
    case = make(6, B=1)

    def derivatives(states):
        """Of a penalty on the gradient, and of one on that: each through everything."""
        found, value = [], sum((s**3).sum() for s in members(states))
        for _ in range(3):
            grads = torch.autograd.grad(value, case.args(), create_graph=True)
            found.append(grads)
            value = sum((g**2).sum() for g in grads)
        return found

    ours = derivatives(solved(case, jacobian=jacobian)[0])
    exact = derivatives(reference(case.cell, case.inputs, case.state))
    torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-8)


@each_jacobian
def test_chunks_change_nothing_but_memory(jacobian):
    case = lstm(29)
    states, report = solved(case, jacobian=jacobian, chunk_size=8)
    assert_as_the_loop(case, states)
    assert report.iterations.shape == (4, 2)
    assert (report.iterations[-1] <= 5).all()  # the last chunk has five steps


def test_a_guess_saves_iterations():
    case = gru(60)
    states, report = solved(case, jacobian="dense")
    assert (report.iterations > 2).all()
    again, report = solved(case, jacobian="dense", guess=states)
    assert (report.iterations == 0).all()
    torch.testing.assert_close(again, states, rtol=0, atol=0)
    _, report = solved(case, jacobian="dense", guess=states, chunk_size=13)
    assert (report.iterations <= 1).all()
    near = states.detach() + 1e-4 * torch.randn_like(states)
    again, report = solved(case, jacobian="dense", guess=near)
    assert (report.iterations <= 2).all()
    assert_as_the_loop(case, again)


@pytest.mark.parametrize("tol", [1e-3, None])
def test_a_sequence_owes_nothing_to_its_mates(tol):
    case = gru(40, B=3)
    with torch.no_grad():
        case.inputs[:, 1] *= 30  # one that takes longer
    states, report = solved(case, tol=tol)
    for b in range(3):
        x, h = case.inputs[:, [b]], case.state[[b]]
        alone, lone_report = solve_recurrence(case.cell, x, h, tol=tol)
        torch.testing.assert_close(states[:, [b]], alone, rtol=0, atol=1e-13)
        assert lone_report.iterations[0, 0] == report.iterations[0, b]
    assert len(set(report.iterations[0].tolist())) > 1


def logistic(x, s):
    """Chaotic: errors double at each step."""
    return 4 * s * (1 - s) + 0 * x


def test_chaos_takes_as_many_iterations_as_steps_and_no_more():
    start = torch.tensor([[0.2], [0.7]], dtype=torch.float64, requires_grad=True)
    case = Case(logistic, torch.zeros(90, 2, 1, dtype=torch.float64), start, [])
    states, report = solved(case, max_iterations=90, tol=1e-20)  # only what is exact is right
    exact = reference(logistic, case.inputs, case.state)
    torch.testing.assert_close(states, exact, rtol=0, atol=0)
    assert (report.iterations > 40).all()
    assert (report.iterations <= 90).all()


def test_as_many_iterations_as_steps_do_whatever_rounding_does():
    case = gru(60, m=40, n=24)  # products of these sizes round differently beside other rows
    states, report = solved(case, max_iterations=60, tol=1e-20)
    torch.testing.assert_close(states, reference(*case[:3]), rtol=0, atol=1e-13)
    assert (report.residuals < 1e-14).all()


def test_what_does_not_converge_is_an_error_that_says_where():
    x = torch.zeros(200, 3, 1, dtype=torch.float64)
    start = torch.tensor([[0.2], [0.7], [0.75]], dtype=torch.float64)  # 0.75 stays where it is
    wanted = r"in max_iterations=30 on steps 100 to 199: \d of 3 .* sequence \d has a residual of "
    with pytest.raises(RuntimeError, match=wanted) as caught:
        solve_recurrence(logistic, x, start, max_iterations=30, guess=_half_solved(x, start),
                         chunk_size=100)  # fmt: skip
    step = int(str(caught.value).split("at step ")[1].split()[0])
    assert 130 <= step < 200
    assert "sequence 2" not in str(caught.value)


def _half_solved(x, start):
    guess = reference(logistic, x, start)
    guess[100:] = 0.3
    return guess


@pytest.mark.parametrize("jacobian", ["diagonal", "dense"])
def test_a_chunk_that_does_not_converge_can_run_in_a_loop(jacobian):
    case = gru(24)
    with torch.no_grad():
        case.inputs[8:16] *= 100  # a stretch in which two iterations will not do
    options = {"jacobian": jacobian, "max_iterations": 2, "tol": 1e-3, "chunk_size": 8}
    with pytest.raises(RuntimeError, match="max_iterations=2 on steps"):
        solved(case, **options)
    guess = reference(*case[:3]).detach()
    guess[8:16] = 3
    states, report = solved(case, **options, guess=guess, on_failure="sequential")
    assert report.sequential.tolist() == [False, True, False]
    assert report.residuals[1].tolist() == [0, 0]
    assert_as_the_loop(case, states)


def test_trust_tames_what_is_unstable_for_a_while():
    case = gru(200, m=5, n=8)
    with torch.no_grad():
        for parameter in case.parameters:
            parameter *= 6
        iterations = [
            solved(case, jacobian="dense", trust=trust, max_iterations=200)[1].iterations.max()
            for trust in [math.inf, 0.1]
        ]
    assert 2 * iterations[1] < iterations[0]


@pytest.mark.parametrize("trust", [math.inf, 0.1])
def test_overflow_on_the_way_does_no_harm(trust):
    x, h = torch.randn(60, 2, 4), torch.zeros(2, 4)

    def expanding(x, s):  # Jacobians of 300 while states are small: their products overflow
        return torch.tanh(300 * s + x)

    def exploding(x, s):  # calm, but from 3 on states explode, and the guess is there
        return 0.5 * s**3 + 0.3 * torch.tanh(x)

    def steep(x, s):  # no Jacobian where it starts
        return 0.5 * s.abs().sqrt() + x.abs() + 0.1

    for cell, most in [(expanding, 60), (exploding, 12), (steep, 12)]:
        states, report = solve_recurrence(cell, x, h, trust=trust, guess=torch.full_like(x, 3.0))
        torch.testing.assert_close(states, reference(cell, x, h))
        assert (report.iterations <= most).all()
    states, report = solve_recurrence(steep, x, h, trust=trust)
    torch.testing.assert_close(states, reference(steep, x, h))
    assert (report.iterations <= 12).all()


def test_a_step_without_a_jacobian_does_not_spoil_those_after_it():
    x, h = torch.randn(600, 2, 4, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    x[99::100] = 0

    def cell(x, s):  # then the state is 0, where the root is vertical
        return (x != 0) * (0.95 * torch.sin(s) + 0.02 * s.abs().sqrt() + 0.2 * torch.tanh(x) + 1)

    states, report = solve_recurrence(cell, x, h)
    torch.testing.assert_close(states, reference(cell, x, h))
    assert (report.iterations <= 12).all()


def test_tolerance_is_what_is_asked_for_and_reported():
    calm = gru(50)
    x, h = torch.randn(150, 2, 4) * 4, torch.zeros(2, 4)
    wild = Case(lambda x, s: torch.tanh(8 * s + x), x, h, [])  # products of Jacobians overflow
    for case, few in [(calm, 4), (wild, 150)]:
        options = {"jacobian": "dense", "trust": math.inf, "max_iterations": 150, "tol": 1e-2}
        states, report = solved(case, **options)
        before = torch.cat([case.state.unsqueeze(0), states[:-1]])
        after = case.cell(case.inputs.flatten(0, 1), before.flatten(0, 1)).view_as(states)
        sizes = states.abs().maximum(after.abs()) + _flow(case, before)
        residual = ((after - states).abs() / sizes).amax((0, 2))
        assert (residual <= 1e-2).all()
        torch.testing.assert_close(report.residuals[0], residual, rtol=1e-3, atol=1e-6)
        assert (report.iterations <= few).all()
    assert (solved(calm, jacobian="dense")[1].iterations > 4).all()


def _flow(case, before):
    """|J| |before| at every step, from the whole Jacobian."""
    rows = before.flatten(0, 1).detach()
    jacobians = [
        torch.autograd.functional.jacobian(lambda s: case.cell(x, s), row)  # noqa: B023
        for x, row in zip(case.inputs.flatten(0, 1), rows, strict=True)
    ]
    return (torch.stack(jacobians).abs() @ rows.abs().unsqueeze(-1)).view_as(before)


def saturating(x, s):
    """Forgets how large a number was."""
    w = 0.3 * torch.tensor([[1.0, -1, 1], [1, 1, -1], [-1, 1, 1]], dtype=s.dtype)
    return torch.tanh(x + s @ w)


def adding(x, s):
    """One that grows by a thousand a step, beside others that have nothing to do with it."""
    return torch.cat([s[:, :1] + 1000, saturating(x, s * torch.tensor([0.0, 1, 1]))[:, 1:]], 1)


@pytest.mark.parametrize("jacobian", ["diagonal", "dense"])
@pytest.mark.parametrize(
    ("cell", "first"),
    [(saturating, 1e2), (saturating, 1e4), (saturating, 1e8), (adding, 0.0)],
)
def test_small_numbers_are_not_excused_by_large_ones(cell, first, jacobian):
    x, h = torch.randn(400, 2, 3), torch.tensor([[first, 0, 0]] * 2)
    states, _ = solve_recurrence(cell, x, h, jacobian=jacobian)
    exact = reference(cell, x, h)
    torch.testing.assert_close(states[..., 1:], exact[..., 1:], rtol=0, atol=1e-4)
    torch.testing.assert_close(states[..., 0], exact[..., 0], rtol=1e-6, atol=1e-4)


@each_jacobian
def test_what_cancels_is_asked_for_no_more_than_rounding(jacobian):
    """Two large numbers that are nearly the same, and their difference."""

    def cell(x, s):
        large = 1e4 * torch.tanh(x + torch.tensor([3e-5, 3.0001e-5]) * s[:, :2])
        return torch.cat([large, s[:, :1] - s[:, 1:2]], 1)

    x, h = torch.randn(300, 2, 1), torch.zeros(2, 3)
    states, report = solve_recurrence(cell, x, h, jacobian=jacobian)
    assert (report.iterations <= 5).all()  # 8 if it were held to its own size
    torch.testing.assert_close(states, reference(cell, x, h), rtol=0, atol=1e-2)


def test_small_tensors_of_a_state_are_held_to_their_own_size():
    def cell(x, state):  # a counter of a million, and what is learned beside it
        h, count = state
        return torch.tanh(h + x), count + 1

    x = torch.randn(40, 2, 3)
    state = (torch.randn(2, 3), torch.full((2, 3), 1e6))
    states, _ = solve_recurrence(cell, x, state, jacobian="block")
    torch.testing.assert_close(states, reference(cell, x, state), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_narrow_numbers_are_computed_in_float32(dtype):
    cell = nn.GRUCell(3, 4).to(dtype)  # its parameters too
    x, h = torch.randn(30, 2, 3, dtype=dtype), torch.randn(2, 4, dtype=dtype, requires_grad=True)
    wide = nn.GRUCell(3, 4)
    wide.load_state_dict(cell.state_dict())
    exact = reference(wide, x.float(), h.float())
    for options in [{}, {"max_iterations": 1, "on_failure": "sequential", "tol": 1e-5}]:
        states, report = solve_recurrence(cell, x, h, jacobian="dense", **options)
        assert report.sequential.tolist() == [bool(options)]
        assert states.dtype == dtype
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(states.float(), exact, rtol=eps, atol=32 * 2.0**-23)
        ours = torch.autograd.grad(states.float().sum(), [h, *cell.parameters()])
        loop = torch.autograd.grad(exact.sum(), [h, *wide.parameters()], retain_graph=True)
        for a, b in zip(ours, loop, strict=True):
            assert a.dtype == dtype
            torch.testing.assert_close(a.float(), b.float(), rtol=0, atol=16 * eps * b.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_inference_mode_and_its_tensors(dtype):
    cell = nn.GRUCell(3, 4, dtype=dtype)
    x, h = torch.randn(20, 2, 3, dtype=dtype), torch.zeros(2, 4, dtype=dtype)
    exact, _ = solve_recurrence(cell, x, h)
    with torch.inference_mode():
        states, _ = solve_recurrence(cell, x, h)
        assert not states.requires_grad
        assert not torch.is_grad_enabled()
        later = copy.deepcopy(cell)
        given, guess = x.clone(), states.clone()
        of_later, _ = solve_recurrence(later, given, h, guess=guess)
    with torch.no_grad():
        outside, _ = solve_recurrence(later, given, h)
    for found in [states, of_later, outside]:
        torch.testing.assert_close(found, exact)
    of_given, _ = solve_recurrence(cell, given, h, jacobian="dense")
    grads = [torch.autograd.grad(s.sum(), cell.weight_hh)[0] for s in (exact, of_given)]
    torch.testing.assert_close(*grads)


def test_autocast_is_off_inside():
    cell = nn.GRUCell(3, 4)
    x, h = torch.randn(30, 2, 3), torch.randn(2, 4)
    plain, _ = solve_recurrence(cell, x, h, jacobian="dense")
    with torch.autocast("cpu", torch.bfloat16):
        states, _ = solve_recurrence(cell, x, h, jacobian="dense")
        states.sum().backward()
    torch.testing.assert_close(states, plain)
    assert cell.weight_hh.grad.dtype == torch.float32


def test_integers_are_inputs_too():
    table = nn.Embedding(7, 4, dtype=torch.float64)
    cell = nn.GRUCell(4, 3, dtype=torch.float64)

    def step(tokens, state):
        return cell(table(tokens), state)

    tokens = torch.randint(7, (20, 2))
    case = Case(step, tokens, fresh(2, 3), [*cell.parameters(), *table.parameters()])
    states, _ = solved(case, jacobian="dense")
    exact = reference(step, tokens, case.state)
    torch.testing.assert_close(states, exact)
    ours, loop = (torch.autograd.grad(s.sum(), case.args()[1:]) for s in (states, exact))
    torch.testing.assert_close(ours, loop)


def test_a_weight_may_reach_the_cell_by_several_ways():
    """Its gradient is counted once a way: through the closure, the inputs and the state."""
    w = fresh(3, 3, scale=0.4)
    x, h = torch.randn(12, 2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    transposed = w.T

    def cell(x, s):
        return torch.tanh(x + s @ w + s @ transposed)

    def derivatives(solver):
        states = solver(cell, x @ w, torch.tanh(h @ w))
        (first,) = torch.autograd.grad((states**2).sum(), w, create_graph=True)
        return first, torch.autograd.grad((first**2).sum(), w)[0]

    exact = derivatives(reference)
    for jacobian in JACOBIANS:
        ours = derivatives(lambda *a: solve_recurrence(*a, jacobian=jacobian)[0])  # noqa: B023
        torch.testing.assert_close(ours, exact)


class Changing(nn.Module):
    """Uses a buffer, a frozen weight and an attribute besides what is learned."""

    def __init__(self):
        super().__init__()
        self.learned = nn.Parameter(0.3 * torch.randn(4, 4))
        self.frozen = nn.Parameter(0.3 * torch.randn(4, 4), requires_grad=False)
        self.register_buffer("scale", torch.ones(4))
        self.k = 1.0

    def forward(self, x, s):
        return torch.tanh(self.k * self.scale * (x + s @ self.learned) + s @ self.frozen)


@pytest.mark.parametrize("what", ["scale", "frozen", "k", "second derivative"])
def test_a_cell_that_changed_since_is_told_by_its_gradient(what):
    cell = Changing()
    x = torch.randn(20, 2, 4, requires_grad=True)
    states, _ = solve_recurrence(cell, x, torch.zeros(2, 4), tol=1e-2)
    value = states.sum()
    if what == "second derivative":
        value = torch.autograd.grad(value, x, create_graph=True)[0].pow(2).sum()
    torch.autograd.grad(value, cell.learned, retain_graph=True)
    if what in ("scale", "frozen"):
        getattr(cell, what).mul_(0.5)
    else:
        cell.k = 2.0
    with pytest.raises(RuntimeError, match="needs the cell as it was when it was solved"):
        value.backward()


def test_only_what_needs_a_gradient_gets_one():
    case = elementwise(9)
    x, gate = (v.detach() for v in case.inputs)
    states, _ = solve_recurrence(case.cell, (x, gate), case.state.detach())
    a, _ = case.parameters
    torch.autograd.grad(states.sum(), a)
    with torch.no_grad():
        assert not solved(case)[0].requires_grad
    plain = solve_recurrence(logistic, x, torch.rand_like(case.state), max_iterations=9)[0]
    assert not plain.requires_grad


def test_a_cell_without_memory_takes_one_iteration():
    x = fresh(8, 2, 3)
    case = Case(lambda x, s: torch.sin(x), x, fresh(2, 3), [])
    states, report = solved(case)
    torch.testing.assert_close(states, torch.sin(x))
    assert (report.iterations == 1).all()
    torch.testing.assert_close(torch.autograd.grad(states.sum(), x)[0], torch.cos(x))


@each_jacobian
def test_states_of_any_rank(jacobian):
    """One number a sequence, and a picture."""
    for shape in [(2,), (2, 3, 2, 2)]:
        x, s = fresh(15, *shape), fresh(*shape)
        case = Case(lambda x, s: torch.tanh(0.8 * s + x), x, s, [])
        assert_as_the_loop(case, solved(case, jacobian=jacobian)[0])


@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3), (4, 2, 0)], ids=str)
def test_nothing_in_nothing_out(shape):
    state = torch.zeros(shape[1:], requires_grad=True)
    states, report = solve_recurrence(lambda x, s: s + x, torch.zeros(shape), state)
    assert states.shape == shape
    assert report.iterations.shape == (0, shape[1])
    (grad,) = torch.autograd.grad(states.sum(), state)
    assert (grad == 0).all()


def test_two_threads_and_any_strides():
    torch.set_num_threads(2)
    case = gru(33)
    strided = torch.stack([case.inputs.transpose(0, 1)] * 2, -1)[..., 0].transpose(0, 1)
    states, _ = solve_recurrence(case.cell, strided, case.state, jacobian="dense")
    torch.testing.assert_close(states, reference(*case[:3]))


def test_runs_beside_compiled_code():
    case = gru(20)

    def fn(x, h):
        states, _ = solve_recurrence(case.cell, torch.sin(x), h, jacobian="dense")
        return (states * 2).sum()

    with torch.no_grad():
        compiled = torch.compile(fn, backend="eager")(case.inputs, case.state)
        torch.testing.assert_close(compiled, fn(case.inputs, case.state))


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        return grad * b, grad * a


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.full((3,), 0.5))

    def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.w * s + x)


def test_a_weight_whose_use_cannot_be_followed_is_told():
    w = torch.ones(2, 3, requires_grad=True)
    hidden = torch.jit.script(Scaled())
    for cell in [hidden, lambda x, s: Product.apply(s, w) + x]:
        with pytest.raises(ValueError, match=r"cell must use tensors that .* by PyTorch's func"):
            solve_recurrence(cell, torch.zeros(4, 2, 3), torch.zeros(2, 3))
    case = Case(lambda x, s: Product.apply(torch.tanh(s), x[0]) + x[1], (fresh(9, 2, 3),) * 2,
                fresh(2, 3), [])  # fmt: skip
    assert_as_the_loop(case, solved(case, jacobian="dense")[0])


X, S = torch.zeros(4, 2, 3), torch.zeros(2, 3)
TABLE = torch.arange(300.0).view(100, 3)
NAN = torch.full_like(X, math.nan)


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (([X], S), {}, "inputs must be a tensor or a tuple of tensors"),
        (((X, 1), S), {}, r"inputs\[1\] must be a tensor, got int"),
        ((X[0, 0], S), {}, r"inputs must have shape \(T, B=2, ...\)"),
        ((X[:, :1], S), {}, r"inputs must have shape \(T, B=2, ...\)"),
        (((X, X[:3]), S), {}, r"inputs\[1\] must have shape"),
        ((X, S.long()), {}, "initial_state must have a floating dtype"),
        ((X, S.sum()), {}, "initial_state must have a batch dimension"),
        ((X, HiddenAndCell(S, S[:1])), {}, "initial_state.c must have dtype torch.float32 and B=2"),
        ((X, HiddenAndCell(S, S.double())), {}, "initial_state.c must have dtype torch.float32"),
        ((X, (S, S[:, :2])), {"jacobian": "block"}, "must hold tensors of one shape"),
        ((NAN, S), {}, r"inputs must be finite, got nan at \[0, 0, 0\]"),
        ((X, NAN[0]), {}, "initial_state must be finite"),
        ((X, S), {"jacobian": "full"}, "jacobian must be one of diagonal, block, dense"),
        ((X, S), {"tol": 0}, r"tol must lie in \(0, 1\), got 0"),
        ((X, S), {"max_iterations": 0}, "max_iterations must be a positive integer"),
        ((X, S), {"trust": -1.0}, "trust must be at least 0"),
        ((X, S), {"trust": math.nan}, "trust must be at least 0"),
        ((X, S), {"chunk_size": 0}, "chunk_size must be a positive integer"),
        ((X, S), {"on_failure": "ignore"}, "on_failure must be one of raise, sequential"),
        ((X, S), {"guess": X[:3]}, r"guess must have shape \(4, 2, 3\), got \(3, 2, 3\)"),
        ((X, S), {"guess": (X, X)}, "guess must hold 1 tensors, got 2"),
        ((X, S), {"guess": NAN}, "guess must be finite"),
    ],
)
def test_bad_arguments_are_named(args, options, message):
    with pytest.raises(ValueError, match=message):
        solve_recurrence(lambda x, s: s, *args, **options)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (lambda x, s: None, "cell must return a state like initial_state, .* got NoneType"),
        (lambda x, s: (s, s), "cell must return a state like initial_state"),
        (lambda x, s: s[:, :2], r"got \(2, 2\) torch.float32"),
        (lambda x, s: s.double(), r"got \(2, 3\) torch.float64"),
        (lambda x, s: s + 1 - s.mean(0), "cell must treat rows independently"),
        (lambda x, s: s + torch.rand_like(s), "cell must treat rows independently .* chance"),
        (lambda x, s: 0.5 * s + TABLE[: len(x)], "cell must treat rows independently"),
        (lambda x, s: 0.5 * s + x * TABLE[: len(x)], "cell must treat rows independently"),
        (lambda x, s: 0.5 * s + s.cumsum(0), "cell must treat rows independently"),
        (lambda x, s: s.mul_(0.5) + x, "cell must treat rows independently"),
        (lambda x, s: x.add_(1) + s, "cell must treat rows independently"),
    ],
)
def test_cells_that_do_not_fit_are_told(cell, message):
    x, state = X.clone(), torch.tensor([[1.0, 2, 3], [3, 1, 2]])
    x[0] = 1
    with pytest.raises(ValueError, match=message):
        solve_recurrence(cell, x, state)
    assert (x[0] == 1).all()
    assert state.tolist() == [[1, 2, 3], [3, 1, 2]]


def test_dice_are_told_where_the_first_state_hides_them():
    x, h = torch.randn(6, 2, 30), torch.zeros(2, 30)
    with pytest.raises(ValueError, match=r"independently .* without chance"):
        solve_recurrence(lambda x, s: torch.tanh(x + nn.functional.dropout(s)), x, h)


def test_dice_that_are_thrown_late_are_told():
    def cell(x, s):  # where x is large, which those of the first and the last step are not
        return torch.tanh(x + s + (x > 3) * torch.rand_like(s))

    x = torch.zeros(6, 2, 3)
    x[2:5] = 4
    with pytest.raises(ValueError, match=r"without chance, .* 100 iterations .* over 6 steps"):
        solve_recurrence(cell, x, torch.zeros(2, 3), tol=1e-12)


@pytest.mark.parametrize("on_failure", ["raise", "sequential"])
def test_states_that_are_not_numbers_are_told(on_failure):
    x = torch.zeros(9, 2, 1)
    x[6, 1] = -9
    with pytest.raises(RuntimeError, match="infinite or nan state at step 6 of sequence 1"):
        solve_recurrence(lambda x, s: (s + x).sqrt(), x, torch.ones(2, 1), on_failure=on_failure)


def test_a_jacobian_that_was_mistaken_is_told_by_its_gradient():
    """Units that see each other only where a state is beyond 4, where nobody looked."""

    def cell(x, s):
        return s * 0.5 + x + torch.relu(s.flip(-1) - 4)

    x = torch.full((6, 1, 2), 3.0, dtype=torch.float64)
    states, _ = solve_recurrence(cell, x, fresh(1, 2), jacobian="diagonal")
    with pytest.raises(RuntimeError, match=r'could not be verified.*jacobian="dense"'):
        states[..., 0].sum().backward()
    state = fresh(1, 2)
    case = Case(cell, x.requires_grad_(), state, [])
    assert_as_the_loop(case, solved(case, jacobian="dense")[0])


@pytest.mark.parametrize("jacobian", ["diagonal", "dense"])
def test_gradients_are_finite_where_products_of_jacobians_overflow(jacobian):
    w = torch.full((2,), 12.0, requires_grad=True)

    def chaotic(x, s):
        return torch.sin(w * s + x)

    x, h = 1e-3 * torch.randn(1500, 2, 2), torch.rand(2, 2)
    exact = reference(chaotic, x, h)
    states, _ = solve_recurrence(chaotic, x, h, jacobian=jacobian, guess=exact.detach())
    ours, loop = (torch.autograd.grad(s[:6].sum(), w)[0] for s in (states, exact))
    torch.testing.assert_close(ours, loop, rtol=1e-4, atol=0)


def test_infinite_gradients_pass():
    case = gru(5)
    states, _ = solved(case, jacobian="dense")
    (grad,) = torch.autograd.grad(states.sum() * math.inf, case.state)
    assert not grad.isfinite().any()


def test_function_transforms_are_refused():
    with pytest.raises(NotImplementedError, match=r"torch\.func"):
        torch.func.vmap(lambda x: solve_recurrence(logistic, x, S)[0])(torch.zeros(2, 4, 2, 3))
