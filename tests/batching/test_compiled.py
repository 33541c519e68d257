import functools
import logging
import time

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from batching.modules import LoopOverCell, build, draw, gradients, one_by_one
from longrnn import SRU
from longrnn.batching import MuxUnroll, trial


@pytest.fixture
def traced(monkeypatch):
    """Compile as far as the tracing goes: what is traced runs as it is, without a C++ compiler."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


@pytest.mark.parametrize("name", ["loop", "sru"])
def test_compiled_for_each_bucket_it_gives_the_same(traced, name):
    module = build(name)
    multiplexed = MuxUnroll(module, [4, 6], compile=True)
    for lengths in ([3, 1], [6, 2], [2, 4]):
        x = draw(lengths, 8)
        expected, right = one_by_one(module, x, lengths)
        sources = list(module.parameters())
        output, state = multiplexed(x, lengths=torch.tensor(lengths))
        assert_close(output, expected[0])
        assert_close(gradients([output], [state], sources), gradients(expected, right, sources))
    stats = multiplexed.stats()
    assert (stats["way"], stats["graphs"], stats["evicted"]) == ("compiled", 2, 0)


def test_more_shapes_than_torch_keeps_of_one_function_stay_compiled(traced):
    module = build("sru")
    multiplexed = MuxUnroll(module, range(1, 21), max_graphs=12, compile=True)
    for T in range(1, 21):
        x = draw([T], T)
        assert_close(multiplexed(x)[0], module(x)[0])
    stats = multiplexed.stats()
    assert (stats["graphs"], stats["evicted"]) == (12, 8)


@pytest.mark.parametrize("gradients_on", [False, True])
@pytest.mark.parametrize(("plain_ms", "compiled_ms", "way"), [(1, 9, "sliced"), (9, 1, "compiled")])
def test_the_faster_way_is_taken_and_told(
    monkeypatch, caplog, gradients_on, plain_ms, compiled_ms, way
):
    class Sleeps(SRU):
        def forward(self, *args, **kwargs):
            time.sleep(plain_ms / 1e3)
            return super().forward(*args, **kwargs)

    compiled_runs, made = [], []

    def compile_call(call):
        made.append(call)

        def fake(input, state, lengths, per_step):
            compiled_runs.append(input.shape[0])
            time.sleep(compiled_ms / 1e3)
            return SRU.forward(module, input, state, lengths=lengths)

        return fake

    monkeypatch.setattr(trial, "compile_call", compile_call)
    module = Sleeps(3, 5)
    multiplexed = MuxUnroll(module, [4, 8])
    assert multiplexed.stats()["way"] == "not yet run"
    with torch.set_grad_enabled(gradients_on), caplog.at_level(logging.INFO):
        for T in (3, 7):
            x = torch.randn(T, 2, 3)
            assert_close(multiplexed(x)[0], SRU.forward(module, x)[0])
    tried = 6
    assert compiled_runs == [4] * tried + ([4, 8] if way == "compiled" else [])
    assert len(made) == (2 if way == "compiled" else 1)  # what was tried is kept
    assert multiplexed.stats()["graphs"] == (2 if way == "compiled" else 0)
    name = "with gradients" if gradients_on else "without"
    assert multiplexed.stats()["way"].startswith(f"{name} {way}: ")
    assert multiplexed.stats()["way"].endswith("ms compiled")
    assert len(caplog.records) == 1
    steps = {"sliced": 3 + 7, "compiled": 4 + 8}[way]
    assert multiplexed.stats()["padded_steps"] == 2 * (steps - 10)


def test_a_trial_of_the_real_compiler_ends_with_a_measurement():
    multiplexed = MuxUnroll(LoopOverCell(3, 5), [2])
    multiplexed(torch.randn(2, 2, 3))
    way = multiplexed.stats()["way"]
    assert way.startswith(("with gradients sliced: ", "with gradients compiled: "))
    assert "ms a call as it is" in way


def test_a_trial_leaves_no_trace(traced):
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x, state=None, *, lengths=None):
            return nn.functional.dropout(self.norm(x.flatten(0, 1)).view_as(x)), None

    x = torch.randn(4, 2, 3)
    results = []
    for compile in (False, None):
        torch.manual_seed(0)
        module = Norm()
        results.append([MuxUnroll(module, [4], compile=compile)(x)[0], *module.buffers()])
        assert all(parameter.grad is None for parameter in module.parameters())
    assert_close(*results)


def test_what_a_compiler_cannot_do_runs_as_it_is(traced):
    class Breaks(SRU):
        def forward(self, x, state=None, *, lengths=None):
            torch._dynamo.graph_break()
            return super().forward(x, state, lengths=lengths)

    module = Breaks(3, 5)
    multiplexed = MuxUnroll(module, [4])
    x = torch.randn(4, 1, 3)
    assert_close(multiplexed(x)[0], module(x)[0])
    assert "sliced: it cannot be compiled: " in multiplexed.stats()["way"]


def test_long_loops_are_not_compiled(traced, monkeypatch):
    monkeypatch.setattr(trial, "MOST_OPERATIONS", 60)
    module = build("loop")
    long = MuxUnroll(module, [20])
    long(draw([20], 20))
    assert "operations a call, too many to compile" in long.stats()["way"]
    both = MuxUnroll(module, [2, 20])
    monkeypatch.setattr(trial, "_GAIN", 0.0)  # the first bucket is short, and is compiled
    both(draw([2], 2))
    assert "compiled: " in both.stats()["way"]
    compiled = []
    monkeypatch.setattr(trial, "compile_call", compiled.append)
    x = draw([20], 20)
    assert_close(both(x)[0], module(x)[0])
    assert not compiled


def test_pytorchs_own_layers_are_not_compiled(monkeypatch):
    monkeypatch.setattr(trial, "compile_call", lambda call: pytest.fail("compiled"))
    multiplexed = MuxUnroll(nn.LSTM(3, 5), [4])
    multiplexed(torch.randn(4, 1, 3))
    assert multiplexed.stats()["way"] == "sliced"
