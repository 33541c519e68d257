"""`linear_recurrence` against its definition, the loop of `reference.py`, judged in float64."""

import functools
import itertools

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from longrnn import linear_recurrence
from longrnn.ops.linear_recurrence.reference import linear_recurrence_reference as reference

REAL = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
COMPLEX = [torch.complex128, torch.complex64]
# One step, odd, one vector and a bit, few channels, past several tiles, many channels.
SHAPES = [
    (1, 1, 1),
    (2, 7, 3),
    (1, 33, 1),
    (3, 9, 16),
    (2, 65, 5),
    (1, 20001, 1),
    (1, 9001, 3),
    (1, 700, 130),
    (2, 37, 300),
]


def inputs(shape, dtype=torch.float64, sequences=None):
    wide = torch.complex128 if dtype.is_complex else torch.float64
    decays = torch.rand(shape, dtype=torch.float64) * 1.2 - 0.2
    if dtype.is_complex:
        decays = torch.polar(decays.abs(), torch.rand(shape, dtype=torch.float64) * 6)
    rows = (shape[0], sequences, shape[2]) if sequences else (shape[0], shape[2])
    values = decays, torch.randn(shape, dtype=wide), torch.randn(rows, dtype=wide)
    return [v.to(dtype) for v in values]


def value_and_grads(fn, args, cotangent):
    args = [v.detach().requires_grad_() for v in args]
    out = fn(*args)
    return [out.detach(), *torch.autograd.grad(out, args, cotangent.to(out))]


def assert_accurate(ours, loop, exact, eps):
    """Not worse than twice the plain loop in the same dtype, for the output and each gradient."""
    for name, o, r, e in zip(["h", "decays", "impulses", "h0"], ours, loop, exact, strict=True):
        allowed = 2 * (r - e).abs().max() + 4 * eps * e.abs().max()
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
        for threads, algorithm in [(1, "serial"), (1, "parallel"), (2, "serial"), (2, "parallel")]:
            if kernel == "plain" and (threads == 2 or shape[1] > 10000):
                continue  # the plain form has no threads of ours, and is a loop itself
            torch.set_num_threads(threads)
            options = {"dim": 1, "reverse": reverse, "algorithm": algorithm}
            ours = value_and_grads(
                lambda *v: linear_recurrence(*v, **options),  # noqa: B023
                args,
                cotangent,
            )
            assert_accurate(ours, loop, exact, torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [*REAL[2:], *COMPLEX], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 3), (1, 3000, 2), (2, 37, 130)], ids=str)
def test_half_and_complex_numbers(kernel, shape, dtype):
    args = inputs(shape, dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    narrow = dtype if dtype.is_complex else torch.float32  # 16 bits carry the state in float32
    cotangent = torch.randn(shape, dtype=wide).to(dtype)
    exact = value_and_grads(lambda *v: reference(*v, dim=1), [v.to(wide) for v in args], cotangent)
    loop = value_and_grads(lambda *v: reference(*v, dim=1), [v.to(narrow) for v in args], cotangent)
    for algorithm in ["serial", "parallel"]:
        ours = value_and_grads(
            lambda *v: linear_recurrence(*v, dim=1, algorithm=algorithm),  # noqa: B023
            args,
            cotangent,
        )
        assert_accurate(ours, loop, exact, torch.finfo(dtype).eps)
        assert all(o.dtype == dtype for o in ours)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("ends", [[0, 5, 5, 12], [0, 0, 12, 12], [0, 12], [0, 1, 2, 12]], ids=str)
def test_sequences_end_to_end_are_sequences_apart(kernel, ends, reverse):
    args = inputs((2, 12, 3), sequences=len(ends) - 1)
    options = {"dim": 1, "reverse": reverse, "cu_seqlens": torch.tensor(ends)}
    cotangent = torch.randn(2, 12, 3, dtype=torch.float64)
    exact = value_and_grads(lambda *v: reference(*v, **options), args, cotangent)
    ours = value_and_grads(lambda *v: linear_recurrence(*v, **options), args, cotangent)
    torch.testing.assert_close(ours, exact)
    one = linear_recurrence(args[0], args[1], args[2], **options)
    for n, (start, end) in enumerate(itertools.pairwise(ends)):
        alone = linear_recurrence(
            args[0][:, start:end], args[1][:, start:end], args[2][:, n], dim=1, reverse=reverse
        )
        torch.testing.assert_close(one[:, start:end], alone)


def test_long_sequences_end_to_end_in_parallel(kernel):
    torch.set_num_threads(2)
    ends = torch.tensor([0, 20000, 20000, 20011, 30000])
    args = inputs((1, 30000, 2), sequences=4)
    ours = linear_recurrence(*args, dim=1, cu_seqlens=ends, algorithm="parallel")
    torch.testing.assert_close(ours, reference(*args, dim=1, cu_seqlens=ends))


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
def test_gradients_match_finite_differences_twice(kernel, reverse):
    args = [v.requires_grad_() for v in inputs((2, 5, 3))]
    for cu_seqlens in [None, torch.tensor([0, 2, 2, 5])]:
        if cu_seqlens is not None:
            args[2] = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)

        def fn(*v, cu_seqlens=cu_seqlens):
            return linear_recurrence(*v, dim=1, reverse=reverse, cu_seqlens=cu_seqlens)

        assert torch.autograd.gradcheck(fn, args)
        assert torch.autograd.gradgradcheck(fn, args)
        constant = args[0].detach()
        assert torch.autograd.gradgradcheck(lambda *v: fn(constant, *v), args[1:])  # noqa: B023


def test_gradients_of_complex_numbers(kernel):
    args = [v.requires_grad_() for v in inputs((1, 4, 2), torch.complex128)]
    assert torch.autograd.gradcheck(lambda *v: linear_recurrence(*v, dim=1), args)
    assert torch.autograd.gradgradcheck(lambda *v: linear_recurrence(*v, dim=1), args)


@pytest.mark.parametrize("decay_shape", [(), (6, 1, 1), (4,), (1, 5, 1), (6, 5, 4)], ids=str)
@pytest.mark.parametrize("state_shape", [(), (4,), (5, 1), (5, 4)], ids=str)
def test_decays_and_initial_state_broadcast(kernel, decay_shape, state_shape):
    decays = torch.rand(decay_shape, dtype=torch.float64)
    impulses = torch.randn(6, 5, 4, dtype=torch.float64)
    state = torch.randn(state_shape, dtype=torch.float64)
    cotangent = torch.randn_like(impulses)
    ours = value_and_grads(linear_recurrence, [decays, impulses, state], cotangent)
    exact = value_and_grads(
        lambda a, x, h: reference(a.expand(6, 5, 4), x, h.expand(5, 4)),
        [decays, impulses, state],
        cotangent,
    )
    torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_any_dimension_and_any_strides(kernel, dim):
    base = inputs((4, 6, 10))[:2]
    strided = [v[:, ::2].transpose(0, 2)[..., 1:] for v in base]  # (10, 3, 3)
    ours = linear_recurrence(*strided, dim=dim)
    torch.testing.assert_close(ours, reference(*strided, dim=dim % 3))
    assert ours.is_contiguous()


def test_rank_one_and_the_published_vector(kernel):
    decays = torch.tensor([0.5, 0.25, 2.0, 0.0], dtype=torch.float64)
    impulses = torch.tensor([1.0, -1.0, 0.5, 3.0], dtype=torch.float64)
    state = torch.tensor(4.0, dtype=torch.float64)
    grads = value_and_grads(linear_recurrence, [decays, impulses, state], torch.ones(4))
    assert [g.tolist() for g in grads] == [
        [3.0, -0.25, 0.0, 3.0],
        [7.0, 9.0, -0.25, 0.0],
        [1.75, 3.0, 1.0, 1.0],
        0.875,
    ]


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4, 3), (2, 4, 0)], ids=str)
def test_nothing_in_nothing_out(kernel, shape):
    grads = value_and_grads(
        lambda *v: linear_recurrence(*v, dim=1), inputs(shape), torch.zeros(shape)
    )
    assert grads[0].shape == shape
    assert (grads[3] == 0).all()
    assert grads[3].shape == (shape[0], shape[2])


@pytest.mark.parametrize("split", [1, 13, 31])
def test_two_pieces_equal_one_sequence(kernel, split):
    decays, impulses, state = inputs((2, 32, 8))
    whole = linear_recurrence(decays, impulses, state, dim=1)
    left = linear_recurrence(decays[:, :split], impulses[:, :split], state, dim=1)
    right = linear_recurrence(decays[:, split:], impulses[:, split:], left[:, -1], dim=1)
    torch.testing.assert_close(torch.cat([left, right], dim=1), whole)


def test_parallel_gives_the_same_bits_every_time():
    torch.set_num_threads(2)
    args = [v.requires_grad_() for v in inputs((1, 100000, 3), torch.float32)]
    out = linear_recurrence(*args, dim=1, algorithm="parallel")
    first = [out, *torch.autograd.grad(out.sum(), args)]
    for _ in range(5):
        out = linear_recurrence(*args, dim=1, algorithm="parallel")
        again = [out, *torch.autograd.grad(out.sum(), args)]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_one_long_sequence_among_many_short_ones():
    torch.set_num_threads(2)
    short = torch.arange(5001)
    ends = torch.cat([short, torch.tensor([5000 + 20001])])
    args = inputs((1, 25001, 2))[:2]
    for algorithm in ["auto", "parallel"]:
        ours = linear_recurrence(*args, dim=1, cu_seqlens=ends, algorithm=algorithm)
        torch.testing.assert_close(ours[:, :5000], args[1][:, :5000])
        alone = [v[:, 5000:] for v in args]
        torch.testing.assert_close(ours[:, 5000:], linear_recurrence(*alone, dim=1))


def test_cu_seqlens_of_any_stride():
    args = inputs((1, 10, 3))[:2]
    strided = torch.tensor([0, 9, 4, 9, 10])[::2]
    ours = linear_recurrence(*args, dim=1, cu_seqlens=strided)
    torch.testing.assert_close(ours, reference(*args, dim=1, cu_seqlens=strided))


def test_forward_mode_without_torch_func():
    decays, impulses, _ = inputs((1, 5, 3))
    tangent = torch.randn_like(decays)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(decays, tangent)
        ours = torch.autograd.forward_ad.unpack_dual(linear_recurrence(dual, impulses, dim=1))
        exact = torch.autograd.forward_ad.unpack_dual(reference(dual, impulses, dim=1))
        torch.testing.assert_close(ours.tangent, exact.tangent)


def test_results_larger_than_the_cache():
    torch.set_num_threads(2)
    for shape in [(1, 30000, 256), (2, 64, 65536)]:  # written past the cache
        args = inputs(shape, torch.float32)[:2]
        ours = linear_recurrence(*args, dim=1)
        state = torch.zeros(shape[0], shape[2])
        for t in range(shape[1]):
            state = torch.addcmul(args[1][:, t], args[0][:, t], state)
            if t % 1000 == 63:
                torch.testing.assert_close(ours[:, t], state, rtol=1e-4, atol=1e-5)


def test_a_million_steps_keep_their_precision():
    decays = torch.full((1 << 20, 1), 1 - 2.0**-16)
    out = linear_recurrence(decays, torch.ones_like(decays), algorithm="parallel")
    assert out[-1].item() == pytest.approx(2.0**16 * (1 - (1 - 2.0**-16) ** (1 << 20)), rel=1e-3)


def test_mixed_dtypes_promote():
    wide = linear_recurrence(torch.rand(3).double(), torch.rand(3))
    assert wide.dtype == torch.float64
    assert linear_recurrence(torch.rand(3), torch.rand(3).bfloat16()).dtype == torch.float32
    real_decays = linear_recurrence(torch.rand(3), torch.rand(3, dtype=torch.complex64))
    assert real_decays.dtype == torch.complex64


def test_autocast_keeps_the_recurrence_in_float32():
    args = [torch.rand(5, 2, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        out = linear_recurrence(*args)
    out.sum().backward()
    assert out.dtype == torch.float32
    assert args[0].grad.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_to_one_graph(backend):
    compiled = torch.compile(
        lambda a, x, h: linear_recurrence(torch.sigmoid(a), x, h, dim=1) * 2,
        fullgraph=True,
        backend=backend,
    )
    args = inputs((2, 9, 3))
    cotangent = torch.randn(2, 9, 3)
    ours = value_and_grads(compiled, args, cotangent)
    eager = value_and_grads(
        lambda a, x, h: linear_recurrence(torch.sigmoid(a), x, h, dim=1) * 2, args, cotangent
    )
    torch.testing.assert_close(ours, eager)


def test_exports_with_any_number_of_steps():
    class Model(torch.nn.Module):
        def forward(self, decays, impulses, state):
            return linear_recurrence(decays, impulses, state, dim=1)

    T = torch.export.Dim("T", min=1, max=1 << 20)
    args = tuple(inputs((2, 9, 3)))
    program = torch.export.export(Model(), args, dynamic_shapes=({1: T}, {1: T}, None))
    longer = inputs((2, 300, 3))
    torch.testing.assert_close(program.module()(*longer), linear_recurrence(*longer, dim=1))


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
def test_torch_func_transforms(kernel, reverse):
    decays, impulses, state = inputs((4, 5, 3))

    def fn(*v):
        return linear_recurrence(*v, reverse=reverse)

    def loss(*v):
        return (fn(*v) ** 2).sum()

    mapped = torch.func.vmap(fn, in_dims=(0, 0, None))(decays, impulses, state[0])
    one_by_one = [fn(a, x, state[0]) for a, x in zip(decays, impulses, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(one_by_one))
    per_sample = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)), in_dims=(1, 1, None))(
        decays.movedim(0, 1), impulses.movedim(0, 1), state[0]
    )
    for i in range(4):
        alone = value_and_grads(loss, [decays[i], impulses[i], state[0]], torch.ones(()))[1:]
        torch.testing.assert_close([g[i] for g in per_sample], alone)
    point = (decays[0], impulses[0], state[0])
    tangent = tuple(torch.randn_like(v) for v in point)
    _, ours = torch.func.jvp(fn, point, tangent)
    _, exact = torch.func.jvp(lambda *v: reference(*v, reverse=reverse), point, tangent)
    torch.testing.assert_close(ours, exact)
    hessian = torch.func.hessian(loss)(*point)
    exact = torch.func.hessian(lambda *v: (reference(*v, reverse=reverse) ** 2).sum())(*point)
    torch.testing.assert_close(hessian, exact)


def test_dispatcher_registration_is_complete():
    args = [v.requires_grad_() for v in inputs((2, 5, 3))]
    op = torch.ops.longrnn.linear_recurrence.default
    torch.library.opcheck(op, (*args, None, 1, False, "auto"))
    args[2] = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(op, (*args, torch.tensor([0, 1, 5]), 1, True, "parallel"))


class _Sequences(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return linear_recurrence(torch.full((20000, 3), 0.5), torch.full((20000, 3), float(i)))


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_runs_in_a_data_loader_worker():
    torch.set_num_threads(2)
    expected = torch.stack([_Sequences()[i] for i in range(4)])  # OpenMP has run before the fork
    loader = DataLoader(_Sequences(), batch_size=4, num_workers=2, timeout=60)
    torch.testing.assert_close(next(iter(loader)), expected)


ONE = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.ones(4, 2), ONE), {}, r"decays must broadcast to \(3, 2\), got \(4, 2\)"),
        ((ONE, ONE, torch.ones(3)), {}, r"initial_state must broadcast to \(2,\), got \(3,\)"),
        ((ONE, ONE.long()), {}, "impulses must have a floating or complex dtype, got torch.int64"),
        ((ONE, torch.tensor(1.0)), {}, "dim must lie in"),
        ((ONE, ONE), {"dim": 2}, r"dim must lie in \[-2, 1\] .* got 2"),
        ((ONE, ONE), {"algorithm": "fast"}, "algorithm must be one of auto, serial, parallel; got"),
        ((ONE.to("meta"), ONE), {}, "decays must be on impulses's device"),
        ((ONE.to(torch.complex64), ONE), {}, r"impulses must be complex .* impulses.to"),
        ((ONE, ONE), {"cu_seqlens": torch.tensor([0, 2, 1, 3])}, "cu_seqlens must ascend, got 1"),
        ((ONE, ONE), {"cu_seqlens": torch.tensor([0, 2])}, "cu_seqlens must run from 0 to T=3"),
        ((ONE, ONE), {"cu_seqlens": torch.tensor([0.0, 3.0])}, "cu_seqlens must have dtype int32"),
        ((ONE, ONE), {"cu_seqlens": torch.tensor([3])}, "cu_seqlens must hold at least two"),
        (
            (ONE, ONE),
            {"cu_seqlens": torch.tensor([[0, 3]])},
            r"cu_seqlens must have shape \(N\+1\)",
        ),
    ],
)
def test_bad_input_gets_one_clear_error(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        linear_recurrence(*arguments, **options)


def test_a_list_is_no_tensor():
    with pytest.raises(TypeError, match="decays must be a tensor, got list"):
        linear_recurrence([1.0], ONE)
