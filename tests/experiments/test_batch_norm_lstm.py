import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from longrnn.experiments.batch_norm_lstm import BatchNormLSTM
from longrnn.experiments.input_norm_lstm import InputNormLSTM

LENGTHS = torch.tensor([3, 7, 1, 5])


def normal(x, mean=None, variance=None):
    mean = x.mean(0) if mean is None else mean
    variance = x.var(0, correction=0) if variance is None else variance
    return (x - mean) / (variance + 1e-5) ** 0.5


def definition(layer, x, lengths):
    """Cooijmans et al., equations 6 to 8, in a first step of training, on whoever still runs."""
    h, c = torch.zeros(2, len(x), layer.hidden_size)
    outputs = []
    for step, x_t in enumerate(x.unbind(1)):
        runs = lengths > step
        known = (0, 1) if runs.sum() == 1 else ()
        gates = layer.norm_x.gain * normal(x_t[runs] @ layer.weight_ih_l0.T, *known)
        gates = gates + layer.norm_h.gain * normal(h[runs] @ layer.weight_hh_l0.T, *known)
        i, f, g, o = (gates + layer.bias_ih_l0 + layer.bias_hh_l0).chunk(4, -1)
        new_c = f.sigmoid() * c[runs] + i.sigmoid() * g.tanh()
        normal_c = layer.norm_c.gain * normal(new_c, *known) + layer.norm_c.shift
        outputs.append(torch.zeros(len(x), layer.hidden_size))
        outputs[-1][runs] = o.sigmoid() * normal_c.tanh()
        h, c = torch.where(runs[:, None], outputs[-1], h), c.clone()
        c[runs] = new_c
    return torch.stack(outputs, 1), (h[None], c[None])


def random_layer(**options):
    layer = BatchNormLSTM(3, 6, batch_first=True, **options)
    for norm in (layer.norm_x, layer.norm_h, layer.norm_c):
        nn.init.uniform_(norm.gain, 0.5, 2)
    nn.init.uniform_(layer.norm_c.shift)
    return layer


def packed(x):
    return pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)


def test_training_normalises_every_step_by_its_batch():
    layer, x = random_layer(), torch.randn(5, 8, 3)
    output, state = layer(x)
    expected, expected_state = definition(layer, x, torch.full((5,), 8))
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, expected_state, rtol=1e-4, atol=1e-5)
    time_first = BatchNormLSTM(3, 6)
    assert (time_first.norm_x.gain == 0.1).all()
    time_first.load_state_dict(layer.state_dict())
    torch.testing.assert_close(time_first(x.transpose(0, 1))[0], output.transpose(0, 1))


def test_only_sequences_that_still_run_are_averaged():
    layer, x = random_layer(), torch.randn(4, 7, 3)
    output, state = layer(packed(x))
    output, _ = pad_packed_sequence(output, batch_first=True)
    expected, expected_state = definition(layer, x, LENGTHS)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, expected_state, rtol=1e-4, atol=1e-5)


def test_each_step_has_statistics_of_its_own_that_evaluation_uses():
    layer = random_layer(steps=4)
    x = torch.randn(4000, 6, 3) * torch.arange(1.0, 7)[:, None] + torch.arange(6.0)[:, None]
    for _ in range(100):
        layer(x)
    product = x @ layer.weight_ih_l0.T
    torch.testing.assert_close(layer.norm_x.mean[:3], product.mean(0)[:3], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(layer.norm_x.variance[:3], product.var(0)[:3], rtol=1e-3, atol=1e-3)
    few = layer.eval()(x[:3])[0]
    torch.testing.assert_close(few[:, :3], layer.train()(x)[0][:3, :3], rtol=0.05, atol=0.02)


def test_evaluation_does_not_depend_on_the_batch():
    layer, x = random_layer(), torch.randn(4, 7, 3)
    for _ in range(5):
        layer(torch.randn(20, 7, 3))
    layer.eval()
    output, (h, c) = layer(packed(x))
    output, _ = pad_packed_sequence(output, batch_first=True)
    for row, length in enumerate(LENGTHS.tolist()):
        alone, (own_h, own_c) = layer(x[row : row + 1, :length])
        torch.testing.assert_close(output[row, :length], alone[0])
        torch.testing.assert_close((h[:, row], c[:, row]), (own_h[:, 0], own_c[:, 0]))


def test_a_given_state_is_gone_on_from():
    layer, x = random_layer(steps=1).eval(), torch.randn(4, 7, 3)
    whole, last = layer(x)
    first, state = layer(x[:, :3])
    second, end = layer(x[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(end, last)


def test_gradients_reach_every_parameter():
    layer = random_layer()
    layer(torch.randn(5, 8, 3))[0].square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in layer.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 2}, "num_layers must be 1, got 2"),
        ({"bidirectional": True}, "bidirectional must be False, got True"),
        ({"steps": 0}, "steps must be a positive integer, got 0"),
    ],
)
def test_what_it_cannot_do_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        BatchNormLSTM(3, 6, **options)


@pytest.mark.parametrize("build", [BatchNormLSTM, InputNormLSTM])
@pytest.mark.parametrize("batch_first", [True, False])
def test_lengths_are_those_of_a_packed_sequence(build, batch_first):
    layer = build(3, 6, batch_first=batch_first)
    x = 5 + 3 * torch.randn(4, 9, 3)
    expected, expected_state = layer(pack_padded_sequence(x, LENGTHS, True, False))
    expected, _ = pad_packed_sequence(expected, batch_first, total_length=9)
    output, state = layer(x if batch_first else x.transpose(0, 1), lengths=LENGTHS)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(state, expected_state)


@pytest.mark.parametrize("training", [True, False])
def test_input_is_normalised_over_valid_steps(training):
    layer = InputNormLSTM(3, 6, batch_first=True).train(training)
    plain = nn.LSTM(3, 6, batch_first=True)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if "norm" not in k})
    x = 5 + 3 * torch.randn(4, 7, 3)
    steps = packed(x)
    known = () if training else (layer.norm.running_mean, layer.norm.running_var)
    expected = plain(steps._replace(data=normal(steps.data, *known)))
    output = layer(steps)
    torch.testing.assert_close(output[0].data, expected[0].data)
    torch.testing.assert_close(output[1], expected[1])
    known = () if training else (layer.norm.running_mean, layer.norm.running_var)
    whole = plain(normal(x.flatten(0, 1), *known).view_as(x))[0]
    torch.testing.assert_close(layer(x)[0], whole)
