import itertools

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from longrnn.tasks import TASKS, create_task

OPTIONS = {
    "adding": {"length": 20},
    "frequency": {"signal_duration": 20},
    "memory": {"length": 20},
    "text": {"length": 20},
    "digits": {},
    "async-frequency": {},
    "two-waves": {},
    "nmnist": {},
    "events-forecast": {},
    "spoken-digits": {},
}
DRAWN = ["adding", "frequency", "memory", "async-frequency", "two-waves", "events-forecast"]


def samples(dataset, count=5):
    return [dataset[i] for i in range(count)]


def same(one, other):
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_gives_the_same_data_each_time(name):
    one, other = (create_task(name, 4, seed=3, **OPTIONS[name]) for _ in range(2))
    assert same(samples(one.train_set), samples(other.train_set))
    assert same(samples(one.test_set), samples(other.test_set))


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_data_are_new_in_each_seed_epoch_and_split(name):
    task = create_task(name, 4, seed=3, **OPTIONS[name])
    # Fewer than a batch, which is drawn at once.
    first = samples(task.train_set, 3)
    assert not same(first, samples(task.test_set, 3))
    other = create_task(name, 4, seed=4, **OPTIONS[name])
    assert not same(first, samples(other.train_set, 3))
    task.train_set.set_epoch(1)
    assert not same(first, samples(task.train_set, 3))
    task.train_set.set_epoch(0)
    assert same(first, samples(task.train_set, 3))


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_data_do_not_depend_on_the_order_of_asking(name):
    task, other = (create_task(name, 4, seed=3, **OPTIONS[name]) for _ in range(2))
    forwards = samples(task.train_set, 12)
    backwards = [other.train_set[i] for i in reversed(range(12))]
    assert same(forwards, backwards[::-1])
    pairs = itertools.combinations([input for input, _ in forwards], 2)
    assert not any(same(one, another) for one, another in pairs)


@pytest.mark.parametrize("length", [2, 3, 10, 50, 1000])
def test_adding_marks_one_value_in_the_first_tenth_and_one_in_the_second_half(length):
    task = create_task("adding", 10, length=length)
    for steps, target in samples(task.train_set, 100):
        first, second = steps[:, 1].nonzero().flatten().tolist()
        assert first < max(1, length // 10)
        assert second >= length // 2
        assert steps[:, 0].abs().max() <= 0.5
        torch.testing.assert_close(target, steps[first, 0] + steps[second, 0])


def test_adding_is_solved_at_a_hundredth_of_the_variance():
    task = create_task("adding", 4)
    output, target = torch.zeros(3, 1), torch.tensor([0.0, 0.06, 0.0])
    assert task.score(output, target) == pytest.approx(0.06**2 / 3)
    assert task.solved(1 / 600)
    assert not task.solved(1 / 599)


def period_of(wave, step):
    """Period of a sine wave from its samples: s[k-1] + s[k+1] = 2 cos(2π step / period) s[k]."""
    wave = wave.double()
    middle = wave[1:-1]
    cosine = (middle * (wave[:-2] + wave[2:])).sum() / (2 * middle.square().sum())
    return 2 * np.pi * step / cosine.clamp(-1, 1).arccos().item()


@pytest.mark.parametrize("step", [0.25, 0.4])
def test_frequency_tells_periods_of_5_to_6_from_others_of_1_to_100(step):
    task = create_task("frequency", 500, sampling_period=step, signal_duration=50)
    waves, labels = zip(*samples(task.train_set, 1000), strict=True)
    assert {wave.shape for wave in waves} == {(round(50 / step), 1)}
    periods = np.array([period_of(wave[:, 0], step) for wave in waves])
    labels = np.array(labels)
    assert labels[:500].sum() == labels[500:].sum() == 250
    inside = periods[labels == 0]
    assert (inside.min(), inside.max()) == pytest.approx((5, 6), abs=0.02)
    outside = np.sort(periods[labels == 1])
    assert outside[0] >= 1
    assert outside[-1] <= 100.1
    assert not ((outside > 5.001) & (outside < 5.999)).any()
    assert (outside < 5).mean() == pytest.approx(4 / 98, abs=0.03)
    assert np.median(outside) == pytest.approx(52, abs=6)


def test_a_wave_begins_anywhere_in_its_period():
    task = create_task("frequency", 1000, sampling_period=0.01, signal_duration=0.02)
    starts = torch.stack([task.train_set[i][0][:, 0] for i in range(0, 1000, 2)])
    quadrants = 2 * (starts[:, 0] > 0) + (starts[:, 1] > starts[:, 0])
    assert quadrants.bincount().tolist() == pytest.approx([125] * 4, abs=35)


def test_frequency_takes_as_many_steps_as_samples_and_is_solved_above_99_percent():
    assert create_task("frequency", 2).train_set[0][0].shape == (100, 1)
    assert create_task("frequency", 2, sampling_period=0.5).train_set[0][0].shape == (200, 1)
    task = create_task("frequency", 2)
    assert task.solved(0.991)
    assert not task.solved(0.99)


def test_memory_asks_for_the_sign_of_the_first_symbol():
    pairs = samples(create_task("memory", 4, length=300).train_set, 50)
    assert {int(s[0]) for s, _ in pairs} == {0, 128}
    assert all((int(s[0]) == 128) == bool(minus) for s, minus in pairs)
    later = torch.stack([s[1:] for s, _ in pairs])
    assert later.min() == 0
    assert later.max() == 127


def test_a_million_symbols_are_indices():
    symbols, _ = create_task("memory", 1, length=1 << 20).train_set[0]
    assert symbols.shape == (1 << 20,)
    assert symbols.numel() * symbols.element_size() == 8 << 20


def test_text_rows_are_read_to_their_end_in_order(tmp_path):
    content = bytes(np.random.default_rng(0).integers(256, size=1000, dtype=np.uint8))
    (tmp_path / "text").write_bytes(content)
    data = create_task("text", 3, length=10, data=str(tmp_path / "text")).train_set
    for row in range(3):
        pieces = [data[i] for i in range(row, len(data), 3)]
        read = torch.cat([x for x, _ in pieces]).tolist()
        expected = torch.cat([y for _, y in pieces]).tolist()
        start = row * (899 // 3)
        assert bytes(read) == content[start : start + len(read)]
        assert bytes(expected) == content[start + 1 : start + 1 + len(read)]
        assert len(read) == 899 // 3 // 10 * 10


def test_text_is_the_manual_of_python_by_default_and_scores_bits(tmp_path):
    task = create_task("text", 4)
    assert len(task.train_set.text) > 100_000
    uniform = torch.zeros(2, 3, 256)
    assert task.score(uniform, torch.zeros(2, 3, dtype=torch.long)) == pytest.approx(8)


def test_digits_hold_out_a_hundred_of_each_class():
    task = create_task("digits", 4)
    for data, each in ((task.train_set, 400), (task.test_set, 100)):
        pixels, labels = data.tensors
        assert pixels.shape == (10 * each, 784, 1)
        assert labels.bincount().tolist() == [each] * 10
    pixels = task.train_set.tensors[0]
    assert abs(pixels.mean()) < 1e-4
    assert abs(pixels.std() - 1) < 1e-4


def test_scaled_pixels_lie_in_0_to_1():
    plain, scaled = (
        create_task("digits", 4, scaled=s).train_set.tensors[0][:50] for s in (False, True)
    )
    assert (scaled.min(), scaled.max()) == (0, 1)
    torch.testing.assert_close((plain - plain.min()) / (plain.max() - plain.min()), scaled)


def test_permuted_digits_are_the_same_pixels_in_another_order():
    plain, permuted, other = (
        create_task("digits", 4, seed, permuted=p).train_set.tensors[0][:50]
        for seed, p in ((0, False), (0, True), (1, True))
    )
    assert not torch.equal(plain, permuted)
    assert not torch.equal(permuted, other)
    torch.testing.assert_close(plain.sort(1).values, permuted.sort(1).values)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sums", {}, "task must be one of digits, adding, .*; got 'sums'"),
        ("frequency", {"sampling_period": -1.0}, "sampling_period must be a positive number of"),
        ("frequency", {"signal_duration": float("inf")}, "signal_duration must be a positive num"),
        ("frequency", {"sampling_period": 70.0}, r"sampling_period must be at most half of sig"),
        ("frequency", {"length": 3}, "task frequency takes sampling_period, signal_duration, not"),
        ("adding", {"permuted": True}, "task adding takes length, not permuted"),
        ("digits", {"length": 3}, "task digits takes data, permuted, scaled, not length"),
        ("adding", {"length": 1}, "length must be an integer of at least 2, got 1"),
        ("memory", {"length": -1}, "length must be an integer of at least 1, got -1"),
        ("async-frequency", {"sampling": "rare"}, "sampling must be one of standard, high-resolut"),
        ("two-waves", {"length": 3}, "task two-waves takes no options, got length=3"),
        ("events-forecast", {"length": 30}, "length must be an integer of at least 31, got 30"),
        ("nmnist", {"length": 0}, "length must be an integer of at least 1, got 0"),
        ("nmnist", {"data": "/nowhere/at/all"}, "data must be a folder with Train/<digit>/<name>"),
        ("text", {"data": "/nowhere/at/all"}, "data must be a text file, got /nowhere/at/all"),
        ("text", {"length": 100_000}, "data must hold at least batch_size"),
        ("digits", {"data": "/nowhere/at/all"}, "data must be a folder with train-images"),
    ],
)
def test_what_a_task_cannot_do_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_task(name, 4, **options)
