import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._pytree import tree_flatten

from batching.modules import draw, gradients, one_by_one
from longrnn import _checks
from longrnn.batching import run_padded

KINDS = [nn.LSTM, nn.GRU, nn.RNN]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [[5, 5, 5], [7, 2, 9], [4, 8, 6], [1]], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_it_is_each_sequence_by_itself(kind, lengths, batch_first):
    rnn = kind(3, 5, 2, batch_first=batch_first, bidirectional=True, dtype=torch.float64)
    x = draw(lengths, 9, batch_first=batch_first).requires_grad_()
    start = torch.randn(4, len(lengths), 5, dtype=torch.float64)
    state = (start, start / 2) if kind is nn.LSTM else start
    expected = one_by_one(rnn, x, lengths, state, batch_first=batch_first)
    output, last = run_padded(rnn, x, state, torch.tensor(lengths))
    came = [output], tree_flatten(last)[0]
    assert_close(came, expected)
    sources = [x, *rnn.parameters()]
    assert_close(gradients(*came, sources), gradients(*expected, sources))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("lengths", [[0, 0], [0, 3]], ids=str)
def test_an_empty_sequence_keeps_its_state(kind, lengths):
    rnn = kind(3, 5)
    start = torch.randn(1, 2, 5)
    state = (start, start / 2) if kind is nn.LSTM else start
    output, last = run_padded(rnn, torch.full((4, 2, 3), torch.nan), state, torch.tensor(lengths))
    assert_close(output[:, 0], torch.zeros(4, 5))
    for came, given in zip(tree_flatten(last)[0], tree_flatten(state)[0], strict=True):
        assert_close(came[:, 0], given[:, 0])


@pytest.mark.parametrize("lengths", [[4, 4], [3, 5]], ids=str)
def test_where_lengths_are_not_known_it_is_the_same(monkeypatch, lengths):
    rnn, x = nn.LSTM(3, 5), draw(lengths, 6).float()
    expected = run_padded(rnn, x, None, torch.tensor(lengths))
    monkeypatch.setattr(_checks, "is_known", lambda x: False)
    assert_close(run_padded(rnn, x, None, torch.tensor(lengths)), expected)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([5, 2], r"lengths must lie in \[0, T=4\], got \[5, 2\]"),
        ([3], r"lengths must have shape \(B=2\), got \(1,\)"),
        ([3.0, 2.0], "lengths must have dtype int32 or int64, got torch.float32"),
    ],
)
def test_bad_lengths_are_named(lengths, message):
    with pytest.raises(ValueError, match=message):
        run_padded(nn.GRU(3, 5), torch.randn(4, 2, 3), None, torch.tensor(lengths))


@pytest.mark.parametrize("lengths", [[9, 9], [9, 7]], ids=str)
@pytest.mark.parametrize(
    ("kind", "width", "state", "message"),
    [
        (nn.LSTM, 5, None, r"input must have shape \(T, B, m=3\), got \(9, 2, 5\)"),
        (nn.LSTM, 3, (torch.ones(1, 1, 4), torch.ones(1, 2, 4)), r"state\[0\] must .*\(1, 1, 4\)"),
        (nn.LSTM, 3, torch.ones(1, 2, 4), "state must "),
        (nn.GRU, 3, torch.ones(2, 2, 4), r"state must .*\(2, 2, 4\)"),
    ],
)
def test_bad_input_and_state_are_named(kind, width, state, message, lengths):
    with pytest.raises(ValueError, match=message):
        run_padded(kind(3, 4), torch.randn(9, 2, width), state, torch.tensor(lengths))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_does_not_keep_the_lengths():
    rnn, x = nn.LSTM(3, 4).requires_grad_(False), torch.randn(7, 2, 3)

    def run(lengths):
        return run_padded(rnn, x, None, lengths)[0]

    traced = torch.jit.trace(run, torch.tensor([7, 7]), check_trace=False)
    ragged = torch.tensor([7, 3])
    assert_close(traced(ragged), run(ragged))
