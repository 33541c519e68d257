"""The suites of time against the share of the work: skip and phased."""

import pytest
import torch

from longrnn import bench
from longrnn.bench import machine, measure, phased, plot, results, skip
from longrnn.bench.markdown import markdown
from longrnn.bench.share import Share, ShareCase
from longrnn.nn import SkipLSTM


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(machine, "_ELEMENTS", 1 << 12)
    monkeypatch.setattr(machine, "_SIDE", 16)
    monkeypatch.setattr(measure, "_REPEATS", 3)
    for module, name in ((skip, "skip"), (phased, "phased")):
        lines = [
            Share(name, 0.2, 2, T=60, m=2, n=9),
            Share(name, 0.5, 2, T=60, m=2, n=9),
            Share(name, 0.5, 3, T=20, m=2, n=9, training=True),
        ]
        monkeypatch.setattr(module, "cases", lambda device, lines=lines: lines)


@pytest.mark.parametrize("suite", ["skip", "phased"])
def test_lines_tell_share_error_and_ratio(suite, tmp_path):
    path = bench.run_suite(suite, tmp_path, seconds=0.01)
    rows = [r for r in results.read(path) if r["status"] == "timed"]
    names = [f"{suite}-lstm", f"{suite}-lstm, dense", "blend each step", "nn.LSTM"]
    assert [r["contender"] for r in rows] == names * 3
    for row in rows:
        assert min(row["ratio"], row["multiply_adds"], row["limit_ms"]) > 0
        if row["kind"] == "ours":
            assert row["error"] < 1e-10  # judged in float64
    shares = [r["share"] for r in rows[::4]]
    assert shares[:2] == pytest.approx([0.2, 0.5], abs=0.12)
    (picture,) = plot.plot(rows, tmp_path)
    assert picture.name == f"{suite}-cpu-forward.png"
    assert picture.stat().st_size > 10_000
    text = markdown(rows)
    assert text.count(f"| 9 units, B 2, T 60 | {100 * shares[0]:.1f} % |") == 1
    assert f"{suite}-lstm, dense / nn.LSTM" in text
    assert "Training step" in text


@pytest.mark.parametrize("suite", [skip, phased])
def test_a_wrong_layer_is_not_timed(suite, monkeypatch, tmp_path):
    right = suite.blend
    monkeypatch.setattr(suite, "blend", lambda layer, case: right(layer, case) + 0.1)
    path = bench.run_suite(suite.__name__.rpartition(".")[2], tmp_path, seconds=0.01)
    ours = [r for r in results.read(path) if r["kind"] == "ours"]
    assert {r["status"] for r in ours} == {"wrong"}


def test_the_gate_settles_on_the_share_and_sequences_differ():
    case = ShareCase.draw(Share("skip", 0.3, 8, T=200, m=1, n=20), "cpu")
    layer = skip._layer(case)
    assert isinstance(layer, SkipLSTM)
    with torch.no_grad():
        updates = layer(case.x)[2]
    assert updates.mean().item() == pytest.approx(0.3, abs=0.05)
    assert len({tuple(one.flatten().tolist()) for one in updates.unbind(1)}) > 1
