import pytest
import torch

from longrnn.nn import models
from longrnn.tasks import create_task
from longrnn.train.network import Network
from longrnn.train.settings import FORGET_GATES

TASK = create_task("adding", 4, length=12)


@pytest.mark.parametrize("model", models())
@pytest.mark.parametrize("name", ["adding", "memory", "text"])
def test_any_layer_answers_any_task(model, name):
    task = create_task(name, 3, length=12)
    network = Network(task, model, hidden_size=8, num_layers=2)
    input = torch.stack([task.train_set[i][0] for i in range(3)])
    output, _ = network(input)
    assert output.shape == ((3, 12, 256) if name == "text" else (3, task.output_size))


@pytest.mark.parametrize("model", FORGET_GATES)
def test_a_forget_bias_lengthens_the_memory(model):
    x = torch.zeros(1, 200, 2)
    x[0, 0] = 5
    left = []
    for bias in (0.0, 9.0):
        torch.manual_seed(0)
        network = Network(TASK, model, 16, forget_bias=bias)
        difference = network.recurrent(x)[0] - network.recurrent(torch.zeros_like(x))[0]
        left.append(difference[0, -1].norm().item())
    assert left[1] > 100 * left[0]


def test_pooling_reads_the_last_or_the_mean_output():
    torch.manual_seed(0)
    x = torch.randn(3, 12, 2)
    for pooling, pool in (("last", lambda y: y[:, -1]), ("mean", lambda y: y.mean(1))):
        network = Network(TASK, "gru", 8, pooling=pooling)
        expected = network.readout(pool(network.recurrent(x)[0]))
        torch.testing.assert_close(network(x)[0], expected)


def test_an_unknown_layer_option_is_named():
    with pytest.raises(ValueError, match=r"layer_option must be one that sru has, got: .*width"):
        Network(TASK, "sru", 8, options={"width": 3})
