"""The compose suite: compositions and their parents, by length."""

import pytest
import torch

from longrnn import bench
from longrnn.bench import compose, machine, measure, plot, results, share
from longrnn.bench.markdown import markdown
from longrnn.bench.share import ShareCase
from longrnn.nn import SkipGILRLSTM

NAMES = (
    *("phased-gilr-lstm", "phased-lstm", "skip-gilr-lstm", "skip-lstm", "gilr-lstm"),
    *("LinearSurrogate(LSTMCell)", "LinearSurrogate(GRUCell)"),
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(machine, "_ELEMENTS", 1 << 12)
    monkeypatch.setattr(machine, "_SIDE", 16)
    monkeypatch.setattr(measure, "_REPEATS", 3)
    monkeypatch.setattr(share, "_CHECKED", 20)
    monkeypatch.setattr(compose, "_LENGTHS", (60, 120))


def test_lines_tell_the_time_of_a_step_by_length(tmp_path):
    rows = results.read(bench.run_suite("compose", tmp_path, seconds=0.01))
    timed = [r for r in rows if r["status"] == "timed"]
    assert [r["contender"] for r in timed] == [*NAMES, "nn.LSTM"] * 4
    assert [(r["T"], r["pass"]) for r in timed[::8]] == [
        (T, name) for T in (60, 120) for name in ("training", "forward")
    ]
    for row in timed:
        assert row["us_per_step"] == pytest.approx(1e3 * row["median_ms"] / row["T"])
        assert row["baseline"] == "nn.LSTM"
        if row["kind"] == "ours":
            assert row["error"] < 1e-10  # judged in float64
        assert ("share" in row) == row["contender"].startswith("skip")
        assert row.get("share", 0.2) == pytest.approx(0.2, abs=0.1)
    pictures = plot.plot(rows[1:], tmp_path)
    assert [p.name for p in pictures] == ["compose-cpu-training.png", "compose-cpu-forward.png"]
    text = markdown(rows)
    assert "| training: µs a step | T 60 | T 120 |" in text
    for pair in ("phased-lstm / phased-gilr-lstm", "skip-lstm / skip-gilr-lstm"):
        assert text.count(f"| {pair} |") == 2


def test_a_wrong_layer_is_not_timed(monkeypatch, tmp_path):
    right = compose._step_by_step
    monkeypatch.setattr(compose, "_step_by_step", lambda *arguments: right(*arguments) + 0.1)
    path = bench.run_suite("compose", tmp_path, seconds=0.01, only="T 60")
    found = {r["contender"]: r["status"] for r in results.read(path) if r["case"]}
    assert found["phased-gilr-lstm"] == found["skip-gilr-lstm"] == "wrong"
    assert found["skip-lstm"] == "timed"


def test_both_skip_layers_use_the_same_share_of_the_steps():
    (case,) = (ShareCase.draw(line, "cpu") for line in compose.cases("cpu")[:1])
    assert isinstance(compose._build("skip-gilr-lstm", case), SkipGILRLSTM)
    for name in ("skip-gilr-lstm", "skip-lstm"):
        assert compose._share_of(name, case) == pytest.approx(case.line.share, abs=0.1)
        assert torch.is_grad_enabled()
