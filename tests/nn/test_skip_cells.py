"""One step of a skip layer: a loop over the cell is the layer."""

import copy
import re

import pytest
import torch

import longrnn
from longrnn import SkipGRU, SkipGRUCell, SkipLSTM, SkipLSTMCell

M, N = 3, 4
PAIRS = {
    "lstm": (SkipLSTMCell, SkipLSTM, {}),
    "gru": (SkipGRUCell, SkipGRU, {}),
    "gru-reset-before": (SkipGRUCell, SkipGRU, {"reset_after": False}),
}
each_cell = pytest.mark.parametrize("which", PAIRS)
each_plain_cell = pytest.mark.parametrize("which", ["lstm", "gru"])


def pair(which, dtype=torch.float64, **settings):
    """A cell and the layer with the same parameters."""
    cell_type, layer_type, options = PAIRS[which]
    layer = layer_type(M, N, dtype=dtype, **settings, **options)
    cell = cell_type(M, N, dtype=dtype, **settings, **options)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("bias_"):
                parameter.normal_()
        layer.weight_u.mul_(0.25)
        layer.bias_u.fill_(-0.5)
    weights = {name.removesuffix("_l0"): p for name, p in layer.state_dict().items()}
    for name in ("h_0", "c_0"):
        if name in weights:
            weights[name] = weights[name][0]
    cell.load_state_dict(weights)
    return cell, layer


def loop(cell, xs):
    """Outputs, updates and the last state's members, as tensors."""
    state, hs, updates = None, [], []
    for x in xs:
        h, state, update = cell(x, state)
        hs.append(h)
        updates.append(update)
    return [torch.stack(hs), torch.stack(updates), *state]


def of_layer(layer, x):
    """The same of the layer; its states have a first dimension of 1."""
    output, state, updates = layer(x)
    return [output, updates, *(member.squeeze(0) for member in state)]


def assert_all_close(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@each_cell
@pytest.mark.parametrize("shape", [(9, 5, M), (9, M)], ids=["batch", "one"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("learn_initial_state", [False, True])
def test_a_loop_over_the_cell_is_the_layer(which, shape, bias, learn_initial_state):
    cell, layer = pair(which, bias=bias, learn_initial_state=learn_initial_state)
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    ours, theirs = loop(cell, x), of_layer(layer, x)
    assert 0 < ours[1].sum() < ours[1].numel()
    assert_all_close(ours, theirs)
    grads = []
    for module, values in ((cell, ours), (layer, theirs)):
        torch.manual_seed(1)
        loss = sum((v * torch.randn(v.shape, dtype=v.dtype)).sum() for v in values)
        grads.append(torch.autograd.grad(loss, [x, *module.parameters()]))
    assert_all_close([g.flatten() for g in grads[0]], [g.flatten() for g in grads[1]])


@each_cell
def test_a_skipped_input_is_not_looked_at(which):
    if not longrnn._native.available():
        pytest.skip("the compiled library was not built")
    cell, _ = pair(which)
    x = torch.randn(30, 5, M, dtype=torch.float64)
    wanted = loop(cell, x)
    skipped = wanted[1].squeeze(-1) == 0
    assert 20 < skipped.sum() < 130
    x[skipped] = torch.nan
    with torch.no_grad():
        assert_all_close(loop(cell, x), wanted, rtol=0, atol=0)


THEIRS = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}


@each_plain_cell
@pytest.mark.parametrize("bias", [False, True])
def test_weights_of_torch_load_and_compute_the_same(which, bias):
    theirs, ours = THEIRS[which](M, N, bias), PAIRS[which][0](M, N, bias)
    ours.load_state_dict(theirs.state_dict())
    x, state, other = torch.randn(9, 2, M), None, None
    for x_t in x:
        h, state, update = ours(x_t, state)
        other = theirs(x_t, other)
        assert update.all()
    wanted = other if which == "gru" else other[0]
    torch.testing.assert_close(h, wanted)


@each_plain_cell
def test_starts_as_its_layer_does(which):
    cell_type, layer_type, _ = PAIRS[which]
    torch.manual_seed(3)
    cell = cell_type(M, N, update_bias=0.5)
    torch.manual_seed(3)
    layer = layer_type(M, N, update_bias=0.5)
    for ours, theirs in zip(cell.parameters(), layer.parameters(), strict=True):
        assert torch.equal(ours.flatten(), theirs.flatten())
    assert cell.bias_u.item() == 0.5


@each_plain_cell
def test_survives_what_modules_go_through(which):
    cell, _ = pair(which, torch.float32)
    x = torch.randn(5, M)
    wanted = cell(x)
    assert_all_close(copy.deepcopy(cell)(x)[1], wanted[1], rtol=0, atol=0)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    assert_all_close(compiled(x)[1], wanted[1])
    assert cell.double()(x.double())[0].dtype == torch.float64
    cell.float()
    with torch.autocast("cpu", torch.bfloat16):
        h, state, update = cell(x)
        h, state, update = cell(x, state)
    assert h.dtype == torch.bfloat16
    assert state.accum_prob.dtype == update.dtype == torch.float32
    narrow = cell.bfloat16()(x.bfloat16())
    assert narrow[0].dtype == torch.bfloat16
    assert narrow[1].update_prob.dtype == torch.float32
    with torch.device("meta"):
        assert type(cell)(M, N)(torch.empty(5, M))[0].shape == (5, N)


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(SkipLSTMCell(3, 4, bias=False)) == (
        "SkipLSTMCell(3, 4, bias=False, update_bias=1.0, learn_initial_state=True)"
    )
    assert repr(SkipGRUCell(3, 4, update_bias=2.0)) == (
        "SkipGRUCell(3, 4, update_bias=2.0, learn_initial_state=True, reset_after=True)"
    )


X, H, P = torch.zeros(2, M), torch.zeros(2, N), torch.zeros(2, 1)


@pytest.mark.parametrize(
    ("x", "state", "message"),
    [
        (torch.zeros(5, 2, M), None, "input must have shape (B, m=3), got (5, 2, 3)"),
        (torch.zeros(2, 4), None, "input must have shape (B, m=3), got (2, 4)"),
        (torch.zeros(4), None, "input must have shape (m=3), got (4,)"),
        (X.long(), None, "input must have a floating dtype, got torch.int64"),
        (X.double(), None, "input must have the cell's dtype (torch.float32), got torch.float64"),
        (X.to("meta"), None, "input must be on the cell's device (cpu), got meta"),
        (X, H, "state must be a tuple of (h, c, update_prob, accum_prob), got Tensor"),
        (X, (H, H), "state must be a tuple of (h, c, update_prob, accum_prob), got tuple of 2"),
        (X, (H, H[:1], P, P), "state.c must have shape (B=2, n=4), got (1, 4)"),
        (X, (H, H, P, H), "state.accum_prob must have shape (B=2, gate=1), got (2, 4)"),
        (X[0], (H, H, P, P), "state.h must have shape (n=4), got (2, 4)"),
    ],
)
def test_a_bad_call_says_what_is_wrong(x, state, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SkipLSTMCell(M, N)(x, state)


def test_a_bad_size_says_what_is_wrong():
    with pytest.raises(ValueError, match="hidden_size must be a positive integer, got 0"):
        SkipGRUCell(3, 0)
