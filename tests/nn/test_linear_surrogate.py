"""Cells made parallel: against the cell called step by step, and as the layers they become."""

import copy
import pickle

import pytest
import torch
from layer_cases import flat_state
from test_layers import Exported, assert_all_close, gradients
from torch import nn, sigmoid, tanh
from torch.nn.functional import linear
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import longrnn
from longrnn import LinearSurrogate

M, N = 3, 4


@pytest.fixture(autouse=True)
def _strict_room():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch.empty is NaN
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


class Gates(nn.Module):
    """Pre-activations of a cell that somebody wrote."""

    blocks = 1

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.of_input = nn.Linear(input_size, self.blocks * hidden_size)
        self.of_state = nn.Linear(hidden_size, self.blocks * hidden_size, bias=False)

    def parts(self, x, h):
        return (self.of_input(x) + self.of_state(h)).chunk(self.blocks, -1)


class Simple(Gates):
    def forward(self, x, h):
        return tanh(self.parts(x, h)[0])


class Peephole(Gates):
    """Two states; the output sees c before and after the step."""

    blocks = 3

    def forward(self, x, state):
        h, c = state
        f, z, o = self.parts(x, h)
        after = c + sigmoid(f) * (z - c)
        return sigmoid(o + 0.5 * c) * tanh(after), after


class GILRLSTMCell(Gates):
    """An LSTM's cell with h = o c."""

    blocks = 4

    def forward(self, x, state):
        i, f, g, o = self.parts(x, state[0])
        c = sigmoid(f) * state[1] + sigmoid(i) * tanh(g)
        return sigmoid(o) * c, c


class QRNNCell(Gates):
    blocks = 3

    def forward(self, x, state):
        z, f, o = self.parts(x, state[0])
        c = sigmoid(f) * state[1] + (1 - sigmoid(f)) * tanh(z)
        return sigmoid(o) * c, c


class StronglyTypedGRUCell(Gates):
    blocks = 3

    def forward(self, x, state):
        z, f, o = self.parts(x, state[0])
        h = sigmoid(f) * state[1] + z * tanh(o)
        return h, h


class StronglyTypedLSTMCell(Gates):
    blocks = 3

    def forward(self, x, state):
        z, f, o = self.parts(x, state[0])
        c = sigmoid(f) * state[1] + (1 - sigmoid(f)) * z
        return c * tanh(o), c


CELLS = [nn.LSTMCell, nn.GRUCell, nn.RNNCell, Simple, Peephole]
SURROGATES = [
    ("gilr", {}),
    ("previous-input", {}),
    ("convolution", {}),
    ("convolution", {"kernel_size": 4}),
]
each_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
each_surrogate = pytest.mark.parametrize(
    ("surrogate", "options"), SURROGATES, ids=["gilr", "previous", "two", "four"]
)
# Every way to step, and every way to stand for a state, once.
PAIRS = [
    (nn.LSTMCell, "gilr", {}),
    (nn.GRUCell, "previous-input", {}),
    (nn.RNNCell, "gilr", {}),
    (Simple, "convolution", {"kernel_size": 3}),
    (Peephole, "gilr", {}),
    (Peephole, "convolution", {"kernel_size": 3}),
]
each_pair = pytest.mark.parametrize(
    ("cell", "surrogate", "options"), PAIRS, ids=lambda x: getattr(x, "__name__", None)
)


def build(cell, surrogate="gilr", options=None, dtype=torch.float64, input_size=M):
    made = cell(input_size, N).to(dtype)
    layer = LinearSurrogate(made, input_size, N, surrogate, **(options or {}))
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "bias" in name:
                parameter.normal_()
    return layer


def gru(cell, x, seen, before):
    """A GRU whose gates see one state and which averages with another."""
    (r, z, n), (r_h, z_h, n_h) = (
        linear(one, weight, bias).chunk(3, -1)
        for one, weight, bias in (
            (x, cell.weight_ih, cell.bias_ih),
            (seen, cell.weight_hh, cell.bias_hh),
        )
    )
    new = tanh(n + sigmoid(r + r_h) * n_h)
    z = sigmoid(z + z_h)
    return (1 - z) * new + z * before


def step(cell, x, seen, carry):
    """One step of a cell, a loop's way."""
    if isinstance(cell, nn.GRUCell):
        h = gru(cell, x, seen, carry[0])
        return h, (h,)
    if carry:
        h, c = cell(x, (seen, carry[0]))
        return h, (c,)
    return cell(x, seen), ()


def reference(layer, x, state=None):
    """One sequence (T, m), step by step; `state` and the returned one as `flat_state`'s."""
    carries = not isinstance(layer.cell, (nn.RNNCell, Simple))
    gilr = layer.surrogate == "gilr"
    zeros = x.new_zeros(1, N)
    if state is None:
        past = zeros if gilr else x.new_zeros(layer.kernel_size - 1, M)
        state = [past, zeros] if gilr else [zeros, past]
        state = state if carries else [past]
    past = state[0] if gilr else state[-1]
    carry = [state[1 if gilr else 0][0]] if carries else []
    outputs = []
    for x_t in x.unbind(0):
        if gilr:
            seen = past[0]
            gate, impulse = linear(x_t, layer.weight_is_l0, layer.bias_is_l0).chunk(2)
            past = (sigmoid(gate) * seen + (1 - sigmoid(gate)) * tanh(impulse))[None]
        else:
            seen = past.flip(0).flatten()
            if hasattr(layer, "weight_is_l0"):
                seen = layer.weight_is_l0 @ seen
            past = torch.cat([past, x_t[None]])[1:]
        h, carry = step(layer.cell, x_t, seen, carry)
        outputs.append(h)
    kept = [c[None] for c in carry]
    return torch.stack(outputs) if outputs else zeros[:0], [past, *kept] if gilr else [*kept, past]


@each_surrogate
@each_cell
@pytest.mark.parametrize("T", [1, 7, 33])
def test_as_the_cell_step_by_step(cell, surrogate, options, T):
    layer = build(cell, surrogate, options)
    x = torch.randn(T, 2, M, dtype=torch.float64, requires_grad=True)
    _, state = layer(torch.randn(1, 2, M, dtype=torch.float64))
    state = longrnn.nn.stack.map_state(lambda s: torch.randn_like(s).requires_grad_(), state)
    flat = flat_state(state)
    output, last = layer(x, state)
    ones = [reference(layer, x[:, b], [s[:, b] for s in flat]) for b in range(2)]
    wanted = [torch.stack([y for y, _ in ones], 1)]
    wanted += [torch.stack(s, 1) for s in zip(*(s for _, s in ones), strict=True)]
    ours, targets = [output, *flat_state(last)], [x, *flat, *layer.parameters()]
    assert_all_close(ours, wanted)
    assert_all_close(gradients(ours, targets), gradients(wanted, targets))


@each_pair
def test_no_state_is_zeros_and_no_steps_keep_it(cell, surrogate, options):
    layer = build(cell, surrogate, options)
    x = torch.randn(5, 1, M, dtype=torch.float64)
    output, last = layer(x)
    wanted, kept = reference(layer, x[:, 0])
    assert_all_close([output[:, 0], *(s[:, 0] for s in flat_state(last))], [wanted, *kept])
    nothing, same = layer(x[:0], last)
    assert nothing.shape == (0, 1, N)
    assert_all_close(flat_state(same), flat_state(last), rtol=0, atol=0)
    assert layer(x[:, :0])[0].shape == (5, 0, N)


@each_pair
@pytest.mark.parametrize("pieces", [[1] * 7, [2, 5], [3, 0, 4]], ids=str)
def test_pieces_equal_the_whole(cell, surrogate, options, pieces):
    layer = build(cell, surrogate, options)
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


@each_pair
def test_every_layout_is_the_same_sequences(cell, surrogate, options):
    layer = build(cell, surrogate, options)
    sizes = [5, 1, 6, 3]
    x = torch.randn(6, 4, M, dtype=torch.float64)
    lengths = torch.tensor(sizes)
    padding = torch.arange(6)[:, None] >= lengths
    poisoned = x.masked_fill(padding[..., None], float("nan"))
    alone = [layer(x[:k, b]) for b, k in enumerate(sizes)]
    lasts = [torch.stack(s, 1) for s in zip(*(flat_state(s) for _, s in alone), strict=True)]
    padded = torch.zeros(6, 4, N, dtype=torch.float64)
    for b, (y, _) in enumerate(alone):
        padded[: len(y), b] = y
    joined = torch.cat([y for y, _ in alone])
    rows = torch.cat([x[:k, b] for b, k in enumerate(sizes)])
    ends = torch.tensor([0, *sizes]).cumsum(0)
    for layer.batch_first in (False, True):
        time_first = poisoned.transpose(0, 1) if layer.batch_first else poisoned
        time_first = time_first.clone().requires_grad_()
        output, last = layer(time_first, lengths=lengths)
        found = output.transpose(0, 1) if layer.batch_first else output
        assert_all_close([found, *flat_state(last)], [padded, *lasts])
        grads = gradients([output], [time_first, *layer.parameters()])
        assert not any(grad.isnan().any() for grad in grads)
        output, last = layer(rows, cu_seqlens=ends)
        assert_all_close([output, *flat_state(last)], [joined, *lasts])
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        output, last = layer(packed)
        assert_all_close([pad_packed_sequence(output)[0], *flat_state(last)], [padded, *lasts])


@each_pair
def test_gradients_match_finite_differences(cell, surrogate, options):
    layer = build(cell, surrogate, options)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *weights):
        named = dict(zip(names, weights, strict=True))
        settings = {"lengths": torch.tensor([3, 2])}
        y, last = torch.func.functional_call(layer, named, (x,), settings)
        return y, *flat_state(last)

    x = torch.randn(3, 2, M, dtype=torch.float64, requires_grad=True)
    inputs = (x, *(p.detach().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("cell", [Simple, Peephole])
def test_the_cell_is_called_on_all_steps_at_once(cell, monkeypatch):
    layer = build(cell)
    rows = []
    forward = cell.forward

    def counted(self, x, state):
        rows.append(len(x))
        return forward(self, x, state)

    monkeypatch.setattr(cell, "forward", counted)
    layer(torch.randn(50, 3, M, dtype=torch.float64))
    assert rows == ([150] if cell is Simple else [150, 150])


def copy_gates(cell, weights, past):
    """Give a cell the weights of a layer whose columns are the input and what it sees."""
    with torch.no_grad():
        cell.of_input.weight.copy_(weights[:, :M])
        cell.of_input.bias.copy_(past.bias_ih_l0)
        cell.of_state.weight.zero_()
        cell.of_state.weight[:, : weights.shape[1] - M].copy_(weights[:, M:])


def same(layer, other, columns):
    """The instance gives what the layer gives; `columns` chooses what both keep in their states."""
    x = torch.randn(40, 2, M, dtype=torch.float64)
    output, last = layer(x)
    wanted, kept = other(x)
    torch.testing.assert_close(output, wanted)
    for k, j in columns:
        torch.testing.assert_close(flat_state(last)[k], flat_state(kept)[j])


def test_gilr_lstm_is_an_instance():
    layer = longrnn.GILRLSTM(M, N, dtype=torch.float64)
    instance = build(GILRLSTMCell)
    with torch.no_grad():
        instance.weight_is_l0.copy_(layer.weight_is_l0)
        instance.bias_is_l0.copy_(layer.bias_is_l0)
    both = torch.cat([layer.weight_ih_l0, layer.weight_sh_l0], 1)
    copy_gates(instance.cell, both, layer)
    same(instance, layer, [(0, 0), (1, 1)])


def test_an_lstm_cell_is_gilr_lstm_but_for_its_output():
    layer = longrnn.GILRLSTM(M, N, dtype=torch.float64)
    instance = build(nn.LSTMCell)
    with torch.no_grad():
        instance.weight_is_l0.copy_(layer.weight_is_l0)
        instance.bias_is_l0.copy_(layer.bias_is_l0)
        instance.cell.weight_ih.copy_(layer.weight_ih_l0)
        instance.cell.weight_hh.copy_(layer.weight_sh_l0)
        instance.cell.bias_ih.copy_(layer.bias_ih_l0)
        instance.cell.bias_hh.zero_()
    x = torch.randn(1, 2, M, dtype=torch.float64)
    state = ours = None
    for x in torch.randn(20, 1, 2, M, dtype=torch.float64):
        output, state = layer(x, state)
        other, ours = instance(x, ours)
        assert_all_close([ours.surrogate, ours.carry], [state.surrogate, state.c])
        torch.testing.assert_close(other * state.c, output * tanh(state.c))  # o c, o tanh(c)


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_qrnn_is_an_instance_where_the_state_has_room_for_its_inputs(kernel_size):
    layer = longrnn.QRNN(M, 2 * M, kernel_size=kernel_size, dtype=torch.float64)
    instance = LinearSurrogate(
        QRNNCell(M, 2 * M).double(), M, 2 * M, "convolution", kernel_size=kernel_size
    )
    with torch.no_grad():
        instance.weight_is_l0.copy_(torch.eye(*instance.weight_is_l0.shape))
    copy_gates(instance.cell, layer.weight_ih_l0, layer)
    same(instance, layer, [(0, 0), (1, 1)])


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (StronglyTypedGRUCell, longrnn.StronglyTypedGRU),
        (StronglyTypedLSTMCell, longrnn.StronglyTypedLSTM),
    ],
)
def test_strongly_typed_layers_are_instances(cell, kind):
    layer = kind(M, M, dtype=torch.float64)
    instance = LinearSurrogate(cell(M, M).double(), M, M, "previous-input")
    assert not hasattr(instance, "weight_is_l0")
    copy_gates(instance.cell, layer.weight_ih_l0, layer)
    same(instance, layer, [(0, 0), (1, 1)])


class OwnLSTM(nn.LSTMCell):
    """To the layer a cell like any other, since its forward is its own."""

    def forward(self, x, state):
        return super().forward(x, state)


class OwnGRU(nn.GRUCell):
    """A GRU that says which h is carried: the second."""

    def forward(self, x, state):
        h = gru(self, x, *state)
        return h, h


@pytest.mark.parametrize(("kind", "own"), [(nn.LSTMCell, OwnLSTM), (nn.GRUCell, OwnGRU)])
def test_a_cell_of_torch_and_the_same_cell_found_by_trial_agree(kind, own):
    known = build(kind)
    tried = build(own)
    tried.load_state_dict(known.state_dict())
    assert known._steps is not tried._steps
    x = torch.randn(30, 2, M, dtype=torch.float64)
    (output, last), (wanted, kept) = tried(x), known(x)
    assert_all_close([output, *flat_state(last)], [wanted, *flat_state(kept)])


class Doubled(nn.GRUCell):
    """A subclass is what it does, not what it is called."""

    def forward(self, x, h):
        return 2 * super().forward(x, h)


def test_a_subclass_with_a_forward_of_its_own_is_tried():
    layer = build(Doubled, "previous-input", input_size=N)
    x = torch.randn(6, 2, N, dtype=torch.float64)
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    wanted = layer.cell(x.flatten(0, 1), before.flatten(0, 1)).view(6, 2, N)
    torch.testing.assert_close(layer(x)[0], wanted)
    assert flat_state(layer(x)[1])[0].shape == (1, 2, N)


def test_a_long_memory_is_exact():
    class Integrator(nn.Module):
        def forward(self, x, state):
            c = state[1] + x
            return c.sin(), c

    layer = LinearSurrogate(Integrator(), 1, 1)
    x = torch.randn(20_000, 1, 1)
    output, last = layer(x)
    wanted = x.double().cumsum(0)
    torch.testing.assert_close(last.carry.double()[0], wanted[-1], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(output.double(), wanted.sin(), rtol=0, atol=1e-3)


@each_pair
def test_compiles_without_a_break(cell, surrogate, options):
    torch._dynamo.reset()
    layer = build(cell, surrogate, options, torch.float32)
    x = torch.randn(5, 2, M, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for run in (layer, compiled):
        output, last = run(x, lengths=torch.tensor([3, 5]))
        tensors = [output, *flat_state(last)]
        results.append([*tensors, *gradients(tensors, [x, *layer.parameters()])])
    assert_all_close(*results)


@each_pair
@torch.no_grad()
def test_exports_with_any_time_and_batch(cell, surrogate, options):
    layer = build(cell, surrogate, options, torch.float32).eval()
    T, B = torch.export.Dim("T", min=2), torch.export.Dim("B", min=2)
    x = torch.randn(7, 3, M)
    _, state = layer(x)
    shapes = torch.utils._pytree.tree_map(lambda _: {1: B}, state)
    program = torch.export.export(
        Exported(layer), (x, state), dynamic_shapes={"x": {0: T, 1: B}, "state": shapes}
    )
    x = torch.randn(11, 5, M)
    _, state = layer(x)
    output, last = program.module()(x, state)
    wanted, kept = layer(x, state)
    assert_all_close([output, *flat_state(last)], [wanted, *flat_state(kept)])


@each_pair
def test_runs_in_sixteen_bits(cell, surrogate, options):
    layer = build(cell, surrogate, options, torch.float32)
    x = torch.randn(5, 2, M)
    wanted, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        output, state = layer(x)
        layer(x, state)
    torch.testing.assert_close(output.float(), wanted, rtol=0.1, atol=0.1)
    output.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    half = layer.bfloat16()
    assert half(x.bfloat16())[0].dtype == torch.bfloat16


@each_pair
def test_survives_copies_and_files(cell, surrogate, options):
    layer = build(cell, surrogate, options)
    x = torch.randn(5, 2, M, dtype=torch.float64)
    wanted, state = layer(x)
    fresh = build(cell, surrogate, options)
    fresh.load_state_dict(layer.state_dict())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        assert_all_close([other(x)[0]], [wanted], rtol=0, atol=0)
        assert repr(other) == repr(layer)
    assert_all_close(flat_state(pickle.loads(pickle.dumps(state))), flat_state(state))


def test_a_cell_keeps_its_weights_until_asked_to_draw_them_anew():
    cell = nn.LSTMCell(M, N)
    before = copy.deepcopy(cell.state_dict())
    layer = LinearSurrogate(cell)
    assert_all_close(list(cell.state_dict().values()), list(before.values()), rtol=0, atol=0)
    weight_is = layer.weight_is_l0.clone()
    layer.reset_parameters()
    assert not torch.equal(cell.weight_ih, before["weight_ih"])
    assert not torch.equal(layer.weight_is_l0, weight_is)
    assert not layer.bias_is_l0.any()
    own = Simple(M, N)
    weight = own.of_input.weight.clone()
    LinearSurrogate(own, M, N).reset_parameters()  # it has no reset_parameters
    torch.testing.assert_close(own.of_input.weight, weight, rtol=0, atol=0)


@each_pair
def test_is_built_on_the_meta_device_first(cell, surrogate, options):
    with torch.device("meta"):
        layer = LinearSurrogate(cell(M, N), M, N, surrogate, **options)
    assert all(p.is_meta for p in layer.parameters())
    assert layer(torch.empty(5, 2, M, device="meta"))[0].shape == (5, 2, N)


def test_shows_what_it_is():
    layer = LinearSurrogate(
        nn.GRUCell(8, 16), surrogate="convolution", kernel_size=3, batch_first=True
    )
    shown = "8, 16, batch_first=True, surrogate='convolution', kernel_size=3"
    assert shown in repr(layer)
    assert "(cell): GRUCell(8, 16)" in repr(layer)


def saturating(x, state):
    h, c = state
    return h, tanh(c + x)


def mixing(x, state):
    h, c = state
    return h, c.flip(-1) + x


def forgetful(x, state):
    h, c = state
    return h, 0.5 * c + torch.rand_like(x)


def clipped(x, state):
    h, c = state
    return h, (0.9 * c + x).clamp(-8, 8)


@pytest.mark.parametrize("cell", [saturating, mixing, forgetful, clipped])
def test_a_carry_that_is_no_linear_recurrence_is_refused(cell):
    with pytest.raises(ValueError, match="cell must carry its second state c unit by unit"):
        LinearSurrogate(cell, N, N)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((nn.LSTMCell,), {}, "cell must be a cell, such as .*, got the class LSTMCell"),
        ((3,), {}, "cell must be a cell, such as .*, got int"),
        ((Simple(M, N),), {}, "input_size must be given, since the cell has no input_size"),
        ((Simple(M, N), M), {}, "hidden_size must be given"),
        ((nn.LSTMCell(M, N), 5), {}, "input_size must be the cell's own, 3, or None, got 5"),
        ((Simple(M, N), M, 0), {}, "hidden_size must be a positive integer, got 0"),
        ((nn.GRUCell(M, N), M, N, "gru"), {}, "surrogate must be one of gilr, previous-input"),
        ((nn.GRUCell(M, N),), {"kernel_size": 3}, "kernel_size must be None unless surrogate is"),
        (
            (nn.GRUCell(M, N), M, N, "convolution"),
            {"kernel_size": 1},
            "kernel_size must be an integer of at least 2, .*, got 1",
        ),
        (
            (Simple(M, N), M, 6),
            {},
            r"cell must make of an input \(5, 3\) and a state h \(5, 6\) the next h, .* given h, "
            r"it raised RuntimeError: .* given \(h, c\), it raised TypeError",
        ),
        ((lambda x, h: x, M, N), {}, r"given h, it returned \(5, 3\); given \(h, c\), it returned"),
        ((lambda x, h: (x, x, x), N, N), {}, r"given h, it returned \(5, 4\), \(5, 4\), \(5, 4\)"),
        ((lambda x, h: None, N, N), {}, "given h, it returned NoneType"),
    ],
)
def test_bad_arguments_are_named(arguments, options, said):
    with pytest.raises(ValueError, match=said):
        LinearSurrogate(*arguments, **options)


def test_bad_input_and_state_are_named():
    layer = LinearSurrogate(nn.LSTMCell(M, N))
    with pytest.raises(ValueError, match="input must have the layer's dtype"):
        layer(torch.randn(5, 2, M, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"state must be a tuple of \(surrogate, carry\)"):
        layer(torch.randn(5, 2, M), torch.zeros(1, 2, N))
    kept = LinearSurrogate(nn.RNNCell(M, N), surrogate="convolution", kernel_size=3)
    with pytest.raises(ValueError, match=r"state.inputs\[0\] must have shape"):
        kept(torch.randn(5, 2, M), ((torch.zeros(1, 2, M),),))
