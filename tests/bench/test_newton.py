"""The newton suite: cells of the same weights, in sequence and by Newton's method."""

import sys
import types

import pytest
import torch

from longrnn import bench
from longrnn.bench import machine, measure, newton, newton_contenders, plot, results
from longrnn.bench.markdown import markdown
from longrnn.bench.newton_contenders import Group, NewtonCase

RUN = {
    "gru": ["parallel-gru, serial", "parallel-gru, Newton", "nn.GRU"],
    "gru-16-features": ["parallel-gru, serial", "parallel-gru, Newton", "nn.GRU"],
    "lstm": ["parallel-lstm, serial", "parallel-lstm, Newton", "nn.LSTM"],
    "solve": ["solve_recurrence, diagonal", "solve_recurrence, dense", "loop over nn.GRUCell"],
}
SMALL = {
    "gru": Group("gru", 5, 5),
    "gru-16-features": Group("gru", 3, 5),
    "lstm": Group("lstm", 5, 5),
    "solve": Group("solve", 5, 5),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(machine, "_ELEMENTS", 1 << 12)
    monkeypatch.setattr(machine, "_SIDE", 16)
    monkeypatch.setattr(measure, "_REPEATS", 3)
    monkeypatch.setattr(newton, "_LENGTHS", (40, 70))
    for name, group in SMALL.items():
        monkeypatch.setitem(newton_contenders.GROUPS, name, group)


def test_lines_tell_step_times_errors_and_iterations(tmp_path):
    rows = results.read(bench.run_suite("newton", tmp_path, seconds=0.01))
    timed = [r for r in rows if r["status"] == "timed" and "pararnn" not in r["contender"]]
    assert [r["contender"] for r in timed] == [n for names in RUN.values() for n in names * 4]
    for row in timed:
        assert row["us_per_step"] == pytest.approx(1e3 * row["median_ms"] / row["T"])
        assert row["baseline"] == RUN[row["group"]][-1]
        assert row["error"] is None or row["error"] < 1e-4
        assert (row["error"] is None) == (row["contender"] in ("nn.GRU", "nn.LSTM"))
        assert ("iterations" in row) == row["contender"].startswith("solve")
        assert 2 <= row.get("iterations", 2) <= 40
    names = [p.name for p in plot.plot(timed, tmp_path)]
    assert sorted(names) == sorted(
        f"newton-cpu-{group}-{name}.png" for group in RUN for name in ("training", "forward")
    )
    text = markdown(rows)
    assert "| gru, training: µs a step | T 40 | T 70 |" in text
    assert "| solve_recurrence, dense, forward | 70 |" in text


@pytest.mark.parametrize("group", list(SMALL.values())[:3], ids=lambda g: f"{g.cell}-{g.m}")
@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
def test_the_judge_is_the_layer_in_float64(group, training):
    case = NewtonCase.draw(group, 30, training, "cpu")
    ours = newton_contenders._Parallel(group).double()
    found = newton_contenders._step(ours, case, torch.float64)
    assert found.keys() == case.exact.keys()
    assert len(found) == (1 if not training else 5 if group.cell == "gru" else 6)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, case.exact[name])


def test_a_wrong_layer_is_not_timed(monkeypatch, tmp_path):
    right = newton_contenders._Parallel.forward
    monkeypatch.setattr(newton_contenders._Parallel, "forward", lambda *args: 1.01 * right(*args))
    path = bench.run_suite("newton", tmp_path, seconds=0.01, only="gru, B 1, T 40")
    ours = [r for r in results.read(path) if r["kind"] == "ours"]
    assert [r["status"] for r in ours] == ["wrong"] * 4


class FakeGRU(torch.nn.Module):
    """Named as pararnn's cell, computed as ours."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        for name in ("a_z", "a_r", "a_n"):
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(hidden_size)))
        self.W_x = torch.nn.Linear(input_size, 3 * hidden_size)


class FakeStack(torch.nn.Module):
    def __init__(self, cell, *, solver, config, batch_first):
        super().__init__()
        self.layers = torch.nn.ModuleList([cell])
        self.told = (solver, config, batch_first)

    def forward(self, x):
        (cell,) = self.layers
        h, states = x.new_zeros(len(x), len(cell.a_z)), []
        for gates in cell.W_x(x).unbind(1):
            z, r, n = gates.chunk(3, -1)
            z, r = torch.sigmoid(z + cell.a_z * h), torch.sigmoid(r + cell.a_r * h)
            h = (1 - z) * h + z * torch.tanh(n + cell.a_n * r * h)
            states.append(h)
        return torch.stack(states, 1)


def test_the_peer_holds_our_weights_and_all_its_gradients_are_judged(monkeypatch):
    fake = types.SimpleNamespace(
        ParaGRU=FakeGRU, ParaRNN=FakeStack, NewtonConfig=lambda chunk_len: chunk_len
    )
    monkeypatch.setitem(sys.modules, "pararnn", fake)
    case = NewtonCase.draw(Group("gru", 3, 5), 30, True, "cpu")
    peers = [c for c in newton_contenders.contenders("gru") if c.module == "pararnn"]
    assert [c.name for c in peers] == [
        "pararnn ParaGRU, Newton",
        "pararnn ParaGRU, Newton in chunks of 1024",
        "pararnn ParaGRU, serial",
    ]
    for peer in peers:
        assert peer.prepare(case).check() < 1e-5
    forward = FakeStack.forward
    monkeypatch.setattr(FakeStack, "forward", lambda self, x: forward(self, x) * 1.01)
    assert peers[0].prepare(case).check() > 5e-3
