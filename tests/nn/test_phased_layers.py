"""What the phased layers promise: all that other layers do, by the clock, and only open units."""

import copy
import io
import math
import pickle
import re

import pytest
import torch
from phased_cases import CASES, PLAIN, random_state, reference
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
)
from torch.utils._pytree import tree_map

import longrnn
from longrnn.nn.stack import map_state

M, N = 3, 4
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_layer = pytest.mark.parametrize("case", PLAIN, ids=str)
both_ways = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
given_or_counted = pytest.mark.parametrize("given", [True, False], ids=["times", "counted"])


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def build(case, num_layers=1, dtype=torch.float64, input_size=M, **settings):
    """A layer with random biases, short periods and a leak that shows."""
    options = {"period_init": (1.5, 30.0), "on_ratio": 0.4, "leak": 0.2, **settings, **case.options}
    layer = longrnn.create_model(case.name, input_size, N, num_layers, dtype=dtype, **options)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith(("bias", "weight_peephole")):
                parameter.normal_()
    return layer


def draw(*shape, dtype=torch.float64, **settings):
    return torch.randn(*shape, dtype=dtype, **settings)


def stamps(*shape):
    """Ascending along the first dimension, from before 0."""
    return torch.rand(*shape, dtype=torch.float64).cumsum(0) * 5 - 7


def run(layer, *arguments, **settings):
    """All results in a flat list: output and the members of the state."""
    output, state = layer(*arguments, **settings)
    return [output, *state]


def gradients(values, targets):
    """Gradients of a fixed random projection of all values that have some."""
    torch.manual_seed(1)
    values = [y for y in values if y.requires_grad]
    loss = sum((y * torch.randn_like(y)).sum() for y in values)
    return torch.autograd.grad(loss, targets, allow_unused=True, materialize_grads=True)


def trained(layer):
    return [p for p in layer.parameters() if p.requires_grad]


def assert_all_close(ours, theirs, **tolerance):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def assert_same(ours, theirs):
    assert_all_close(ours, theirs, rtol=0, atol=0)


@each_case
@both_ways
@given_or_counted
@pytest.mark.parametrize(
    ("T", "num_layers", "bias", "lengths", "input_size"),
    [
        (1, 1, True, None, M),
        (5, 2, True, None, M),
        (5, 1, False, None, N),
        (33, 1, True, None, M),
        (7, 2, True, [7, 0, 2], M),
    ],
)
def test_as_the_equations_say(case, bidirectional, given, T, num_layers, bias, lengths, input_size):
    layer = build(
        case, num_layers, bias=bias, bidirectional=bidirectional, input_size=input_size,
        learn_on_ratio=True,
    )  # fmt: skip
    x = draw(T, 3, input_size, requires_grad=True)
    times = stamps(T, 3).requires_grad_() if given else None
    state = random_state(layer, 3, requires_grad=True)
    targets = [x, *state[:-1], *layer.parameters(), *([times] if given else [])]
    for layer.training in (True, False):
        ours = run(
            layer, x, state, times=times,
            lengths=None if lengths is None else torch.tensor(lengths),
        )  # fmt: skip
        theirs = reference(layer, x, times, lengths, list(state))
        assert_all_close(ours, theirs)
        assert_all_close(gradients(ours, targets), gradients(theirs, targets))


@each_case
@both_ways
def test_evaluation_computes_open_units_and_gets_the_same(case, bidirectional):
    layer = build(case, 2, bidirectional=bidirectional, on_ratio=0.1).eval()
    x, times = draw(40, 3, M), stamps(40, 3)
    dense = run(layer, x, times=times)
    assert dense[0].requires_grad
    with torch.no_grad():
        assert_all_close(run(layer, x, times=times), dense)
    assert_all_close(dense, reference(layer, x, times))


@each_layer
def test_an_input_that_no_unit_opens_for_is_never_looked_at(case):
    if not longrnn._native.available():
        pytest.skip("the compiled library was not built")
    layer = build(case, period_init=(50.0, 50.0), on_ratio=0.02).eval().requires_grad_(False)
    x, times = draw(60, 2, M), torch.rand(60, 2) * 1000
    wanted = run(layer, x, times=times)
    before = torch.cat([torch.zeros(1, 2, N), wanted[0][:-1]])
    closed = (wanted[0] == before).all(-1)
    assert 60 < closed.sum() < 118
    x[closed] = torch.nan
    assert_same(run(layer, x, times=times), wanted)


@each_layer
def test_the_leak_is_for_training_only(case):
    layer, x = build(case, on_ratio=0.05, period_init=(900.0, 1000.0)), draw(5, 2, M)
    with torch.no_grad():
        layer.shift_l0.fill_(-500.0)  # half a period away
    assert (layer(x)[0] != 0).all()
    assert not layer.eval()(x)[0].any()


@each_layer
def test_no_state_is_a_state_of_zeros(case):
    layer, x = build(case, 2, bidirectional=True), draw(5, 2, M)
    assert_all_close(run(layer, x), reference(layer, x))


@each_layer
def test_state_has_the_fields_of_its_documentation(case):
    layer, x = build(case, 2), draw(5, 2, M)
    packed = pack_padded_sequence(x, torch.tensor([3, 5]), enforce_sorted=False)
    for given in (x, x[:, 0], packed):
        state = layer(given)[1]
        assert state._fields == case.fields
        assert state.steps.dtype == torch.int64
    for one in case.fields:
        assert not any(other != one and other.startswith(one) for other in case.fields)


@each_layer
@both_ways
def test_stamps_lie_as_the_input_does_or_are_shared(case, bidirectional):
    layer = build(case, 2, bidirectional=bidirectional)
    x, times, state = draw(9, 3, M), stamps(9, 3), random_state(layer, 3)
    lengths = torch.tensor([2, 9, 0])
    for settings in ({}, {"lengths": lengths}):
        output, *last = run(layer, x, state, times=times, **settings)
        shared = run(layer, x, state, times=times[:, 1], **settings)
        assert_all_close([shared[0][:, 1]], [output[:, 1]])
        wide = times[:, 1:2].expand(9, 3)
        assert_same(run(layer, x, state, times=wide, **settings), shared)
        layer.batch_first = True
        swapped = x.transpose(0, 1)
        other, *other_last = run(layer, swapped, state, times=times.T, **settings)
        assert_all_close([other.transpose(0, 1), *other_last], [output, *last])
        other, *_ = run(layer, swapped, state, times=times[:, 1], **settings)
        assert_all_close([other.transpose(0, 1)], shared[:1])
        one = map_state(lambda s: s[:, 1], state)
        for layer.batch_first in (True, False):
            single = run(layer, x[:, 1], one, times=times[:, 1])
            assert_all_close(single, [v[:, 1] for v in (output, *last)])
    short, state = layer(x[:, 1], times=times[:, 1], lengths=torch.tensor(3))
    assert not short[3:].any()
    assert state.steps.tolist() == [[3]]


@each_layer
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32], ids=str)
def test_stamps_of_any_real_dtype(case, dtype):
    layer, x, times = build(case), draw(9, 2, M), torch.randint(-50, 50, (9, 2))
    assert_same(run(layer, x, times=times.to(dtype)), run(layer, x, times=times.double()))


@each_layer
@torch.no_grad()
def test_microseconds_of_an_hour_have_their_phase_in_a_float32_layer(case):
    layer = build(case, 2, torch.float32, period_init=(10.0, 1000.0)).eval()
    x, times = torch.randn(60, 2, M), 3.6e9 + stamps(60, 2) * 20
    wide = copy.deepcopy(layer).double()
    for k in (0, 1):  # the very periods that the layer computes
        period = getattr(layer, f"log_period_l{k}").exp().double()
        getattr(wide, f"log_period_l{k}").copy_(period.log())
    output = layer(x, times=times)[0]
    torch.testing.assert_close(
        output.double(), reference(wide, x.double(), times)[0], atol=1e-4, rtol=0
    )
    rounded = layer(x, times=times.float())[0]
    assert (output - rounded).abs().max() > 0.1


@each_layer
@given_or_counted
@pytest.mark.parametrize("pieces", [[1] * 9, [2, 7], [8, 1], [3, 0, 6]], ids=str)
def test_pieces_equal_the_whole(case, given, pieces):
    layer, x = build(case, 2), draw(9, 2, M, requires_grad=True)
    times = stamps(9, 2) if given else None
    for layer.training in (True, False):
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                theirs = run(layer, x, times=times)
                outputs, state = [], None
                parts = times.split(pieces) if given else [None] * len(pieces)
                for piece, part in zip(x.split(pieces), parts, strict=True):
                    y, state = layer(piece, state, times=part)
                    outputs.append(y)
            ours = [torch.cat(outputs), *state]
            assert_all_close(ours, theirs)
            if grad:
                targets = [x, *trained(layer)]
                assert_all_close(gradients(ours, targets), gradients(theirs, targets))


@each_layer
def test_steps_are_counted_where_no_times_are_given(case):
    layer, x = build(case, 2), draw(7, 3, M)
    state = random_state(layer, 3)
    counted = state.steps.view(1, 3) + torch.arange(7.0).unsqueeze(1)
    assert_same(run(layer, x, state), run(layer, x, state, times=counted))
    _, last = layer(x, state, lengths=torch.tensor([7, 0, 2]))
    assert torch.equal(last.steps - state.steps, torch.tensor([7, 0, 2]).view(1, 3, 1))
    _, last = layer(x, state, times=stamps(7, 3))  # with times too
    assert (last.steps - state.steps == 7).all()
    far = state._replace(steps=state.steps + 2**40)
    moved = far.steps.view(1, 3).double() + torch.arange(7).unsqueeze(1)
    assert_same(run(layer, x, far), run(layer, x, far, times=moved))
    narrow = state._replace(steps=state.steps.int())
    assert_same(run(layer, x, narrow)[:2], run(layer, x, state)[:2])


@each_layer
@both_ways
@given_or_counted
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "plain"])
def test_padding_is_never_looked_at(case, bidirectional, given, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(longrnn._native, "available", lambda: False)
    layer = build(case, 2, bidirectional=bidirectional)
    x, times, lengths = draw(6, 4, M), stamps(6, 4), torch.tensor([6, 1, 0, 3], dtype=torch.int32)
    padding = torch.arange(6)[:, None] >= lengths
    results = []
    for poison in (0.0, torch.nan):
        inputs = x.masked_fill(padding[..., None], poison).requires_grad_()
        when = times.masked_fill(padding, poison).requires_grad_()
        values = run(layer, inputs, times=when if given else None, lengths=lengths)
        grads = gradients(values, [inputs, when, *trained(layer)])
        results.append([*values, *grads])
        assert not values[0][padding].any()
        assert not grads[0][padding].any()
        assert not grads[1][padding].any()
    assert_same(*results)


@each_layer
@both_ways
@given_or_counted
def test_sequences_end_to_end_are_separate(case, bidirectional, given):
    layer, sizes = build(case, 2, bidirectional=bidirectional), [4, 0, 1, 7, 2]
    x, times = draw(sum(sizes), M, requires_grad=True), stamps(sum(sizes)) if given else None
    state = random_state(layer, len(sizes), requires_grad=True)
    ends = torch.tensor([0, *sizes]).cumsum(0)
    ours = run(layer, x, state, times=times, cu_seqlens=ends)
    whens = times.split(sizes) if given else [None] * len(sizes)
    alone = [
        run(layer, piece, map_state(lambda s: s[:, k], state), times=when)  # noqa: B023
        for k, (piece, when) in enumerate(zip(x.split(sizes), whens, strict=True))
    ]
    outputs, *members = zip(*alone, strict=True)
    theirs = [torch.cat(outputs), *(torch.stack(m, 1) for m in members)]
    assert_all_close(ours, theirs)
    targets = [x, *state[:-1], *trained(layer)]
    assert_all_close(gradients(ours, targets), gradients(theirs, targets))
    assert_same(run(layer, x, state, times=times, cu_seqlens=ends.int()), ours)


@each_layer
@both_ways
@given_or_counted
@pytest.mark.parametrize("lengths", [[6, 4, 4, 1], [1, 6, 4, 6]], ids=["sorted", "unsorted"])
def test_a_packed_sequence_is_a_padded_one(case, bidirectional, given, lengths):
    layer = build(case, 2, bidirectional=bidirectional, batch_first=True)
    x, times, lengths = draw(4, 6, M), stamps(6, 4).T, torch.tensor(lengths)

    def pack(padded):
        in_order = bool((lengths.diff() <= 0).all())
        return pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=in_order)

    for state in (None, random_state(layer, 4)):
        padded = run(layer, x, state, times=times if given else None, lengths=lengths)
        output, last = layer(pack(x), state, times=pack(times) if given else None)
        assert isinstance(output, PackedSequence)
        ours = [pad_packed_sequence(output, batch_first=True)[0], *last]
        assert_all_close(ours, padded)
        if given:
            output, _ = layer(pack(x), state, times=pack(times.unsqueeze(-1)))
            assert_same([pad_packed_sequence(output, batch_first=True)[0]], ours[:1])


@each_layer
def test_an_empty_sequence_keeps_its_state(case):
    layer = build(case, 2)
    state = random_state(layer, 2)
    for times in (None, torch.empty(0, 2), torch.empty(0)):
        output, *last = run(layer, draw(0, 2, M), state, times=times)
        assert output.shape == (0, 2, N)
        assert_same(last, list(state))
    for times in (None, torch.empty(5, 0), torch.arange(5)):
        output, *last = run(layer, draw(5, 0, M), times=times)
        assert output.shape == (5, 0, N)
        assert last[-1].shape == (1, 0, 1)


@each_layer
def test_strided_arguments_give_the_same(case):
    layer, x, times = build(case), draw(5, 2, M), stamps(5, 2)
    strided = torch.stack([x, x], -1)[..., 0]
    assert_all_close(run(layer, strided, times=times.T.contiguous().T), run(layer, x, times=times))


SETTINGS = {
    "plain": {},
    "times": {"times": stamps(5, 2)},
    "shared": {"times": stamps(5)},
    "lengths": {"times": stamps(5, 2), "lengths": torch.tensor([3, 5])},
    "cu_seqlens": {"cu_seqlens": torch.tensor([0, 4, 4, 9])},
    "cu_seqlens times": {"cu_seqlens": torch.tensor([0, 4, 4, 9]), "times": stamps(9)},
    "state": {},
}


@each_layer
@pytest.mark.parametrize("how", SETTINGS)
def test_compiles_without_a_break(case, how):
    torch._dynamo.reset()
    layer = build(case, 2, dtype=torch.float32, learn_on_ratio=True)
    x = torch.randn(*((9, M) if "cu_seqlens" in how else (5, 2, M)), requires_grad=True)
    settings = SETTINGS[how] | ({"state": random_state(layer, 2)} if how == "state" else {})
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for function in (layer, compiled):
        values = run(function, x, **settings)
        results.append([*values, *gradients(values, [x, *layer.parameters()])])
    assert_all_close(*results)
    layer.eval()
    with torch.no_grad():
        assert_all_close(run(compiled, x, **settings), run(layer, x, **settings))


class Exported(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, state, times):
        return self.layer(x, state, times=times)


@each_layer
@given_or_counted
@torch.no_grad()
def test_exports_with_any_time_and_batch(case, given):
    layer = build(case, 2, dtype=torch.float32).eval()
    T, B = torch.export.Dim("T", min=2), torch.export.Dim("B", min=2)
    _, state = layer(torch.randn(7, 3, M))
    shapes = {"x": {0: T, 1: B}, "state": tree_map(lambda _: {1: B}, state)}
    program = torch.export.export(
        Exported(layer),
        (torch.randn(7, 3, M), state, stamps(7, 3) if given else None),
        dynamic_shapes=shapes | {"times": {0: T, 1: B} if given else None},
    )
    x, times = torch.randn(11, 5, M), stamps(11, 5) if given else None
    _, state = layer(torch.randn(4, 5, M))
    assert_all_close(run(program.module(), x, state, times), run(layer, x, state, times=times))


@each_layer
def test_autocast_computes_in_bfloat16_but_the_clock(case):
    layer = build(case, 2, dtype=torch.float32)
    x, times = torch.randn(9, 2, M), stamps(9, 2) + 3.6e9
    wanted, _ = layer(x, times=times)
    with torch.autocast("cpu", torch.bfloat16):
        output, state = layer(x, times=times)
        again, _ = layer(x, state, times=times)
    assert output.dtype == again.dtype == state.h.dtype == torch.bfloat16
    assert state.steps.dtype == torch.int64
    torch.testing.assert_close(output.float(), wanted, rtol=0.1, atol=0.1)
    output.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in trained(layer))


@each_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_layers_run(case, dtype):
    layer = build(case, 2, dtype=dtype)
    x = draw(5, 2, M, dtype=dtype)
    output, state = layer(x, times=stamps(5, 2))
    assert output.dtype == state.h.dtype == dtype
    assert state.steps.dtype == torch.int64
    output, _ = layer(x, state)
    output.sum().backward()
    assert all(p.grad.dtype == dtype for p in trained(layer))


@each_layer
def test_survives_copies_and_files(case):
    layer = build(case, 2, dtype=torch.float32, learn_on_ratio=True)
    with torch.no_grad():
        layer.on_ratio_l1.fill_(0.7)
    x = torch.randn(5, 2, M)
    wanted = run(layer, x)
    fresh = build(case, 2, dtype=torch.float32, learn_on_ratio=True)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        assert_same(run(other, x), wanted)
        assert repr(other) == repr(layer)
        assert [p.requires_grad for p in other.parameters()] == [True] * len(
            list(fresh.parameters())
        )
    state = map_state(torch.Tensor.detach, layer(x)[1])
    copied = pickle.loads(pickle.dumps(state))
    assert type(copied) is type(state)
    assert_same(list(copied), list(state))
    assert layer.double()(x.double())[0].dtype == torch.float64
    layer.flatten_parameters()


@each_layer
def test_is_built_on_the_meta_device_first(case):
    with torch.device("meta"):
        layer = longrnn.create_model(case.name, M, N, 2, **case.options)
    assert all(p.is_meta for p in layer.parameters())
    x = torch.empty(5, 2, M, device="meta")
    assert layer(x, times=torch.empty(5, device="meta"))[0].shape == (5, 2, N)
    layer.to_empty(device="cpu")
    torch.manual_seed(3)
    layer.reset_parameters()
    torch.manual_seed(3)
    fresh = longrnn.create_model(case.name, M, N, 2, **case.options)
    assert_same(list(layer.parameters()), list(fresh.parameters()))


@each_layer
def test_dropout_acts_between_layers_in_training(case):
    layer, x, times = build(case, 2, dropout=1.0), draw(9, 2, M), stamps(9, 2)
    dropped = run(layer, x, times=times)
    assert_same([layer(draw(9, 2, M), times=times)[0]], dropped[:1])  # the last layer sees nothing
    layer.eval()
    kept = run(layer, x, times=times)
    layer.dropout = 0.0
    assert_same(kept, run(layer, x, times=times))
    assert not torch.equal(kept[0], dropped[0])


@each_layer
def test_clocks_start_as_documented(case):
    settings = {"period_init": (10.0, 500.0), "on_ratio": 0.1, **case.options}
    layer = longrnn.create_model(case.name, 5, 3000, **settings)
    log_period, shift = layer.log_period_l0, layer.shift_l0
    low, high = math.log(10), math.log(500)
    assert low <= log_period.min() < low + 0.05
    assert high - 0.05 < log_period.max() <= high
    torch.testing.assert_close(log_period.mean().item(), (low + high) / 2, rtol=0, atol=0.1)
    parts = shift / log_period.exp()
    assert 0 <= parts.min() < 0.01 < 0.99 < parts.max() <= 1
    assert (layer.on_ratio_l0 == 0.1).all()
    assert not layer.on_ratio_l0.requires_grad
    assert log_period.requires_grad
    assert shift.requires_grad
    default = longrnn.create_model(case.name, 5, 3000, **case.options).log_period_l0.exp()
    assert 1 <= default.min() < 2 < 900 < default.max() <= 1000
    if case.name == "phased-lstm":
        torch.testing.assert_close(layer.weight_peephole_l0.std().item(), 0.1, rtol=0.1, atol=0)
        assert (layer.bias_ih_l0.view(4, -1).sum(1) == torch.tensor([0, 3000, 0, 0])).all()


@each_layer
def test_a_learned_on_ratio_is_held_within_its_bounds(case):
    layer, x = build(case, learn_on_ratio=True), draw(30, 2, M)
    for beyond, bound in (
        (-0.2, 1e-3),
        (0.0, 1e-3),
        (1.5, 1 - 1e-3),
        (-1e20, 1e-3),
        (1e20, 1 - 1e-3),
    ):
        with torch.no_grad():
            layer.on_ratio_l0.fill_(bound)
            wanted = run(layer, x)
            layer.on_ratio_l0.fill_(beyond)
        assert_same(run(layer, x), wanted)
    layer.on_ratio_l0.data.fill_(1.5)
    layer.zero_grad()
    layer(x)[0].sum().backward()
    assert layer.on_ratio_l0.grad.any()


@each_layer
def test_weights_of_layers_without_a_clock_have_the_same_names(case):
    layer = longrnn.create_model(case.name, M, N, 2, bidirectional=True, **case.options)
    theirs = longrnn.create_model(case.name.removeprefix("phased-"), M, N, 2, bidirectional=True)
    missing, unexpected = layer.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected
    clock = ["log_period", "shift", "on_ratio", "weight_peephole"]
    clock = clock if case.name == "phased-lstm" else clock[:3]
    suffixes = [f"_l{k}{way}" for k in (0, 1) for way in ("", "_reverse")]
    assert set(missing) == {name + suffix for name in clock for suffix in suffixes}


def test_repr_shows_the_options():
    assert repr(longrnn.PhasedLSTM(3, 4, 2, leak=0.0)) == (
        "PhasedLSTM(3, 4, num_layers=2, period_init=(1.0, 1000.0), on_ratio=0.05, leak=0.0, "
        "learn_on_ratio=False, peephole=True)"
    )
    assert repr(longrnn.PhasedGRU(3, 4, batch_first=True)) == (
        "PhasedGRU(3, 4, batch_first=True, period_init=(1.0, 1000.0), on_ratio=0.05, leak=0.001, "
        "learn_on_ratio=False)"
    )
    assert repr(longrnn.GILR(3, 4, phased=True, on_ratio=0.1)) == (
        "GILR(3, 4, period_init=(1.0, 1000.0), on_ratio=0.1, leak=0.001, learn_on_ratio=False, "
        "activation='tanh', phased=True)"
    )
    assert repr(longrnn.GILR(3, 4)) == "GILR(3, 4, activation='tanh')"


X, PACKED = torch.zeros(5, 2, M), pack_sequence([torch.zeros(5, M), torch.zeros(3, M)])
SORTED = pack_sequence([torch.zeros(5), torch.zeros(3)])
SHUFFLED = pack_sequence([torch.zeros(3), torch.zeros(5)], enforce_sorted=False)


@each_layer
@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        (X, {"times": torch.zeros(2, 5)}, "times must have shape (5, 2), one a step, or (T,), got"),
        (X, {"times": torch.zeros(2)}, "times must have shape (T=5), got (2,)"),
        (X, {"times": torch.zeros(5, 2, 1)}, "times must have shape (5, 2), one a step"),
        (X[:, 0], {"times": torch.zeros(4)}, "times must have shape (5,), one a step"),
        (X[:, 0], {"times": torch.zeros(4), "cu_seqlens": torch.tensor([0, 5])}, "times must have"),
        (
            X,
            {"times": torch.zeros(5).cfloat()},
            "times must be a tensor of real numbers, got torch",
        ),
        (X, {"times": [0, 1, 2, 3, 4]}, "times must be a tensor of real numbers, got list"),
        (X, {"times": torch.zeros(5, device="meta")}, "times must be on input's device (cpu), got"),
        (PACKED, {"times": torch.zeros(5)}, "times and input must both be a PackedSequence, or"),
        (X, {"times": PACKED}, "times and input must both be a PackedSequence, or neither"),
        (
            PACKED,
            {"times": pack_sequence([torch.zeros(8)])},
            "times must be packed as input is: th",
        ),
        (
            PACKED,
            {"times": SHUFFLED},
            "times must be packed as input is: their sorted_indices diff",
        ),
        (PACKED, {"times": SORTED, "lengths": torch.tensor([5, 3])}, "lengths must be None where"),
        (X[0, 0], {"times": torch.zeros(5)}, "input must have shape (T, B, m=3), got (3,)"),
        (X[..., :2], {"times": torch.zeros(7)}, "input must have shape (T, B, m=3), got (5, 2, 2)"),
        (X.long(), {"times": torch.zeros(7)}, "input must have a floating dtype, got torch.int64"),
        (X, {"lengths": torch.tensor([6, 1])}, "lengths must lie in [0, T=5], got [6, 1]"),
    ],
)
def test_a_bad_call_says_what_is_wrong(case, x, settings, message):
    layer = longrnn.create_model(case.name, M, N, **case.options)
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(x, **settings)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            torch.zeros(1, 2, 1),
            "state.steps must be a tensor of dtype int32 or int64, got torch.fl",
        ),
        (torch.zeros(1, 1, 1).long(), "state.steps must have shape (1, B=2, 1), got (1, 1, 1)"),
        (5, "state.steps must be a tensor of dtype int32 or int64, got int"),
    ],
)
def test_a_bad_count_of_steps_says_what_is_wrong(steps, message):
    h = torch.zeros(1, 2, N)
    with pytest.raises(ValueError, match=re.escape(message)):
        longrnn.PhasedLSTM(M, N)(X, (h, h, steps))
    with pytest.raises(ValueError, match=re.escape("state must be a tuple of (h, steps), got tup")):
        longrnn.PhasedGRU(M, N)(X, (h, h, steps))


@each_layer
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_ratio": 0.0}, "on_ratio must lie in (0, 1), got 0.0"),
        ({"on_ratio": 1.0}, "on_ratio must lie in (0, 1), got 1.0"),
        ({"on_ratio": "5 %"}, "on_ratio must be a probability in [0, 1], got '5 %'"),
        ({"leak": -0.1}, "leak must be a probability in [0, 1], got -0.1"),
        ({"period_init": 10.0}, "period_init must be two numbers, got 10.0"),
        ({"period_init": (1, 2, 3)}, "period_init must be two numbers, got (1, 2, 3)"),
        ({"period_init": ("1", "2")}, "period_init must be two numbers, got ('1', '2')"),
        ({"period_init": (0.0, 9.0)}, "period_init must be two positive numbers, the lesser first"),
        ({"period_init": (9.0, 2.0)}, "period_init must be two positive numbers, the lesser first"),
        (
            {"period_init": (1.0, math.inf)},
            "period_init must be two positive numbers, the lesser f",
        ),
        ({"hidden_size": 0}, "hidden_size must be a positive integer, got 0"),
    ],
)
def test_a_bad_setting_says_what_is_wrong(case, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        longrnn.create_model(
            case.name, **{"input_size": M, "hidden_size": N, **settings, **case.options}
        )


@pytest.mark.parametrize("layer", [longrnn.GILR, longrnn.SRU])
def test_a_clock_is_for_layers_that_are_phased(layer):
    plain = layer(M, N)
    assert not any(name.startswith(("log_period", "shift")) for name in plain.state_dict())
    with pytest.raises(ValueError, match="times must be None where phased is False"):
        plain(X, times=torch.zeros(5))
    for name, value in {
        "period_init": (1.0, 9.0),
        "on_ratio": 0.1,
        "leak": 0.0,
        "learn_on_ratio": False,
    }.items():
        message = f"{name} must be None where phased is False, got {value!r}"
        with pytest.raises(ValueError, match=re.escape(message)):
            layer(M, N, **{name: value})
