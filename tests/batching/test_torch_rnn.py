import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.testing import assert_close
from torch.utils._pytree import tree_flatten

from batching.modules import draw, gradients, one_by_one
from longrnn import _checks
from longrnn.batching import run_padded

KINDS = [nn.LSTM, nn.GRU, nn.RNN]


@pytest.fixture(params=["plain", "hooked", "derived"])
def make(request):
    """Makes a layer that is PyTorch's own, or has a hook, or a forward of its own."""

    def make(kind, *args, **kwargs):
        if request.param == "derived":

            class Derived(kind):
                def forward(self, *args):
                    return super().forward(*args)

            kind = Derived
        rnn = kind(*args, **kwargs)
        if request.param == "hooked":
            rnn.register_forward_pre_hook(lambda module, args: None)
        return rnn

    return make


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [[5, 5, 5], [7, 2, 9], [4, 8, 6], [1]], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_it_is_each_sequence_by_itself(kind, lengths, batch_first, make):
    rnn = make(kind, 3, 5, 2, batch_first=batch_first, bidirectional=True, dtype=torch.float64)
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
def test_an_empty_sequence_keeps_its_state(kind, lengths, make):
    rnn = make(kind, 3, 5)
    start = torch.randn(1, 2, 5)
    state = (start, start / 2) if kind is nn.LSTM else start
    x = draw(lengths, 4).float().requires_grad_()
    output, last = run_padded(rnn, x, state, torch.tensor(lengths))
    assert_close(output[:, 0], torch.zeros(4, 5))
    for came, given in zip(tree_flatten(last)[0], tree_flatten(state)[0], strict=True):
        assert_close(came[:, 0], given[:, 0])
    output.sum().backward()
    for tensor in (x, *rnn.parameters()):
        assert tensor.grad.isfinite().all()


def test_no_steps_at_all(make):
    output, state = run_padded(make(nn.GRU, 3, 5), torch.ones(0, 2, 3), None, torch.tensor([0, 0]))
    assert_close((output, state), (torch.zeros(0, 2, 5), torch.zeros(1, 2, 5)))


def test_a_forward_of_its_own_and_hooks_run():
    class Doubles(nn.GRU):
        def forward(self, input, state=None):
            return super().forward(input._replace(data=2 * input.data), state)

    doubles, plain, lengths = Doubles(3, 5), nn.GRU(3, 5), torch.tensor([4, 2])
    doubles.load_state_dict(plain.state_dict())
    x = torch.randn(4, 2, 3)
    expected = run_padded(plain, 2 * x, None, lengths)
    assert_close(run_padded(doubles, x, None, lengths), expected)
    plain.register_forward_pre_hook(lambda module, args: (args[0]._replace(data=-args[0].data),))
    assert_close(run_padded(plain, -2 * x, None, lengths), expected)
    handle = register_module_forward_hook(lambda *args: called.append(args[0]))
    called = []
    run_padded(nn.RNN(3, 5), x, None, lengths)
    handle.remove()
    assert len(called) == 1


@pytest.mark.parametrize("lengths", [[4, 4], [4, 2]], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_under_autocast_it_has_the_dtypes_of_the_layer(kind, lengths):
    rnn, x = kind(3, 5), torch.randn(4, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        right = tree_flatten(rnn(x))[0]
        came = tree_flatten(run_padded(rnn, x, None, torch.tensor(lengths)))[0]
    assert [c.dtype for c in came] == [r.dtype for r in right]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_in_sixteen_bits_it_is_each_sequence_by_itself(kind, dtype):
    rnn, lengths = kind(3, 5, 2, bidirectional=True, dtype=dtype), [7, 2, 9]
    x = draw(lengths, 9).to(dtype)
    output, last = run_padded(rnn, x, None, torch.tensor(lengths))
    came = [output], tree_flatten(last)[0]
    exact = one_by_one(rnn.double(), x.double(), lengths)
    assert {value.dtype for values in came for value in values} == {dtype}
    assert_close(came, exact, check_dtype=False, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_a_projected_state_is_each_sequences_own():
    rnn, lengths = nn.LSTM(3, 5, 2, proj_size=4, bidirectional=True, dtype=torch.float64), [7, 0, 9]
    x = draw(lengths, 9)
    output, last = run_padded(rnn, x, None, torch.tensor(lengths))
    expected = one_by_one(rnn, x[:, ::2], lengths[::2])
    assert_close(([output[:, ::2]], [member[:, ::2] for member in last]), expected)
    assert [member.shape for member in last] == [(4, 3, 4), (4, 3, 5)]


@pytest.mark.parametrize("training", [False, True])
def test_dropout_between_layers_is_in_training_alone(training):
    rnn = nn.LSTM(3, 5, 2, dropout=1.0, dtype=torch.float64).train(training)
    lengths = [7, 2, 9]
    x = draw(lengths, 9)
    output, last = run_padded(rnn, x, None, torch.tensor(lengths))
    assert_close(([output], tree_flatten(last)[0]), one_by_one(rnn, x, lengths))


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
def test_bad_input_and_state_are_named(kind, width, state, message, lengths, make):
    with pytest.raises(ValueError, match=message):
        run_padded(make(kind, 3, 4), torch.randn(9, 2, width), state, torch.tensor(lengths))


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.float64, r"input must have the layer's dtype \(torch.float32\), got torch.float64"),
        (torch.int64, "input must have a floating dtype, got torch.int64"),
    ],
)
def test_an_input_of_another_dtype_is_named(dtype, message, make):
    with pytest.raises(ValueError, match=message):
        run_padded(
            make(nn.LSTM, 3, 4), torch.ones(4, 2, 3, dtype=dtype), None, torch.tensor([4, 2])
        )


def test_a_module_that_is_no_rnn_is_named():
    with pytest.raises(ValueError, match=r"rnn must be an nn\.LSTM, .*, got Linear"):
        run_padded(nn.Linear(3, 4), torch.ones(4, 2, 3), None, torch.tensor([4, 2]))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_does_not_keep_the_lengths():
    rnn, x = nn.LSTM(3, 4).requires_grad_(False), torch.randn(7, 2, 3)

    def run(lengths):
        return run_padded(rnn, x, None, lengths)[0]

    traced = torch.jit.trace(run, torch.tensor([7, 7]), check_trace=False)
    ragged = torch.tensor([7, 3])
    assert_close(traced(ragged), run(ragged))
