"""`block_linear_recurrence` against its definition, the loop of `reference.py`, in float64."""

import functools

import pytest
import torch

from longrnn import block_linear_recurrence
from longrnn.ops.block_linear_recurrence.reference import (
    block_linear_recurrence_reference as reference,
)

HALF = [torch.bfloat16, torch.float16]
COMPLEX = [torch.complex128, torch.complex64]
# (B, T, n). One step, odd, more sequences than a vector has lanes, past several tiles, n beyond 8,
# about as many sequences as a vector has lanes, over a time that threads split.
SHAPES = [
    (1, 1, 1),
    (2, 7, 3),
    (3, 9, 16),
    (5, 65, 2),
    (19, 33, 4),
    (1, 4001, 2),
    (3, 1001, 8),
    (40, 130, 5),
    (2, 37, 11),
    (33, 20, 6),
    (17, 40, 7),
    (18, 5, 1),
    (10, 601, 5),
]


def inputs(shape, dtype=torch.float64):
    """Transitions that lengthen no state, impulses and an initial state."""
    B, _, n = shape
    wide = torch.complex128 if dtype.is_complex else torch.float64
    transitions = torch.randn(*shape, n, dtype=wide)
    transitions = transitions / torch.linalg.matrix_norm(transitions, 2, keepdim=True)
    values = transitions, torch.randn(shape, dtype=wide), torch.randn(B, n, dtype=wide)
    return [v.to(dtype) for v in values]


def value_and_grads(fn, args, cotangent):
    args = [v.detach().requires_grad_() for v in args]
    out = fn(*args)
    return [out.detach(), *torch.autograd.grad(out, args, cotangent.to(out))]


def assert_accurate(ours, loop, exact, eps):
    """Not worse than twice the plain loop in the same dtype, for the output and each gradient.

    But for 4 roundings of each of the n products that are added up.
    """
    names = ["h", "transitions", "impulses", "h0"]
    for name, o, r, e in zip(names, ours, loop, exact, strict=True):
        allowed = 2 * (r - e).abs().max() + 4 * e.shape[-1] * eps * e.abs().max()
        assert (o - e).abs().max() <= allowed, name


@functools.cache
def definition(shape, reverse, dtype):
    """Inputs, and what the loop makes of them: in float64, and in `dtype`."""
    args = inputs(shape, dtype)
    cotangent = torch.randn(shape, dtype=torch.float64).to(dtype)

    def fn(*v):
        return reference(*v, dim=1, reverse=reverse)

    exact = value_and_grads(fn, [v.double() for v in args], cotangent)
    loop = exact if dtype == torch.float64 else value_and_grads(fn, args, cotangent)
    return args, cotangent, exact, loop


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_accurate_as_the_loop(kernel, shape, reverse):
    for dtype in [torch.float64, torch.float32]:
        args, cotangent, exact, loop = definition(shape, reverse, dtype)
        for threads in [1] if kernel == "plain" else [1, 2]:
            torch.set_num_threads(threads)
            ours = value_and_grads(
                lambda *v: block_linear_recurrence(*v, dim=1, reverse=reverse), args, cotangent
            )
            assert_accurate(ours, loop, exact, torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [*HALF, *COMPLEX], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 3), (1, 3000, 2), (37, 9, 4)], ids=str)
def test_half_and_complex_numbers(kernel, shape, dtype):
    args = inputs(shape, dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    narrow = dtype if dtype.is_complex else torch.float32  # 16 bits carry the state in float32
    cotangent = torch.randn(shape, dtype=wide).to(dtype)
    exact = value_and_grads(lambda *v: reference(*v, dim=1), [v.to(wide) for v in args], cotangent)
    loop = value_and_grads(lambda *v: reference(*v, dim=1), [v.to(narrow) for v in args], cotangent)
    ours = value_and_grads(lambda *v: block_linear_recurrence(*v, dim=1), args, cotangent)
    assert_accurate(ours, loop, exact, torch.finfo(dtype).eps)
    assert all(o.dtype == dtype for o in ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("shape", [(40, 30, 5), (35, 20, 8), (19, 33, 3)], ids=str)
def test_sequences_that_lie_side_by_side(kernel, shape, dtype):
    args = inputs(shape, dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    narrow = torch.promote_types(dtype, torch.float32)
    cotangent = torch.randn(shape, dtype=wide).to(dtype)

    def time_first(a, x, h):
        a, x = (v.transpose(0, 1).contiguous() for v in (a, x))
        return block_linear_recurrence(a, x, h).transpose(0, 1)

    exact = value_and_grads(lambda *v: reference(*v, dim=1), [v.to(wide) for v in args], cotangent)
    loop = value_and_grads(lambda *v: reference(*v, dim=1), [v.to(narrow) for v in args], cotangent)
    for threads in [1] if kernel == "plain" else [1, 2]:
        torch.set_num_threads(threads)
        ours = value_and_grads(time_first, args, cotangent)
        assert_accurate(ours, loop, exact, torch.finfo(dtype).eps)


def test_results_larger_than_the_cache():
    args = inputs((64, 1500, 8), torch.float32)
    args = [args[0].transpose(0, 1).contiguous(), args[1].transpose(0, 1).contiguous(), args[2]]
    cotangent = torch.randn_like(args[1])
    exact = value_and_grads(reference, [v.double() for v in args], cotangent)
    loop = value_and_grads(reference, args, cotangent)
    ours = value_and_grads(block_linear_recurrence, args, cotangent)  # written past the cache
    assert_accurate(ours, loop, exact, torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
def test_gradients_match_finite_differences_twice(kernel, reverse):
    args = [v.requires_grad_() for v in inputs((2, 4, 2))]

    def fn(*v):
        return block_linear_recurrence(*v, dim=1, reverse=reverse)

    assert torch.autograd.gradcheck(fn, args)
    assert torch.autograd.gradgradcheck(fn, args)
    constant = args[0].detach()
    assert torch.autograd.gradgradcheck(lambda *v: fn(constant, *v), args[1:])
    assert torch.autograd.gradgradcheck(fn, args[:2])


def test_gradients_of_complex_numbers(kernel):
    args = [v.requires_grad_() for v in inputs((1, 3, 2), torch.complex128)]
    assert torch.autograd.gradcheck(lambda *v: block_linear_recurrence(*v, dim=1), args)
    assert torch.autograd.gradgradcheck(lambda *v: block_linear_recurrence(*v, dim=1), args)


@pytest.mark.parametrize(
    "lead", [(), (6, 1), (5,), (1, 5), (6, 5)], ids=lambda v: f"transitions {v}"
)
@pytest.mark.parametrize("state_shape", [(), (3,), (5, 1), (5, 3)], ids=str)
def test_transitions_and_initial_state_broadcast(kernel, lead, state_shape):
    transitions = torch.randn(*lead, 3, 3, dtype=torch.float64)
    impulses = torch.randn(6, 5, 3, dtype=torch.float64)
    state = torch.randn(state_shape, dtype=torch.float64)
    cotangent = torch.randn_like(impulses)
    ours = value_and_grads(block_linear_recurrence, [transitions, impulses, state], cotangent)
    exact = value_and_grads(
        lambda a, x, h: reference(a, x, h.expand(5, 3)), [transitions, impulses, state], cotangent
    )
    torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize("dim", [0, 1, 2, -2, -4])
def test_any_dimension_and_any_strides(kernel, dim):
    transitions = torch.randn(3, 4, 6, 20, 3, dtype=torch.float64)
    transitions = transitions.permute(2, 1, 3, 0, 4)[:, :, ::2] / 2  # (6, 4, 10, 3, 3)
    impulses = torch.randn(3, 10, 4, 6, dtype=torch.float64).permute(3, 2, 1, 0)
    args = [transitions[::2].mT, impulses[1::2]]  # (3, 4, 10, 3), and mixed strides
    ours = value_and_grads(lambda *v: block_linear_recurrence(*v, dim=dim), args, args[1])
    exact = value_and_grads(lambda *v: reference(*v, dim=dim), args, args[1])
    torch.testing.assert_close(ours, exact)
    assert block_linear_recurrence(*args, dim=dim).is_contiguous()


def test_one_number_is_the_elementwise_recurrence(kernel):
    from longrnn import linear_recurrence

    transitions, impulses, state = inputs((4, 50, 1))
    ours = block_linear_recurrence(transitions, impulses, state, dim=1)
    torch.testing.assert_close(
        ours, linear_recurrence(transitions.squeeze(-1), impulses, state, dim=1)
    )


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4, 3), (2, 4, 0)], ids=str)
def test_nothing_in_nothing_out(kernel, shape):
    grads = value_and_grads(
        lambda *v: block_linear_recurrence(*v, dim=1), inputs_like(shape), torch.zeros(shape)
    )
    assert grads[0].shape == shape
    assert grads[1].shape == (*shape, shape[-1])
    assert (grads[3] == 0).all()
    assert grads[3].shape == (shape[0], shape[2])


def inputs_like(shape):
    B, _, n = shape
    return [torch.ones(*shape, n), torch.ones(shape), torch.ones(B, n)]


@pytest.mark.parametrize("split", [1, 13, 31])
def test_two_pieces_equal_one_sequence(kernel, split):
    transitions, impulses, state = inputs((2, 32, 4))
    whole = block_linear_recurrence(transitions, impulses, state, dim=1)
    left = block_linear_recurrence(transitions[:, :split], impulses[:, :split], state, dim=1)
    right = block_linear_recurrence(transitions[:, split:], impulses[:, split:], left[:, -1], dim=1)
    torch.testing.assert_close(torch.cat([left, right], dim=1), whole)


@pytest.mark.parametrize("shape", [(1, 40000, 2), (100, 600, 4)], ids=str)
def test_threads_give_the_same_bits_every_time(shape):
    torch.set_num_threads(2)
    args = [v.requires_grad_() for v in inputs(shape, torch.float32)]
    first = None
    for _ in range(5):
        out = block_linear_recurrence(*args, dim=1)
        found = [out, *torch.autograd.grad(out.sum(), args)]
        first = first or found
        assert all(torch.equal(a, b) for a, b in zip(first, found, strict=True))


def test_half_a_million_rotations_keep_their_precision():
    angle = torch.randint(0, 6 << 10, (1 << 19,)).double() / 1024  # so that their sums are exact
    turns = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1)
    start = torch.tensor([3.0, 4.0], dtype=torch.float64)
    states = block_linear_recurrence(turns.view(-1, 2, 2), torch.zeros(1 << 19, 2), start)
    cos, sin = angle.cumsum(0).cos(), angle.cumsum(0).sin()
    exact = torch.stack([3 * cos - 4 * sin, 3 * sin + 4 * cos], -1)
    torch.testing.assert_close(states, exact, rtol=1e-9, atol=1e-9)


def test_mixed_dtypes_promote():
    wide = block_linear_recurrence(torch.rand(3, 2, 2).double(), torch.rand(3, 2))
    assert wide.dtype == torch.float64
    assert (
        block_linear_recurrence(torch.rand(3, 2, 2), torch.rand(3, 2).bfloat16()).dtype
        == torch.float32
    )
    real = block_linear_recurrence(torch.rand(2, 2), torch.rand(3, 2, dtype=torch.complex64))
    assert real.dtype == torch.complex64


def test_autocast_keeps_the_recurrence_in_float32():
    transitions = torch.rand(5, 2, 2, dtype=torch.bfloat16, requires_grad=True)
    impulses = torch.rand(5, 2, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        out = block_linear_recurrence(transitions, impulses)
        (grad,) = torch.autograd.grad(out.sum(), transitions)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, reference(transitions.float(), impulses.float()))
    assert grad.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_to_one_graph(backend):
    def fn(a, x, h):
        return block_linear_recurrence(torch.tanh(a), x, h, dim=1) * 2

    compiled = torch.compile(fn, fullgraph=True, backend=backend)
    args, cotangent = inputs((2, 9, 3)), torch.randn(2, 9, 3)
    ours = value_and_grads(compiled, args, cotangent)
    torch.testing.assert_close(ours, value_and_grads(fn, args, cotangent))


def test_exports_with_any_number_of_steps():
    class Model(torch.nn.Module):
        def forward(self, transitions, impulses, state):
            return block_linear_recurrence(transitions, impulses, state, dim=1)

    T = torch.export.Dim("T", min=1, max=1 << 20)
    args = tuple(inputs((2, 9, 3)))
    program = torch.export.export(Model(), args, dynamic_shapes=({1: T}, {1: T}, None))
    longer = inputs((2, 300, 3))
    torch.testing.assert_close(program.module()(*longer), block_linear_recurrence(*longer, dim=1))


def test_meta_tensors_have_the_shape_of_the_result():
    args = [v.to("meta").requires_grad_() for v in inputs((2, 9, 3))]
    out = block_linear_recurrence(*args, dim=1)
    assert out.shape == (2, 9, 3)
    grads = torch.autograd.grad(out.sum(), args)
    assert [g.shape for g in grads] == [v.shape for v in args]


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
def test_torch_func_transforms(kernel, reverse):
    transitions, impulses, state = inputs((4, 5, 2))

    def fn(*v):
        return block_linear_recurrence(*v, reverse=reverse)

    def loss(*v):
        return (fn(*v) ** 2).sum()

    mapped = torch.func.vmap(fn, in_dims=(0, 0, None))(transitions, impulses, state[0])
    one_by_one = [fn(a, x, state[0]) for a, x in zip(transitions, impulses, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(one_by_one))
    per_sample = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)), in_dims=(1, 1, None))(
        transitions.movedim(0, 1), impulses.movedim(0, 1), state[0]
    )
    for i in range(4):
        point = [transitions[i], impulses[i], state[0]]
        alone = value_and_grads(loss, point, torch.ones(()))[1:]
        torch.testing.assert_close([g[i] for g in per_sample], alone)
    point = (transitions[0], impulses[0], state[0])
    tangent = tuple(torch.randn_like(v) for v in point)
    _, ours = torch.func.jvp(fn, point, tangent)
    _, exact = torch.func.jvp(lambda *v: reference(*v, reverse=reverse), point, tangent)
    torch.testing.assert_close(ours, exact)
    hessian = torch.func.hessian(loss)(*point)
    exact = torch.func.hessian(lambda *v: (reference(*v, reverse=reverse) ** 2).sum())(*point)
    torch.testing.assert_close(hessian, exact)


def test_dispatcher_registration_is_complete():
    args = [v.requires_grad_() for v in inputs((2, 5, 3))]
    op = torch.ops.longrnn.block_linear_recurrence.default
    torch.library.opcheck(op, (*args, 1, False))
    torch.library.opcheck(op, (*args[:2], None, 1, True))


A, X = torch.ones(3, 2, 2), torch.ones(3, 2)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.ones(4, 2, 2), X), {}, r"transitions must broadcast to \(3, 2, 2\), got \(4, 2, 2"),
        ((torch.ones(3, 3), X), {}, r"transitions must end in \(2, 2\) .* got \(3, 3\)"),
        ((torch.ones(2), X), {}, r"transitions must end in \(2, 2\) .* got \(2,\)"),
        ((A, X, torch.ones(3)), {}, r"initial_state must broadcast to \(2,\), got \(3,\)"),
        ((A, X.long()), {}, "impulses must have a floating or complex dtype, got torch.int64"),
        ((A, torch.ones(2)), {}, r"impulses must have at least 2 dimensions, T and n, got \(2,\)"),
        ((A, X), {"dim": 1}, r"dim must lie in \[0, 0\] or \[-2, -2\] .* got 1"),
        ((A, X), {"dim": -1}, "dim must lie in .* holds the state, got -1"),
        ((A, X), {"dim": -3}, "dim must lie in .* got -3"),
        ((A.to("meta"), X), {}, "transitions must be on impulses's device"),
        ((A, X, X[0].to("meta")), {}, "initial_state must be on impulses's device"),
        ((A.to(torch.complex64), X), {}, r"impulses must be complex .* impulses.to"),
    ],
)
def test_bad_input_gets_one_clear_error(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        block_linear_recurrence(*arguments, **options)


def test_a_list_is_no_tensor():
    with pytest.raises(TypeError, match="transitions must be a tensor, got list"):
        block_linear_recurrence([[1.0]], X)
