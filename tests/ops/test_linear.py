"""The product in memory that is kept is PyTorch's product."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from longrnn import _native
from longrnn.ops import linear as module
from longrnn.ops.linear import linear


@pytest.fixture
def all_large(monkeypatch):
    """Every result counts as large; tells how often ours made one."""
    if not _native.available():
        pytest.skip("the compiled library was not built")
    monkeypatch.setattr(_native, "LARGE", 0)
    calls = []
    run = module.SumOfProducts.forward
    monkeypatch.setattr(
        module.SumOfProducts, "forward", lambda *a: (calls.append(len(a)), run(*a))[1]
    )
    return calls


def draw(lead, m, k, n=None, dtype=torch.float64, grad=False):
    shapes = [(*lead, m), (k, m), (k,)] + ([] if n is None else [(*lead, n), (k, n)])
    return [torch.randn(s, dtype=dtype, requires_grad=grad) for s in shapes]


def expected(x, weight, bias=None, *more):
    product = functional.linear(x, weight, bias)
    return product + functional.linear(*more) if more else product


@pytest.mark.parametrize("n", [None, 3], ids=["one input", "two inputs"])
@pytest.mark.parametrize("lead", [(0,), (1,), (5, 2), (33, 1, 2)], ids=str)
def test_product_and_gradients(all_large, lead, n):
    inputs = draw(lead, 4, 6, n, grad=True)
    for given in (inputs, [*inputs[:2], None, *inputs[3:]]):
        ours, exact = linear(*given), expected(*given)
        torch.testing.assert_close(ours, exact)
        y = torch.randn_like(exact)
        wanted = [t for t in given if t is not None]
        torch.testing.assert_close(
            torch.autograd.grad(ours, wanted, y), torch.autograd.grad(exact, wanted, y)
        )
    assert len(all_large) == 2


@pytest.mark.parametrize("n", [None, 2])
def test_second_derivatives(all_large, n):
    inputs = draw((3, 2), 2, 3, n, grad=True)
    assert torch.autograd.gradcheck(linear, inputs)
    assert torch.autograd.gradgradcheck(linear, inputs)
    assert all_large


@pytest.mark.parametrize("n", [None, 2])
def test_many_gradients_at_once(all_large, n):
    inputs = draw((3, 2), 2, 3, n, grad=True)
    ys = torch.randn(4, 3, 2, 3, dtype=torch.float64)
    ours = torch.autograd.grad(linear(*inputs), inputs, ys, is_grads_batched=True)
    exact = torch.autograd.grad(expected(*inputs), inputs, ys, is_grads_batched=True)
    torch.testing.assert_close(ours, exact)


def test_complex_numbers_are_left_to_pytorch(all_large):
    x, weight, bias = draw((3,), 2, 4, dtype=torch.complex64)
    torch.testing.assert_close(linear(x, weight, bias), expected(x, weight, bias))
    assert not all_large


def test_only_the_gradients_that_are_wanted(all_large):
    x, weight, bias, seen, weight_seen = draw((5,), 2, 3, 4)
    weight_seen.requires_grad_()
    linear(x, weight, bias, seen, weight_seen).sum().backward()
    torch.testing.assert_close(weight_seen.grad, seen.sum(0).expand(3, 4))
    assert x.grad is None
    assert weight.grad is None


def test_strided_input(all_large):
    x, weight, bias = draw((5, 3), 4, 6)
    x = x.transpose(0, 1)
    torch.testing.assert_close(linear(x, weight, bias), expected(x, weight, bias))
    assert linear(x, weight, bias).is_contiguous()


@pytest.mark.parametrize("n", [None, 64])
def test_a_large_product(n):
    inputs = draw((5000,), 32, 256, n, dtype=torch.float32)
    before = linear(*inputs)
    kept = before.clone()
    torch.testing.assert_close(before, expected(*inputs), atol=1e-4, rtol=1e-4)
    after = linear(-inputs[0], *inputs[1:])  # while a result is in use, its memory is
    assert after.data_ptr() != before.data_ptr()
    assert torch.equal(before, kept)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_what_is_not_plain_goes_to_pytorch(all_large):
    x, weight, bias = draw((7, 2), 4, 6, dtype=torch.float32)
    exact = expected(x, weight, bias)
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight, bias), exact)
    mapped = torch.vmap(linear, in_dims=(1, None, None), out_dims=1)(x, weight, bias)
    torch.testing.assert_close(mapped, exact)
    traced = torch.jit.trace(linear, (x, weight, bias), check_trace=False)
    torch.testing.assert_close(traced(2 * x, weight, bias), expected(2 * x, weight, bias))
    graph = make_fx(linear)(x, weight, bias)
    torch.testing.assert_close(graph(2 * x, weight, bias), expected(2 * x, weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    assert linear(*(t.to("meta") for t in (x, weight, bias))).shape == exact.shape
    assert not all_large
