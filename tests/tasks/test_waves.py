import numpy as np
import pytest
import torch

from longrnn.tasks import create_task
from longrnn.tasks.waves import draw_periods, inside

SAMPLING = ["standard", "high-resolution", "asynchronous"]


def samples(task, count):
    inputs, labels = zip(*(task.train_set[i] for i in range(count)), strict=True)
    return inputs, torch.stack(labels)


def misfit(values, times, periods):
    """What is left of a signal after the best waves of unit amplitude at these periods."""
    angles = [2 * np.pi * times.numpy() / period for period in periods]
    waves = np.stack([f(angle) for angle in angles for f in (np.sin, np.cos)], 1)
    found, *_ = np.linalg.lstsq(waves, values.numpy()[:, 0].astype(float), rcond=None)
    left = abs(waves @ found - values.numpy()[:, 0]).max()
    amplitudes = np.hypot(found[::2], found[1::2])
    return max(left, abs(amplitudes - 1).max())


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize(("period", "label"), [(5.0, 1), (5.7, 1), (6.0, 1), (4.99, 0), (6.01, 0)])
def test_the_label_says_whether_the_period_is_5_to_6(monkeypatch, sampling, period, label):
    draw = "longrnn.tasks.async_frequency.draw_periods"
    monkeypatch.setattr(draw, lambda rng, special, target: np.full(len(special), period))
    inputs, labels = samples(create_task("async-frequency", 8, sampling=sampling), 8)
    assert labels.tolist() == [label] * 8
    assert max(misfit(*input, [period]) for input in inputs) < 1e-4
    assert min(misfit(*input, [1.1 * period]) for input in inputs) > 0.01


@pytest.mark.parametrize("sampling", SAMPLING)
def test_waves_are_sampled_in_the_first_125_ms(sampling):
    inputs, _ = samples(create_task("async-frequency", 100, sampling=sampling), 1000)
    for values, times in inputs:
        assert values.shape == (len(times), 1)
        assert (values.dtype, times.dtype) == (torch.float32, torch.float64)
        assert times.min() >= 0
        assert times.max() <= 125
        assert (times.diff() > 0).all()
    lengths = np.array([len(times) for _, times in inputs])
    spans = np.array([float(times[-1] - times[0]) for _, times in inputs])
    assert spans.max() == pytest.approx(125, abs=3)
    assert np.array([float(times[0]) for _, times in inputs]).max() > 80
    if sampling == "asynchronous":
        assert (lengths.min(), lengths.max()) == (15, 125)
        assert abs(np.corrcoef(lengths, spans)[0, 1]) < 0.3
        return
    step = {"standard": 1.0, "high-resolution": 0.1}[sampling]
    for (_, times), length, span in zip(inputs, lengths, spans, strict=True):
        torch.testing.assert_close(times.diff(), torch.full((length - 1,), step).double())
        assert span >= 15 - step
    assert lengths.max() == pytest.approx(125 / step, rel=0.02)


def test_half_of_the_periods_are_special_and_the_others_anything():
    rng = np.random.default_rng(0)
    special = np.arange(20_000) % 2 == 0
    periods = draw_periods(rng, special, (5.0, 6.0))
    assert inside(periods[special], (5.0, 6.0)).all()
    assert periods[special].mean() == pytest.approx(5.5, abs=0.02)
    others = np.log(periods[~special])
    assert (others.min(), others.max()) == pytest.approx((0, np.log(100)), abs=0.01)
    assert others.mean() == pytest.approx(np.log(100) / 2, abs=0.05)


@pytest.mark.parametrize(("name", "rate"), [("async-frequency", 0.5198), ("two-waves", 0.5006)])
def test_the_base_rate_is_the_documented_one(name, rate):
    _, labels = samples(create_task(name, 500), 5000)
    assert labels.double().mean() == pytest.approx(rate, abs=0.025)


@pytest.mark.parametrize(
    ("first", "second", "label"),
    [(5.5, 14, 1), (5.0, 15.0, 1), (5.5, 15.1, 0), (4.9, 14, 0), (14, 5.5, 0)],
)
def test_both_waves_must_be_special(monkeypatch, first, second, label):
    periods = {5.0: first, 13.0: second}

    def draw(rng, special, target):
        return np.full(len(special), periods[target[0]])

    monkeypatch.setattr("longrnn.tasks.two_waves.draw_periods", draw)
    inputs, labels = samples(create_task("two-waves", 8), 8)
    assert labels.tolist() == [label] * 8
    long = [(v, t) for v, t in inputs if t[-1] - t[0] > 30]
    assert len(long) > 2
    assert max(misfit(v, t, [first, second]) for v, t in long) < 1e-3
    assert min(misfit(v, t, [1.2 * first, second]) for v, t in long) > 0.01


def test_sums_are_seen_at_100_to_1000_times_in_the_first_100_ms():
    inputs, _ = samples(create_task("two-waves", 100), 1000)
    lengths = np.array([len(times) for _, times in inputs])
    assert (lengths.min(), lengths.max()) == pytest.approx((100, 1000), abs=10)
    for _, times in inputs:
        assert 0 <= times[0] < times[-1] <= 100
        assert (times.diff() > 0).all()
    spans = np.array([float(times[-1] - times[0]) for _, times in inputs])
    assert (spans.min(), spans.max()) == pytest.approx((1, 100), abs=1)
