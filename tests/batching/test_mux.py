import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence
from torch.testing import assert_close
from torch.utils._pytree import tree_flatten

from batching.modules import NAMES, LoopOverCell, build, draw, gradients, one_by_one
from longrnn import SRU
from longrnn.batching import MuxUnroll, mux, recorded
from longrnn.batching.torch_rnn import run_weights

LENGTHS = [7, 2, 9, 4]


class CallsAgain:
    """Records nothing: a replay does the work once more, and puts it where the first went."""

    made = 0

    def warm_up(self, run):
        run()

    def record(self, run):
        CallsAgain.made += 1
        training = torch.is_grad_enabled()
        results = [result.clone() for result in run()]

        def replay():
            with torch.set_grad_enabled(training):
                new = run()
            with torch.no_grad():
                for held, value in zip(results, new, strict=True):
                    held.copy_(value)

        return results, replay

    def memory_bytes(self):
        return 1234


@pytest.fixture
def recorded_on_cpu(monkeypatch):
    """Run on the CPU what runs on a GPU, but for the graphs themselves."""
    CallsAgain.made = 0

    def calls(self, device):
        if device not in self._engines:
            call = lambda *args: mux.call_module(self.module, *args)  # noqa: E731
            self._engines[device] = recorded.RecordedCalls(
                self.module, call, lambda: self.max_graphs, CallsAgain
            )
        return self._engines[device]

    monkeypatch.setattr(MuxUnroll, "_calls", calls)


@pytest.fixture(params=["sliced", "recorded"])
def way(request):
    if request.param == "recorded":
        request.getfixturevalue("recorded_on_cpu")
    return request.param


@pytest.mark.parametrize("buckets", [[40], [9], [3, 10], [5, 12, 20]], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_sequence_gives_the_same_alone_and_in_any_bucket(name, buckets, way):
    module = build(name)
    multiplexed = MuxUnroll(module, buckets, compile=False)
    x = draw(LENGTHS, 12).requires_grad_()
    expected = one_by_one(module, x, LENGTHS)
    sources = [x, *(p for p in module.parameters() if p.requires_grad)]
    right = gradients(*expected, sources)
    for _ in range(2):  # the second time on what the first has recorded
        output, state, *more = multiplexed(x, lengths=torch.tensor(LENGTHS))
        came = [output, *more], tree_flatten(state)[0]
        assert_close(came, expected)
        assert_close(gradients(*came, sources), right)


@pytest.mark.parametrize("lengths", [[5, 5, 5], [4], [12, 12]], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_where_all_are_as_long_nothing_differs_either(name, lengths, way):
    module = build(name)
    x = draw(lengths, 12).requires_grad_()
    expected = one_by_one(module, x, lengths)
    sources = [x, *(p for p in module.parameters() if p.requires_grad)]
    right = gradients(*expected, sources)
    multiplexed = MuxUnroll(module, [6, 12], compile=False)
    output, state, *more = multiplexed(x, lengths=torch.tensor(lengths))
    came = [output, *more], tree_flatten(state)[0]
    assert_close(came, expected)
    assert_close(gradients(*came, sources), right)


@pytest.mark.parametrize("name", NAMES[:2] + NAMES[-3:])
def test_states_go_in_and_come_out(name, way):
    module = build(name)
    multiplexed = MuxUnroll(module, [6, 12], compile=False)
    x, more = draw(LENGTHS, 9), draw([6] * 4, 6)
    _, state, *_ = multiplexed(x, lengths=torch.tensor(LENGTHS))
    output, last, *_ = multiplexed(more, state)
    expected, right = one_by_one(module, more, [6] * 4, state)
    assert_close(output, expected[0])
    assert_close(tree_flatten(last)[0], right)


@pytest.mark.parametrize("name", ["sru", "lstm", "gru"])
def test_batch_first_and_both_directions(name, way):
    module = build(name, batch_first=True, bidirectional=True)
    x = draw(LENGTHS, 15, batch_first=True)
    output, state = MuxUnroll(module, [10], compile=False)(x, lengths=torch.tensor(LENGTHS))
    expected, right = one_by_one(module, x, LENGTHS, batch_first=True)
    assert_close(output, expected[0])
    assert_close(tree_flatten(state)[0], right)


def test_time_stamps_are_cut_with_the_input(way):
    module = build("loop")
    x, times = draw(LENGTHS, 12), torch.rand(12, 4)
    output, _ = MuxUnroll(module, [9], compile=False)(x, lengths=torch.tensor(LENGTHS), times=times)
    expected, _ = module(x.nan_to_num(), lengths=torch.tensor(LENGTHS), times=times)
    assert_close(output, expected)


@pytest.mark.parametrize("shape", [(4, 12), (12,)], ids=str)
def test_time_stamps_come_batch_first_or_once_for_all(shape, way):
    module = build("phased-lstm", batch_first=True)
    x, times = draw(LENGTHS, 12, batch_first=True), torch.rand(shape).cumsum(-1)
    lengths = torch.tensor(LENGTHS)
    output, _ = MuxUnroll(module, [9], compile=False)(x, lengths=lengths, times=times)
    expected, _ = module(x, lengths=lengths, times=times)
    assert_close(output, expected)


def test_evaluation_follows_training(way):
    module = nn.GRU(3, 5, 2, dropout=0.5)
    multiplexed = MuxUnroll(module, [10], compile=False)
    x = torch.randn(10, 4, 3)
    multiplexed.train()
    assert not torch.equal(multiplexed(x)[0], multiplexed(x)[0])
    multiplexed.eval()
    with torch.no_grad():
        output, _ = multiplexed(x)
    assert not output.requires_grad
    assert_close(output, module(x)[0])


def test_training_with_one_optimizer_moves_the_weights_as_without_buckets(way):
    plain = nn.LSTM(3, 5).double()
    multiplexed = MuxUnroll(copy.deepcopy(plain), [4, 10], compile=False)
    optimizers = [torch.optim.Adam(m.parameters(), 0.1) for m in (plain, multiplexed)]
    for lengths in ([3, 2], [9, 5], [4, 1], [10, 10]):
        x = draw(lengths, 10)
        outputs, _ = one_by_one(plain, x, lengths)
        for optimizer, output in zip(
            optimizers, (outputs[0], multiplexed(x, lengths=torch.tensor(lengths))[0]), strict=True
        ):
            optimizer.zero_grad()
            output.square().sum().backward()
            optimizer.step()
    assert_close(dict(multiplexed.module.named_parameters()), dict(plain.named_parameters()))
    assert multiplexed.stats()["hits"] == {4: 2, 10: 2}


def test_stats_count_what_was_run():
    multiplexed = MuxUnroll(SRU(3, 5), [4, 8, 16], compile=False)
    before = multiplexed.stats()
    for lengths, T in (([3, 4], 16), ([7, 2], 8), ([16, 1], 16), (None, 4)):
        multiplexed(
            torch.randn(T, 2, 3), lengths=None if lengths is None else torch.tensor(lengths)
        )
    stats = multiplexed.stats()
    assert stats["hits"] == {4: 2, 8: 1, 16: 1}
    assert stats["valid_steps"] == 7 + 9 + 17 + 8
    assert stats["padded_steps"] == 1 + 5 + 15 + 0
    assert (stats["way"], stats["graphs"], stats["memory_bytes"]) == ("sliced", 0, 0)
    assert before == dict.fromkeys(stats, 0) | {"hits": {4: 0, 8: 0, 16: 0}, "way": "not yet run"}


def test_a_batch_longer_than_the_last_bucket_is_an_error_or_makes_new_ones():
    x = torch.randn(30, 2, 3)
    with pytest.raises(ValueError, match="sequences of at most 16 steps, the last bucket, got 30"):
        MuxUnroll(SRU(3, 5), [8, 16])(x)
    module = SRU(3, 5)
    growing = MuxUnroll(module, [8, 16], overflow="grow", compile=False)
    assert_close(growing(x)[0], module(x)[0])
    assert growing.buckets == [8, 16, 32]
    assert growing.max_graphs == 4 * 3
    for T in (18, 20, 32, 17, 33):
        growing(x[:1].expand(T, 2, 3))
    assert growing.buckets == [8, 16, 20, 32, 40]
    assert growing.stats()["hits"] == {8: 0, 16: 0, 20: 3, 32: 2, 40: 1}


def test_new_buckets_make_room_for_their_graphs(recorded_on_cpu):
    growing = MuxUnroll(SRU(3, 5), [2], overflow="grow")
    for T in range(1, 12):
        growing(torch.randn(T, 1, 3))
    assert (growing.stats()["graphs"], growing.stats()["evicted"]) == (len(growing.buckets), 0)


def test_a_recording_serves_its_shape_and_mode_and_no_other(recorded_on_cpu):
    multiplexed = MuxUnroll(SRU(3, 5), [4, 8])
    for T, B in ((4, 2), (3, 2), (8, 2), (4, 1), (4, 2)):
        multiplexed(torch.randn(T, B, 3))
    assert multiplexed.stats()["graphs"] == 3
    with torch.no_grad():
        multiplexed(torch.randn(4, 2, 3))
    assert multiplexed.stats()["graphs"] == 4
    multiplexed.eval()
    multiplexed(torch.randn(4, 2, 3))
    assert multiplexed.stats()["graphs"] == 5
    assert multiplexed.stats()["memory_bytes"] == 1234
    assert CallsAgain.made == 4 * 2 + 1  # with a backward each, but for the one without gradients


def test_a_recording_serves_its_autocast_and_no_other(recorded_on_cpu):
    module, x = SRU(3, 5), torch.randn(4, 2, 3)
    multiplexed = MuxUnroll(module, [4])
    for dtype in (None, torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            for _ in range(2):
                assert_close(multiplexed(x)[0], module(x)[0])
    assert multiplexed.stats()["graphs"] == 3


def test_the_least_recently_used_recording_goes(recorded_on_cpu):
    multiplexed = MuxUnroll(SRU(3, 5), [2, 4, 8], max_graphs=2)
    for T in (2, 4, 2, 8, 2):
        multiplexed(torch.randn(T, 1, 3))
    stats = multiplexed.stats()
    assert (stats["graphs"], stats["evicted"], CallsAgain.made) == (2, 1, 3 * 2)
    multiplexed(torch.randn(4, 1, 3))
    assert CallsAgain.made == 4 * 2


def test_results_are_not_overwritten_by_the_next_batch(recorded_on_cpu):
    multiplexed = MuxUnroll(SRU(3, 5), [4])
    first = torch.randn(4, 1, 3)
    output, state = multiplexed(first)
    output.sum().backward()
    kept = [output.detach().clone(), state.detach().clone()]
    other = torch.randn(4, 1, 3)
    multiplexed(other)[0].sum().backward()
    assert_close([output.detach(), state.detach()], kept, rtol=0, atol=0)
    parameters = list(multiplexed.parameters())
    right = torch.autograd.grad(
        sum(multiplexed.module(x)[0].sum() for x in (first, other)), parameters
    )
    assert_close([p.grad for p in parameters], list(right))  # accumulated


def test_gradients_are_not_overwritten_by_the_next_batch(recorded_on_cpu):
    multiplexed = MuxUnroll(SRU(3, 5), [4])
    parameters = list(multiplexed.parameters())
    first = torch.autograd.grad(multiplexed(torch.randn(4, 1, 3))[0].sum(), parameters)
    kept = [grad.clone() for grad in first]
    torch.autograd.grad(multiplexed(torch.randn(4, 1, 3))[0].sum(), parameters)
    assert_close(list(first), kept, rtol=0, atol=0)


def test_two_batches_under_way_do_not_disturb_each_other(recorded_on_cpu):
    module = build("sru")
    multiplexed = MuxUnroll(module, [4, 8])
    xs = [torch.randn(T, 2, 3, dtype=torch.float64) for T in (4, 8, 4)]
    losses = [multiplexed(x)[0].square().sum() for x in xs]
    assert multiplexed.stats()["not_recorded"] == 2
    sum(losses).backward()
    grads = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    sum(module(x)[0].square().sum() for x in xs).backward()
    assert_close(grads, [p.grad for p in module.parameters()])
    multiplexed(xs[0])
    assert multiplexed.stats()["not_recorded"] == 2


def test_an_abandoned_batch_is_not_waited_for(recorded_on_cpu):
    multiplexed = MuxUnroll(SRU(3, 5), [4])
    for _ in range(3):
        multiplexed(torch.randn(4, 1, 3))
    assert multiplexed.stats()["not_recorded"] == 0


def test_a_second_backward_is_an_error_and_not_a_wrong_gradient(recorded_on_cpu):
    multiplexed = MuxUnroll(SRU(3, 5), [4])
    loss = multiplexed(torch.randn(4, 1, 3))[0].sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward must run once for each forward"):
        loss.backward()


def test_second_derivatives_are_had_where_calls_run_as_they_are_and_refused_elsewhere(way):
    multiplexed, x = MuxUnroll(build("sru"), [4], compile=False), draw([4, 4], 4).requires_grad_()
    (grad,) = torch.autograd.grad(multiplexed(x)[0].square().sum(), x, create_graph=True)
    if way == "recorded":
        with pytest.raises(RuntimeError, match="differentiate twice"):
            grad.square().sum().backward()
    else:
        (right,) = torch.autograd.grad(
            multiplexed.module(x)[0].square().sum(), x, create_graph=True
        )
        second = (torch.autograd.grad(g.square().sum(), x) for g in (grad, right))
        assert_close(*second)


def test_moved_or_frozen_weights_are_recorded_anew(recorded_on_cpu):
    multiplexed = MuxUnroll(nn.GRU(3, 5), [4])
    x = torch.randn(4, 2, 3)
    multiplexed(x)
    multiplexed.module.weight_ih_l0.requires_grad_(False)
    output, _ = multiplexed(x)
    output.sum().backward()
    assert multiplexed.module.weight_ih_l0.grad is None
    assert multiplexed.stats()["graphs"] == 2
    multiplexed.double()
    output, _ = multiplexed(x.double())
    assert_close(output, multiplexed.module(x.double())[0])
    assert multiplexed.stats()["graphs"] == 1


def test_what_cannot_be_recorded_runs_as_it_is_and_is_told(recorded_on_cpu, monkeypatch, caplog):
    module = SRU(3, 5)

    def failing(self, run):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(CallsAgain, "record", failing)
    multiplexed = MuxUnroll(module, [4])
    x = torch.randn(4, 1, 3)
    for _ in range(2):
        assert_close(multiplexed(x)[0], module(x)[0])
    assert multiplexed.stats()["not_recorded"] == 2
    assert "cannot be recorded: operation not permitted" in multiplexed.stats()["way"]
    assert len(caplog.records) == 1


def test_a_lack_of_memory_is_an_error_and_not_a_call_that_cannot_be_recorded(
    recorded_on_cpu, monkeypatch
):
    def failing(self, run):
        raise torch.OutOfMemoryError("no memory")

    multiplexed, x = MuxUnroll(SRU(3, 5), [4]), torch.randn(4, 1, 3)
    with monkeypatch.context() as patch:
        patch.setattr(CallsAgain, "record", failing)
        with pytest.raises(torch.OutOfMemoryError):
            multiplexed(x)
    multiplexed(x)
    assert (multiplexed.stats()["graphs"], multiplexed.stats()["not_recorded"]) == (1, 0)


def test_recording_leaves_buffers_and_random_numbers_alone(recorded_on_cpu):
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x, state=None, *, lengths=None):
            return nn.functional.dropout(self.norm(x.flatten(0, 1)).view_as(x)), None

    x = torch.randn(4, 2, 3)
    results = []
    for wrap in (lambda m: m, lambda m: MuxUnroll(m, [4])):
        torch.manual_seed(0)
        module = Norm()
        results.append([wrap(module)(x)[0], *module.buffers()])
    assert_close(*results)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_has_weights_of_its_own_and_no_graphs(duplicate, recorded_on_cpu):
    one = MuxUnroll(SRU(3, 5), [4])
    x = torch.randn(4, 1, 3)
    output, _ = one(x)
    other = duplicate(one)
    assert other.stats()["graphs"] == 0
    with torch.no_grad():
        one.module.weight_ih_l0.zero_()
    assert_close(other(x)[0], output)


def test_it_shows_its_settings():
    shown = "buckets=[4, 8], max_graphs=8, overflow='grow', compile=None"
    assert shown in repr(MuxUnroll(SRU(3, 5), [4, 8], overflow="grow"))


def test_a_state_dict_is_that_of_the_module_below_its_name():
    module = SRU(3, 5)
    names = {f"module.{name}" for name in module.state_dict()}
    assert set(MuxUnroll(module, [4]).state_dict()) == names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"buckets": [4, 4]}, "buckets must be positive and ascending"),
        ({"max_graphs": 0}, "max_graphs must be a positive integer, got 0"),
        ({"overflow": "cut"}, "overflow must be one of error, grow; got 'cut'"),
    ],
)
def test_what_cannot_be_multiplexed_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        MuxUnroll(SRU(3, 5), **({"buckets": [4]} | given))


def test_input_without_padding_is_sent_to_the_module():
    multiplexed = MuxUnroll(SRU(3, 5), [4])
    with pytest.raises(ValueError, match="input must be padded"):
        multiplexed(pack_sequence([torch.randn(4, 3)]))
    with pytest.raises(ValueError, match="input must be padded"):
        multiplexed(torch.randn(4, 3), cu_seqlens=torch.tensor([0, 4]))
    with pytest.raises(ValueError, match=r"lengths must lie in \[0, T=4\], got \[5\]"):
        multiplexed(torch.randn(4, 1, 3), lengths=torch.tensor([5]))
    with pytest.raises(ValueError, match=r"input must have shape \(T, B, m\), got \(4, 3\)"):
        multiplexed(torch.randn(4, 3))
    with pytest.raises(ValueError, match=r"input must have shape \(B, T, m\), got \(4, 3\)"):
        MuxUnroll(SRU(3, 5, batch_first=True), [4])(torch.randn(4, 3))
    with pytest.raises(ValueError, match=r"input must have shape \(T, B, ...\), got \(4,\)"):
        MuxUnroll(LoopOverCell(3, 5), [4])(torch.randn(4))


@pytest.mark.parametrize("shape", [(5,), (15,), (10, 3), (2, 10), ()], ids=str)
def test_time_stamps_of_another_shape_are_named(shape):
    multiplexed = MuxUnroll(build("phased-lstm"), [20])
    with pytest.raises(
        ValueError, match=r"times must have shape \(10,\), or begin with .*\(10, 2\)"
    ):
        multiplexed(draw([10, 4], 10), times=torch.ones(shape))


def test_what_is_no_tensor_goes_to_the_module_as_it_is(way):
    module, x = build("phased-lstm"), draw([4, 4], 4)
    assert_close(MuxUnroll(module, [6], compile=False)(x, times=None), module(x, times=None))


class Returns(nn.Module):
    """A module that returns what its function makes of the input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, state=None, *, lengths=None):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.cumsum(0), r"must return \(output, state\) or more, got Tensor"),
        (lambda x: (x,), r"must return \(output, state\) or more, got tuple"),
        (lambda x: (x[-1], None), r"must return .* 10 steps beside the state, got \(2, 3\)"),
        (lambda x: (x, None, None), "must return .* 10 steps beside the state, got NoneType"),
        (lambda x: (x, None, x.sum()), r"must return .* 10 steps beside the state, got \(\)"),
    ],
)
def test_a_module_that_returns_something_else_is_named(function, message, way):
    multiplexed = MuxUnroll(Returns(function), [10], compile=False)
    with pytest.raises(ValueError, match="module " + message):
        multiplexed(torch.randn(10, 2, 3))


@pytest.mark.parametrize("lengths", [None, torch.tensor([10, 4])])
def test_pytorchs_own_layers_take_no_more_than_they_do(lengths):
    multiplexed = MuxUnroll(nn.LSTM(3, 5), [10])
    with pytest.raises(TypeError, match="unexpected keyword argument 'tims'"):
        multiplexed(torch.randn(10, 2, 3), lengths=lengths, tims=torch.rand(10, 2))


def test_a_layer_derived_from_pytorchs_that_takes_lengths_is_given_them(way):
    class Takes(nn.LSTM):
        def forward(self, x, state=None, *, lengths=None):
            return run_weights(self, 2 * x, state, lengths)

    module, x, lengths = Takes(3, 5), torch.randn(9, 4, 3), torch.tensor(LENGTHS)
    assert_close(MuxUnroll(module, [9])(x, lengths=lengths), module(x, lengths=lengths))


def test_pruned_weights_follow_those_that_are_loaded_and_trained(way):
    module, other = (prune.l1_unstructured(nn.LSTM(3, 5), "weight_hh_l0", 0.5) for _ in range(2))
    multiplexed, x, lengths = MuxUnroll(module, [9]), torch.randn(9, 4, 3), torch.tensor(LENGTHS)
    multiplexed(x, lengths=lengths)
    module.load_state_dict(other.state_dict())
    for _ in range(2):
        output, _ = multiplexed(x, lengths=lengths)
        expected, _ = module(pack_padded_sequence(x, lengths, enforce_sorted=False))
        assert_close(output, pad_packed_sequence(expected)[0])
        output.sum().backward()
        with torch.no_grad():
            module.weight_hh_l0_orig -= module.weight_hh_l0_orig.grad


def test_symbols_are_input_too():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.layer = nn.Embedding(7, 3), LoopOverCell(3, 5)

        def forward(self, symbols, state=None, *, lengths=None):
            return self.layer(self.embedding(symbols), state, lengths=lengths)

    module, symbols = Embedded(), torch.randint(7, (6, 2))
    output, _ = MuxUnroll(module, [8], compile=False)(symbols, lengths=torch.tensor([6, 3]))
    assert_close(output, module(symbols, lengths=torch.tensor([6, 3]))[0])
