"""Networks on events and sampled waves: symbols or values, lengths and time stamps together."""

import pytest
import torch

from longrnn.nn import models
from longrnn.tasks import Sequences, create_task
from longrnn.train.network import Network

NAMES = ["nmnist", "events-forecast", "async-frequency", "two-waves"]


def first_steps(input, target, steps):
    """A batch cut short, so that a test does not take long."""
    values, lengths, times, _ = input
    cut = Sequences(values[:, :steps], lengths.clamp(max=steps), times[:, :steps])
    return cut, target if target.ndim == 1 else target[:, :steps]


@pytest.fixture(scope="module")
def batches():
    tasks = {name: create_task(name, 3, seed=5) for name in NAMES}
    return {
        name: (task, *task.collate([task.train_set[i] for i in range(3)]))
        for name, task in tasks.items()
    }


@pytest.mark.parametrize("model", models())
@pytest.mark.parametrize("name", NAMES)
def test_any_layer_learns_from_events_of_any_number(batches, model, name):
    task, input, target = batches[name]
    input, target = first_steps(input, target, 40)
    network = Network(task, model, hidden_size=8)
    output = network(input).output
    assert output.shape == (*target.shape, task.output_size)
    task.loss(output, target).backward()
    for parameter in network.readout.parameters():
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("model", models())
def test_an_event_does_not_depend_on_padding_or_on_other_recordings(batches, model):
    task, input, target = batches["nmnist"]
    input, _ = first_steps(input, target, 40)
    lengths = torch.tensor([40, 17, 3])
    network = Network(task, model, hidden_size=8).eval()
    together = network(input._replace(lengths=lengths)).output
    for row, length in enumerate(lengths.tolist()):
        values, times = input.values[row : row + 1, :length], input.times[row : row + 1, :length]
        alone = network(Sequences(values, times=times)).output
        torch.testing.assert_close(together[row : row + 1], alone)


@pytest.mark.parametrize("model", models())
def test_time_stamps_make_a_difference(batches, model):
    task, input, target = batches["async-frequency"]
    input, _ = first_steps(input, target, 40)
    network = Network(task, model, hidden_size=8).eval()
    other = input._replace(times=input.times**1.2)
    assert not torch.allclose(network(input).output, network(other).output)


def test_an_event_is_embedded_as_wide_as_its_task_says(batches):
    for name, width in (("events-forecast", 40), ("nmnist", 8)):
        network = Network(batches[name][0], "gru", hidden_size=8)
        assert network.embedding.weight.shape == (2 * 34 * 34, width)
        assert network.recurrent.input_size == width + 1
