import numpy as np
import pytest

from longrnn.tasks.events import Events, read_binary, read_events, read_text
from longrnn.tasks.events.files import encode

# x, y, then polarity in the first bit and microseconds in the other 23, big-endian.
BYTES = bytes([33, 2, 0x80, 0x01, 0x02, 0, 33, 0x7F, 0xFF, 0xFF, 7, 9, 0xFF, 0x00, 0x01])
EVENTS = Events(
    np.array([0x102, 0x7FFFFF, 0x7F0001], dtype=float),
    np.array([33, 0, 7]),
    np.array([2, 33, 9]),
    np.array([1, 0, 1]),
)


def same(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    return True


def test_five_bytes_are_an_event(tmp_path):
    path = tmp_path / "00001.bin"
    path.write_bytes(BYTES)
    assert same(read_binary(path), EVENTS)
    assert same(read_events(path), EVENTS)
    assert encode(EVENTS) == BYTES


def test_an_event_in_row_240_sets_the_clock_forward(tmp_path):
    path = tmp_path / "00001.bin"
    stamps = [(5, 1), (0, 240), (6, 2), (0, 240), (0, 240), (7, 3)]
    path.write_bytes(b"".join(bytes([0, y, 0, 0, t]) for t, y in stamps))
    events = read_binary(path)
    assert events.times.tolist() == [5, 6 + 8192, 7 + 3 * 8192]
    assert events.y.tolist() == [1, 2, 3]


WRITTEN = Events(
    np.array([0.5, 258.0, 3.6e9]),
    np.array([33, 0, 639]),
    np.array([2, 33, 479]),
    np.array([1, 0, 1]),
)


@pytest.mark.parametrize("suffix", [".csv", ".txt"])
@pytest.mark.parametrize(
    "text",
    [
        "0.5,33,2,1\n258,0,33,0\n3600000000,639,479,1\n",
        "0.5 33 2 1\n258 0 33 0\n3.6e9 639 479 1",
        "t,x,y,p\r\n0.5, 33, 2, 1\r\n258, 0, 33, -1\r\n3600000000, 639, 479, 1\r\n",
        "x y p t\n33 2 1 0.5\n0 33 0 258\n639 479 1 3.6e9\n",
        "# a camera\n\n0.5\t33\t2\t1\n  \n258 0 33 0  # dark\n3600000000 639 479 1\n",
    ],
    ids=["commas", "blanks", "header", "order", "comments"],
)
def test_a_line_is_an_event(tmp_path, text, suffix):
    path = tmp_path / f"events{suffix}"
    path.write_bytes(text.encode())
    assert same(read_text(path), WRITTEN)
    assert same(read_events(path), WRITTEN)


def test_a_file_may_hold_no_events(tmp_path):
    for name in ("empty.bin", "empty.csv"):
        (tmp_path / name).write_bytes(b"")
        assert [len(member) for member in read_events(tmp_path / name)] == [0] * 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", BYTES[:-1], "must hold 5 bytes an event, got 14 bytes: it is truncated"),
        ("a.aedat", BYTES, "must end in one of .bin, .csv, .txt"),
        ("a.csv", "1,2,3,0\n1,2,3\n", r"line 2, must be four numbers t,x,y,p, got '1,2,3'"),
        ("a.csv", "1,2,3,0,9\n", "line 1, must be four numbers"),
        ("a.csv", "t,x,y\n1,2,3\n", "line 1, must be four numbers t,x,y,p, got 't,x,y'"),
        ("a.csv", "1,2,3,0\nt,x,y,p\n", "line 2, must be four numbers"),
        ("a.txt", "1 2 x 0\n", "line 1, must be four numbers t,x,y,p, got '1,2,x,0'"),
        ("a.csv", "1,2,3,0\n1,2.5,3,1\n", r"must hold .*got t, x, y, p = 1, 2.5, 3, 1 in event 2"),
        ("a.csv", "1,-2,3,0\n", "must hold .*= 1, -2, 3, 0 in event 1"),
        ("a.csv", "1,2,3,2\n", "must hold .*= 1, 2, 3, 2 in event 1"),
        ("a.csv", "nan,2,3,0\n", "must hold finite t.*= nan, 2, 3, 0 in event 1"),
        ("a.csv", b"\xff\xfe1,2", "must be a text file, got other bytes"),
    ],
)
def test_a_file_that_is_not_a_recording_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"{name},? {message}"):
        read_events(path)


def test_real_recordings_are_read(nmnist_folder):
    counts = []
    for path in sorted(nmnist_folder.glob("Test/*/*.bin"))[:20]:
        events = read_events(path)
        counts.append(len(events.times))
        assert (np.diff(events.times) >= 0).all()
        assert 290_000 < events.times[-1] < 320_000
        assert max(events.x.max(), events.y.max()) == 33
        assert events.polarity.mean() == pytest.approx(0.5, abs=0.1)
    assert 1000 < min(counts) < max(counts) < 8000
