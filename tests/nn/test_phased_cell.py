"""One step of a `PhasedLSTM`: a loop over the cell is the layer."""

import copy
import pickle
import re

import pytest
import torch

import longrnn
from longrnn import PhasedLSTM, PhasedLSTMCell

M, N = 3, 4
CLOCK = {"period_init": (1.5, 30.0), "on_ratio": 0.4, "leak": 0.2}


def pair(dtype=torch.float64, **settings):
    """A cell and the layer with the same parameters."""
    layer = PhasedLSTM(M, N, dtype=dtype, **{**CLOCK, **settings})
    cell = PhasedLSTMCell(M, N, dtype=dtype, **{**CLOCK, **settings})
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith(("bias", "weight_peephole")):
                parameter.normal_()
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in layer.state_dict().items()})
    return cell, layer


def loop(cell, xs, times, state=None):
    """Outputs and the last state's members."""
    outputs = []
    for x, time in zip(xs, times, strict=True):
        h, state = cell(x, state, time)
        assert h is state.h or torch.equal(h, state.h)
        outputs.append(h)
    return [torch.stack(outputs), *state]


def assert_all_close(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("shape", [(9, 5, M), (9, M)], ids=["batch", "one"])
@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"peephole": False}], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_a_loop_over_the_cell_is_the_layer(shape, settings, training):
    cell, layer = (m.train(training) for m in pair(learn_on_ratio=True, **settings))
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    times = (torch.rand(shape[:-1], dtype=torch.float64) * 9).requires_grad_()
    start = torch.randn(2, *shape[1:-1], N, dtype=torch.float64, requires_grad=True)
    steps = torch.zeros(1, *shape[1:-1], 1, dtype=torch.int64)
    output, last = layer(x, (start[:1], start[1:], steps), times=times)
    theirs = [output, last.h[0], last.c[0]]
    ours = loop(cell, x, times, tuple(start))
    assert_all_close(ours, theirs)
    grads = []
    for module, values in ((cell, ours), (layer, theirs)):
        torch.manual_seed(1)
        loss = sum((v * torch.randn(v.shape, dtype=v.dtype)).sum() for v in values)
        grads.append(torch.autograd.grad(loss, [x, times, start, *module.parameters()]))
    assert_all_close(*grads)
    with torch.no_grad():
        assert_all_close(loop(cell, x, times, tuple(start)), theirs)


def test_a_time_is_a_number_or_one_for_each():
    cell, _ = pair()
    x = torch.randn(5, M, dtype=torch.float64)
    wanted = cell(x, None, torch.full((5,), 7.0, dtype=torch.float64))
    for time in (7, 7.0, torch.tensor(7), torch.tensor(7.0), torch.full((5,), 7)):
        h, state = cell(x, None, time)
        assert_all_close([h, *state], [wanted[0], *wanted[1]], rtol=0, atol=0)
        h, state = cell(x[1], None, time if isinstance(time, (int, float)) else time.flatten()[0])
        assert_all_close([h, *state], [wanted[0][1], wanted[1].h[1], wanted[1].c[1]])
    late = [cell(x, None, 3.6e9 + offset)[0] for offset in (0.0, 0.25)]
    assert not torch.equal(*late)


def test_an_input_that_no_unit_opens_for_is_never_looked_at():
    if not longrnn._native.available():
        pytest.skip("the compiled library was not built")
    cell = PhasedLSTMCell(M, N, period_init=(50.0, 50.0), on_ratio=0.02).eval()
    cell.requires_grad_(False)
    x, state = torch.full((M,), torch.nan), (torch.randn(N), torch.randn(N))
    closed = 0
    for time in range(50):
        gate = [cell.log_period.exp(), cell.shift, cell.on_ratio]
        k = longrnn.time_gate(torch.tensor(float(time)), *gate, leak=0.0)
        h, last = cell(x, state, time)
        assert torch.equal(h.isnan(), k > 0)
        assert torch.equal(last.c[k == 0], state[1][k == 0])
        closed += int((k == 0).all())
    assert 40 < closed < 50


def test_starts_as_its_layer_does():
    torch.manual_seed(3)
    cell = PhasedLSTMCell(M, N, period_init=(2.0, 9.0), on_ratio=0.1)
    torch.manual_seed(3)
    layer = PhasedLSTM(M, N, period_init=(2.0, 9.0), on_ratio=0.1)
    ours, theirs = cell.state_dict(), layer.state_dict()
    assert [f"{name}_l0" for name in ours] == list(theirs)
    assert_all_close(ours.values(), theirs.values(), rtol=0, atol=0)
    assert not cell.on_ratio.requires_grad
    assert PhasedLSTMCell(M, N, learn_on_ratio=True).on_ratio.requires_grad


@pytest.mark.parametrize("bias", [True, False])
def test_weights_of_torch_have_the_same_names(bias):
    cell = PhasedLSTMCell(M, N, bias)
    found = cell.load_state_dict(torch.nn.LSTMCell(M, N, bias).state_dict(), strict=False)
    assert set(found.missing_keys) == {"weight_peephole", "log_period", "shift", "on_ratio"}
    assert not found.unexpected_keys


def test_a_learned_on_ratio_is_held_within_its_bounds():
    cell, _ = pair(learn_on_ratio=True)
    x, results = torch.randn(5, M, dtype=torch.float64), []
    for ratio in (7.0, 1 - 1e-3):
        cell.on_ratio.data.fill_(ratio)
        results.append(cell(x, None, torch.arange(5.0))[0])
    assert torch.equal(*results)


def test_survives_what_modules_go_through():
    cell, _ = pair(torch.float32)
    x, time = torch.randn(5, M), torch.rand(5) * 9
    state = tuple(torch.randn(2, 5, N))
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert_all_close(other(x, state, time)[1], cell(x, state, time)[1], rtol=0, atol=0)
        assert repr(other) == repr(cell)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    for when in (time, 3.5):
        assert_all_close(compiled(x, state, when)[1], cell(x, state, when)[1])
    assert cell.double()(x.double(), None, time)[0].dtype == torch.float64
    cell.float()
    with torch.autocast("cpu", torch.bfloat16):
        h, state = cell(x, None, time)
        h, state = cell(x, state, time)
    assert h.dtype == state.c.dtype == torch.bfloat16
    assert cell.bfloat16()(x.bfloat16(), None, time)[0].dtype == torch.bfloat16
    with torch.device("meta"):
        assert PhasedLSTMCell(M, N)(torch.empty(5, M), None, 1.0)[0].shape == (5, N)


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(PhasedLSTMCell(3, 4, bias=False, leak=0.0)) == (
        "PhasedLSTMCell(3, 4, bias=False, period_init=(1.0, 1000.0), on_ratio=0.05, leak=0.0, "
        "learn_on_ratio=False, peephole=True)"
    )


X, H = torch.zeros(2, M), torch.zeros(2, N)


@pytest.mark.parametrize(
    ("x", "state", "time", "message"),
    [
        (torch.zeros(5, 2, M), None, 0, "input must have shape (B, m=3), got (5, 2, 3)"),
        (torch.zeros(2, 4), None, 0, "input must have shape (B, m=3), got (2, 4)"),
        (torch.zeros(4), None, 0, "input must have shape (m=3), got (4,)"),
        (X.long(), None, 0, "input must have a floating dtype, got torch.int64"),
        (X.double(), None, 0, "input must have the cell's dtype (torch.float32), got torch.floa"),
        (X.to("meta"), None, 0, "input must be on the cell's device (cpu), got meta"),
        (X, H, 0, "state must be a tuple of (h, c), got Tensor"),
        (X, (H, H, H), 0, "state must be a tuple of (h, c), got tuple of 3"),
        (X, (H, H[:1]), 0, "state.c must have shape (B=2, n=4), got (1, 4)"),
        (X[0], (H, H), 0, "state.h must have shape (n=4), got (2, 4)"),
        (X, None, "noon", "time must be a number or a tensor, got str"),
        (X, None, None, "time must be a number or a tensor, got NoneType"),
        (X, None, torch.zeros(3), "time must have shape (B=2), got (3,)"),
        (X, None, torch.zeros(2, 1), "time must have shape (B=2), got (2, 1)"),
        (X[0], None, torch.zeros(1), "time must have shape (), got (1,)"),
        (X, None, torch.zeros(2).cfloat(), "time must be a tensor of real numbers, got torch.co"),
        (X, None, torch.zeros(2, device="meta"), "time must be on input's device (cpu), got meta"),
    ],
)
def test_a_bad_call_says_what_is_wrong(x, state, time, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PhasedLSTMCell(M, N)(x, state, time)


def test_a_bad_setting_says_what_is_wrong():
    with pytest.raises(ValueError, match="hidden_size must be a positive integer, got 0"):
        PhasedLSTMCell(3, 0)
    with pytest.raises(ValueError, match=re.escape("on_ratio must lie in (0, 1), got 1.0")):
        PhasedLSTMCell(3, 4, on_ratio=1.0)
    with pytest.raises(ValueError, match="period_init must be two numbers, got 5"):
        PhasedLSTMCell(3, 4, period_init=5)
