"""What every layer promises. A new layer is covered by one line in `layer_cases.py`."""

import copy
import io
import pickle

import pytest
import torch
from layer_cases import CASES, PLAIN, flat_state, random_state, reference
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pad_packed_sequence,
)
from torch.utils._pytree import tree_map

import longrnn

M, N = 3, 4
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_layer = pytest.mark.parametrize("case", PLAIN, ids=str)


@pytest.fixture(autouse=True)
def _strict_room():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch.empty is NaN
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def build(case, num_layers=1, dtype=torch.float64, input_size=M, **settings):
    layer = longrnn.create_model(
        case.name, input_size, N, num_layers, dtype=dtype, **settings, **case.options
    )
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("bias"):
                parameter.normal_()
    return layer


def gradients(outputs, targets):
    """Gradients of a fixed random projection of all outputs."""
    torch.manual_seed(1)
    loss = sum((y * torch.randn_like(y)).sum() for y in outputs)
    return torch.autograd.grad(loss, targets, allow_unused=True, materialize_grads=True)


def assert_all_close(ours, theirs, **tolerance):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@each_case
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize(
    ("T", "num_layers", "bias", "lengths", "input_size"),
    [
        (1, 1, True, None, M),
        (5, 2, True, None, M),
        (5, 1, False, None, N),
        (33, 1, True, None, M),
        (5, 2, True, [5, 0, 2], M),
    ],
)
def test_as_the_equations_say(case, bidirectional, T, num_layers, bias, lengths, input_size):
    layer = build(case, num_layers, bidirectional=bidirectional, bias=bias, input_size=input_size)
    x = torch.randn(T, 3, input_size, dtype=torch.float64, requires_grad=True)
    state = random_state(layer, case, 3, requires_grad=True)
    targets = [x, *flat_state(state), *layer.parameters()]
    given = None if lengths is None else torch.tensor(lengths)
    output, last = layer(x, state, lengths=given)
    ours = [output, *flat_state(last)]
    wanted, last = reference(layer, case, x, lengths, flat_state(state))
    theirs = [wanted, *last]
    assert_all_close(ours, theirs)
    assert_all_close(gradients(ours, targets), gradients(theirs, targets))


@each_layer
def test_no_state_is_a_state_of_zeros(case):
    layer = build(case, 2, bidirectional=True)
    x = torch.randn(5, 2, M, dtype=torch.float64)
    output, last = layer(x)
    wanted, theirs = reference(layer, case, x, None, None)
    assert_all_close([output, *flat_state(last)], [wanted, *theirs])


@each_layer
def test_state_has_the_fields_of_its_documentation(case):
    layer, x = build(case, 2), torch.randn(5, 2, M, dtype=torch.float64)
    packed = pack_padded_sequence(x, torch.tensor([3, 5]), enforce_sorted=False)
    for given in (x, x[:, 0], packed):
        _, state = layer(given)
        if len(case.fields) == 1:
            assert isinstance(state, torch.Tensor)
        else:
            assert state._fields == case.fields
    for one in case.fields:
        assert not any(other != one and other.startswith(one) for other in case.fields)


@each_layer
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
def test_batch_first_and_unbatched_are_other_layouts(case, bidirectional):
    layer = build(case, 2, bidirectional=bidirectional)
    x = torch.randn(5, 3, M, dtype=torch.float64)
    state = random_state(layer, case, 3)
    output, last = layer(x, state)
    layer.batch_first = True
    other, other_last = layer(x.transpose(0, 1), state)
    assert_all_close([other.transpose(0, 1), *flat_state(other_last)], [output, *flat_state(last)])
    lengths = torch.tensor([2, 5, 0])
    masked, other_last = layer(x.transpose(0, 1), state, lengths=lengths)
    layer.batch_first = False
    output_masked, last_masked = layer(x, state, lengths=lengths)
    assert_all_close(
        [masked.transpose(0, 1), *flat_state(other_last)],
        [output_masked, *flat_state(last_masked)],
    )
    one = longrnn.nn.stack.map_state(lambda s: s[:, 1], state)
    for layer.batch_first in (False, True):
        single, single_last = layer(x[:, 1], one)
        assert_all_close([single], [output[:, 1]])
        assert_all_close(flat_state(single_last), [s[:, 1] for s in flat_state(last)])
        short, _ = layer(x[:, 1], one, lengths=torch.tensor(3))
        assert_all_close([short[3:]], [torch.zeros_like(short[3:])])


@each_layer
@pytest.mark.parametrize("pieces", [[1] * 7, [2, 5], [6, 1], [3, 0, 4]], ids=str)
def test_pieces_equal_the_whole(case, pieces):
    layer = build(case, 2)
    x = torch.randn(7, 2, M, dtype=torch.float64, requires_grad=True)
    output, last = layer(x)
    outputs, state = [], None
    for piece in x.split(pieces):
        y, state = layer(piece, state)
        outputs.append(y)
    ours, theirs = [torch.cat(outputs), *flat_state(state)], [output, *flat_state(last)]
    assert_all_close(ours, theirs)
    targets = [x, *layer.parameters()]
    assert_all_close(gradients(ours, targets), gradients(theirs, targets))


@each_layer
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
def test_padding_is_never_looked_at(case, bidirectional):
    layer = build(case, 2, bidirectional=bidirectional)
    x = torch.randn(6, 4, M, dtype=torch.float64)
    lengths = torch.tensor([6, 1, 0, 3], dtype=torch.int32)
    padding = torch.arange(6)[:, None] >= lengths
    poisoned = x.masked_fill(padding[..., None], float("nan")).requires_grad_()
    x.requires_grad_()
    results = []
    for given in (x, poisoned):
        output, last = layer(given, lengths=lengths)
        tensors = [output, *flat_state(last)]
        results.append([*tensors, *gradients(tensors, [given, *layer.parameters()])])
    assert_all_close(*results, rtol=0, atol=0)
    output, grad_x = results[0][0], results[0][1 + len(flat_state(last))]
    assert not output[padding].any()
    assert not grad_x[padding].any()


@each_layer
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
def test_sequences_end_to_end_are_separate(case, bidirectional):
    layer = build(case, 2, bidirectional=bidirectional)
    sizes = [4, 0, 1, 7, 2]
    x = torch.randn(sum(sizes), M, dtype=torch.float64, requires_grad=True)
    state = random_state(layer, case, len(sizes), requires_grad=True)
    ends = torch.tensor([0, *sizes]).cumsum(0)
    output, last = layer(x, state, cu_seqlens=ends)
    outputs, lasts = [], []
    for k, piece in enumerate(x.split(sizes)):
        y, one = layer(piece, longrnn.nn.stack.map_state(lambda s: s[:, k], state))  # noqa: B023
        outputs.append(y)
        lasts.append(flat_state(one))
    ours = [output, *flat_state(last)]
    theirs = [torch.cat(outputs), *(torch.stack(s, 1) for s in zip(*lasts, strict=True))]
    assert_all_close(ours, theirs)
    targets = [x, *flat_state(state), *layer.parameters()]
    assert_all_close(gradients(ours, targets), gradients(theirs, targets))
    again, _ = layer(x, state, cu_seqlens=ends.int())
    assert_all_close([again], [output])


@each_layer
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("lengths", [[6, 4, 4, 1], [1, 6, 4, 6]], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("given_state", [False, True], ids=["zeros", "state"])
def test_a_packed_sequence_is_a_padded_one(case, bidirectional, lengths, given_state):
    layer = build(case, 2, bidirectional=bidirectional, batch_first=True)
    x = torch.randn(4, 6, M, dtype=torch.float64)
    state = random_state(layer, case, 4) if given_state else None
    output, last = layer(x, state, lengths=torch.tensor(lengths))
    packed = pack_padded_sequence(
        x, torch.tensor(lengths), batch_first=True, enforce_sorted=lengths == sorted(lengths)[::-1]
    )
    ours, ours_last = layer(packed, state)
    assert isinstance(ours, PackedSequence)
    assert torch.equal(ours.batch_sizes, packed.batch_sizes)
    padded, found = pad_packed_sequence(ours, batch_first=True)
    assert found.tolist() == lengths
    assert_all_close([padded, *flat_state(ours_last)], [output, *flat_state(last)])


def test_packed_states_are_ordered_as_those_of_torch():
    torch.manual_seed(0)
    x, lengths = torch.randn(6, 3, M), torch.tensor([2, 6, 4])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    for name in ("lstm", "gilr-lstm"):
        layer = longrnn.create_model(name, M, N)
        _, last = layer(packed)
        _, alone = layer(x[:2, 0])
        torch.testing.assert_close(last[1][:, 0], alone[1])


@each_layer
def test_an_empty_sequence_keeps_its_state(case):
    layer = build(case, 2)
    state = random_state(layer, case, 2)
    output, last = layer(torch.randn(0, 2, M, dtype=torch.float64), state)
    assert output.shape == (0, 2, N)
    assert_all_close(flat_state(last), flat_state(state), rtol=0, atol=0)
    output, last = layer(torch.randn(5, 0, M, dtype=torch.float64))
    assert output.shape == (5, 0, N)


@each_layer
def test_a_strided_input_gives_the_same(case):
    layer = build(case)
    x = torch.randn(5, 2, M, dtype=torch.float64)
    strided = torch.stack([x, x], -1)[..., 0]
    assert_all_close([layer(strided)[0]], [layer(x)[0]])


@each_layer
@pytest.mark.parametrize("how", ["padded", "end to end"])
def test_gradients_match_finite_differences(case, how):
    layer = build(case, bidirectional=True)
    state = random_state(layer, case, 2, requires_grad=True)
    shape = (3, 2, M) if how == "padded" else (4, M)
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]
    flat = flat_state(state)

    def run(x, *tensors):
        members = list(tensors[: len(flat)])
        kept = [tuple(members[-2:])] if case.fields[-1] == "inputs" else []
        members = [*members[:-2], *kept] if kept else members
        given = members[0] if len(members) == 1 else tuple(members)
        settings = (
            {"lengths": torch.tensor([2, 3])}
            if how == "padded"
            else {"cu_seqlens": torch.tensor([0, 1, 4])}
        )
        weights = dict(zip(names, tensors[len(flat) :], strict=True))
        y, last = torch.func.functional_call(layer, weights, (x, given), settings)
        return y, *(s for s in flat_state(last) if s.numel())

    inputs = (x, *flat, *(p.detach().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@each_layer
@pytest.mark.parametrize("how", ["plain", "lengths", "cu_seqlens", "state"])
def test_compiles_without_a_break(case, how):
    torch._dynamo.reset()
    layer = build(case, 2, dtype=torch.float32, bidirectional=how != "state")
    x = torch.randn(*((9, M) if how == "cu_seqlens" else (5, 2, M)), requires_grad=True)
    settings = {
        "plain": {},
        "state": {"state": random_state(layer, case, 2)},
        "lengths": {"lengths": torch.tensor([3, 5])},
        "cu_seqlens": {"cu_seqlens": torch.tensor([0, 4, 4, 9])},
    }[how]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for run in (layer, compiled):
        output, last = run(x, **settings)
        tensors = [output, *flat_state(last)]
        results.append([*tensors, *gradients(tensors, [x, *layer.parameters()])])
    assert_all_close(*results)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_compiles_with_the_default_compiler():
    torch._dynamo.reset()
    layer = longrnn.GILRLSTM(M, N, 2)
    x = torch.randn(5, 2, M)
    compiled = torch.compile(layer, fullgraph=True)
    assert_all_close([compiled(x)[0]], [layer(x)[0]])


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

    _, state = layer(torch.randn(7, 3, M))
    program = torch.export.export(
        Exported(layer),
        (torch.randn(7, 3, M), state),
        dynamic_shapes={"x": {0: T, 1: B}, "state": tree_map(lambda _: {1: B}, state)},
    )
    x = torch.randn(11, 5, M)
    _, state = layer(torch.randn(4, 5, M))
    output, last = program.module()(x, state)
    wanted, wanted_last = layer(x, state)
    assert_all_close([output, *flat_state(last)], [wanted, *flat_state(wanted_last)])


@each_layer
def test_autocast_computes_in_bfloat16(case):
    layer = build(case, 2, dtype=torch.float32)
    x = torch.randn(5, 2, M)
    wanted, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        output, state = layer(x)
        again, _ = layer(x, state)
    assert output.dtype == again.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), wanted, rtol=0.1, atol=0.1)
    output.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


@each_layer
def test_sixteen_bit_layers_run(case):
    layer = build(case, 2, dtype=torch.bfloat16)
    output, _ = layer(torch.randn(5, 2, M, dtype=torch.bfloat16))
    assert output.dtype == torch.bfloat16


@each_layer
def test_survives_copies_and_files(case):
    layer = build(case, 2, bidirectional=True, dtype=torch.float32)
    x = torch.randn(5, 2, M)
    wanted, state = layer(x)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    fresh = build(case, 2, bidirectional=True, dtype=torch.float32)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file))
    for other in (*copies, fresh):
        assert_all_close([other(x)[0]], [wanted], rtol=0, atol=0)
        assert repr(other) == repr(layer)
    assert_all_close(
        flat_state(pickle.loads(pickle.dumps(state))), flat_state(state), rtol=0, atol=0
    )
    assert layer.double()(x.double())[0].dtype == torch.float64
    layer.flatten_parameters()


@each_layer
def test_is_built_on_the_meta_device_first(case):
    with torch.device("meta"):
        layer = longrnn.create_model(case.name, M, N, 2, **case.options)
    assert all(p.is_meta for p in layer.parameters())
    assert layer(torch.empty(5, 2, M, device="meta"))[0].shape == (5, 2, N)
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert not any(p.isnan().any() for p in layer.parameters())
    torch.manual_seed(3)
    layer.reset_parameters()
    torch.manual_seed(3)
    fresh = longrnn.create_model(case.name, M, N, 2, **case.options)
    assert_all_close(list(layer.parameters()), list(fresh.parameters()), rtol=0, atol=0)


@each_layer
def test_dropout_acts_between_layers_in_training(case):
    layer = build(case, 2, dropout=1.0)
    x = torch.randn(5, 2, M, dtype=torch.float64)
    layer_below = build(case)
    layer_below.load_state_dict({k: v for k, v in layer.state_dict().items() if k.endswith("_l0")})
    _, last = layer(x)
    _, below = layer_below(x)
    if isinstance(last, torch.Tensor):
        assert_all_close([last[0]], [below[0]])
    dropped, _ = layer(x)
    above = build(case, input_size=N)
    above.load_state_dict(
        {k[:-1] + "0": v for k, v in layer.state_dict().items() if k.endswith("_l1")},
    )
    assert_all_close([dropped], [above(x.new_zeros(5, 2, N))[0]])
    layer.eval()
    kept, _ = layer(x)
    layer.dropout = 0.0
    assert_all_close([kept], [layer(x)[0]], rtol=0, atol=0)
    assert not torch.equal(kept, dropped)
