"""What the skip layers promise: all that other layers do, a third result, and skipped work."""

import copy
import io
import pickle
import re

import pytest
import torch
from layer_cases import flat_state
from skip_cases import CASES, PLAIN, TORCH, random_state, reference
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_map

import longrnn
from longrnn import budget_loss
from longrnn.nn.stack import map_state

M, N = 3, 4
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_layer = pytest.mark.parametrize("case", PLAIN, ids=str)
each_gilr_lstm = pytest.mark.parametrize(
    "case", [case for case in CASES if case.name == "skip-gilr-lstm"], ids=str
)
each_of_torch = pytest.mark.parametrize("case", TORCH, ids=str)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def build(case, num_layers=1, dtype=torch.float64, input_size=M, hidden_size=N, **settings):
    """A layer with random biases, and a gate that skips about every other step."""
    layer = longrnn.create_model(
        case.name, input_size, hidden_size, num_layers, dtype=dtype, **settings, **case.options
    )
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("bias"):
                parameter.normal_()
        layer.weight_u.normal_(std=0.25)
        layer.bias_u.fill_(-0.5)
    return layer


def draw(*shape, dtype=torch.float64, **settings):
    return torch.randn(*shape, dtype=dtype, **settings)


def run(layer, *arguments, **settings):
    """All results in a flat list: output, updates, the members of the state."""
    output, state, updates = layer(*arguments, **settings)
    return [output, updates, *flat_state(state)]


def gradients(values, targets):
    """Gradients of a fixed random projection of all values."""
    torch.manual_seed(1)
    loss = sum((y * torch.randn_like(y)).sum() for y in values)
    return torch.autograd.grad(loss, targets, allow_unused=True, materialize_grads=True)


def assert_all_close(ours, theirs, **tolerance):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def assert_same(ours, theirs):
    assert_all_close(ours, theirs, rtol=0, atol=0)


def assert_some_skip(updates):
    assert 0 < updates.sum() < updates.numel()


@each_case
@pytest.mark.parametrize(
    ("T", "num_layers", "bias", "lengths", "input_size"),
    [
        (1, 1, True, None, M),
        (5, 2, True, None, M),
        (5, 1, False, None, N),
        (33, 1, True, None, M),
        (7, 3, True, [7, 0, 2], M),
    ],
)
@pytest.mark.parametrize("given", [False, True], ids=["own state", "given state"])
def test_as_the_equations_say(case, T, num_layers, bias, lengths, input_size, given):
    layer = build(case, num_layers, bias=bias, input_size=input_size)
    x = draw(T, 3, input_size, requires_grad=True)
    state = random_state(layer, case, 3, requires_grad=True) if given else None
    targets = [x, *(state or ()), *layer.parameters()]
    ours = run(layer, x, state, lengths=None if lengths is None else torch.tensor(lengths))
    theirs = reference(layer, case, x, lengths, state)
    assert_all_close(ours, theirs)
    assert_all_close(gradients(ours, targets), gradients(theirs, targets))
    if T > 1:
        assert_some_skip(ours[1])


@each_layer
def test_sequences_may_start_from_zeros(case):
    layer = build(case, 2, learn_initial_state=False)
    assert not any(name.endswith("_0") for name in layer.state_dict())
    x = draw(5, 2, M)
    assert_all_close(run(layer, x), reference(layer, case, x, None, None))


@each_layer
def test_state_has_the_fields_of_its_documentation(case):
    layer, x = build(case, 2), draw(5, 2, M)
    packed = pack_padded_sequence(x, torch.tensor([3, 5]), enforce_sorted=False)
    for given in (x, x[:, 0], packed):
        assert layer(given)[1]._fields == case.fields
    for one in case.fields:
        assert not any(other != one and other.startswith(one) for other in case.fields)


@each_layer
def test_batch_first_and_unbatched_are_other_layouts(case):
    layer = build(case, 2)
    x, state = draw(9, 3, M), random_state(layer, case, 3)
    lengths = torch.tensor([2, 9, 0])
    for settings in ({}, {"lengths": lengths}):
        layer.batch_first = False
        output, updates, *last = run(layer, x, state, **settings)
        layer.batch_first = True
        other = run(layer, x.transpose(0, 1), state, **settings)
        assert_all_close([y.transpose(0, 1) for y in other[:2]], [output, updates])
        assert_all_close(other[2:], last)
        one = map_state(lambda s: s[:, 1], state)
        for layer.batch_first in (False, True):
            single = run(layer, x[:, 1], one)
            assert_all_close(single, [y[:, 1] for y in (output, updates, *last)])
    output, updates, *_ = run(layer, x[:, 1], lengths=torch.tensor(3))
    assert not output[3:].any()
    assert not updates[3:].any()
    assert updates[0] == 1


@each_layer
@pytest.mark.parametrize("pieces", [[1] * 9, [2, 7], [8, 1], [3, 0, 6]], ids=str)
def test_pieces_equal_the_whole(case, pieces):
    layer = build(case, 2)
    x = draw(9, 2, M, requires_grad=True)
    theirs = run(layer, x)
    assert_some_skip(theirs[1])
    for grad in (True, False):
        outputs, updates, state = [], [], None
        with torch.set_grad_enabled(grad):
            for piece in x.split(pieces):
                y, state, u = layer(piece, state)
                outputs.append(y)
                updates.append(u)
        ours = [torch.cat(outputs), torch.cat(updates), *state]
        assert_all_close(ours, theirs)
        if grad:
            targets = [x, *layer.parameters()]
            assert_all_close(gradients(ours, targets), gradients(theirs, targets))


@each_layer
def test_padding_is_never_looked_at(case):
    layer = build(case, 2)
    x, lengths = draw(6, 4, M), torch.tensor([6, 1, 0, 3], dtype=torch.int32)
    padding = torch.arange(6)[:, None] >= lengths
    poisoned = x.masked_fill(padding[..., None], float("nan")).requires_grad_()
    x.requires_grad_()
    results = []
    for given in (x, poisoned):
        values = run(layer, given, lengths=lengths)
        results.append([*values, *gradients(values, [given, *layer.parameters()])])
    assert_same(*results)
    output, updates, *_ = results[0]
    assert not output[padding].any()
    assert not updates[padding].any()


@each_layer
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_skipped_step_is_not_evaluated_where_no_gradient_is_asked(case, training, monkeypatch):
    if not longrnn._native.available():
        pytest.skip("the compiled library was not built")
    layer = build(case, 2).train(training)
    x, lengths = draw(40, 5, M), torch.tensor([40, 3, 0, 17, 40])
    dense = run(layer, x, lengths=lengths)
    assert dense[0].requires_grad
    valid = torch.arange(40)[:, None] < lengths
    skipped = valid & (dense[1].squeeze(-1) == 0)
    assert 20 < skipped.sum() < valid.sum() - 20
    poisoned = x.masked_fill(skipped[..., None], float("nan"))
    with torch.no_grad():
        quick = run(layer, poisoned, lengths=lengths)
    if case.name == "skip-gilr-lstm":  # in parallel: the gate is the same, and sums are to rounding
        assert_all_close(quick, dense, rtol=1e-12, atol=1e-12)
        assert_same([quick[1], *quick[-2:]], [dense[1], *dense[-2:]])
    else:
        assert_same(quick, dense)
    layer.requires_grad_(False)
    assert_same(run(layer, poisoned, lengths=lengths), quick)


@each_gilr_lstm
@pytest.mark.parametrize("lengths", [None, [4, 2]], ids=str)
def test_second_derivatives_of_a_gilr_lstm(case, lengths):
    layer = build(case, 2, hidden_size=2)
    given = None if lengths is None else torch.tensor(lengths)
    seconds = []
    for function in (
        lambda x, state: run(layer, x, state, lengths=given),
        lambda x, state: reference(layer, case, x, lengths, state),
    ):
        torch.manual_seed(2)
        x = draw(4, 2, M, requires_grad=True)
        state = random_state(layer, case, 2, requires_grad=True)
        targets = [x, *state, *(p for n, p in layer.named_parameters() if not n.endswith("_0"))]
        values = function(x, state)
        outer = [torch.randn_like(v).requires_grad_() for v in values]
        firsts = torch.autograd.grad(values, targets, outer, create_graph=True)
        torch.manual_seed(3)
        seconds.append(
            torch.autograd.grad(firsts, targets + outer, [torch.randn_like(g) for g in firsts])
        )
    assert_all_close(*seconds)


@each_gilr_lstm
@torch.no_grad()
def test_a_gilr_lstm_may_be_mapped(case):
    layer, x = build(case, 2), draw(2, 5, 3, M)
    mapped = torch.func.vmap(lambda x: tuple(run(layer, x)))(x)
    assert_all_close([y[1] for y in mapped], run(layer, x[1]))


@each_layer
def test_sequences_end_to_end_are_separate(case):
    layer = build(case, 2)
    sizes = [4, 0, 1, 7, 2]
    x = draw(sum(sizes), M, requires_grad=True)
    state = random_state(layer, case, len(sizes), requires_grad=True)
    ends = torch.tensor([0, *sizes]).cumsum(0)
    ours = run(layer, x, state, cu_seqlens=ends)
    alone = [
        run(layer, piece, map_state(lambda s: s[:, k], state))  # noqa: B023
        for k, piece in enumerate(x.split(sizes))
    ]
    outputs, updates, *members = zip(*alone, strict=True)
    theirs = [torch.cat(outputs), torch.cat(updates), *(torch.stack(m, 1) for m in members)]
    assert_all_close(ours, theirs)
    targets = [x, *state, *layer.parameters()]
    assert_all_close(gradients(ours, targets), gradients(theirs, targets))
    assert_same(run(layer, x, state, cu_seqlens=ends.int()), ours)


@each_layer
@pytest.mark.parametrize("lengths", [[6, 4, 4, 1], [1, 6, 4, 6]], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("given_state", [False, True], ids=["own", "given"])
def test_a_packed_sequence_is_a_padded_one(case, lengths, given_state):
    layer = build(case, 2, batch_first=True)
    x = draw(4, 6, M)
    state = random_state(layer, case, 4) if given_state else None
    padded = run(layer, x, state, lengths=torch.tensor(lengths))
    packed = pack_padded_sequence(
        x, torch.tensor(lengths), batch_first=True, enforce_sorted=lengths == sorted(lengths)[::-1]
    )
    output, last, updates = layer(packed, state)
    ours = []
    for y in (output, updates):
        assert isinstance(y, PackedSequence)
        assert torch.equal(y.batch_sizes, packed.batch_sizes)
        ours.append(pad_packed_sequence(y, batch_first=True)[0])
    assert_all_close([*ours, *last], padded)
    assert layer.macs(updates) == layer.macs(padded[1])
    cost = budget_loss(updates, 0.5, batch_first=True)
    assert cost == budget_loss(padded[1], 0.5, batch_first=True)


@each_layer
def test_an_empty_sequence_keeps_its_state(case):
    layer = build(case, 2)
    state = random_state(layer, case, 2)
    output, updates, *last = run(layer, draw(0, 2, M), state)
    assert output.shape == (0, 2, N)
    assert updates.shape == (0, 2, 1)
    assert_same(last, list(state))
    output, updates, *last = run(layer, draw(5, 0, M))
    assert output.shape == (5, 0, N)
    assert last[-1].shape == (1, 0, 1)


@each_layer
def test_a_strided_input_gives_the_same(case):
    layer, x = build(case), draw(5, 2, M)
    assert_same(run(layer, torch.stack([x, x], -1)[..., 0]), run(layer, x))


@each_layer
@pytest.mark.parametrize("how", ["plain", "lengths", "cu_seqlens", "state"])
def test_compiles_without_a_break(case, how):
    torch._dynamo.reset()
    layer = build(case, 2, dtype=torch.float32)
    shape = (9, M) if how == "cu_seqlens" else (5, 2, M)
    x = torch.randn(*shape, requires_grad=True)
    settings = {
        "plain": {},
        "state": {"state": random_state(layer, case, 2)},
        "lengths": {"lengths": torch.tensor([3, 5])},
        "cu_seqlens": {"cu_seqlens": torch.tensor([0, 4, 4, 9])},
    }[how]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for function in (layer, compiled):
        values = run(function, x, **settings)
        results.append([*values, *gradients(values, [x, *layer.parameters()])])
    assert_all_close(*results)
    with torch.no_grad():
        assert_all_close(run(compiled, x, **settings), results[0][: len(values)])


class Exported(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, state):
        return self.layer(x, state)


@each_layer
@torch.no_grad()
def test_exports_with_any_time_and_batch(case):
    layer = build(case, 2, dtype=torch.float32).eval()
    T, B = torch.export.Dim("T", min=2), torch.export.Dim("B", min=2)
    _, state, _ = layer(torch.randn(7, 3, M))
    program = torch.export.export(
        Exported(layer),
        (torch.randn(7, 3, M), state),
        dynamic_shapes={"x": {0: T, 1: B}, "state": tree_map(lambda _: {1: B}, state)},
    )
    x = torch.randn(11, 5, M)
    _, state, _ = layer(torch.randn(4, 5, M))
    assert_all_close(run(program.module(), x, state), run(layer, x, state))


@each_layer
def test_autocast_computes_in_bfloat16_but_the_gate(case):
    layer = build(case, 2, dtype=torch.float32)
    x = torch.randn(5, 2, M)
    wanted, _, wanted_updates = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        output, state, updates = layer(x)
        again, *_ = layer(x, state)
    assert output.dtype == again.dtype == state.h.dtype == torch.bfloat16
    assert updates.dtype == state.update_prob.dtype == state.accum_prob.dtype == torch.float32
    assert torch.equal(updates, wanted_updates)
    torch.testing.assert_close(output.float(), wanted, rtol=0.1, atol=0.1)
    (output.float().sum() + updates.sum()).backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


@each_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_layers_keep_a_wide_gate(case, dtype):
    layer = build(case, 2, dtype=dtype)
    output, state, updates = layer(draw(5, 2, M, dtype=dtype))
    assert output.dtype == state.h.dtype == dtype
    assert updates.dtype == state.update_prob.dtype == state.accum_prob.dtype == torch.float32
    output, again, _ = layer(draw(5, 2, M, dtype=dtype), state)
    assert again.accum_prob.dtype == torch.float32
    (output.sum() + updates.sum()).backward()
    assert all(p.grad.dtype == dtype for p in layer.parameters())


@each_layer
def test_survives_copies_and_files(case):
    layer = build(case, 2, dtype=torch.float32)
    x = torch.randn(5, 2, M)
    wanted = run(layer, x)
    fresh = build(case, 2, dtype=torch.float32)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        assert_same(run(other, x), wanted)
        assert repr(other) == repr(layer)
    _, state, _ = layer(x)
    copied = pickle.loads(pickle.dumps(map_state(torch.Tensor.detach, state)))
    assert type(copied) is type(state)
    assert_same(list(copied), list(state))
    assert layer.double()(x.double())[0].dtype == torch.float64
    layer.flatten_parameters()


@each_layer
def test_is_built_on_the_meta_device_first(case):
    with torch.device("meta"):
        layer = longrnn.create_model(case.name, M, N, 2, **case.options)
    assert all(p.is_meta for p in layer.parameters())
    output, updates, *_ = run(layer, torch.empty(5, 2, M, device="meta"))
    assert output.shape == (5, 2, N)
    assert updates.shape == (5, 2, 1)
    layer.to_empty(device="cpu")
    torch.manual_seed(3)
    layer.reset_parameters()
    torch.manual_seed(3)
    fresh = longrnn.create_model(case.name, M, N, 2, **case.options)
    assert_same(list(layer.parameters()), list(fresh.parameters()))


@each_layer
def test_dropout_acts_between_layers_in_training(case):
    layer = build(case, 2, dropout=1.0)
    x = draw(5, 2, M)
    dropped = run(layer, x)
    cut = copy.deepcopy(layer)
    with torch.no_grad():
        for name in ("weight_ih_l1", "weight_is_l1"):
            if hasattr(cut, name):
                getattr(cut, name).zero_()
    cut.dropout = 0.0
    assert_all_close(dropped, run(cut, x))
    layer.eval()
    kept = run(layer, x)
    layer.dropout = 0.0
    assert_same(kept, run(layer, x))
    assert not torch.equal(kept[0], dropped[0])
    half = build(case, 2, dropout=0.5)
    assert not torch.equal(half(x)[0], half(x)[0])
    x, results = draw(40, 3, M), []
    for grad in (True, False):
        torch.manual_seed(4)
        with torch.set_grad_enabled(grad):
            results.append(run(half, x))
    assert_some_skip(results[0][1])
    assert_all_close(*results)


@each_of_torch
def test_starts_with_every_step_used_and_a_random_initial_state(case):
    layer = longrnn.create_model(case.name, 5, 30)
    assert layer(torch.randn(50, 4, 5))[2].mean() > 0.9
    assert layer.bias_u.item() == 1
    assert longrnn.create_model(case.name, 5, 30, update_bias=-2.0).bias_u.item() == -2
    rows, width = layer.weight_ih_l0.shape
    for name, wanted in (("weight_ih_l0", 5 + 30 + rows), ("weight_hh_l0", 5 + 30 + rows)):
        weight = getattr(layer, name)
        bound = (6 / wanted) ** 0.5
        assert 0.95 * bound < weight.abs().max() <= bound, name
    assert 0.5 < layer.weight_u.abs().max() / (6 / 31) ** 0.5 <= 1
    assert 0.5 < layer.h_0.std() < 1.5
    ones = slice(30, 60) if case.name == "skip-lstm" else slice(0, 60)
    assert (layer.bias_ih_l0[ones] == 1).all()
    assert layer.bias_ih_l0.sum() == ones.stop - ones.start
    assert not layer.bias_hh_l0.any()
    assert width == 5


WITHOUT_A_GATE = {
    "skip-lstm": torch.nn.LSTM,
    "skip-gru": torch.nn.GRU,
    "skip-gilr-lstm": longrnn.GILRLSTM,
}


@each_layer
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("learn_initial_state", [False, True])
def test_weights_of_the_same_layer_without_a_gate_load_and_compute_the_same(
    case, bias, learn_initial_state
):
    theirs = WITHOUT_A_GATE[case.name](M, N, 2, bias=bias, dtype=torch.float64)
    layer = build(case, 2, bias=bias, learn_initial_state=learn_initial_state)
    checkpoint = theirs.state_dict()
    names = list(checkpoint)
    layer.load_state_dict(checkpoint)
    assert list(checkpoint) == names
    x = draw(40, 3, M)
    wanted, last = theirs(x)
    output, state, updates = layer(x)
    assert updates.all()
    assert_all_close([output], [wanted])
    for name in set(case.fields) & set(getattr(last, "_fields", ())):
        assert_all_close([getattr(state, name)], [getattr(last, name)])
    if case in TORCH:
        assert_all_close([state.h], [last[0] if case.name == "skip-lstm" else last])
    holder = torch.nn.ModuleDict({"rnn": build(case, 2, bias=bias)})
    holder.load_state_dict(torch.nn.ModuleDict({"rnn": theirs}).state_dict())
    assert_all_close([holder["rnn"](x)[0]], [wanted])


@each_layer
def test_a_checkpoint_with_a_part_missing_is_refused(case):
    layer = build(case)
    for name in ("weight_u", "bias_u", f"{case.fields[0]}_0", "weight_ih_l0"):
        broken = {key: value for key, value in layer.state_dict().items() if key != name}
        with pytest.raises(RuntimeError, match=f'Missing key.*"{name}"'):
            build(case).load_state_dict(broken)
    with pytest.raises(RuntimeError, match="Missing key"):
        build(case).load_state_dict({})


@pytest.mark.parametrize(
    ("name", "input_size", "updates", "macs"),
    [
        # the paper's tables 1 and 2: 110 units; the adding task's share of 50 steps, digits' count
        ("skip-lstm", 2, 0.811 * 50, 2.00e6),
        ("skip-lstm", 2, 0.539 * 50, 1.33e6),
        ("skip-gru", 2, 0.979 * 50, 1.81e6),
        ("skip-gru", 2, 0.507 * 50, 9.40e5),
        ("skip-lstm", 1, 379.38, 1.86e7),
        ("skip-gru", 1, 392.62, 1.44e7),
    ],
)
def test_multiply_adds_are_those_of_the_paper(name, input_size, updates, macs):
    layer = longrnn.create_model(name, input_size, 110)
    assert float(f"{layer.macs(torch.tensor(updates)).item():.2e}") == macs


def test_multiply_adds_of_a_stack():
    layer = longrnn.SkipLSTM(3, 8, 2, batch_first=True)
    *_, updates = layer(torch.randn(2, 5, 3))
    assert updates.sum() > 0
    each = 4 * 8 * (8 + 3) + 4 * 8 * (8 + 8) + 8
    assert layer.macs(updates) == updates.sum() * each
    assert layer.macs(updates[0]) + layer.macs(updates[1]) == layer.macs(updates)


def test_a_gilr_lstm_starts_with_every_step_used_and_its_own_memory():
    layer = longrnn.SkipGILRLSTM(5, 30, forget_bias=2.0)
    assert layer(100 * torch.randn(50, 4, 5))[2].all()
    assert layer.bias_u.item() == 1
    assert not layer.weight_u.any()
    assert {name for name in layer.state_dict() if name.endswith("_0")} == {"surrogate_0", "c_0"}
    assert 0.5 < layer.surrogate_0.std() < 1.5
    assert 0.5 < layer.c_0.std() < 1.5
    assert layer.bias_ih_l0.view(4, 30).mean(1).tolist() == [0, 2, 0, 0]
    assert not layer.bias_is_l0.any()
    for name, width in (("weight_is_l0", 5), ("weight_ih_l0", 5), ("weight_sh_l0", 30)):
        bound = (3 / width) ** 0.5
        assert 0.95 * bound < getattr(layer, name).abs().max() <= bound, name


def test_multiply_adds_of_a_stack_of_gilr_lstms():
    layer = longrnn.SkipGILRLSTM(3, 8, 2)
    *_, updates = layer(torch.randn(5, 2, 3))
    each = 6 * 8 * 3 + 4 * 8 * 8 + 6 * 8 * 8 + 4 * 8 * 8 + 3
    assert layer.macs(updates) == updates.sum() * each
    assert updates.sum() > 0


def test_repr_shows_the_gates_options():
    assert repr(longrnn.SkipLSTM(3, 4, 2, batch_first=True)) == (
        "SkipLSTM(3, 4, num_layers=2, batch_first=True, update_bias=1.0, learn_initial_state=True)"
    )
    layer = longrnn.SkipGRU(3, 4, update_bias=0.5, learn_initial_state=False, reset_after=False)
    assert repr(layer) == (
        "SkipGRU(3, 4, update_bias=0.5, learn_initial_state=False, reset_after=False)"
    )
    assert repr(longrnn.SkipGILRLSTM(3, 4, surrogate_shift=False)) == (
        "SkipGILRLSTM(3, 4, forget_bias=1.0, surrogate_shift=False, update_bias=1.0, "
        "learn_initial_state=True)"
    )


@each_layer
def test_both_directions_are_refused(case):
    with pytest.raises(ValueError, match="bidirectional must be False"):
        longrnn.create_model(case.name, 3, 4, bidirectional=True)


H, P = torch.zeros(1, 2, 4), torch.zeros(1, 2, 1)


@pytest.mark.parametrize(
    ("name", "state", "message"),
    [
        ("skip-lstm", H, "state must be a tuple of (h, c, update_prob, accum_prob), got Tensor"),
        ("skip-gru", (H, P), "state must be a tuple of (h, update_prob, accum_prob), got tuple of"),
        (
            "skip-lstm",
            (H, H[..., :3], P, P),
            "state.c must have shape (L*D=1, B=2, n=4), got (1, 2, 3)",
        ),
        (
            "skip-gru",
            (H, H, P),
            "state.update_prob must have shape (1, B=2, 1), got (1, 2, 4)",
        ),
        (
            "skip-gru",
            (H, P, P[:, :1]),
            "state.accum_prob must have shape (1, B=2, 1), got (1, 1, 1)",
        ),
        ("skip-gru", (H, P, P.long()), "state.accum_prob must have a floating dtype, got torch.i"),
        (
            "skip-gilr-lstm",
            (H, H, H[:, :1], P, P),
            "state.h must have shape (L*D=1, B=2, n=4), got (1, 1, 4)",
        ),
        (
            "skip-gilr-lstm",
            (H, H, P, P),
            "state must be a tuple of (surrogate, c, h, update_prob, accum_prob), got tuple of 4",
        ),
    ],
)
def test_a_bad_state_says_what_is_wrong(name, state, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        longrnn.create_model(name, 3, 4)(torch.randn(5, 2, 3), state)
