"""`skip_gilr_lstm`: what it leaves out; `tests/nn/test_skip_layers.py` has what it computes."""

import pytest
import torch

from longrnn.ops.linear import linear
from longrnn.ops.skip_gilr_lstm import every_step, shut_rows, used_steps
from longrnn.ops.skip_gilr_lstm.op import skip_gilr_lstm
from longrnn.ops.skip_gilr_lstm.shut_rows import linear_with_shut_rows

LAYOUTS = [
    ((40, 3), {}),
    ((3, 40), {"batch_first": True, "lengths": torch.tensor([40, 0, 17])}),
    ((60,), {"cu_seqlens": torch.tensor([0, 20, 20, 60])}),
]


def draw(lead, m=2, n=3, layers=2):
    """Arguments of the op for three sequences, with a gate that opens at every third step or so."""
    weights = []
    for k in range(layers):
        width = n if k else m
        shapes = (2 * n, width), (2 * n,), (4 * n, width), (4 * n, n), (4 * n,)
        weights += [torch.randn(shape) for shape in shapes]
    states = [torch.randn(layers, 3, n) for _ in range(3)]
    gate = [torch.randn(1, m) / 4, torch.full((1,), -1.0)]
    return torch.randn(*lead, m), weights, *gate, states, torch.rand(3, 1), torch.zeros(3, 1)


@pytest.fixture
def rows(monkeypatch):
    """How many rows each layer is given."""
    seen, layer = [], used_steps.gilr_lstm

    def counted(x, *arguments, **layout):
        seen.append(x.shape[:-1].numel())
        return layer(x, *arguments, **layout)

    monkeypatch.setattr(used_steps, "gilr_lstm", counted)
    return seen


@pytest.mark.parametrize(("lead", "layout"), LAYOUTS, ids=["padded", "lengths", "end to end"])
def test_layers_see_the_steps_that_update_and_no_others(lead, layout, rows):
    arguments = draw(lead)
    _, updates, *_ = skip_gilr_lstm(*arguments, True, **layout)
    assert 3 < updates.sum() < updates.numel() - 3
    assert rows == [updates.sum()] * 2


@pytest.mark.parametrize(("lead", "layout"), LAYOUTS, ids=["padded", "lengths", "end to end"])
def test_nothing_runs_where_nothing_updates(lead, layout, rows):
    x, weights, weight_u, bias_u, states, p, kappa = draw(lead)
    tired = (x, weights, weight_u, bias_u, states, p / 1000, kappa)
    output, updates, *last = skip_gilr_lstm(*tired, True, **layout)
    assert not updates.any()
    assert rows == []
    assert all(torch.equal(a, b) for a, b in zip(last[:3], states, strict=True))
    top = states[2][-1]
    held = top.expand(40, 3, 3)
    if "cu_seqlens" in layout:
        held = top.repeat_interleave(layout["cu_seqlens"].diff(), 0)
    elif "lengths" in layout:
        held = held.where((torch.arange(40)[:, None] < layout["lengths"])[..., None], 0.0)
        held = held.transpose(0, 1)
    assert torch.equal(output, held)


@pytest.mark.parametrize(("lead", "layout"), LAYOUTS, ids=["padded", "lengths", "end to end"])
def test_dispatcher_registration_is_complete(lead, layout):
    x, weights, weight_u, bias_u, states, p, kappa = draw(lead)
    ragged = (layout.get("lengths"), layout.get("cu_seqlens"), int("batch_first" in layout))
    arguments = (x, [*weights[:-1], None], weight_u, bias_u, p, kappa, states, True, None, *ragged)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.longrnn.skip_gilr_lstm.default, arguments, test_utils=checks)


@pytest.mark.parametrize("shifted", [True, False], ids=["before the step", "after it"])
@pytest.mark.parametrize(("lead", "layout"), LAYOUTS, ids=["padded", "lengths", "end to end"])
def test_the_way_back_multiplies_rows_of_steps_that_update(lead, layout, shifted, monkeypatch):
    x, weights, weight_u, bias_u, states, p, kappa = draw(lead)
    inputs = [t.double().requires_grad_() for t in (x, *weights, weight_u, bias_u, *states, p)]
    x, weight_u, bias_u, *states, p = inputs[0], *inputs[-6:]
    arguments = (x, inputs[1:-6], weight_u, bias_u, states, p, kappa.double())
    found, find = [], shut_rows._find_rows
    monkeypatch.setattr(shut_rows, "_find_rows", lambda g: (found.append(find(g)), found[-1])[1])

    def gradients():
        output, updates, *last = skip_gilr_lstm(*arguments, shifted, **layout)
        loss = sum((v * torch.linspace(1, 2, v.numel()).view_as(v)).sum() for v in (output, *last))
        return updates, torch.autograd.grad(loss, inputs)

    updates, ours = gradients()
    assert len(found) == 4
    assert all(torch.equal(rows, updates.flatten().nonzero()[:, 0]) for rows in found)
    monkeypatch.setattr(every_step, "linear_with_shut_rows", linear)
    torch.testing.assert_close(ours, gradients()[1])


@pytest.mark.parametrize("share", [0, 0.3, 1], ids=["no rows", "some rows", "every row"])
def test_a_product_with_shut_rows_is_a_product(share):
    shapes = (3, 4, 2), (5, 2), (5,), (3, 4, 6), (5, 6)
    inputs = [torch.randn(s, dtype=torch.float64).requires_grad_() for s in shapes]
    y = torch.randn(3, 4, 5, dtype=torch.float64) * (torch.rand(3, 4, 1) < share)
    y[..., ::2] = -y[..., ::2].abs()
    y[..., 1::2] = 0  # a row of a gradient may be nowhere above zero
    for given in (inputs, inputs[:3], [*inputs[:2], None, *inputs[3:]]):
        wanted = [t for t in given if t is not None]
        exact, ours = linear(*given), linear_with_shut_rows(*given)
        torch.testing.assert_close(ours, exact)
        torch.testing.assert_close(
            torch.autograd.grad(ours, wanted, y), torch.autograd.grad(exact, wanted, y)
        )


def test_shut_rows_have_second_derivatives():
    shapes = (4, 1, 2), (3, 2), (3,), (4, 1, 2), (3, 2)
    inputs = [torch.randn(s, dtype=torch.float64).requires_grad_() for s in shapes]
    gate = torch.tensor([0.0, 1, 0, 1], dtype=torch.float64).view(4, 1, 1).requires_grad_()

    def gated(gate, *inputs):
        return gate * linear_with_shut_rows(*inputs)

    assert torch.autograd.gradcheck(gated, (gate, *inputs))
    assert torch.autograd.gradgradcheck(gated, (gate, *inputs))
