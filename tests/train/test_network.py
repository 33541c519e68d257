import pytest
import torch
from torch import nn

from longrnn.nn import models
from longrnn.tasks import Sequences, Task, create_task
from longrnn.train.network import Network
from longrnn.train.settings import FORGET_GATES

TASK = create_task("adding", 4, length=12)
LENGTHS = torch.tensor([12, 0, 5])
CUTS = torch.tensor([0, 12, 12, 17])  # the same lengths, end to end


class Stamped(Task):
    """A task of time-stamped steps that holds no data."""

    input_size = 2
    timed = True
    time_scale = 0.5

    def __init__(self):
        pass


class Clocked(nn.Module):
    """A layer that takes time stamps, and adds them to its input."""

    def __init__(self, input_size, hidden_size, num_layers=1, **options):
        super().__init__()
        self.width = input_size

    def forward(self, input, state=None, *, times=None, lengths=None):
        return input.repeat(1, 1, 4) + times.unsqueeze(-1).float(), state


@pytest.mark.parametrize("model", models())
@pytest.mark.parametrize("name", ["adding", "memory", "text"])
def test_any_layer_answers_any_task(model, name):
    task = create_task(name, 3, length=12)
    network = Network(task, model, hidden_size=8, num_layers=2)
    input = torch.stack([task.train_set[i][0] for i in range(3)])
    output = network(input).output
    assert output.shape == ((3, 12, 256) if name == "text" else (3, task.output_size))


@pytest.mark.parametrize("model", FORGET_GATES)
def test_a_forget_bias_lengthens_the_memory(model):
    x = torch.zeros(1, 200, 2)
    x[0, 0] = 5
    left = []
    # A closed unit forgets nothing, whatever its bias.
    options = {"on_ratio": 0.99} if model.startswith("phased") else {}
    for bias in (0.0, 9.0):
        torch.manual_seed(0)
        network = Network(TASK, model, 16, forget_bias=bias, options=options)
        difference = network.recurrent(x)[0] - network.recurrent(torch.zeros_like(x))[0]
        left.append(difference[0, -1].norm().item())
    assert left[1] > 100 * left[0]


def test_pooling_reads_the_last_or_the_mean_output():
    torch.manual_seed(0)
    x = torch.randn(3, 12, 2)
    for pooling, pool in (("last", lambda y: y[:, -1]), ("mean", lambda y: y.mean(1))):
        network = Network(TASK, "gru", 8, pooling=pooling)
        expected = network.readout(pool(network.recurrent(x)[0]))
        torch.testing.assert_close(network(x).output, expected)


def members(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("model", ["lstm", "gru", "sru"])
def test_padding_does_not_matter(model, pooling):
    network = Network(TASK, model, 8, pooling=pooling)
    x = torch.randn(3, 12, 2)
    x[2, 5:] = 1e3
    answer = network(Sequences(x, LENGTHS))
    for row in (0, 2):
        own = network(x[row : row + 1, : LENGTHS[row]])
        torch.testing.assert_close(answer.output[row : row + 1], own.output)
        for last, own_last in zip(members(answer.state), members(own.state), strict=True):
            torch.testing.assert_close(last[:, row], own_last[:, 0])
    torch.testing.assert_close(answer.output[1], network.readout(torch.zeros(8)))


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_sequences_end_to_end_answer_as_padded_ones(pooling):
    network = Network(TASK, "sru", 8, pooling=pooling)
    x = torch.randn(3, 12, 2)
    joined = torch.cat([row[:length] for row, length in zip(x, LENGTHS, strict=True)])
    padded = network(Sequences(x, LENGTHS)).output
    torch.testing.assert_close(network(Sequences(joined, cu_seqlens=CUTS)).output, padded)


def test_an_empty_sequence_keeps_the_state_it_came_with():
    network = Network(TASK, "lstm", 8)
    before = (torch.randn(1, 3, 8), torch.randn(1, 3, 8))
    _, after, _ = network(Sequences(torch.randn(3, 12, 2), LENGTHS), before)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[:, 1], new[:, 1])
        assert not torch.equal(old[:, 0], new[:, 0])


def test_sequences_end_to_end_are_refused_where_a_layer_cannot_take_them():
    network = Network(TASK, "lstm", 8)
    with pytest.raises(ValueError, match="cu_seqlens must be for a layer that takes it, got lstm"):
        network(Sequences(torch.randn(17, 2), cu_seqlens=CUTS))


TIMES = torch.tensor([[3.0, 3.5, 5.0, 5.0], [0.0, 0.25, 1.0, 9.0]], dtype=torch.float64)
SINCE = torch.tensor([[0.0, 1.0, 3.0, 0.0], [0.0, 0.5, 1.5, 16.0]])  # in halves


def test_a_layer_without_times_is_given_the_time_since_the_last_step():
    network = Network(Stamped(), "gru", 8)
    x = torch.randn(2, 4, 2)
    expected = network.readout(network.recurrent(torch.cat([x, SINCE[..., None]], -1))[0][:, -1])
    torch.testing.assert_close(network(Sequences(x, times=TIMES)).output, expected)


def test_time_differences_begin_afresh_in_each_sequence():
    network = Network(Stamped(), "sru", 8)
    x = torch.randn(2, 4, 2)
    padded = network(Sequences(x, times=TIMES)).output
    ends = torch.tensor([0, 4, 8, 8])
    joined = network(Sequences(x.flatten(0, 1), times=TIMES.flatten(), cu_seqlens=ends)).output
    torch.testing.assert_close(joined[:2], padded)


def test_a_task_may_give_the_time_itself(monkeypatch):
    monkeypatch.setattr(Stamped, "absolute_times", True)
    network = Network(Stamped(), "gru", 8)
    x = torch.randn(2, 4, 2)
    inputs = torch.cat([x, 2 * TIMES.float().unsqueeze(-1)], -1)  # in units of 0.5
    expected = network.readout(network.recurrent(inputs)[0][:, -1])
    torch.testing.assert_close(network(Sequences(x, times=TIMES)).output, expected)


def test_a_layer_with_times_is_given_them(monkeypatch):
    monkeypatch.setitem(create_model_layers(), "clocked", Clocked)
    network = Network(Stamped(), "clocked", 8)
    assert network.recurrent.width == 2
    x = torch.randn(2, 4, 2)
    expected = network.readout(x[:, -1].repeat(1, 4) + TIMES[:, -1:].float())
    torch.testing.assert_close(network(Sequences(x, times=TIMES)).output, expected)


def create_model_layers():
    from longrnn.nn import registry

    return registry._LAYERS


def test_times_must_come_with_a_task_of_time_stamps():
    with pytest.raises(ValueError, match="times must be given for a task with time stamps"):
        Network(Stamped(), "gru", 8)(torch.randn(2, 4, 2))


@pytest.mark.parametrize("lengths", [None, torch.tensor([30, 0, 11])])
@pytest.mark.parametrize("pooling", ["last", "mean", "every"])
@pytest.mark.parametrize("model", ["lstm", "gilr"])
def test_a_step_that_is_skipped_copies_output_and_state(model, pooling, lengths):
    x = torch.randn(3, 30, 2)
    network = Network(TASK, model, 8, pooling=pooling, random_skip=0.4)
    output, state, updates = network(Sequences(x, lengths))
    assert ((updates == 0) | (updates == 1)).all()
    for row in range(3):
        steps = 30 if lengths is None else int(lengths[row])
        last, outputs = None, []
        for t in range(steps):
            if updates[row, t]:
                y, last = network.recurrent(x[row : row + 1, t : t + 1], last)
            outputs.append(torch.zeros(8) if last is None else y[0, 0])
        assert not updates[row, steps:].any()
        outputs = torch.stack(outputs or [torch.zeros(8)])
        pooled = {"last": outputs[-1], "mean": outputs.mean(0), "every": outputs}[pooling]
        ours = output[row, : len(outputs)] if pooling == "every" else output[row]
        torch.testing.assert_close(ours, network.readout(pooled))
        if last is not None:
            for ours, theirs in zip(members(state), members(last), strict=True):
                torch.testing.assert_close(ours[:, row], theirs[:, 0])


def test_random_skips_come_as_often_as_asked_in_training_and_evaluation():
    network = Network(TASK, "gru", 8, random_skip=0.2)
    for mode in (True, False):
        updates = network.train(mode)(torch.randn(200, 100, 2)).updates
        assert updates.mean() == pytest.approx(0.8, abs=0.01)


def test_skipped_steps_are_left_out_before_the_layer_runs():
    network = Network(TASK, "sru", 8, random_skip=0.5)
    shapes = []
    network.recurrent.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    updates = network(torch.randn(4, 100, 2)).updates
    assert shapes == [(4, int(updates.sum(1).max()), 2)]


def test_an_unknown_layer_option_is_named():
    with pytest.raises(ValueError, match=r"layer_option must be one that sru has, got: .*width"):
        Network(TASK, "sru", 8, options={"width": 3})


def test_a_layer_with_a_clock_by_option_is_given_the_times():
    for phased in (False, True):
        network = Network(Stamped(), "sru", 8, options={"phased": phased})
        assert network.recurrent.input_size == 2 + (not phased)  # else their differences
        network(Sequences(torch.randn(2, 4, 2), times=TIMES))
