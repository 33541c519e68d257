"""What ParallelGRU and ParallelLSTM promise beyond every layer's contract."""

import pytest
import torch

import longrnn

each_name = pytest.mark.parametrize("name", ["parallel-gru", "parallel-lstm"])


@each_name
def test_initial_values_are_the_authors(name):
    n = 2000
    layer = longrnn.create_model(name, 3, n)
    bound = (6 / (3 + n)) ** 0.5
    assert 0.99 * bound < layer.weight_ih_l0.abs().max() <= bound
    for weight in ("weight_hh_l0", "weight_peephole_l0")[: 1 + (name == "parallel-lstm")]:
        deviation = getattr(layer, weight).std()
        assert abs(deviation / (2 / (5 * n) ** 0.5) - 1) < 0.1
    assert torch.equal(layer.bias_ih_l0[:n], -torch.linspace(0, 1, n))
    assert not layer.bias_ih_l0[n:].any()


def run(layer, x):
    """Output, state, gradients, and the gradients of a penalty on those of the input."""
    x = x.detach().requires_grad_()
    output, state = layer(x)
    states = [state] if isinstance(state, torch.Tensor) else list(state)
    loss = (output**2).sum() + sum(s.sum() for s in states)
    (by_x,) = torch.autograd.grad(loss, x, create_graph=True)
    firsts = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
    seconds = torch.autograd.grad((by_x**2).sum(), [x, *layer.parameters()])
    return [output, *states, by_x, *firsts, *seconds]


@each_name
def test_both_forms_agree_to_rounding(name):
    layer = longrnn.create_model(name, 3, 8, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(70, 2, 3, dtype=torch.float64)
    results = []
    for layer.algorithm in ("serial", "parallel"):
        results.append(run(layer, x))
    for serial, parallel in zip(*results, strict=True):
        torch.testing.assert_close(parallel, serial, rtol=1e-10, atol=1e-10)


@each_name
def test_both_forms_agree_on_long_sequences_in_float32(name):
    layer = longrnn.create_model(name, 4, 16)
    x = torch.randn(5000, 1, 4)
    results = []
    for layer.algorithm in ("serial", "parallel"):
        output, _ = layer(x)
        results.append([output, *torch.autograd.grad(output.mean(), list(layer.parameters()))])
    for serial, parallel in zip(*results, strict=True):
        torch.testing.assert_close(parallel, serial, rtol=1e-4, atol=1e-6)


@each_name
def test_the_parallel_form_compiles_without_a_break(name):
    torch._dynamo.reset()
    layer = longrnn.create_model(name, 3, 4, algorithm="parallel")
    x = torch.randn(9, 2, 3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for call in (layer, compiled):
        output, _ = call(x, lengths=torch.tensor([9, 4]))
        results.append([output, *torch.autograd.grad(output.sum(), list(layer.parameters()))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@each_name
def test_the_algorithm_is_an_option(name):
    with pytest.raises(ValueError, match="algorithm must be one of auto, serial, parallel"):
        longrnn.create_model(name, 3, 4, algorithm="newton")
    assert "algorithm='parallel'" in repr(longrnn.create_model(name, 3, 4, algorithm="parallel"))
