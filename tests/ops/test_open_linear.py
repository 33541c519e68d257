"""A product by the clock is the dense one where units are open, and does nothing elsewhere."""

import pytest
import torch
from torch.nn.functional import linear

from longrnn import _native
from longrnn.ops import open_linear as module
from longrnn.ops.open_linear import open_linear


@pytest.fixture(autouse=True)
def _needs_the_library():
    if not _native.available():
        pytest.skip("the compiled library was not built")


def draw(lead, m, n, gates, share, dtype=torch.float64):
    x, weight = torch.randn(*lead, m, dtype=dtype), torch.randn(gates * n, m, dtype=dtype)
    openness = torch.rand(*lead, n, dtype=dtype)
    openness = openness.where(torch.rand(*lead, n) < share, 0.0)
    return x, weight, torch.randn(gates * n, dtype=dtype), openness


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gates", [1, 2, 3, 4])
def test_open_units_have_the_dense_product(kernel, monkeypatch, gates, dtype, threads):
    if kernel == "plain":
        pytest.skip("the plain form is the dense product")
    monkeypatch.setattr(module, "DENSE_FROM", 2.0)
    torch.set_num_threads(threads)
    for lead, m, n in [((0,), 2, 3), ((1,), 1, 1), ((3, 101), 5, 37), ((129,), 40, 16)]:
        for share in (0.0, 0.1, 1.0):
            x, weight, bias, openness = draw(lead, m, n, gates, share, dtype)
            is_open = (openness != 0).repeat(*[1] * len(lead), gates)
            for b in (bias, None):
                dense = linear(x, weight, b)
                expected = dense.where(is_open, 0.0)
                allowed = 4 * m * torch.finfo(dtype).eps
                torch.testing.assert_close(
                    open_linear(x, weight, b, openness), expected, rtol=0, atol=allowed
                )


def test_closed_rows_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(module, "DENSE_FROM", 2.0)
    x, weight, bias, openness = draw((50,), 7, 5, 2, 0.1)
    wanted = open_linear(x, weight, bias, openness)
    shut = (openness == 0).all(-1)
    assert shut.any()
    x[shut] = torch.nan
    assert torch.equal(open_linear(x, weight, bias, openness), wanted)


@pytest.mark.parametrize("share", [0.05, 0.9])
def test_the_faster_product_is_chosen(share):
    inputs = draw((40, 3), 6, 20, 3, share)
    chosen = open_linear(*inputs)
    is_dense = bool((chosen != 0).all())
    assert is_dense == (share > 0.5)
    strided = [torch.stack([v, v], -1)[..., 0] for v in inputs]
    torch.testing.assert_close(open_linear(*strided), chosen)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_where_a_gradient_is_wanted_the_product_is_dense(which):
    inputs = draw((40, 3), 6, 20, 3, 0.05)
    inputs[which].requires_grad_()
    assert torch.equal(open_linear(*inputs), linear(*inputs[:3]))
    with torch.no_grad():
        assert not torch.equal(open_linear(*inputs), linear(*inputs[:3]))


def test_dispatcher_registration_is_complete():
    inputs = draw((4, 2), 3, 5, 2, 0.1)
    torch.library.opcheck(torch.ops.longrnn.open_linear.default, inputs)
    batched = torch.func.vmap(open_linear, in_dims=(0, None, None, 0))(*inputs)
    torch.testing.assert_close(batched, linear(*inputs[:3]))


@pytest.mark.parametrize(("name", "at"), [("weight", 1), ("bias", 2), ("openness", 3)])
def test_another_device_is_refused(name, at):
    inputs = list(draw((4, 2), 3, 5, 2, 0.1))
    inputs[at] = inputs[at].to("meta")
    with pytest.raises(ValueError, match=rf"{name} must be on x's device \(cpu\), got meta"):
        open_linear(*inputs)
